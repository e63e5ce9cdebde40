"""What only one engine holds, and what the tables of a centre would round, cut or pad."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, connections

from mirror.sequencer import Sequencer
from tests.zoo.models import Numbers, Texts, Times
from tests.zoo.pairs import PAIRS, stored

#: Each engine's own: model, column, and the SQL of a value that Django's field does not have.
OWN: dict[str, list[tuple[Any, ...]]] = {
    "sqlite": [
        (Numbers, "whole", "1.5"),
        (Numbers, "whole", "'many'"),
        (Numbers, "whole", "x'00ff'"),
        (Numbers, "sure", "2"),
        (Numbers, "money", "1e300"),
        (Numbers, "ratio", "'much'"),
        (Texts, "body", "x'00ff'"),
        (Texts, "blob", "'abcd'"),
        (Texts, "blob", "7"),
        (Texts, "token", "'no uuid'"),
        (Texts, "address", "'nowhere'"),
        (Times, "day", "'yesterday'"),
        (Times, "day", "'2026-01-01 10:00:00'"),
        (Times, "hour", "'25:00:00'"),
        (Times, "moment", "'soon'"),
        (Times, "moment", "1700000000"),
        (Times, "span", "'long'"),
    ],
    "postgresql": [
        (Numbers, "money", "'NaN'"),
        (Numbers, "ratio", "'NaN'"),
        (Texts, "address", "'10.0.0.0/8'"),
        (Times, "day", "'infinity'"),
        (Times, "day", "'0044-03-15 BC'"),
        (Times, "hour", "'24:00:00'"),
        (Times, "moment", "'-infinity'"),
        (Times, "moment", "'12000-01-01 00:00:00+00'"),
        (Times, "span", "'1 mon 2 days 03:04:05.678'"),
        (Times, "span", "'-1 year'"),
    ],
    "mariadb": [
        (Numbers, "sure", "2"),
        (Times, "day", "'0000-00-00'"),
        (Times, "day", "'2026-02-00'"),
        (Times, "moment", "'0000-00-00'"),
        (Times, "hour", "'838:59:59.5'"),
        (Times, "hour", "'-00:00:01'"),
    ],
}


def write_raw(model, column: str, value: str) -> str:
    """Insert by SQL alone; return the row's UUID."""
    uuid = str(uuid4())
    key = uuid.replace("-", "") if connection.vendor == "sqlite" else uuid
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {model._meta.db_table} (id, {column}) VALUES (%s, {value.replace('%', '%%')})",
            [key],
        )
    return uuid


@pytest.mark.parametrize("engines", PAIRS)
def test_what_only_one_engine_holds_is_taken_by_the_same_and_refused_by_another(pair):
    source, centre = pair.engines
    for model, column, value in OWN[source]:
        uuid = write_raw(model, column, value)
        if centre == source:
            pair.follow()
            assert stored(model, "centre") == stored(model, "default"), (column, value)
        else:
            pair.refuses(f"{model._meta.label_lower}.{column}", uuid)
            assert not model.objects.using("centre").exists()
        with connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {model._meta.db_table}")
        pair.follow()


#: Forms that an engine keeps apart although they mean the same to Django.
FORMS: dict[str, list[tuple[Any, ...]]] = {
    "sqlite": [
        (Numbers, "money", "12.345", Decimal("12.34")),
        (Times, "moment", "'2026-01-01T08:00:00+05:30'", datetime(2026, 1, 1, 2, 30, tzinfo=UTC)),
        (Times, "span", "1.25", timedelta(microseconds=1)),
        (Texts, "token", "'6BA7B810-9DAD-41D1-80B4-00C04FD430C8'", None),
    ],
    "postgresql": [
        (Times, "span", "'25:00:00'", timedelta(hours=25)),
        (Times, "span", "'-00:00:00.5'", timedelta(microseconds=-500000)),
        (Times, "span", "'1 day -01:00:00'", timedelta(hours=23)),
    ],
    "mariadb": [],
}


@pytest.mark.parametrize("engines", PAIRS)
def test_another_form_of_a_value_arrives_as_it_is_or_as_django_reads_it(pair, caplog):
    source, centre = pair.engines
    for model, column, value, read in FORMS[source]:
        write_raw(model, column, value)
        caplog.clear()
        pair.follow()
        assert [line.split(" in a form")[0] for line in caplog.messages if line.startswith("coerced: ")] == [
            f"coerced: 1 of {model._meta.label_lower}.{column}"
        ]
        theirs = getattr(model.objects.using("centre").get(), column)
        assert theirs == getattr(model.objects.get(), column), (column, value)
        assert read is None or theirs == read
        if centre == source:
            assert stored(model, "centre") == stored(model, "default"), (column, value)
        with connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {model._meta.db_table}")
        pair.follow()


# The tables of the centre


@contextmanager
def altered(model, column: str, kind: str):
    """The centre's column is of another type for a while."""
    other = connections["centre"]
    before = model._meta.get_field(column).db_type(other)
    change = "MODIFY {0} {1} NULL" if other.vendor == "mysql" else "ALTER COLUMN {0} TYPE {1} USING {0}::{1}"
    table, name = model._meta.db_table, other.ops.quote_name(column)
    try:
        with other.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {table} {change.format(name, kind)}")
        yield
    finally:
        with other.cursor() as cursor:
            cursor.execute(f"DELETE FROM {table}")
            cursor.execute(f"ALTER TABLE {table} {change.format(name, before)}")


MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
NARROW: dict[str, list[tuple[Any, ...]]] = {
    "mariadb": [
        (Numbers, "money", "decimal(12, 1)", Decimal("1.25"), Decimal("1.20")),
        (Numbers, "money", "decimal(4, 2)", Decimal("123.00"), Decimal("12.00")),
        (Numbers, "ratio", "float", 0.1 + 1e-9, 0.1),
        (Numbers, "ratio", "float", 16777216.0, 16777200.0),
        (Numbers, "whole", "smallint", 40000, 30000),
        (Numbers, "whole", "int unsigned", -1, 1),
        (Texts, "title", "varchar(3)", "ab  ", "ab "),
        (Texts, "title", "varchar(3)", "abcd", "ab"),
        (Texts, "title", "char(9)", "ab ", "ab"),
        (Texts, "title", "varchar(50) CHARACTER SET utf8mb3", "😀", "é"),
        (Texts, "title", "varchar(50) CHARACTER SET latin1", "日", "é"),
        (Texts, "body", "tinytext", "x" * 256, "x" * 255),
        (Texts, "blob", "tinyblob", b"x" * 256, b"x" * 255),
        (Times, "moment", "datetime", MOMENT, MOMENT.replace(microsecond=0)),
        (Times, "moment", "datetime(3)", MOMENT, MOMENT.replace(microsecond=678000)),
        (Times, "hour", "time", MOMENT.time(), MOMENT.time().replace(microsecond=0)),
    ],
    "postgresql": [
        (Numbers, "money", "numeric(12, 1)", Decimal("1.25"), Decimal("1.20")),
        (Numbers, "money", "numeric(4, 2)", Decimal("123.00"), Decimal("12.00")),
        (Numbers, "money", "numeric(4, -1)", Decimal("12.00"), Decimal("10.00")),
        (Numbers, "ratio", "real", 0.1 + 1e-9, 0.1),
        (Numbers, "ratio", "real", 16777217.0, 16777216.0),
        (Numbers, "ratio", "real", 1e39, 3.4028235e38),
        (Numbers, "whole", "smallint", 40000, 30000),
        (Texts, "title", "varchar(3)", "ab  ", "ab "),
        (Texts, "title", "varchar(3)", "abcd", "ab"),
        (Texts, "title", "char(3)", "ab", "abc"),
        (Times, "moment", "timestamptz(0)", MOMENT, MOMENT.replace(microsecond=0)),
        (Times, "hour", "time(3)", MOMENT.time(), MOMENT.time().replace(microsecond=0)),
        (Times, "span", "interval(0)", timedelta(microseconds=1), timedelta(seconds=1)),
    ],
    "sqlite": [],
}
SERVED = [pair for pair in PAIRS if pair.values[0][1] != "sqlite" and pair.values[0][0] == "sqlite"]


@pytest.mark.parametrize("engines", SERVED)
def test_what_a_column_of_the_centre_would_change_is_refused_and_what_fits_it_is_taken(pair):
    for model, column, kind, wrong, right in NARROW[pair.engines[1]]:
        with altered(model, column, kind):
            pair.restart()
            row = model.objects.create(**{column: wrong})
            pair.refuses(model._meta.label_lower, column, str(row.id))
            assert not model.objects.using("centre").exists(), (column, kind)
            model.objects.update(**{column: right})
            pair.follow()
            theirs = model.objects.using("centre").get()
            mine = model.objects.get()
            assert getattr(theirs, column) == getattr(mine, column), (column, kind)
            model.objects.all().delete()
            pair.follow()


@pytest.mark.parametrize("engines", [pair for pair in PAIRS if pair.id == "sqlite-mariadb"])
@pytest.mark.parametrize(
    ("model", "column", "value"),
    [(Texts, "title", "x" * 51), (Texts, "slug", "x" * 60), (Numbers, "small", 2**15)],
)
def test_a_centre_that_is_not_strict_refuses_all_the_same(pair, model, column, value):
    with connections["centre"].cursor() as cursor:
        cursor.execute("SET sql_mode = ''")
    row = model.objects.create(**{column: value})
    pair.refuses(model._meta.label_lower, column, str(row.id))
    with connections["centre"].cursor() as cursor:
        cursor.execute("SELECT @@sql_mode")
        assert cursor.fetchone() == ("",)


# With and without time zones


@pytest.mark.parametrize("engines", PAIRS)
def test_naive_moments_arrive_as_they_are(pair, settings):
    settings.USE_TZ = False
    settings.TIME_ZONE = "Asia/Kolkata"
    # Year 1 less what the zone is ahead would be before Christ, where PostgreSQL stores instants.
    for moment in (datetime(1, 1, 2), datetime(2026, 1, 2, 3, 4, 5, 678901), datetime.max):
        row = Times.objects.create(moment=moment, hour=moment.time(), day=moment.date())
        pair.follow()
        pair.assert_same(Times)
        assert Times.objects.using("centre").get(id=row.id).moment == moment


@pytest.mark.parametrize("engines", PAIRS)
def test_a_centre_with_another_use_tz_refuses_and_says_so(pair, settings):
    Times.objects.create(moment=datetime(2026, 1, 1, tzinfo=UTC))
    pair.source.step()
    settings.USE_TZ = False
    pair.source.sequencer = Sequencer("default")
    assert "USE_TZ" in pair.refuses("zoo.times.moment")
    Times.objects.create(moment=datetime(2026, 1, 1))
    pair.source.step()
    settings.USE_TZ = True
    assert "USE_TZ" in pair.refuses("zoo.times.moment")
    assert not Times.objects.using("centre").exists()

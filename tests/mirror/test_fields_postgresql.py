"""What only PostgreSQL has columns for: between two of them the very same, anywhere else a refusal."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from django.contrib.postgres.signals import get_citext_oids, get_hstore_oids
from django.db import connection, connections
from django.db.backends.postgresql.psycopg_any import DateRange, DateTimeTZRange, NumericRange
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.errors import UnknownModel, WrongValue
from tests.fakes import Centre, save
from tests.zoo import pairs
from tests.zoo_postgresql.models import Lists, Oddities, Ranges

pytestmark = pytest.mark.postgresql

APPS = "django.contrib.postgres", "tests.zoo_postgresql"


@pytest.fixture
def pair(zoo_databases, django_db_blocker):
    engines = "postgresql", "postgresql"
    source, centre = (zoo_databases("postgresql", role, *APPS) for role in ("source", "centre"))
    for numbers_of_types in (get_hstore_oids, get_citext_oids):
        numbers_of_types.cache_clear()  # type: ignore[attr-defined]  # by alias, whatever the database
    with django_db_blocker.unblock(), pairs.zoo(*APPS), pairs.paired(source, centre, engines) as made:
        yield made
    for numbers_of_types in (get_hstore_oids, get_citext_oids):
        numbers_of_types.cache_clear()  # type: ignore[attr-defined]


_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
_MOMENTS = st.datetimes(timezones=st.just(UTC))


def ranges(kind, values):
    """Bounds of every kind, open ends, and the empty one; which of them are equal the server decides."""
    ends = st.tuples(st.none() | values, st.none() | values).map(
        lambda pair: pair if None in pair else tuple(sorted(pair))
    )
    bounds = st.sampled_from(["[)", "(]", "[]", "()"])
    return st.builds(lambda pair, how: kind(*pair, how), ends, bounds) | st.just(kind(empty=True))


def lists(values):
    return st.lists(st.none() | values, max_size=4)


_DAYS = st.dates(date(1, 1, 2), date(9999, 12, 30))
VALUES = {
    Lists: {
        "numbers": lists(st.integers(-(2**31), 2**31 - 1)),
        "texts": lists(_TEXT | st.sampled_from(["NULL", "{", ",", '"', "\\", ""])),
        "grid": st.integers(0, 3).flatmap(
            lambda width: st.lists(
                st.lists(
                    st.none() | st.floats(allow_nan=False, allow_infinity=True),
                    min_size=width,
                    max_size=width,
                ),
                max_size=3 if width else 0,  # the server has no list of empty lists
            )
        ),
        "moments": st.lists(_MOMENTS, max_size=3),
        "amounts": st.lists(st.decimals(-(10**9), 10**9, places=5), max_size=3),
        "blobs": st.lists(st.binary(max_size=6), max_size=3),
        "tokens": st.lists(st.uuids(), max_size=3),
        "spans": st.lists(st.timedeltas(timedelta(-(10**6)), timedelta(10**6)), max_size=3),
        "flags": st.lists(st.booleans(), max_size=3),
    },
    Ranges: {
        "numbers": ranges(NumericRange, st.integers(-(2**31), 2**31 - 2)),
        "big_numbers": ranges(NumericRange, st.integers(-(2**63), 2**63 - 2)),
        "amounts": ranges(NumericRange, st.decimals(-(10**9), 10**9, places=3)),
        "moments": ranges(DateTimeTZRange, _MOMENTS),
        "days": ranges(DateRange, _DAYS),
    },
    Oddities: {
        "pairs": st.dictionaries(_TEXT, st.none() | _TEXT, max_size=3),
        "caseless": _TEXT,
        "folded": _TEXT,
    },
}


@pytest.mark.parametrize("model", VALUES, ids=lambda model: model.__name__.lower())
def test_any_value_arrives_as_it_is_and_again_when_it_changes(pair, model):
    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(*[st.fixed_dictionaries({}, optional=VALUES[model])] * 2)
    def any_row(first, second):
        model.objects.all().delete()
        row = model.objects.create(**first)
        pair.follow()
        pair.assert_same(model)
        for name, value in second.items():
            setattr(row, name, value)
        row.save()
        pair.follow()
        pair.assert_same(model)

    any_row()


WRITTEN = [
    (Lists, "numbers", "'[2:3]={1,2}'"),
    (Lists, "numbers", "'{}'"),
    (Lists, "grid", "'{{NaN,1},{-Infinity,NULL}}'"),
    (Lists, "moments", "'{infinity,\"0044-03-15 00:00:00+00 BC\"}'"),
    (Lists, "spans", "'{\"1 mon 2 days\",25:00:00}'"),
    (Ranges, "numbers", "'empty'"),
    (Ranges, "amounts", "'[1.10,)'"),
    (Ranges, "days", "'[2026-01-01,infinity]'"),
    (Ranges, "moments", "'(-infinity,2026-01-01 00:00:00+05:30]'"),
    (Oddities, "vector", "to_tsvector('english', 'It''s the fat cats: \"quoted\" \\\\ 7')"),
    (Oddities, "vector", "setweight(to_tsvector('simple', 'a b a'), 'A')"),
    (Oddities, "pairs", '\'"a"=>"1", "b"=>NULL, "c\\"d"=>"", "NULL"=>"NULL"\''),
    (Oddities, "caseless", "'MiXed'"),
]


def test_what_plain_sql_writes_arrives_as_the_server_has_it(pair):
    # Django does not read all of these; the tables are compared as the servers print them.
    for model, column, value in WRITTEN:
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {model._meta.db_table} (id, {column}) VALUES (gen_random_uuid(), {value})"
            )
        pair.follow()
        assert pairs.stored(model, "centre") == pairs.stored(model, "default"), (column, value)


def test_the_formats_of_the_mirrors_session_do_not_matter(pair):

    with connections["centre"].cursor() as cursor:
        cursor.execute("SET DateStyle = 'German, DMY'; SET IntervalStyle = 'sql_standard'")
        Lists.objects.create(moments=[datetime(2026, 2, 1, tzinfo=UTC)], spans=[timedelta(days=-1, hours=2)])
        Ranges.objects.create(days=DateRange(date(2026, 2, 1), date(2026, 3, 4)))
        pair.follow()
        cursor.execute("SET DateStyle = 'iso, mdy'; SET IntervalStyle = 'postgres'")
    pair.assert_same(Lists, Ranges)


def test_they_travel_as_the_server_writes_them(pair):
    Lists.objects.create(numbers=[1, None], amounts=[Decimal("1.10000")])
    (change,) = pair.source.news()
    assert change.fields["numbers"] == {"$postgresql": "{1,NULL}"}
    assert change.fields["amounts"] == {"$postgresql": "{1.10000}"}
    assert change.fields["grid"] is None
    Oddities.objects.create(pairs={"a": None}, caseless="Ab")
    (change,) = pair.source.news()
    assert change.fields["pairs"] == {"$postgresql": '"a"=>NULL'}
    assert change.fields["caseless"] == "Ab"


def test_a_centre_without_the_model_says_that_it_is_missing(pair, settings):
    Lists.objects.create(numbers=[1])
    pair.source.step()
    settings.INSTALLED_APPS = [name for name in settings.INSTALLED_APPS if name not in APPS]
    again = Centre("centre", "lyon")
    with pytest.raises(UnknownModel, match=r"zoo_postgresql\.lists is not installed here"):
        again.follow(pair.source)


@pytest.mark.parametrize("field", ["body", "blob", "title", "document"])
def test_a_centre_on_another_engine_whose_model_has_another_field_refuses(
    zoo_databases, django_db_blocker, field
):
    """A project may have a text where its source has an array."""
    source, centre = (zoo_databases("sqlite", role) for role in ("source", "centre"))
    told = {"$postgresql": "{1,NULL}"}
    change = save(
        "zoo.texts",
        id="6ba7b810-9dad-41d1-80b4-00c04fd430c8",
        **{field: {"$json": told} if field == "document" else told},
    )
    with (
        django_db_blocker.unblock(),
        pairs.zoo(),
        pairs.paired(source, centre, ("sqlite", "sqlite")) as pair,
        pytest.raises(WrongValue, match=f"zoo.texts.{field} does not take .*only PostgreSQL"),
    ):
        pair.centre.apply(change)

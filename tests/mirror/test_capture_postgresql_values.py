"""What PostgreSQL's columns hold, through trigger, sequencer, JSON and apply, into PostgreSQL and SQLite."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pytest
from django.apps import apps
from django.db import connection, connections, models
from django.db.models import JSONField, Value
from django.utils.dateparse import parse_datetime, parse_duration
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror import capture
from mirror.errors import WrongValue
from mirror.models import Outbox
from mirror.registry import mirrored_models
from mirror.rows import merge_payload
from tests.mirror.postgresql_support import execute, fetch, recorded
from tests.mirror.test_rows import EDGES, VALUES
from tests.project.shop.models import Product, Sink

pytestmark = pytest.mark.postgresql

CENTRES = pytest.mark.parametrize("vendor", ["postgresql", "sqlite"], indirect=True)

#: What PostgreSQL itself refuses: NUL, and half a surrogate pair.
_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
_DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("$json") | _TEXT, inner, max_size=3),
    max_leaves=8,
)
ACCEPTED = {
    **VALUES,
    "text": _TEXT,
    "file": _TEXT,
    "document": _DOCUMENTS,
    "ratio": st.floats(allow_nan=False),
    "span": st.timedeltas(timedelta.min / 2000, timedelta.max / 2000),
}


@pytest.fixture
def source(postgresql_source, django_db_blocker):
    with django_db_blocker.unblock(), recorded(postgresql_source) as source:
        yield source


def write(**values) -> Sink:
    execute("DELETE FROM shop_sink")
    if "document" in values and values["document"] is None:
        values["document"] = Value(None, JSONField())  # JSON's null, where None would be SQL's
    return Sink.objects.create(**values)


def rows(using: str, table: str = "shop_sink") -> list[tuple]:
    """Every row as the server writes it out, without the local key."""
    with connections[using].cursor() as cursor:
        cursor.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 "
            "AND NOT attisdropped AND attname <> 'pkid' ORDER BY attname",
            [table],
        )
        columns = ", ".join(f"{name}::text" for (name,) in cursor.fetchall())
        cursor.execute(f"SELECT {columns} FROM {table} ORDER BY id")
        return cursor.fetchall()


def assert_same(vendor: str) -> None:
    if vendor == "postgresql":
        assert rows("default") == rows("centre")
    mine, theirs = Sink.objects.get(), Sink.objects.using("centre").get()
    for field in Sink._meta.concrete_fields:
        if field.name != "pkid":
            assert getattr(mine, field.attname) == getattr(theirs, field.attname), field.name


@CENTRES
def test_any_row_arrives_as_it_is_and_again_when_it_changes(source, centre, vendor):
    @settings(max_examples=60)
    @given(st.fixed_dictionaries({}, optional=ACCEPTED), st.fixed_dictionaries({}, optional=ACCEPTED))
    def check(first, second):
        row = write(**first)
        centre.follow(source)
        assert_same(vendor)
        for name, value in second.items():
            setattr(row, name, Value(None, JSONField()) if (name, value) == ("document", None) else value)
        row.save()
        centre.follow(source)
        assert_same(vendor)

    check()


def _holds(value) -> bool:
    return "\\u0000" not in (text := json.dumps(value, default=str)) and "\\ud" not in text.replace(
        "\\ud83d\\ude00", ""
    )


@CENTRES
def test_values_at_the_edge_arrive_as_they_are(source, centre, vendor):
    for field, values in EDGES.items():
        for value in filter(_holds, values):
            write(**{field: value})
            centre.follow(source)
            assert_same(vendor)


def test_sql_null_and_json_null_stay_apart(source, centre):
    nothing = Sink.objects.create(document=None)
    Sink.objects.create(document=Value(None, JSONField()))
    centre.follow(source)
    assert Sink.objects.using("centre").get(document__isnull=True).id == nothing.id


# Whatever the session's formats are

HOSTILE = (
    "SET DateStyle = 'German, DMY'; SET IntervalStyle = 'iso_8601'; SET TimeZone = 'Asia/Kolkata'; "
    "SET bytea_output = 'escape'; SET extra_float_digits = -10; SET search_path = pg_temp"
)
AS_BEFORE = "RESET ALL; SET TimeZone = 'UTC'"


def test_the_formats_of_the_session_that_writes_do_not_matter(source):
    values = {
        "ratio": 1 / 3,
        "day": date(2026, 2, 1),
        "hour": time(1, 2, 3, 4),
        "moment": datetime(2026, 2, 1, 23, 59, 59, 999999, tzinfo=UTC),
        "span": timedelta(days=-1, microseconds=1),
        "blob": b"\0\\'x",
        "exact": Decimal("0.00001"),
    }
    row = write(**values)
    execute(HOSTILE)
    execute("UPDATE public.shop_sink SET text = 'again'")
    execute(AS_BEFORE)
    inserted, updated = source.news()
    assert {**inserted.fields, "text": "again"} == updated.fields
    assert updated.fields["moment"] == "2026-02-01T23:59:59.999999Z"
    assert (updated.fields["id"], updated.fields["ratio"]) == (str(row.id), 1 / 3)


def test_the_formats_of_the_session_that_reads_do_not_matter(source):
    write(day=date(2026, 2, 1), span=timedelta(days=3, seconds=5), moment=datetime(2026, 2, 1, tzinfo=UTC))
    execute("SET DateStyle = 'German, DMY'; SET IntervalStyle = 'iso_8601'; SET TimeZone = 'Asia/Kolkata'")
    source.step()
    execute(AS_BEFORE)
    (change,) = source.changes()
    assert (change.fields["day"], change.fields["moment"]) == ("2026-02-01", "2026-02-01T00:00:00Z")
    assert parse_duration(change.fields["span"]) == timedelta(days=3, seconds=5)


def test_a_connection_with_a_time_zone_of_its_own_reads_the_same_moments(
    postgresql_source, django_db_blocker
):
    moments = [
        datetime(2026, 2, 1, tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC),
    ]
    with (
        django_db_blocker.unblock(),
        recorded({**postgresql_source, "TIME_ZONE": "Asia/Kolkata"}) as source,
    ):
        for moment in moments:
            execute(
                "INSERT INTO shop_sink (id, text, file, moment) VALUES (gen_random_uuid(), '', '', %s)",
                [moment],
            )
        told = [parse_datetime(change.fields["moment"]) for change in source.changes()]
    assert told == moments


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("day", "infinity"),
        ("day", "0044-03-15 BC"),
        ("moment", "-infinity"),
        ("moment", "12000-01-01T00:00:00+00:00"),
        ("hour", "24:00:00"),
        ("exact", "NaN"),
        ("ratio", "NaN"),
    ],
)
def test_what_python_cannot_hold_passes_the_source_and_is_refused_by_name(source, centre, column, value):
    Sink.objects.create(text="before")
    execute(
        f"INSERT INTO shop_sink (id, text, file, {column}) VALUES (gen_random_uuid(), '', '', %s)", [value]
    )
    change = source.changes()[-1]
    if column == "ratio":
        assert change.fields[column] == "nan"
        return  # SQLite would make NULL of it, PostgreSQL takes it
    assert change.fields[column] == {"$postgresql": value}
    with pytest.raises(WrongValue, match=f"shop.sink.{column}"):
        centre.follow(source)


# Every type, as the driver itself would have read it

TYPES = {
    "smallint": ["-32768"],
    "bigint": ["-9223372036854775808", "9223372036854775807"],
    "oid": ["4294967295"],
    "boolean": ["true", "false"],
    "real": ["0.1", "NaN", "-Infinity", "3.4028235e38"],
    "double precision": ["0.1", "1e-320", "NaN", "Infinity", "1", "123456789012345680"],
    "numeric": [
        "1.10",
        "1e100",
        "0.000000000000000000000000000000000001",
        "NaN",
        "12345678901234567890.12345",
    ],
    "money": ["12.34"],
    "text": ["", " padded ", "\\ \"'\n\t\x1f", "null"],
    "character(5)": ["ab"],
    "character varying(5)": ["ab "],
    '"char"': ["x"],
    "name": ["abc"],
    "citext": ["MiXed"],
    "bytea": ["\\x", "\\x00ff5c27"],
    "uuid": ["00112233-4455-6677-8899-aabbccddeeff"],
    "date": ["0001-01-01", "9999-12-31"],
    "time": ["23:59:59.999999"],
    "time with time zone": ["23:59:59.999999+05:30"],
    "timestamp": ["0001-01-01 00:00:00", "9999-12-31 23:59:59.999999"],
    "timestamptz": ["0001-01-01 00:00:00+00", "9999-12-31 23:59:59.999999+00", "2026-01-01 00:00:00+05:30"],
    "interval": ["-1 day 00:00:00.000001", "1 mon 2 days 03:04:05.678", "-00:00:00.5"],
    "json": ['{"a": 1.10, "a": 2}', "null", "1e400"],
    "jsonb": ['{"a": 1.10}', "null", "12345678901234567890123", '"null"'],
    "inet": ["10.0.0.1", "10.0.0.0/8", "::1"],
    "cidr": ["10.0.0.0/8"],
    "macaddr": ["08:00:2b:01:02:03"],
    "bit varying": ["0101"],
    "point": ["(1.5,2)"],
    "xml": ["<a>1</a>"],
    "tsvector": ["'a':1 'b':2"],
    "hstore": ['"a"=>"1", "b"=>NULL, "c\\"d"=>""'],
    "integer[]": ["{1,NULL,3}", "{}", "{{1,2},{3,4}}"],
    "text[]": ['{"a,b","NULL",NULL,"\\"q\\""}'],
    "boolean[]": ["{t,f}"],
    "timestamptz[]": ['{"2026-01-01 00:00:00+00"}'],
    "numeric[]": ["{1.10,NaN}"],
    "bytea[]": ['{"\\\\x00ff"}'],
    "int4range": ["[1,5)", "empty", "(,)"],
    "numrange": ["[1.10,2)"],
    "tstzrange": ['["2026-01-01 00:00:00+00",)'],
    "daterange": ["[2026-01-01,2026-02-01)"],
    "int4multirange": ["{[1,3),[5,7)}"],
    "mirror_mood": ["so-so"],
    "mirror_yes": ["true"],
    "mirror_amount": ["1.10"],
    "mirror_pair": ['(1,"a b")'],
}


@pytest.fixture
def typed(source):
    """A table with a column of every type."""
    execute(
        "CREATE TYPE mirror_mood AS ENUM ('so-so'); CREATE DOMAIN mirror_yes AS boolean; "
        "CREATE DOMAIN mirror_amount AS numeric(10, 2); CREATE TYPE mirror_pair AS (a int, b text); "
        "CREATE TABLE shop_typed (id bigint PRIMARY KEY, "
        + ", ".join(f"c{place} {name}" for place, name in enumerate(TYPES))
        + ")"
    )
    meta = type("Meta", (), {"app_label": "shop", "db_table": "shop_typed"})
    fields = {f"c{place}": models.TextField(null=True) for place in range(len(TYPES))}
    model = type("Typed", (models.Model,), {"__module__": Sink.__module__, "Meta": meta, **fields})
    mirrored_models.cache_clear()
    capture.sync(connection)
    yield model
    execute(
        "DROP TABLE shop_typed; DROP TYPE mirror_mood, mirror_pair; DROP DOMAIN mirror_yes, mirror_amount"
    )
    del apps.all_models["shop"]["typed"]
    apps.clear_cache()
    mirrored_models.cache_clear()
    capture.sync(connection)


def test_a_value_of_any_type_is_read_as_the_driver_reads_it(typed):
    for place, (name, values) in enumerate(TYPES.items()):
        for value in values:
            execute(
                f"INSERT INTO shop_typed (id, c{place}) VALUES (%s, %s::{name})",
                [10 * place + values.index(value), value],
            )
    decoders = capture.WRITERS["postgresql"].decoders(connection, mirrored_models()["shop.typed"])
    payloads = [merge_payload(json.loads(entry.payload)) for entry in Outbox.objects.order_by("id")]
    stored = fetch(
        f"SELECT id, {', '.join(f'c{place}' for place in range(len(TYPES)))} FROM shop_typed ORDER BY id"
    )
    assert len(stored) == len(payloads)
    for payload, row in zip(payloads, stored, strict=True):
        for column, expected in zip(["id", *(f"c{place}" for place in range(len(TYPES)))], row, strict=True):
            read = decoders[column](payload[column])
            kind = column if column == "id" else list(TYPES)[int(column[1:])]
            assert type(read) is type(expected), kind
            assert repr(read) == repr(expected), kind


def test_a_wide_product_arrives_with_its_references(source, centre):
    parent = Product.objects.create(name="parent", details={"a": [1, None]}, photo=b"\0\xff", weight=math.inf)
    Product.objects.create(name="child", parent=parent, price=Decimal("10.90"))
    centre.follow(source)
    theirs = Product.objects.using("centre").get(name="child")
    assert (theirs.parent.id, theirs.price) == (parent.id, Decimal("10.90"))
    assert bytes(theirs.parent.photo) == b"\0\xff"

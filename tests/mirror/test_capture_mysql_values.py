"""What MariaDB's columns hold, through trigger, sequencer, JSON and apply, into MariaDB and SQLite."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.apps import apps
from django.db import connection, connections, models
from django.db.models import JSONField, Value
from django.db.utils import OperationalError
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror import capture
from mirror.models import Outbox
from mirror.registry import mirrored_models
from mirror.rows import merge_payload
from tests.mirror.mysql_support import plain, recorded, says
from tests.mirror.server_support import execute, fetch
from tests.mirror.test_rows import EDGES, VALUES
from tests.project.shop.models import Product, Sink

pytestmark = pytest.mark.mariadb

CENTRES = pytest.mark.parametrize("vendor", ["mariadb", "sqlite"], indirect=True)

#: What MariaDB itself refuses: half a surrogate pair.
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("$json") | _TEXT, inner, max_size=3),
    max_leaves=8,
)
#: What it keeps. Times of day and moments end in 9999.
ACCEPTED = {
    **VALUES,
    "text": _TEXT,
    "file": _TEXT,
    # Its type for them refuses some of the other versions.
    "token": st.none() | st.uuids(version=4),
    "document": _DOCUMENTS,
    "ratio": st.floats(allow_nan=False, allow_infinity=False),
    "span": st.timedeltas(timedelta.min / 2000, timedelta.max / 2000),
}


@pytest.fixture
def source(mariadb_source, django_db_blocker):
    with django_db_blocker.unblock(), recorded(mariadb_source) as source:
        yield source


def write(**values) -> Sink:
    execute("DELETE FROM shop_sink")
    if "document" in values and values["document"] is None:
        values["document"] = Value(None, JSONField())  # JSON's null, where None would be SQL's
    return Sink.objects.create(**values)


def rows(using: str, table: str = "shop_sink") -> list[tuple[Any, ...]]:
    """Every row as the server has it, without the local key."""
    with connections[using].cursor() as cursor:
        cursor.execute(f"SHOW COLUMNS FROM {table}")
        columns = ", ".join(f"HEX(`{row[0]}`)" for row in cursor.fetchall() if row[0] != "pkid")
        cursor.execute(f"SELECT {columns} FROM {table} ORDER BY id")
        return list(cursor.fetchall())


def assert_same(vendor: str) -> None:
    if vendor == "mariadb":
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


def _holds(value: Any) -> bool:
    """Not what the server refuses: what is no text or no JSON, and more than 32 brackets in each other."""
    try:
        text = json.dumps(value, default=str, ensure_ascii=False, allow_nan=False).encode()
    except (UnicodeEncodeError, ValueError):
        return False
    return b"[" * 32 not in text


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


def test_every_character_of_unicode_is_captured_as_it_is(source):
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(characters), 0x8000):
        text = "".join(characters[start : start + 0x8000])
        Sink.objects.create(text=text)
        (change,) = source.news()
        assert change.fields["text"] == text


# Whatever the session is

HOSTILE = {
    "latin1": {"charset": "latin1"},
    "sql_mode": {"init_command": "SET sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH'"},
    "time_zone": {"init_command": "SET time_zone = '+05:30'"},
    "past": {"init_command": "SET timestamp = 1000000000, time_zone = '-11:00'"},
    "future": {"init_command": "SET timestamp = 2100000000, time_zone = '+13:00'"},
    "isolation": {"init_command": "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE"},
    "collation": {"init_command": "SET collation_connection = 'utf8mb4_unicode_ci', lc_time_names = 'de_DE'"},
    "length": {"init_command": "SET group_concat_max_len = 4, div_precision_increment = 0"},
}


@pytest.mark.parametrize("options", HOSTILE.values(), ids=HOSTILE)
def test_the_session_that_writes_does_not_matter(source, options):
    product = Product.objects.create(
        name="Ébène \\ \" ' 😀\n", weight=1 / 3, price=Decimal("1.10"), photo=b"\0\\'x", details={"é": ["\\"]}
    )
    child = Product.objects.create(name="child", parent=product, listed_at=datetime(2026, 2, 1, tzinfo=UTC))
    inserted = source.news()
    # No text is sent: what the session makes of its own literals is its own affair.
    client = plain(**options)
    says(client, "UPDATE shop_product SET stock = 7")
    client.commit()
    client.close()
    updated = source.news()
    for before, after in zip(inserted, updated, strict=True):
        assert {**before.fields, "stock": 7} == after.fields
        assert abs(after.ts / 1e6 - time.time()) < 60  # at once, but for the machine
    assert updated[1].fields["parent"] == str(product.id)
    assert (updated[1].pk, updated[1].fields["name"]) == (child.pk, "child")


def test_the_session_that_reads_does_not_matter(source):
    write(day=date(2026, 2, 1), moment=datetime(2026, 2, 1, tzinfo=UTC), ratio=1 / 3, text="é\\")
    execute(
        "SET time_zone = '+05:30', sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES', lc_time_names = 'de_DE'"
    )
    source.step()
    execute("SET time_zone = DEFAULT, sql_mode = DEFAULT, lc_time_names = DEFAULT")
    (change,) = source.changes()
    fields = change.fields
    assert (fields["day"], fields["moment"]) == ("2026-02-01", "2026-02-01T00:00:00Z")
    assert (fields["ratio"], fields["text"]) == (1 / 3, "é\\")


def test_triggers_do_not_depend_on_the_session_that_migrates(mariadb_source, django_db_blocker, settings):
    settings.MIRROR = {"MODELS": ["shop.*"], "CAPTURE": None, "READ_ONLY": False}
    options = {
        "charset": "latin1",
        "init_command": "SET sql_mode = 'ANSI_QUOTES', collation_connection = 'latin1_german1_ci'",
    }
    with django_db_blocker.unblock(), recorded(mariadb_source):
        pass
    with django_db_blocker.unblock():
        settings.MIRROR = {"MODELS": ["shop.*"]}
        with recorded({**mariadb_source, "OPTIONS": options}):
            modes = fetch("SELECT @@sql_mode, @@collation_connection")
            assert modes == [("ANSI_QUOTES", "latin1_german1_ci")]
        with recorded(mariadb_source) as source:
            assert capture.sync(connection) == []
            Sink.objects.create(text="😀 \\ é", document={"a": "😀"})
            (change,) = source.news()
    assert (change.fields["text"], change.fields["document"]) == ("😀 \\ é", {"a": "😀"})


# Every type, as the driver itself would have read it

TYPES = {
    "tinyint": ["-128"],
    "bigint": ["-9223372036854775808", "9223372036854775807"],
    "bigint unsigned": ["18446744073709551615"],
    "int(6) zerofill": ["42"],
    "boolean": ["true", "false"],
    "bit(1)": ["b'1'", "b'0'"],
    "bit(9)": ["b'100000001'", "0"],
    "bit(64)": ["18446744073709551615"],
    "year": ["2026", "0"],
    "float": ["0.1", "3.40282e38", "1e-38", "-7", "16777200"],
    "double": ["0.1e0+0.2e0", "5e-324", "1.7976931348623157e308", "123456789012345680", "0", "1e22", "-1.5"],
    "decimal(65,30)": ["1.10", "-99999999999999999999999999999999999.999999999999999999999999999999", "0"],
    "decimal(10,0)": ["7"],
    "char(5)": ["'ab'", "''"],
    "varchar(20)": ["'a  '", "'\t\\\\ \\\" \\' \\0 \x1f \x7f'", "'null'"],
    "varchar(20) charset latin1": ["'é'", "'€'"],
    "varchar(20) charset utf16": ["'é😀'"],
    "varchar(20) charset ascii": ["'a\\0b'"],
    "text charset sjis": ["'日本'"],
    "tinytext": ["'é'"],
    "longtext": ["''", "' {\"a\": 1} '"],
    "longtext check (json_valid({}))": ["'1e400'", "'null'"],
    "enum('so-so', 'é\"')": ["'so-so'", "'é\"'"],
    "set('x', 'y')": ["'x,y'", "''"],
    "binary(4)": ["0x01", "0x00ff5c27"],
    "varbinary(300)": ["''", "0x00ff5c270a", "repeat(0xff, 300)"],
    "longblob": ["0x00", "repeat('ab', 500)"],
    "json": ['\'{"a": 1.10, "a":  [2]}\'', "'null'", "'1e400'", "'\"é😀\"'", "'12345678901234567890123'"],
    "uuid": ["'00112233-4455-6677-8899-aabbccddeeff'"],
    "inet6": ["'::1'", "'1.2.3.4'"],
    "date": ["'0001-01-01'", "'9999-12-31'", "'1000-02-29'", "'0000-00-00'"],
    "datetime": ["'2026-02-01 00:00:00'", "'0000-00-00 00:00:00'"],
    "datetime(6)": ["'0001-01-01 00:00:00.000001'", "'9999-12-31 23:59:59.999999'"],
    "datetime(3)": ["'2026-02-01 00:00:00.123'"],
    "time": ["'23:59:59'", "'00:00:00'"],
    "time(6)": ["'23:59:59.999999'", "'00:00:00.000001'"],
    "timestamp null": ["'2026-02-01 00:00:00'", "'1970-01-01 00:00:01'", "0"],
    "timestamp(6) null": ["'2038-01-19 03:14:07.999999'", "'2026-03-29 02:30:00.5'", "0"],
    "point": ["point(1.5, -2)"],
    "geometrycollection": ["geomfromtext('GEOMETRYCOLLECTION(POINT(1 1), LINESTRING(0 0, 1 1))')"],
}


@contextmanager
def typed() -> Iterator[None]:
    """A table with a column of every type."""
    columns = [f"c{place} {kind.format(f'c{place}')}" for place, kind in enumerate(TYPES)]
    execute(f"CREATE TABLE shop_typed (id bigint PRIMARY KEY, {', '.join(columns)})")
    meta = type("Meta", (), {"app_label": "shop", "db_table": "shop_typed", "managed": False})
    fields = {f"c{place}": models.TextField(null=True) for place in range(len(TYPES))}
    type("Typed", (models.Model,), {"__module__": Sink.__module__, "Meta": meta, **fields})
    mirrored_models.cache_clear()
    capture.sync(connection)
    try:
        yield
    finally:
        execute("DROP TABLE shop_typed")
        del apps.all_models["shop"]["typed"]
        apps.clear_cache()
        mirrored_models.cache_clear()
        capture.sync(connection)


@pytest.mark.parametrize("zone", ["+00:00", "+05:30"])
def test_a_value_of_any_type_is_read_as_the_driver_reads_it(source, zone):
    names = [f"c{place}" for place in range(len(TYPES))]
    with typed():
        execute(f"SET time_zone = '{zone}', sql_mode = ''")
        for place, values in enumerate(TYPES.values()):
            for value in values:
                number = 10 * place + values.index(value)
                execute(f"INSERT INTO shop_typed (id, c{place}) VALUES ({number}, {value})")
        decoders = capture.WRITERS["mysql"].decoders(connection, mirrored_models()["shop.typed"])
        payloads = [merge_payload(json.loads(entry.payload)) for entry in Outbox.objects.order_by("id")]
        stored = fetch(f"SELECT id, {', '.join(names)} FROM shop_typed ORDER BY id")
        assert len(stored) == len(payloads) == sum(map(len, TYPES.values()))
        for payload, row in zip(payloads, stored, strict=True):
            for column, expected in zip(["id", *names], row, strict=True):
                read = decoders[column](payload[column])
                kind = column if column == "id" else list(TYPES)[int(column[1:])]
                assert type(read) is type(expected), kind
                assert repr(read) == repr(expected), kind
        Outbox.objects.all().delete()
        execute("SET time_zone = DEFAULT, sql_mode = DEFAULT")


def test_a_time_of_more_than_a_day_travels_as_the_server_writes_it(source):
    execute("ALTER TABLE shop_sink MODIFY hour time(6) NULL")
    execute("INSERT INTO shop_sink (id, text, file, hour) VALUES (uuid(), '', '', '-838:59:59')")
    assert source.news()[0].fields["hour"] == {"$mysql": "-838:59:59.000000"}


def test_a_single_precision_number_keeps_what_clients_are_not_shown(source):
    with typed():
        column = f"c{list(TYPES).index('float')}"
        for value in ("0.1", "16777217", "3.14159274"):
            execute(f"REPLACE INTO shop_typed (id, {column}) VALUES (1, {value})")
        Outbox.objects.filter(op="DELETE").delete()
        decode = capture.WRITERS["mysql"].decoders(connection, mirrored_models()["shop.typed"])[column]
        payloads = [json.loads(entry.payload) for entry in Outbox.objects.order_by("id")]
        Outbox.objects.all().delete()
    assert [decode(payload[column]) for payload in payloads] == [0.1, 16777216.0, 3.1415927]


def test_a_bit_in_the_place_of_a_boolean_is_one(source, centre):
    execute("ALTER TABLE shop_product MODIFY on_sale bit(1) NOT NULL")
    try:
        Product.objects.create(name="yes", on_sale=True)
        Product.objects.create(name="no", on_sale=False)
        capture.sync(connection)
        execute("UPDATE shop_product SET stock = 1")
        source.sequencer._readers.clear()
        assert [change.fields["on_sale"] for change in source.news()][2:] == [True, False]
    finally:
        execute("DELETE FROM shop_product")
        execute("ALTER TABLE shop_product MODIFY on_sale tinyint(1) NOT NULL")
        capture.sync(connection)
        source.sequencer._readers.clear()


# What is too large

_TOO_LARGE = "repeat(char(1), @@max_allowed_packet / 2)"


@pytest.mark.parametrize("verb", ["INSERT", "INSERT IGNORE", "REPLACE"])
def test_a_row_that_cannot_be_captured_is_not_written_and_the_next_one_is(source, verb):
    with pytest.raises(OperationalError, match="max_allowed_packet"):
        execute(f"{verb} INTO shop_sink (id, text, file) VALUES (uuid(), {_TOO_LARGE}, '')")
    execute(f"{verb} INTO shop_sink (id, text, file) VALUES (uuid(), 'small', '')")
    assert [change.fields["text"] for change in source.news()] == ["small"]
    assert Sink.objects.count() == 1


def test_a_blob_of_two_thirds_of_a_packet_is_captured(source):
    size = fetch("SELECT @@max_allowed_packet * 2 DIV 3")[0][0]
    execute("INSERT INTO shop_sink (id, text, file, `blob`) VALUES (uuid(), '', '', '')")
    execute(f"UPDATE shop_sink SET `blob` = repeat(0xff, {size})")
    assert len(base64.b64decode(source.news()[1].fields["blob"])) == size

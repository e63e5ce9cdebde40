from __future__ import annotations

import json
import math
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.core import serializers
from django.db import IntegrityError, connection, connections, transaction
from django.db.models import F, JSONField, Value
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mirror.changes import Op, encode_change
from mirror.errors import WrongValue
from mirror.registry import mirrored_models
from mirror.rows import RowWriter, merge_payload
from tests.fakes import Recorded
from tests.project.shop.models import Brand, Counter, Product, Seat, Sink

EVERY_TEXT = st.text(max_size=30)  # any Unicode but half surrogate pairs, which no UTF-8 can hold

json_documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Escaped, half a surrogate pair is within JSON.
    | st.text(st.characters(), max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["$json", "a", ""]) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)

VALUES = {
    "text": EVERY_TEXT,
    "big": st.integers(-(2**63), 2**63 - 1),
    "exact": st.decimals(-(10**9), 10**9, places=5),
    "ratio": st.floats(allow_nan=False),
    "sure": st.booleans(),
    "day": st.dates(),
    "hour": st.times(),
    "moment": st.datetimes(timezones=st.just(UTC)),
    "span": st.timedeltas(timedelta.min / 2000, timedelta.max / 2000),
    "blob": st.binary(max_size=40),
    "document": json_documents,
    "token": st.uuids(),
    "address": st.ip_addresses().map(str),
    "file": st.text("abcé/. ", max_size=30),
}


def raw(using: str, table: str) -> list[dict]:
    """Every row by plain SQL: value and storage class of each column but the local key."""
    with connections[using].cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table}")
        columns = [column[0] for column in cursor.description if column[0] != "pkid"]
        typed = ", ".join(f'"{column}", typeof("{column}")' for column in columns)
        cursor.execute(f"SELECT {typed} FROM {table} ORDER BY id")
        return [
            {column: row[2 * place : 2 * place + 2] for place, column in enumerate(columns)}
            for row in cursor.fetchall()
        ]


def same(table: str) -> bool:
    return raw("default", table) == raw("centre", table)


def write_sink(**values) -> Sink:
    """One row only, so that an example is judged by itself."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM shop_sink")
    if "document" in values and values["document"] is None:
        values["document"] = Value(None, JSONField())  # JSON's null, where None would be SQL's
    return Sink.objects.create(**values)


# There and back, through trigger, sequencer, JSON and apply


@pytest.mark.parametrize("field", VALUES)
def test_any_value_of_each_kind_arrives_as_it_is(source, centre, field):
    @settings(max_examples=40)
    @given(VALUES[field])
    def check(value):
        write_sink(**{field: value})
        centre.follow(source)
        assert same("shop_sink")

    check()


EDGES: dict[str, list[Any]] = {
    "text": ["", "\0", "a\0b", "\x1f\x7f\u2028", "\U0010ffff", "'\"\\", "😀" * 5000, "null", "%s %(a)s"],
    "big": [-(2**63), 2**63 - 1, 2**53 + 1, 0],
    "exact": [Decimal("0.00001"), Decimal("-9999999999.99999"), Decimal(1), Decimal("0.1")],
    "ratio": [
        math.inf,
        -math.inf,
        5e-324,
        1.7976931348623157e308,
        0.1,
        1 / 3,
        -0.0,
        1e16,
        123456789012345678.0,
        2.2250738585072011e-308,
    ],
    "sure": [True, False, None],
    "day": [date.min, date.max],
    "hour": [time.min, time.max, time(1, 2, 3, 4)],
    "moment": [
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime(2026, 3, 29, 1, 30, 0, 1, tzinfo=UTC),
    ],
    "span": [
        timedelta(microseconds=-1),
        timedelta(days=-1, microseconds=1),
        timedelta(days=99999, hours=23, microseconds=999999),
        timedelta(0),
    ],
    "blob": [b"", b"\0", bytes(range(256)), b"text"],
    "document": [
        None,
        "null",
        {"$json": "null"},
        {"$json": {"$json": 1}},
        {"$json": 1, "more": 2},
        [{"$json": 1}],
        10**40,
        -(10**40),
        1e300,
        0.1,
        -0.0,
        "\ud800",
        ["\udfff", {"\ud800": 1}],
        "\0",
        {"b": "00"},
        {"r": "1.5"},
        json.loads("[" * 200 + "]" * 200),
        {"a" * 1000: "é" * 1000},
    ],
    "token": [None],
    "address": ["::1", "::ffff:10.0.0.1", "255.255.255.255"],
    "file": ["a b/ü.txt"],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in EDGES.items() for value in values]
)
def test_values_at_the_edge_arrive_as_they_are(source, centre, field, value):
    write_sink(**{field: value})
    centre.follow(source)
    assert same("shop_sink")
    mine, theirs = Sink.objects.get(), Sink.objects.using("centre").get()
    assert getattr(mine, field) == getattr(theirs, field)


def test_sql_null_and_json_null_stay_apart(source, centre):
    nothing = Sink.objects.create(document=None)
    Sink.objects.create(document=Value(None, JSONField()))
    centre.follow(source)
    assert same("shop_sink")
    assert Sink.objects.using("centre").get(document__isnull=True).id == nothing.id


def test_a_row_of_nothing_but_nulls_arrives(source, centre):
    Sink.objects.create()
    centre.follow(source)
    assert same("shop_sink")


@settings(max_examples=25)
@given(st.fixed_dictionaries({}, optional=VALUES))
@example({})
def test_any_row_arrives_whole_and_again_when_it_changes(source, centre, values):
    row = write_sink()
    centre.follow(source)
    for name, value in values.items():
        setattr(row, name, Value(None, JSONField()) if (name, value) == ("document", None) else value)
    row.save()
    centre.follow(source)
    assert same("shop_sink")
    row.delete()
    centre.follow(source)
    assert raw("centre", "shop_sink") == []


def test_a_computed_decimal_arrives_as_django_reads_it(source, centre):
    # SQLite keeps every digit of an expression's result, Django reads those that the column has.
    Product.objects.create(name="p", price=Decimal("10.99"))
    with connection.cursor() as cursor:
        cursor.execute("UPDATE shop_product SET price = price * 1.1")
    centre.follow(source)
    assert Product.objects.using("centre").get().price == Product.objects.get().price == Decimal("12.09")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_no_json_can_hold_is_refused_where_it_is_written(source, value):
    with pytest.raises(IntegrityError):
        Sink.objects.create(document={"a": value})
    assert source.news() == []


def test_not_a_number_is_null_where_it_is_written(source, centre):
    # SQLite has no other.
    Sink.objects.create(ratio=math.nan)
    assert Sink.objects.get().ratio is None
    centre.follow(source)
    assert same("shop_sink")


def test_half_a_surrogate_pair_is_refused_where_it_is_written(source):
    with pytest.raises(UnicodeEncodeError):
        Sink.objects.create(text="\ud800")
    assert source.news() == []


def test_the_references_of_a_row_arrive(source, centre):
    Brand.objects.using("centre").create(name="local")
    brand = Brand.objects.create(name="a")
    parent = Product.objects.create(name="parent", brand=brand, second_brand=brand)
    Product.objects.create(name="child", parent=parent)
    centre.follow(source)
    child = Product.objects.using("centre").get(name="child")
    assert child.parent.second_brand.name == child.parent.brand.name == "a"
    assert (child.brand, child.second_brand) == (None, None)


def test_content_types_travel_by_their_name(source, centre):
    with transaction.atomic(using="centre"):
        ContentType.objects.using("centre").update(id=F("id") + 1000)
        Permission.objects.using("centre").update(content_type_id=F("content_type_id") + 1000)
    ContentType.objects.clear_cache()
    Sink.objects.create(kind=ContentType.objects.get_for_model(Brand))
    (change,) = source.news()
    assert change.fields["kind"] == ["shop", "brand"]
    centre.follow(source)
    assert Sink.objects.using("centre").get().kind.model_class() is Brand
    ContentType.objects.clear_cache()


def test_a_content_type_that_is_gone_stops_nothing(source):
    kind = ContentType.objects.create(app_label="old", model="thing")
    Sink.objects.create(kind=kind, text="a")
    source.news()
    kind_id = kind.pk
    kind.delete()
    ContentType.objects.clear_cache()
    (change,) = source.news()
    assert (change.op, change.fields["text"]) == (Op.DELETE, "a")
    assert change.fields["kind"] == {"$missing": kind_id}


# What it looks like on the way


def travelled(recorded: Recorded) -> dict:
    return json.loads(encode_change(recorded.news()[-1]))


def test_a_row_travels_as_django_serializes_it(source):
    row = Sink.objects.create(
        text="x",
        big=5,
        exact=Decimal("1.50000"),
        ratio=0.5,
        sure=True,
        day=date(2026, 1, 2),
        hour=time(3, 4, 5),
        moment=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        span=timedelta(days=1, seconds=2),
        blob=b"\x00\x01",
        document={"a": [1, None]},
        address="10.0.0.1",
        file="a.txt",
    )
    (expected,) = json.loads(serializers.serialize("json", [row]))
    change = travelled(source)
    assert {name: change[name] for name in ("model", "pk", "fields")} == expected


def test_microseconds_are_kept_where_django_cuts_them(source):
    Sink.objects.create(moment=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), hour=time(1, 2, 3, 4))
    fields = travelled(source)["fields"]
    assert (fields["moment"], fields["hour"]) == ("2026-01-02T03:04:05.678901Z", "01:02:03.000004")


@pytest.mark.parametrize(("value", "text"), [(math.inf, "inf"), (-math.inf, "-inf")])
def test_infinite_floats_travel_as_words(source, value, text):
    Sink.objects.create(ratio=value)
    assert travelled(source)["fields"]["ratio"] == text


@pytest.mark.parametrize(
    ("document", "travels"),
    [
        ({"a": 1}, {"a": 1}),
        (Value(None, JSONField()), {"$json": "null"}),
        (None, None),
        ({"$json": 1}, {"$json": '{"$json": 1}'}),
        ("\ud800", {"$json": '"\\ud800"'}),
    ],
)
def test_json_that_could_be_mistaken_travels_as_text(source, document, travels):
    Sink.objects.create(document=document)
    assert travelled(source)["fields"]["document"] == travels


def test_a_number_too_large_for_a_float_travels_as_text(source):
    Sink.objects.create(document=0)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE shop_sink SET document = '1e999'")
    assert travelled(source)["fields"]["document"] == {"$json": "1e999"}


def test_a_key_of_two_columns_is_told_as_the_primary_key(source):
    Seat.objects.create(row="A", number=1, guest="g")
    change = travelled(source)
    assert (change["pk"], change["fields"]) == (["A", 1], {"guest": "g"})


# Hostile values


def writer(label: str) -> RowWriter:
    return RowWriter(mirrored_models()[f"shop.{label}"], connections["default"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("big", "many"),
        ("big", [1]),
        ("big", {}),
        ("exact", "1,5"),
        ("exact", [1]),
        ("ratio", "much"),
        ("sure", "perhaps"),
        ("day", "2026-13-01"),
        ("day", 5),
        ("hour", "25:00"),
        ("moment", "yesterday"),
        ("moment", 1698395500),
        ("span", "long"),
        ("span", 5),
        ("blob", "not base64!"),
        ("blob", 5),
        ("document", {"$json": "{"}),
        ("document", {"$json": 5}),
        ("token", "a"),
        ("token", 1.5),
        ("kind", ["shop"]),
        ("kind", 5),
        ("kind", ["shop", "nothing"]),
        ("kind", {"app_label": "shop"}),
    ],
)
def test_what_a_field_does_not_take_is_a_wrong_value_that_names_it(source, field, value):
    with pytest.raises(WrongValue, match=f"shop.sink.{field}"):
        writer("sink").load(field, value)


@given(st.sampled_from([*VALUES, "kind"]), json_documents)
@settings(max_examples=150)
def test_any_json_is_loaded_or_is_a_wrong_value(source, field, value):
    with suppress(WrongValue):
        writer("sink").load(field, value)


def test_only_the_exact_form_stands_for_text(source):
    assert writer("sink").load("document", {"$json": "1"}) == "1"
    assert json.loads(writer("sink").load("document", {"$json": "1", "b": 2})) == {"$json": "1", "b": 2}


def test_null_is_null_for_every_field(source):
    assert {writer("sink").load(field, None) for field in VALUES} == {None}


def test_a_payload_in_parts_is_one_row():
    assert merge_payload({"a": 1}) == {"a": 1}
    assert merge_payload([{"a": 1}, {"b": 2}]) == {"a": 1, "b": 2}


def test_a_column_that_was_not_captured_is_left_out(source):
    Counter.objects.create(value=1)
    with connection.cursor() as cursor:
        cursor.execute("""UPDATE mirror_outbox SET payload = '{"id": 7}'""")
    (change,) = source.news()
    assert (change.pk, change.fields) == (7, {})

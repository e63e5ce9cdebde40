"""Every kind of field between every two engines: the very same value, or a refusal that names it."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models import JSONField, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.errors import ApplyError, ConstraintFailed, WrongValue
from tests.zoo.models import Numbers, Texts, Times
from tests.zoo.pairs import PAIRS, Pair, nested, refused_by_source

pytestmark = pytest.mark.parametrize("engines", PAIRS)


# Values

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=8)
)
_DOCUMENTS = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["$json", "$sqlite", "a"]) | _TEXT, inner, max_size=3)
    ),
    max_leaves=8,
)


def _decimals(digits: int, places: int) -> st.SearchStrategy[Decimal]:
    highest = Decimal(10) ** (digits - places)
    whole = st.integers(-(10**digits) + 1, 10**digits - 1)
    return whole.map(lambda number: Decimal(number).scaleb(-places)).filter(
        lambda value: abs(value) < highest
    )


VALUES: dict[Any, dict[str, st.SearchStrategy[Any]]] = {
    Numbers: {
        "small": st.integers(-(2**15), 2**15 - 1),
        "whole": st.integers(-(2**31), 2**31 - 1),
        "big": st.integers(-(2**63), 2**63 - 1),
        "positive_small": st.integers(0, 2**15 - 1),
        "positive": st.integers(0, 2**31 - 1),
        "positive_big": st.integers(0, 2**63 - 1),
        "money": _decimals(12, 2),
        "fine": _decimals(15, 10),
        "huge": _decimals(40, 20) | _decimals(15, 5),
        "ratio": st.floats(allow_nan=False),
        "sure": st.booleans(),
    },
    Texts: {
        "title": _TEXT,
        "body": _TEXT | st.text("\0 a😀\n'\"\\%", max_size=10),
        "slug": st.text("ab-_9", max_size=20),
        "mail": st.emails().filter(lambda mail: len(mail) < 200),
        "link": st.text("abc/:?&=é", max_size=30),
        "file": _TEXT,
        "image": _TEXT,
        "path": _TEXT,
        "address": st.ip_addresses().map(str),
        "address4": st.ip_addresses(v=4).map(str),
        "blob": st.binary(max_size=40),
        "token": st.uuids(version=4),
        "document": _DOCUMENTS,
    },
    Times: {
        "day": st.dates(),
        "hour": st.times(),
        "moment": st.datetimes(timezones=st.just(UTC)),
        "span": st.timedeltas(timedelta.min / 2000, timedelta.max / 2000),
    },
}

EDGES: dict[Any, dict[str, list[Any]]] = {
    Numbers: {
        "small": [-(2**15), 2**15 - 1],
        "big": [-(2**63), 2**63 - 1, 2**53 + 1, 0, -1],
        "positive_big": [2**63 - 1],
        "money": [Decimal("0.01"), Decimal("-9999999999.99"), Decimal("1.10"), Decimal(0)],
        "huge": [Decimal("1e-20"), Decimal(10) ** 39 - 1, Decimal("1234567890123456.7"), Decimal("0.1")],
        "ratio": [math.inf, -math.inf, math.nan, -0.0, 5e-324, 1.7976931348623157e308, 0.1, 1 / 3, 1e16],
        "sure": [True, False, None],
    },
    Texts: {
        "title": ["", " ", "a ", " a", "😀" * 50, "ß", "\u0000", "\u2028", "\x7f", "\r\n"],
        "body": ["", "\0", "a\0b", "\U0010ffff", "'\"\\", "null", "%s %(a)s", "x" * 100_000, "e\u0301"],
        "address": ["::1", "::ffff:10.0.0.1", "255.255.255.255", "2001:db8::"],
        "file": ["", "a b/ü.txt"],
        "blob": [b"", b"\0", bytes(range(256)), b"text", b"\xff" * 70_000],
        "document": [
            Value(None, JSONField()),
            {},
            [],
            "",
            "null",
            {"$json": "null"},
            {"$sqlite": 1},
            {"$json": {"$sqlite": 1}},
            {"b": "00"},
            10**40,
            -(10**400),
            1e300,
            1e-7,
            0.1,
            1.0,
            "\ud800",
            "\0",
            "\\u0000",
            "é😀",
            {"b": 1, "a": {"b": 2, "a": [None, True]}},
            nested(30),
            nested(60),
        ],
    },
    Times: {
        "day": [date.min, date.max, date(2024, 2, 29)],
        "hour": [time.min, time.max, time(1, 2, 3, 4)],
        "moment": [
            datetime.min.replace(tzinfo=UTC),
            datetime.max.replace(tzinfo=UTC),
            datetime(2026, 3, 29, 1, 30, 0, 1, tzinfo=UTC),
            datetime(1970, 1, 1, tzinfo=UTC),
        ],
        "span": [
            timedelta(microseconds=-1),
            timedelta(days=-1, microseconds=1),
            timedelta(days=99999, hours=23, microseconds=999999),
            timedelta(0),
            timedelta(days=30),
        ],
    },
}


def refusals(engines: tuple[str, str], field: str, value: Any) -> bool:
    """Whether the centre's engine cannot hold a value that its source did."""
    centre = engines[1]
    if isinstance(value, Decimal) and centre == "sqlite" and engines[0] != "sqlite":
        return not _is_15_digits(value)
    if isinstance(value, float) and field == "ratio":
        if engines[0] == "sqlite" and math.isnan(value):
            return False  # NULL where it was written
        return (centre == "mariadb" and not math.isfinite(value)) or (
            centre == "sqlite" and math.isnan(value)
        )
    if field == "document":
        return _refuses_document(centre, value)
    return centre == "postgresql" and isinstance(value, str) and "\0" in value


def _is_15_digits(value: Decimal) -> bool:
    return len(value.normalize().as_tuple().digits) <= 15


def _refuses_document(centre: str, value: Any) -> bool:
    text = json.dumps(value) if not isinstance(value, Value) else "null"
    halves = not _encodes(json.dumps(value, ensure_ascii=False)) if not isinstance(value, Value) else False
    if centre == "postgresql":
        return halves or "\\u0000" in text.replace("\\\\", "")
    return centre == "mariadb" and (halves or "[" * 32 in text)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeError:
        return False
    return True


def write(model: Any, values: dict[str, Any]) -> Any:
    """The row, or None where the source itself does not take it."""
    if values.get("document", 0) is None:
        values = {**values, "document": Value(None, JSONField())}
    try:
        with transaction.atomic():
            return model.objects.create(**values)
    except refused_by_source():
        return None


@contextmanager
def alone(pair: Pair, model: Any):
    """The table is empty on both sides before and after."""
    yield
    model.objects.all().delete()
    pair.follow()
    assert not model.objects.using("centre").exists()


def check(pair: Pair, model: Any, values: dict[str, Any]) -> None:
    """Write a row, copy it by plain SQL, write it again; each time the centre has it, or says why not."""
    with alone(pair, model):
        row = write(model, values)
        if row is None:
            return
        stored = model.objects.get()
        refused = {name for name, value in values.items() if refusals(pair.engines, name, value)}
        names = [*values] if values else ["id"]
        if not refused:
            pair.follow()
            pair.assert_same(model)
            copy_by_sql(model)
            pair.follow()
            pair.assert_same(model)
            stored.save()
            pair.follow()
            pair.assert_same(model)
            return
        with pytest.raises(ApplyError) as caught:
            pair.follow()
        assert isinstance(caught.value, WrongValue | ConstraintFailed)
        assert model._meta.label_lower in str(caught.value)
        assert any(name in str(caught.value) for name in refused), (names, str(caught.value))
        assert str(row.id) in str(caught.value)
        assert not model.objects.using("centre").exists()
        pair.skip()


def copy_by_sql(model: Any) -> None:
    """Another row with the same values, made by the engine alone."""
    quote = connection.ops.quote_name
    table = quote(model._meta.db_table)
    columns = ", ".join(quote(field.column) for field in model._meta.local_concrete_fields[2:])
    uuid = {
        # MariaDB's uuid column takes those that have a version and a variant.
        "sqlite": "lower(hex(randomblob(6)) || '4' || substr(hex(randomblob(2)), 2) || '8' || "
        "substr(hex(randomblob(8)), 2))",
        "postgresql": "gen_random_uuid()",
        "mysql": "UUID()",
    }[connection.vendor]
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} (id, {columns}) SELECT {uuid}, {columns} FROM {table}")


@pytest.mark.parametrize("model", VALUES, ids=lambda model: model.__name__.lower())
def test_any_value_arrives_as_it_is_or_is_refused_by_name(pair, model):
    @settings(max_examples=30, suppress_health_check=list(HealthCheck))
    @given(st.fixed_dictionaries({}, optional=VALUES[model]))
    def any_row(values):
        check(pair, model, values)

    any_row()


@pytest.mark.parametrize("model", EDGES, ids=lambda model: model.__name__.lower())
def test_values_at_the_edge_arrive_as_they_are_or_are_refused_by_name(pair, model):
    for field, values in EDGES[model].items():
        for value in values:
            check(pair, model, {field: value})

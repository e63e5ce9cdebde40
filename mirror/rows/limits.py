"""What the columns of a mirror cannot hold, found before anything is bound.

A database that rounds, cuts or pads a value does so without a word (MariaDB: a note), and one that refuses it
does not always say which column it means. What counts is the table as it is here, not what the model says:
the two differ where a project grew up with another Django, or with none.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from decimal import MAX_PREC, Context, Decimal
from itertools import chain
from math import isfinite, isnan
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

from mirror.registry import MirroredModel, root_of

Check = Callable[[Any], str | None]


@dataclass(frozen=True, slots=True)
class Limit:
    """``check`` says why the column does not hold a value, or None if it does.

    ``suspects`` picks from many values, which are all of one type, some that would not all pass if any
    other did not.
    """

    check: Check
    suspects: Callable[[Sequence[Any]], Iterable[Any]]

    def __call__(self, value: Any) -> str | None:
        return self.check(value)

    def of_many(self, values: Sequence[Any]) -> str | None:
        return next((reason for value in self.suspects(values) if (reason := self.check(value))), None)


_EXACT = Context(prec=MAX_PREC)


def limits(mirrored: MirroredModel, connection: BaseDatabaseWrapper) -> dict[str, Limit]:
    """By column; those that hold everything are left out."""
    found = _VENDORS[connection.vendor](mirrored, connection) if connection.vendor in _VENDORS else {}
    return {column: limit for column, limit in found.items() if limit is not None}


def _all(*parts: Limit | None) -> Limit | None:
    given = [part for part in parts if part is not None]
    if len(given) < 2:
        return given[0] if given else None
    return Limit(
        lambda value: next((reason for part in given if (reason := part(value)) is not None), None),
        lambda values: chain.from_iterable(part.suspects(values) for part in given),
    )


def _of(kind: type) -> Callable[[Check], Limit]:
    """Of a check that looks at values of one type only."""
    return lambda check: Limit(check, lambda values: values if isinstance(values[0], kind) else ())


# What limits there are. Each looks only at the Python types it speaks of.


def _range(lowest: int, highest: int) -> Limit:
    def limit(value: Any) -> str | None:
        if isinstance(value, int) and not lowest <= value <= highest:
            return f"the column holds {lowest} to {highest}"
        return None

    return Limit(limit, lambda values: (min(values), max(values)) if isinstance(values[0], int) else ())


def _signed(size: int) -> Limit:
    return _range(-(2 ** (8 * size - 1)), 2 ** (8 * size - 1) - 1)


def _length(characters: int) -> Limit:
    def limit(value: Any) -> str | None:
        if isinstance(value, str) and len(value) > characters:
            return f"the column holds {characters} characters, not {len(value)}"
        return None

    return Limit(limit, lambda values: (max(values, key=len),) if isinstance(values[0], str) else ())


def _digits(precision: int, scale: int) -> Limit:
    def limit(value: Any) -> str | None:
        if not isinstance(value, Decimal):
            return None
        _sign, digits, exponent = value.normalize(_EXACT).as_tuple()
        assert isinstance(exponent, int)
        if -exponent > scale:
            return f"the column holds {scale} decimal places"
        if value and len(digits) + exponent > precision - scale:
            return f"the column holds {precision - scale} digits before the point"
        return None

    return _of(Decimal)(limit)


def _fraction(places: int) -> Limit | None:
    if places >= 6:
        return None
    step = 10 ** (6 - places)

    def limit(value: Any) -> str | None:
        microseconds = value.microseconds if isinstance(value, timedelta) else value.microsecond
        if microseconds % step:
            return f"the column holds {places} digits of a second"
        return None

    return Limit(
        lambda value: limit(value) if isinstance(value, datetime | time | timedelta) else None,
        lambda values: values,
    )


def _single(printed: range) -> Limit:
    """A column of singles, whose server prints the fewest of so many digits that are enough, or the most."""

    def limit(value: Any) -> str | None:
        if not isinstance(value, float) or not isfinite(value):
            return None
        try:
            single = struct.pack("f", value)
        except OverflowError:
            return "the column holds floats of single precision"
        (held,) = struct.unpack("f", single)
        texts = [f"{held:.{digits}g}" for digits in printed]
        shown = next((text for text in texts if _packed(text) == single), texts[-1])
        return None if float(shown) == value else f"the column holds single precision: {shown}"

    return _of(float)(limit)


def _packed(text: str) -> bytes | None:
    try:
        return struct.pack("f", float(text))
    except OverflowError:
        return None


@_of(float)
def _finite(value: Any) -> str | None:
    return "the column holds finite numbers" if isinstance(value, float) and not isfinite(value) else None


@_of(float)
def _number(value: Any) -> str | None:
    return "NULL would be stored for nan" if isinstance(value, float) and isnan(value) else None


def _without_nul(value: Any) -> str | None:
    return "the column holds no NUL" if isinstance(value, str) and "\0" in value else None


_no_nul = Limit(
    _without_nul,
    lambda values: [value for value in values if "\0" in value] if isinstance(values[0], str) else (),
)


def _padded(length: int) -> Limit:
    def limit(value: Any) -> str | None:
        if isinstance(value, str) and len(value) < length:
            return f"the column would pad it to {length} characters"
        return None

    return Limit(limit, lambda values: (min(values, key=len),) if isinstance(values[0], str) else ())


@_of(str)
def _stripped(value: Any) -> str | None:
    if isinstance(value, str) and value.endswith(" "):
        return "the column forgets spaces at the end"
    return None


# An escape for NUL: with an odd number of backslashes before the u.
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


@_of(str)
def _no_escaped_nul(value: Any) -> str | None:
    if isinstance(value, str) and _ESCAPED_NUL.search(value):
        return "a jsonb column holds no NUL"
    return None


@_of(str)
def _no_half_pair(value: Any) -> str | None:
    if isinstance(value, str) and "\\ud" in value.lower():
        try:
            json.dumps(json.loads(value), ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return "a jsonb column holds no half of a surrogate pair"
    return None


# SQLite


def _sqlite(mirrored: MirroredModel, connection: BaseDatabaseWrapper) -> dict[str, Limit | None]:
    found: dict[str, Limit | None] = {}
    for field in mirrored.fields:
        root = root_of(field.field)
        exact = _read_back(root, connection) if isinstance(root, models.DecimalField) else None
        found[field.column] = _all(_signed(8), _number, exact)
    return found


def _read_back(field: Any, connection: BaseDatabaseWrapper) -> Limit:
    """SQLite stores a decimal as a float, of which Django believes 15 digits."""
    expression = field.get_col(field.model._meta.db_table)
    converters = connection.ops.get_db_converters(expression)

    def limit(value: Any) -> str | None:
        if not isinstance(value, Decimal):
            return None
        text = connection.ops.adapt_decimalfield_value(value, field.max_digits, field.decimal_places)
        back: Any = float(text or 0)
        for converter in converters:
            back = converter(back, expression, connection)
        return None if back == value else f"SQLite would give back {back}"

    return _of(Decimal)(limit)


# PostgreSQL

_PG_COLUMNS = """
    SELECT a.attname, b.typname, CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END
    FROM pg_attribute a
    JOIN pg_type t ON t.oid = a.atttypid
    JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
    WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""

#: What PostgreSQL adds to the length in a column's type modifier.
_HEADER = 4

_PG_PLAIN: dict[str, Limit | None] = {
    "int2": _signed(2),
    "int4": _signed(4),
    "int8": _signed(8),
    "float4": _single(range(6, 10)),
    "text": _no_nul,
    "varchar": _no_nul,
    "bpchar": _no_nul,
    "citext": _no_nul,
    "json": _no_nul,
    "jsonb": _all(_no_escaped_nul, _no_half_pair),
}


def _postgresql(mirrored: MirroredModel, connection: BaseDatabaseWrapper) -> dict[str, Limit | None]:
    with connection.cursor() as cursor:
        cursor.execute(_PG_COLUMNS, [connection.ops.quote_name(mirrored.table)])
        rows = cursor.fetchall()
    # Django doubles a quote in a name where the catalog does not.
    return {
        name.replace('"', '""'): _all(_PG_PLAIN.get(kind), _pg_modified(kind, modifier))
        for name, kind, modifier in rows
    }


def _pg_modified(kind: str, modifier: int) -> Limit | None:
    if modifier < 0:
        return None
    if kind == "varchar":
        return _length(modifier - _HEADER)
    if kind == "bpchar":
        return _all(_length(modifier - _HEADER), _padded(modifier - _HEADER))
    if kind == "numeric":
        modifier -= _HEADER
        # Since PostgreSQL 15 the scale is a signed number of 11 bits.
        return _digits(modifier >> 16, (modifier & 0x7FF ^ 0x400) - 0x400)
    if kind in {"time", "timestamp", "timestamptz"}:
        return _fraction(modifier)
    if kind == "interval" and modifier & 0xFFFF != 0xFFFF:
        return _fraction(modifier & 0xFFFF)
    return None


# MariaDB and MySQL

_MYSQL_COLUMNS = """
    SELECT column_name, data_type, column_type, character_maximum_length, numeric_precision, numeric_scale,
        datetime_precision
    FROM information_schema.columns
    WHERE table_schema = COALESCE(%s, DATABASE()) AND table_name = %s
"""

#: Of a single (FLT_DIG), whether they are enough or not.
_MYSQL_DIGITS = range(6, 7)
_MYSQL_SIZES = {"tinyint": 1, "smallint": 2, "mediumint": 3, "int": 4, "bigint": 8}


def _mysql(mirrored: MirroredModel, connection: BaseDatabaseWrapper) -> dict[str, Limit | None]:
    schema, _, table = mirrored.table.strip("`").rpartition("`.`")
    with connection.cursor() as cursor:
        cursor.execute(_MYSQL_COLUMNS, [schema or None, table])
        return {row[0]: _mysql_limit(*row[1:]) for row in cursor.fetchall()}


def _mysql_limit(
    kind: str,
    whole: str,
    characters: int | None,
    precision: int | None,
    scale: int | None,
    fraction: int | None,
) -> Limit | None:
    if kind in _MYSQL_SIZES:
        size = _MYSQL_SIZES[kind]
        return _range(0, 2 ** (8 * size) - 1) if "unsigned" in whole else _signed(size)
    if kind == "varchar" and characters is not None:
        return _length(characters)
    if kind == "char" and characters is not None:
        return _all(_length(characters), _stripped)
    if kind == "decimal" and precision is not None and scale is not None:
        return _digits(precision, scale)
    if kind in {"float", "double"}:
        return _all(_finite, _single(_MYSQL_DIGITS) if kind == "float" else None)
    return _fraction(fraction) if fraction is not None else None


_VENDORS: dict[str, Callable[[MirroredModel, BaseDatabaseWrapper], dict[str, Limit | None]]] = {
    "mysql": _mysql,
    "postgresql": _postgresql,
    "sqlite": _sqlite,
}

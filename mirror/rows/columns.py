"""The values of one column for many rows at once: what is alike is checked and converted together.

A column takes only what travels as it usually does. Anything else (a value in another database's form, one
that the column would not give back) makes it refuse them all: the rows are then looked at one by one by a
RowWriter, which says what is wrong with which.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper

from mirror.rows.limits import Limit

Values = Sequence[Any]
Load = Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """``wire`` is the type to decode, ``load`` turns values of it into parameters or raises ValueError."""

    wire: Any
    load: Callable[[Values], Values]


def column(kind: str, connection: BaseDatabaseWrapper, limit: Limit | None, load_one: Load) -> Column:
    """``kind`` is the internal type of the field, ``load_one`` what a RowWriter does to a value."""
    if kind in _AS_THEY_ARE:
        return Column(wire=_AS_THEY_ARE[kind] | None, load=lambda values: _within(limit, values))
    convert = _CONVERTERS[kind](connection, limit) if kind in _CONVERTERS else None
    if convert is None:
        return Column(wire=Any, load=lambda values: [None if v is None else load_one(v) for v in values])
    return Column(wire=str | None, load=lambda values: _but_null(convert, values))


def _within(limit: Limit | None, values: Values) -> Values:
    present = _present(values)
    reason = limit.of_many(present) if limit is not None and present else None
    if reason is not None:
        raise ValueError(reason)
    return values


def _present(values: Values) -> Values:
    return values if None not in values else [value for value in values if value is not None]


def _but_null(convert: Callable[[Values], Values], values: Values) -> Values:
    present = _present(values)
    if not present:
        return values
    if present is values:
        return convert(values)
    converted = iter(convert(present))
    return [None if value is None else next(converted) for value in values]


def _all_match(pattern: re.Pattern[str], lengths: set[int], values: Values) -> None:
    # One match for all of them, a line each. With these lengths no value can hide a line of its own.
    if not lengths.issuperset(map(len, values)) or not pattern.fullmatch("\n".join(values) + "\n"):
        raise ValueError("not in the usual form")


_UUIDS = re.compile(r"(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\n)+")
_MOMENTS = re.compile(
    r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{6})?Z\n)+"
)

Converter = Callable[[Values], Values]


def canonical_uuids(values: Values) -> Values:
    """The same, if each is the text that ``str(UUID)`` gives. Raises ValueError."""
    _all_match(_UUIDS, {36}, values)
    return values


def _uuids(connection: BaseDatabaseWrapper, limit: Limit | None) -> Converter:
    if connection.features.has_native_uuid_field:
        return canonical_uuids
    return lambda values: "\n".join(canonical_uuids(values)).replace("-", "").split("\n")


def _moments(connection: BaseDatabaseWrapper, limit: Limit | None) -> Converter | None:
    """Instants in UTC, for a column that takes UTC: the same digits in another costume."""
    to_server = connection.vendor == "postgresql"
    to_file = connection.vendor == "sqlite" and connection.timezone is datetime.UTC
    if not settings.USE_TZ or limit is not None or not (to_server or to_file):
        return None

    def convert(values: Values) -> Values:
        _all_match(_MOMENTS, {20, 27}, values)
        for value in values:
            datetime.datetime.fromisoformat(value[:-1])  # there is no 30th of February
        return values if to_server else [f"{value[:10]} {value[11:-1]}" for value in values]

    return convert


_AS_THEY_ARE: dict[str, Any] = {
    **dict.fromkeys(
        [
            "AutoField",
            "BigAutoField",
            "BigIntegerField",
            "IntegerField",
            "PositiveBigIntegerField",
            "PositiveIntegerField",
            "PositiveSmallIntegerField",
            "SmallAutoField",
            "SmallIntegerField",
        ],
        int,
    ),
    **dict.fromkeys(["CharField", "FileField", "FilePathField", "SlugField", "TextField"], str),
    "BooleanField": bool,
}

_CONVERTERS: dict[str, Callable[[BaseDatabaseWrapper, Limit | None], Converter | None]] = {
    "UUIDField": _uuids,
    "DateTimeField": _moments,
}

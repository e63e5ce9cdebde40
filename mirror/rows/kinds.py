"""The kinds of column: which Python values they hold, how those travel, and how they are bound.

A kind is found by the field's internal type, so a custom field is of the kind that its column is of.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field
from django.utils.dateparse import parse_duration
from django.utils.duration import duration_microseconds, duration_string
from django.utils.timezone import is_aware


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """``dump`` and ``load`` raise ValueError, or whatever their parser raises, for what the kind is not."""

    #: What the driver and Django's converters make of a stored value; exactly, not a subclass.
    types: tuple[type, ...]
    dump: Callable[[Any], Any]
    load: Callable[[Any], Any]
    #: From what ``load`` returned to the parameter of a statement.
    bind: Callable[[Any, BaseDatabaseWrapper, Field[Any, Any]], Any]


def kind_of(field: Field[Any, Any]) -> Kind | None:
    """None for a column of a type that Django does not know by name."""
    return _KINDS.get(field.get_internal_type())


def is_text(field: Field[Any, Any]) -> bool:
    """Whether a collation says which of its values are one."""
    return kind_of(field) is _TEXT


def _same(value: Any) -> Any:
    return value


def _plain(value: Any, connection: BaseDatabaseWrapper, field: Field[Any, Any]) -> Any:
    return value


def _expect(kind: type, name: str) -> Callable[[Any], Any]:
    def load(value: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"not {name}")
        return value

    return load


_text = _expect(str, "a text")


# Numbers

_FLOAT_WORDS = {"inf", "-inf", "nan"}


def _dump_float(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _load_float(value: Any) -> float:
    if type(value) is float or (isinstance(value, str) and value in _FLOAT_WORDS):
        return float(value)
    if type(value) is int and float(value) == value:
        return float(value)
    raise ValueError("not a floating-point number")


def _bind_float(value: float, connection: BaseDatabaseWrapper, field: Field[Any, Any]) -> Any:
    # MySQL reads the literal -0.0 as 0, the text as what it is.
    return "-0.0" if connection.vendor == "mysql" and value == 0 and math.copysign(1, value) < 0 else value


def _dump_decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise ValueError("not a number")
    return str(value)


def _load_decimal(value: Any) -> Decimal:
    number = Decimal(value) if type(value) is int else Decimal(_text(value))
    if not number.is_finite():
        raise ValueError("not a finite decimal number")
    return number


def _bind_decimal(value: Decimal, connection: BaseDatabaseWrapper, field: Any) -> Any:
    return connection.ops.adapt_decimalfield_value(value, field.max_digits, field.decimal_places)


# Times

_DATE = r"\d{4}-\d\d-\d\d"
_TIME = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?"
_OFFSET = r"Z|[+-]\d\d:\d\d(:\d\d(\.\d{1,6})?)?"
#: Stricter than Python's parser, which cuts a seventh digit and, in newer versions, takes 24:00 for 00:00.
_PATTERNS = {
    datetime.date: re.compile(_DATE, re.ASCII),
    datetime.time: re.compile(_TIME, re.ASCII),
    datetime.datetime: re.compile(rf"{_DATE}T{_TIME}({_OFFSET})?", re.ASCII),
}


def _load_iso(kind: Any, name: str) -> Callable[[Any], Any]:
    pattern = _PATTERNS[kind]

    def load(value: Any) -> Any:
        if not pattern.fullmatch(_text(value)):
            raise ValueError(f"not {name} in ISO form")
        return kind.fromisoformat(value)

    return load


_load_moment = _load_iso(datetime.datetime, "a date and time")


def _dump_moment(value: datetime.datetime) -> str:
    if is_aware(value) is not settings.USE_TZ:
        raise ValueError("not as USE_TZ has it")
    return value.isoformat().replace("+00:00", "Z")


def _load_datetime(value: Any) -> datetime.datetime:
    moment: datetime.datetime = _load_moment(value)
    if is_aware(moment) is not settings.USE_TZ:
        has = "has" if is_aware(moment) else "has no"
        raise ValueError(
            f"it {has} time zone and USE_TZ is {settings.USE_TZ} here: both servers need the same USE_TZ"
        )
    return moment


def _dump_time(value: datetime.time) -> str:
    if value.tzinfo is not None:
        raise ValueError("with a time zone")
    return value.isoformat()


def _bind_datetime(value: Any, connection: BaseDatabaseWrapper, field: Field[Any, Any]) -> Any:
    return connection.ops.adapt_datetimefield_value(value)


def _bind_date(value: Any, connection: BaseDatabaseWrapper, field: Field[Any, Any]) -> Any:
    return connection.ops.adapt_datefield_value(value)


def _bind_time(value: Any, connection: BaseDatabaseWrapper, field: Field[Any, Any]) -> Any:
    return connection.ops.adapt_timefield_value(value)


#: As Django's serializer writes it.
_DURATION = re.compile(rf"(-?\d+ )?{_TIME}", re.ASCII)


def _load_duration(value: Any) -> datetime.timedelta:
    duration = parse_duration(value) if _DURATION.fullmatch(_text(value)) else None
    if duration is None:
        raise ValueError("not a duration")
    return duration


def interval_text(value: datetime.timedelta) -> str:
    """What PostgreSQL prints for it (IntervalStyle postgres) once Django has stored it."""
    days = f"{value.days} day{'' if value.days == 1 else 's'}" if value.days else ""
    within = value - datetime.timedelta(days=value.days)
    if days and not within:
        return days
    clock = f"{'+' if value.days < 0 else ''}{duration_string(within)}"
    if value.microseconds:
        clock = clock.rstrip("0")
    return f"{days} {clock}" if days else clock


def _bind_duration(value: Any, connection: BaseDatabaseWrapper, field: Field[Any, Any]) -> Any:
    return value if connection.features.has_native_duration_field else duration_microseconds(value)


# The rest


def _dump_binary(value: bytes | memoryview) -> str:
    return base64.b64encode(value).decode("ascii")


def _load_binary(value: Any) -> bytes:
    return base64.b64decode(_text(value), validate=True)


def _bind_binary(value: bytes, connection: BaseDatabaseWrapper, field: Field[Any, Any]) -> Any:
    return connection.Database.Binary(value)  # type: ignore[attr-defined]


def _bind_uuid(value: UUID, connection: BaseDatabaseWrapper, field: Field[Any, Any]) -> Any:
    return value if connection.features.has_native_uuid_field else value.hex


def _address(value: Any) -> str:
    ipaddress.ip_address(_text(value))  # PostgreSQL's inet has networks too: those are none
    return str(value)


def _bind_address(value: str, connection: BaseDatabaseWrapper, field: Field[Any, Any]) -> Any:
    return connection.ops.adapt_ipaddressfield_value(value)


_INTEGER = Kind(types=(int,), dump=_same, load=_expect(int, "an integer"), bind=_plain)
_TEXT = Kind(types=(str,), dump=_same, load=_text, bind=_plain)
_BOOLEAN = Kind(types=(bool,), dump=_same, load=_expect(bool, "true or false"), bind=_plain)
_ADDRESS = Kind(types=(str,), dump=_address, load=_address, bind=_bind_address)

_KINDS: dict[str, Kind] = {
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
        _INTEGER,
    ),
    **dict.fromkeys(["CharField", "FileField", "FilePathField", "SlugField", "TextField"], _TEXT),
    **dict.fromkeys(["GenericIPAddressField", "IPAddressField"], _ADDRESS),
    **dict.fromkeys(["BooleanField", "NullBooleanField"], _BOOLEAN),
    "FloatField": Kind(types=(float,), dump=_dump_float, load=_load_float, bind=_bind_float),
    "DecimalField": Kind(types=(Decimal,), dump=_dump_decimal, load=_load_decimal, bind=_bind_decimal),
    "DateField": Kind(
        types=(datetime.date,),
        dump=datetime.date.isoformat,
        load=_load_iso(datetime.date, "a date"),
        bind=_bind_date,
    ),
    "TimeField": Kind(
        types=(datetime.time,),
        dump=_dump_time,
        load=_load_iso(datetime.time, "a time of day"),
        bind=_bind_time,
    ),
    "DateTimeField": Kind(
        types=(datetime.datetime,), dump=_dump_moment, load=_load_datetime, bind=_bind_datetime
    ),
    "DurationField": Kind(
        types=(datetime.timedelta,), dump=duration_string, load=_load_duration, bind=_bind_duration
    ),
    "UUIDField": Kind(types=(UUID,), dump=str, load=lambda value: UUID(_text(value)), bind=_bind_uuid),
    "BinaryField": Kind(types=(bytes, memoryview), dump=_dump_binary, load=_load_binary, bind=_bind_binary),
}

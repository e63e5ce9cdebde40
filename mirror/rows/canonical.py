"""What a row comes to, whichever engine holds it: equal rows have equal digests, and others do not.

Two servers may tell the same row in different words, and neither knows the other's. PostgreSQL orders the
keys of a document anew and writes out its 1e300; SQLite has no -0.0; a connection may have a time zone of its
own; a column may keep fewer zeros than the one it mirrors. Here all of them are one.

One mirror has what is stored, another what Django reads in it: ``{"$sqlite": 3.8871, "$read": "3.89"}``
counts as 3.89, so that two stored forms of one value are not told apart. A document's numbers are equal where
PostgreSQL finds them equal: 1 is 1.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import MAX_PREC, Context, Decimal
from hashlib import blake2b
from ipaddress import IPv6Address
from json.encoder import encode_basestring_ascii as quoted
from typing import Any
from uuid import UUID

import msgspec
from django.db import models

from mirror.registry import MirroredField, MirroredModel, root_of, travels_by_name
from mirror.rows import documents
from mirror.rows.kinds import Kind, kind_of
from mirror.rows.stored import MISSING, READ, is_missing, is_wrapped

__all__ = ["Canonical", "sum_of"]

#: From a value as it travels, and not None, to one that is encoded as JSON.
Form = Callable[[Any], Any]

_encode = msgspec.json.Encoder(order="deterministic").encode

_NOT_OF_THE_KIND = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError)


class Canonical:
    """Of the rows of one model. A row is its ``pk`` and ``fields``, as in a Row or a Change."""

    def __init__(self, mirrored: MirroredModel) -> None:
        pk = mirrored.pk
        # One that is a reference is among the fields, see RowReader.
        is_told_as_pk = pk is not None and pk.reference is None
        own = pk if is_told_as_pk and mirrored.local_pk else None
        self._forms = {field.name: _form(field) for field in mirrored.fields if field is not own}
        #: The fields that can be compared: all but a primary key that is each server's own.
        self.names = tuple(sorted(self._forms))
        self._pk = pk.name if pk is not None and is_told_as_pk and own is None else None
        self._composite = [field.name for field in mirrored.key] if pk is None else []

    def digest(self, pk: Any, fields: Mapping[str, Any], names: Sequence[str]) -> str:
        """Return 16 hexadecimal digits. ``names`` are some of ``self.names``, in the order of both sides."""
        return blake2b(_encode(self._told(pk, fields, names)), digest_size=8).hexdigest()

    def differing(
        self, mine: tuple[Any, Mapping[str, Any]], theirs: tuple[Any, Mapping[str, Any]], names: Sequence[str]
    ) -> list[str]:
        """Those of the names whose values are not the same."""
        pairs = zip(self._told(*mine, names), self._told(*theirs, names), strict=True)
        # To Python 1 is True.
        return [told[0] for told, other in pairs if _encode(told) != _encode(other)]

    def _told(self, pk: Any, fields: Mapping[str, Any], names: Sequence[str]) -> list[tuple[Any, ...]]:
        """Name and value of each; the name alone of a field that the row does not tell."""
        if self._pk is not None:
            fields = {self._pk: pk, **fields}
        elif self._composite and isinstance(pk, list):
            fields = {**fields, **dict(zip(self._composite, pk, strict=False))}
        forms = self._forms
        return [(name, forms[name](fields[name])) if name in fields else (name,) for name in names]


def sum_of(digests: Iterable[str]) -> str:
    """The sum of digests: rows that two of them stand for cannot cancel each other out."""
    return f"{sum(int(digest, 16) for digest in digests) % 2**64:016x}"


def _form(field: MirroredField) -> Form:
    root = root_of(field.field)
    if field.reference is not None:
        return _whole(_uuid)
    if travels_by_name(field.field):
        return _plain
    if isinstance(root, models.JSONField):
        return _document
    kind = kind_of(root)
    if kind is None:
        return _of_unknown_kind
    internal = root.get_internal_type()
    if internal in _WRITTEN_IN_ONE_WAY:
        return _whole(_again(kind, _WRITTEN_IN_ONE_WAY[internal]))
    return _whole(_FORMS[internal]) if internal in _FORMS else _plain


# What any field may have instead of a value of its kind

_OTHER = frozenset({dict, msgspec.Raw})


def _whole(form: Form) -> Form:
    """``form`` is of a value of the kind, and raises something for any other."""

    def formed(value: Any) -> Any:
        if value is None:
            return None
        if type(value) in _OTHER:
            return _otherwise(value, formed)
        try:
            return form(value)
        except _NOT_OF_THE_KIND:
            return value

    return formed


def _plain(value: Any) -> Any:
    return value if type(value) not in _OTHER else _otherwise(value, _plain)


def _otherwise(value: Any, form: Form) -> Any:
    if type(value) is msgspec.Raw:
        return form(msgspec.json.decode(value))
    if is_missing(value):
        return {MISSING: None}  # its number means nothing to another server
    if is_wrapped(value):
        if READ in value and type(value[READ]) not in _OTHER:
            return form(value[READ])
        return {name: {"r": repr(one)} if type(one) is float else one for name, one in value.items()}
    return value


# Numbers. One that is whole is an integer, whatever kind of column holds it.

_EXACT = Context(prec=MAX_PREC)
#: Up to here every integer is also a float.
_FLOATS = 2**53
_DIGITS = 19


def _float(value: Any) -> int | str:
    """The words of those that JSON does not have are what ``repr`` makes of them."""
    number = float(value)
    return int(number) if -_FLOATS < number < _FLOATS and number.is_integer() else repr(number)


def _decimal(value: Any) -> int | str:
    number = Decimal(value)
    if not number:
        return 0
    if number.adjusted() < _DIGITS and number == (whole := int(number)):
        return whole
    return str(number.normalize(_EXACT))


# What is written in one way only, and what it is written in if not

_CLOCK = r"\d\d:\d\d:\d\d(?:\.(?!0{6})\d{6})?"
_WRITTEN_IN_ONE_WAY = {
    "TimeField": re.compile(_CLOCK, re.ASCII),
    "DurationField": re.compile(rf"(?:-?[1-9]\d* )?{_CLOCK}", re.ASCII),
}


def _again(kind: Kind, usual: re.Pattern[str]) -> Form:
    is_usual = usual.fullmatch
    return lambda value: value if is_usual(value) else kind.dump(kind.load(value))


def _moment(value: Any) -> str:
    size = len(value)
    if value[-1] == "Z" and (size == 20 or (size == 27 and value[-7:-1] != "000000")):
        return str(value)
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return moment.isoformat().replace("+00:00", "Z")


def _uuid(value: Any) -> str:
    return str(value.lower() if len(value) == 36 else UUID(value))


def _address(value: Any) -> str:
    if ":" not in value:
        return str(value)
    # Python's own text of an IPv4 address within one of IPv6 is another in each version.
    address = IPv6Address(value)
    return f"{address.packed.hex()}%{address.scope_id or ''}"


_FORMS: dict[str, Form] = {
    "DateTimeField": _moment,
    "DecimalField": _decimal,
    "FloatField": _float,
    "GenericIPAddressField": _address,
    "IPAddressField": _address,
    "UUIDField": _uuid,
}


# Columns of a type that nobody here knows

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?", re.ASCII)


def _of_unknown_kind(value: Any) -> Any:
    """One driver has a number or a text for it, another something that travels as the server writes it."""
    if isinstance(value, int | float):
        return _decimal(repr(value + 0))
    if is_wrapped(value) and "$sqlite" not in value:
        (text,) = (one for name, one in value.items() if name != READ)
        if isinstance(text, str):
            return _decimal(text) if _NUMBER.fullmatch(text) else text
    return _plain(value)


# Documents


class _Written(str):
    """A piece of a document as it is written."""

    __slots__ = ()


_WORDS = {None: "null", True: "true", False: "false"}
_END_OF_OBJECT, _END_OF_LIST = _Written("}"), _Written("]")


def _document(value: Any) -> Any:
    """A text, such that equal documents have the same; what is none stays as it is."""
    if value is None:
        return None
    try:
        if type(value) is msgspec.Raw:
            return _written(msgspec.json.decode(value))
        if type(value) is not dict or value.keys() != {documents.TEXT}:
            return _written(value)
        # As Decimal takes them: any number of digits.
        return _written(
            json.loads(value[documents.TEXT], parse_int=_number, parse_float=_number, parse_constant=_refused)
        )
    except (*_NOT_OF_THE_KIND, RecursionError):
        return value


def _written(document: Any) -> str:
    """Without recursion: Python may give up at another depth on each server."""
    written: list[str] = []
    ahead = [document]
    while ahead:
        value = ahead.pop()
        kind = type(value)
        if kind is _Written:
            written.append(value)
        elif kind is str:
            written.append(quoted(value))
        elif kind is dict:
            written.append("{")
            ahead.append(_END_OF_OBJECT)
            for name in sorted(value, reverse=True):
                ahead += value[name], _Written(quoted(name) + ":")
        elif kind is list:
            written.append("[")
            ahead.append(_END_OF_LIST)
            ahead += reversed(value)
        else:
            written.append(_WORDS[value] if value is None or kind is bool else _number(value))
    return " ".join(written)


def _number(value: Any) -> _Written:
    """Of an int, a float, or the text of a number, which Decimal takes to any number of digits."""
    return _Written(_decimal(repr(value) if type(value) is float else value))


def _refused(word: str) -> Any:
    raise ValueError(f"JSON has no {word}")

"""Database row to Django-serializer JSON and back, one codec per kind of field.

The JSON is what Django's own serializer writes, with four departures where that would lose something:
microseconds are kept, infinite floats are the strings ``inf``, ``-inf`` and ``nan``, a JSON value that
is null (not SQL NULL) or that JSON cannot say travels as ``{"$json": text}``, and a reference to a
local ``pkid`` travels as the row's UUID.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import msgspec
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field

from mirror.errors import WrongValue
from mirror.registry import MirroredField, MirroredModel, Reference, root_of

#: Finds the UUID for a reference whose trigger did not see the parent: (reference, local pk) -> raw UUID.
Resolve = Callable[[Reference, Any], Any]

_JSON_TEXT = "$json"

#: How a field, or the lookup of a content type, says that it does not take a value.
_REFUSALS = (ValidationError, ValueError, TypeError, ArithmeticError, LookupError, ObjectDoesNotExist)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row as it travels. ``key`` is its identity as text."""

    pk: Any
    fields: dict[str, Any]
    key: str


class RowReader:
    """Columns as a trigger stored them, to a Row."""

    def __init__(
        self,
        mirrored: MirroredModel,
        connection: BaseDatabaseWrapper,
        decoders: Mapping[str, Callable[[Any], Any]],
        resolve: Resolve,
    ) -> None:
        self.mirrored = mirrored
        self._decoders = decoders
        self._resolve = resolve
        self._columns = [
            (field, _dumper(field, connection), _uuid_dumper(field, connection)) for field in mirrored.fields
        ]
        self._key_names = [field.name for field in mirrored.key]
        # Django's serializer leaves the primary key out of the fields. Where it is a parent link that
        # travels as a UUID, the fields are the only place that can say it.
        pk = mirrored.pk
        self._hidden = pk.name if pk is not None and pk.reference is None else None

    def read(self, columns: Mapping[str, Any]) -> Row:
        pk: Any = None
        fields: dict[str, Any] = {}
        for field, dump, dump_uuid in self._columns:
            if field.column not in columns:
                continue
            stored = columns[field.column]
            local = self._local(field.column, stored, dump)
            if field is self.mirrored.pk:
                pk = local
            fields[field.name] = dump_uuid(self._uuid(field, stored, columns)) if field.reference else local
        key = ",".join(str(fields[name]) for name in self._key_names)
        if self._hidden is not None:
            fields.pop(self._hidden, None)
        elif self.mirrored.pk is None:
            pk = [fields.pop(name) for name in self._key_names]
        return Row(pk=pk, fields=fields, key=key)

    def _local(self, column: str, stored: Any, dump: Callable[[Any], Any]) -> Any:
        decode = self._decoders.get(column)  # a column that is gone since has none
        raw = stored
        try:
            raw = stored if decode is None else decode(stored)
            return dump(raw)
        except (*_REFUSALS, AttributeError):
            # PostgreSQL's infinity, a year 10000, what a foreign program left in SQLite's untyped columns:
            # Python cannot hold it, so it travels as stored, and a mirror that cannot take it says so.
            return raw if isinstance(raw, str | int) or _finite(raw) else stored

    def _uuid(self, field: MirroredField, raw: Any, columns: Mapping[str, Any]) -> Any:
        if raw is None or field.reference is None:
            return None
        uuid = columns.get(f"{field.column}>")
        return self._resolve(field.reference, raw) if uuid is None else uuid


class RowWriter:
    """A travelled Row to the parameters of a statement."""

    def __init__(self, mirrored: MirroredModel, connection: BaseDatabaseWrapper) -> None:
        self.mirrored = mirrored
        self._loaders = {field.name: _loader(field.field, connection) for field in mirrored.fields}

    def load(self, name: str, value: Any) -> Any:
        """Return the value to bind. Raises WrongValue."""
        if value is None:
            return None
        try:
            return self._loaders[name](value)
        except _REFUSALS as error:
            raise WrongValue(f"{self.mirrored.label}.{name} does not take {value!r:.200}: {error}") from error


def _finite(raw: Any) -> bool:
    return isinstance(raw, float) and math.isfinite(raw)


# From the database to JSON


def _dumper(field: MirroredField, connection: BaseDatabaseWrapper) -> Callable[[Any], Any]:
    convert = _converter(field.field, connection)
    if isinstance(root_of(field.field), models.JSONField):
        return lambda raw: None if raw is None else _dump_json(field.field, convert(raw))
    if _points_at_content_type(field.field):
        return lambda raw: None if raw is None else _natural_key(raw, connection)
    text = _to_string(field.field)
    return lambda raw: _dump(convert(raw), text)


def _uuid_dumper(field: MirroredField, connection: BaseDatabaseWrapper) -> Callable[[Any], Any]:
    if field.reference is None:
        return lambda raw: raw
    convert = _converter(field.reference.uuid_field, connection)
    return lambda raw: None if raw is None else str(convert(raw))


def _converter(field: Field[Any, Any], connection: BaseDatabaseWrapper) -> Callable[[Any], Any]:
    expression = field.get_col(field.model._meta.db_table)
    output = expression.output_field
    converters = [
        *connection.ops.get_db_converters(expression),
        *output.get_db_converters(connection),
    ]

    def convert(value: Any) -> Any:
        for converter in converters:
            value = converter(value, expression, connection)
        return value

    return convert


def _to_string(field: Field[Any, Any]) -> Callable[[Any], Any]:
    attname = field.attname

    def to_string(value: Any) -> Any:
        return field.value_to_string(SimpleNamespace(**{attname: value}))  # type: ignore[arg-type]

    return to_string


def _dump(value: Any, to_string: Callable[[Any], Any]) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, datetime.datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return to_string(value)


def _dump_json(field: Any, value: Any) -> Any:
    if value is not None and not (isinstance(value, dict) and _JSON_TEXT in value):
        try:
            return msgspec.Raw(
                json.dumps(value, cls=field.encoder, ensure_ascii=False, allow_nan=False).encode()
            )
        except ValueError:
            pass  # NaN, Infinity or half a surrogate pair: only the text below can say it
    return {_JSON_TEXT: json.dumps(value, cls=field.encoder)}


# From JSON to the database


def _loader(field: Field[Any, Any], connection: BaseDatabaseWrapper) -> Callable[[Any], Any]:
    root: Any = root_of(field)
    if isinstance(root, models.JSONField):
        return lambda value: connection.ops.adapt_json_value(_load_json(root, value), root.encoder)
    if _points_at_content_type(field):
        return lambda value: ContentType.objects.db_manager(connection.alias).get_by_natural_key(*value).pk
    return lambda value: root.get_db_prep_save(root.to_python(value), connection)


def _load_json(field: Any, value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {_JSON_TEXT}:
        return json.loads(value[_JSON_TEXT], cls=field.decoder)
    return value


# Content types: numbered differently on every server


def _points_at_content_type(field: Field[Any, Any]) -> bool:
    return field.is_relation and root_of(field).model is ContentType


def _natural_key(raw: Any, connection: BaseDatabaseWrapper) -> list[str] | None:
    try:
        return list(ContentType.objects.db_manager(connection.alias).get_for_id(raw).natural_key())
    except ContentType.DoesNotExist:
        return None  # deleted since, and the row with it


def merge_payload(payload: Any) -> dict[str, Any]:
    """One dict of columns: tables with many columns arrive as several objects."""
    if isinstance(payload, dict):
        return payload
    parts: Iterable[dict[str, Any]] = payload
    return {name: value for part in parts for name, value in part.items()}

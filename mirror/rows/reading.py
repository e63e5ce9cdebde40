"""From the columns that a trigger stored to the row as it travels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.apps import apps
from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field

from mirror.registry import (
    GenericReference,
    MirroredField,
    MirroredModel,
    Reference,
    reference_to_rows,
    root_of,
    travels_by_name,
)
from mirror.rows import documents
from mirror.rows.kinds import Kind, interval_text, kind_of
from mirror.rows.stored import MISSING, ROW, plain_scalar, wrap, wrap_both

#: Finds the UUID for a reference whose trigger did not see the parent: (reference, local pk) -> raw UUID.
Resolve = Callable[[Reference, Any], Any]

#: What a content type of this number was called when it was written; None where nobody knows better than now.
NameOf = Callable[[Any], list[str] | None]

Decode = Callable[[Any], Any]

_UNREADABLE = (ValidationError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row as it travels. ``key`` is its identity as text."""

    pk: Any
    fields: dict[str, Any]
    key: str


class RowReader:
    """Columns as a trigger stored them, to a Row.

    ``coerced`` counts, by field, values that Django reads as another form than the column holds: SQLite's
    columns hold more than one, and so do PostgreSQL's intervals.
    """

    def __init__(
        self,
        mirrored: MirroredModel,
        connection: BaseDatabaseWrapper,
        decoders: Mapping[str, Decode],
        resolve: Resolve,
        name_of: NameOf = lambda number: None,
    ) -> None:
        self.mirrored = mirrored
        self._name_of = name_of
        self.coerced: Counter[str] = Counter()
        self._resolve = resolve
        self._connection = connection
        self._converters: dict[str, Decode] = {}
        self._columns = [
            (
                field,
                # A column that is gone since has no decoder.
                self._teller(field, connection, decoders.get(field.column, _same)),
                _uuid_dumper(field, connection),
            )
            for field in mirrored.fields
        ]
        self._key_names = [field.name for field in mirrored.key]
        # Django's serializer leaves the primary key out of the fields. Where it is a parent link that
        # travels as a UUID, the fields are the only place that can say it.
        pk = mirrored.pk
        self._hidden = pk.name if pk is not None and pk.reference is None else None

    def read(self, columns: Mapping[str, Any]) -> Row:
        pk: Any = None
        fields: dict[str, Any] = {}
        for field, tell, dump_uuid in self._columns:
            if field.column not in columns:
                continue
            stored = columns[field.column]
            local = None if stored is None else tell(stored)
            if field is self.mirrored.pk:
                pk = local
            fields[field.name] = dump_uuid(self._uuid(field, stored, columns)) if field.reference else local
        for generic in self.mirrored.generic:
            self._tell_row(generic, fields)
        key = ",".join(str(fields[name]) for name in self._key_names)
        if self._hidden is not None:
            fields.pop(self._hidden, None)
        elif self.mirrored.pk is None:
            pk = [fields.pop(name) for name in self._key_names]
        return Row(pk=pk, fields=fields, key=key)

    def _uuid(self, field: MirroredField, stored: Any, columns: Mapping[str, Any]) -> Any:
        if stored is None or field.reference is None:
            return None
        uuid = columns.get(f"{field.column}>")
        if uuid is None:
            uuid = self._resolve(field.reference, stored)
        return {MISSING: stored} if uuid is None else uuid

    def _tell_row(self, generic: GenericReference, fields: dict[str, Any]) -> None:
        """A key that means nothing to another server is told as the UUID of its row."""
        number: Any = fields.get(generic.number.name)
        reference = None if number is None else reference_to_rows(fields.get(generic.kind.name))
        if reference is None:
            return
        try:
            uuid = self._resolve(reference, int(number))
        except (ValueError, TypeError, OverflowError):
            uuid = None  # no key of such a row
        told = None if uuid is None else str(self._uuids(reference)(uuid))
        fields[generic.number.name] = {MISSING: number} if told is None else {ROW: told}

    def _uuids(self, reference: Reference) -> Decode:
        if reference.label not in self._converters:
            self._converters[reference.label] = _converter(reference.uuid_field, self._connection)
        return self._converters[reference.label]

    # One column

    def _teller(self, field: MirroredField, connection: BaseDatabaseWrapper, decode: Decode) -> Decode:
        root = root_of(field.field)
        if travels_by_name(field.field):
            return _name_teller(root.model, connection, self._name_of)
        if isinstance(root, models.JSONField):
            return _document_teller(connection, decode)
        kind = kind_of(root)
        if kind is None:
            return _unknown_teller(connection, decode)
        return self._kind_teller(field, kind, connection, decode)

    def _kind_teller(
        self, field: MirroredField, kind: Kind, connection: BaseDatabaseWrapper, decode: Decode
    ) -> Decode:
        convert = _converter(field.field, connection)
        root = root_of(field.field)
        if connection.vendor == "postgresql" and root.get_internal_type() == "DurationField":
            return self._interval_teller(field, kind, connection, decode)
        if connection.vendor == "mysql" and root.get_internal_type() == "TimeField":
            decode = _without_sign(decode)
        types, dump = kind.types, kind.dump
        many_forms = connection.vendor == "sqlite" and convert is not _same
        # What identifies a row or refers to one is looked up by what it means.
        exact = field not in self.mirrored.key and not field.field.is_relation

        def tell(stored: Any) -> Any:
            read = stored
            try:
                read = decode(stored)
                value = convert(read)
                if type(value) in types:
                    told = dump(value)
                    if many_forms and not alike(kind.bind(value, connection, root), read):
                        self.coerced[field.name] += 1
                        return wrap_both(read, told, connection) if exact else told
                    return told
            except _UNREADABLE:
                pass
            return wrap(stored, read, connection)

        return tell

    def _interval_teller(
        self, field: MirroredField, kind: Kind, connection: BaseDatabaseWrapper, decode: Decode
    ) -> Decode:
        """Python has no months, and makes days of hours."""

        def tell(stored: Any) -> Any:
            if "mon" in stored or "year" in stored:
                return wrap(stored, stored, connection)
            try:
                duration = decode(stored)
                told = kind.dump(duration)
            except _UNREADABLE:
                return wrap(stored, stored, connection)
            if field in self.mirrored.key or stored == interval_text(duration):
                return told
            self.coerced[field.name] += 1
            return wrap_both(stored, told, connection)

        return tell


def _same(value: Any) -> Any:
    return value


def _without_sign(decode: Decode) -> Decode:
    """MySQL's TIME may be negative; what Django reads in such a one is positive."""

    def decoded(stored: Any) -> Any:
        if str(stored).startswith("-"):
            raise ValueError("not a time of day")
        return decode(stored)

    return decoded


def alike(bound: Any, read: Any) -> bool:
    """Whether SQLite would store the one as the other: a decimal, or a number in a text, becomes one."""
    if isinstance(bound, str | Decimal) and isinstance(read, int | float):
        return float(bound) == read
    return bool(bound == read)


def _document_teller(connection: BaseDatabaseWrapper, decode: Decode) -> Decode:
    ascii_only = connection.vendor != "postgresql"

    def tell(stored: Any) -> Any:
        read = decode(stored)
        if isinstance(read, str):
            return documents.dump(read, ascii_only=ascii_only)
        return {documents.TEXT: wrap(stored, read, connection)}

    return tell


def _unknown_teller(connection: BaseDatabaseWrapper, decode: Decode) -> Decode:
    """What the driver makes a plain value of is told as such; the rest as the server writes it."""

    def tell(stored: Any) -> Any:
        read = stored
        try:
            read = decode(stored)
            return plain_scalar(read)
        except _UNREADABLE:
            return wrap(stored, read, connection)

    return tell


def _uuid_dumper(field: MirroredField, connection: BaseDatabaseWrapper) -> Decode:
    if field.reference is None:
        return _same
    convert = _converter(field.reference.uuid_field, connection)
    return lambda raw: raw if raw is None or isinstance(raw, dict) else str(convert(raw))


def _converter(field: Field[Any, Any], connection: BaseDatabaseWrapper) -> Decode:
    """What Django does to a driver's value of this kind of column; not what a custom field does to it."""
    expression = field.get_col(field.model._meta.db_table)
    converters = connection.ops.get_db_converters(expression)
    native = connection.features.has_native_duration_field
    if expression.output_field.get_internal_type() == "DurationField" and not native:
        converters.append(connection.ops.convert_durationfield_value)
    if not converters:
        return _same

    def convert(value: Any) -> Any:
        for converter in converters:
            value = converter(value, expression, connection)
        return value

    return convert


# Content types and permissions: numbered differently on every server


def _name_teller(model: Any, connection: BaseDatabaseWrapper, name_of: NameOf) -> Decode:
    # Not the model of the past, which migrations use and which has no natural keys.
    manager = apps.get_model(model._meta.label).objects.db_manager(connection.alias)
    of_content_type = hasattr(manager, "get_for_id")
    by_number = getattr(manager, "get_for_id", lambda number: manager.get(pk=number))

    def tell(stored: Any) -> Any:
        name = name_of(stored) if of_content_type else None
        if name is not None:
            return name
        try:
            return list(by_number(stored).natural_key())
        except ObjectDoesNotExist:
            return {MISSING: stored}  # deleted since, most likely with the row

    return tell


def merge_payload(payload: Any) -> dict[str, Any]:
    """One dict of columns: tables with many columns arrive as several objects."""
    if isinstance(payload, dict):
        return payload
    parts: Iterable[dict[str, Any]] = payload
    return {name: value for part in parts for name, value in part.items()}

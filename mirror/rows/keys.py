"""From a source's primary key as it travels to the parameters of a statement there, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from mirror.errors import Malformed, WrongValue
from mirror.registry import MirroredField, MirroredModel, Reference, root_of, travels_by_name
from mirror.rows.reading import Decode, alike
from mirror.rows.stored import MISSING, is_missing, is_wrapped, wrap
from mirror.rows.writing import RowWriter

_INTEGERS = frozenset(
    {
        "AutoField",
        "BigAutoField",
        "BigIntegerField",
        "IntegerField",
        "PositiveBigIntegerField",
        "PositiveIntegerField",
        "PositiveSmallIntegerField",
        "SmallAutoField",
        "SmallIntegerField",
    }
)

#: Finds the key of the row that has a UUID; None where there is none.
FindKey = Callable[[Reference, str], Any]


def order_of(mirrored: MirroredModel, connection: BaseDatabaseWrapper) -> str:
    """How this database orders the rows by what identifies them, in a word that is the same where the order
    is; "" where only this database knows.

    MariaDB orders UUIDs by their last digits first, PostgreSQL and a text of digits as they are written.
    """
    (field, *more) = mirrored.key
    if more or field.reference is not None or travels_by_name(field.field):
        return ""
    internal = root_of(field.field).get_internal_type()
    if internal == "UUIDField":
        native = connection.vendor == "mysql" and connection.features.has_native_uuid_field
        return "uuid, last first" if native else "uuid"
    return "integer" if internal in _INTEGERS else ""


class RowKeys:
    """``fields`` are those that the rows of a model are ordered by: a change's ``pk`` is their one value, or
    the list of their values.
    """

    def __init__(
        self,
        mirrored: MirroredModel,
        connection: BaseDatabaseWrapper,
        decoders: Mapping[str, Decode],
        find: FindKey,
        *,
        identity: bool = False,
    ) -> None:
        """``identity``: rows are ordered by what identifies them, of which ``order_of`` says how."""
        self.fields = mirrored.key if identity or mirrored.pk is None else (mirrored.pk,)
        self._label = mirrored.label
        self._single = identity or mirrored.pk is not None
        self._connection = connection
        self._decoders = decoders
        self._find = find
        self._writer = RowWriter(replace(mirrored, fields=self.fields, generic=()), connection)

    def load(self, pk: Any) -> list[Any] | None:
        """The values to bind; None where the key names a row that is not there. Raises Malformed."""
        values = [pk] if self._single else pk
        if not isinstance(values, list) or len(values) != len(self.fields) or None in values:
            raise Malformed(f"{pk!r:.200} is no primary key of {self._label}")
        bound = [self._load(field, value) for field, value in zip(self.fields, values, strict=True)]
        return None if None in bound else bound

    def tell(self, columns: Mapping[str, Any], pk: Any) -> Any:
        """A key that ``load`` makes exactly the stored one of, even when the row that it names is gone."""
        values = [pk] if self._single else pk
        told = [
            self._tell(field, columns[field.column], value)
            for field, value in zip(self.fields, values, strict=True)
        ]
        return told[0] if self._single else told

    def _load(self, field: MirroredField, value: Any) -> Any:
        if self._by_uuid(field):
            if isinstance(value, str):
                return self._find(field.reference, value)  # type: ignore[arg-type]
            value = value[MISSING] if is_missing(value) else value
        try:
            bound = self._writer.load(field.name, value)
        except WrongValue as error:
            raise Malformed(str(error)) from error
        # A literal, which PostgreSQL compares as what the column is, or refuses to read as such.
        return str(bound) if is_wrapped(value) and self._connection.vendor == "postgresql" else bound

    def _tell(self, field: MirroredField, stored: Any, value: Any) -> Any:
        read = self._decoders[field.column](stored)
        if not self._by_uuid(field) and not travels_by_name(field.field):
            try:
                bound = self._writer.load(field.name, value)
            except WrongValue:
                return wrap(stored, read, self._connection)
            # What Django reads in it would come before it, or after.
            if self._connection.vendor != "sqlite" or alike(bound, read):
                return value
        return wrap(stored, read, self._connection)

    def _by_uuid(self, field: MirroredField) -> bool:
        # One that is the whole key travels as its number, see RowReader.
        return field.reference is not None and not self._single

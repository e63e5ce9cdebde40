"""How the rows of one model are written here: the statements, compiled once for each set of fields."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import UUID

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import NOT_PROVIDED, CharField, Field, TextField
from django.db.utils import DataError, OperationalError

from mirror.apply import postgresql
from mirror.changes import Change
from mirror.errors import MissingParent, UnknownField, WrongValue
from mirror.registry import (
    MirroredField,
    MirroredModel,
    Reference,
    reference_to_rows,
    root_of,
    travels_by_name,
)
from mirror.rows import RowWriter, is_missing, is_text, row_uuid

#: What MySQL's drivers call an operational error, as if the server were away, although it is about a value:
#: wrong value for a type (a MariaDB UUID without a version), wrong value for a function, invalid JSON text.
_VALUE_CODES = frozenset({1292, 1411, 3140, 3141})

logger = logging.getLogger("mirror.apply")

#: Turns a UUID that stands for another row into that row's local key.
Lookup = Mapping[tuple[str, str], Any]

_IN_CHUNK = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """A column whose values are another table's."""

    table: str
    column: str
    to_table: str
    to_column: str


class ModelPlan:
    """Upserts and deletes of one model on one connection."""

    def __init__(self, mirrored: MirroredModel, connection: BaseDatabaseWrapper) -> None:
        self.mirrored = mirrored
        self.connection = connection
        self.fields = mirrored.by_name()
        self.references = [field for field in mirrored.fields if field.reference]
        self.generic = {generic.number.name: generic for generic in mirrored.generic}
        self.writer = RowWriter(mirrored, connection)
        self._quote = connection.ops.quote_name
        self._table = self._quote(mirrored.table)
        self._defaults: dict[frozenset[str], list[Field[Any, Any]]] = {}

    @cached_property
    def own_pk(self) -> MirroredField | None:
        """The key that this server gives out itself, where rows match by UUID."""
        pk = self.mirrored.pk
        return pk if self.mirrored.local_pk and pk is not None and not pk.reference else None

    @cached_property
    def keyed_by_name(self) -> bool:
        """Whether a content type is part of what identifies a row."""
        return any(travels_by_name(field.field) for field in self.mirrored.key)

    @cached_property
    def by_uuid(self) -> Reference | None:
        """How others refer to these rows, where they have a UUID of their own."""
        (key, *more), pk = self.mirrored.key, self.own_pk
        if pk is None or more or key.reference:
            return None
        return Reference(
            label=self.mirrored.label,
            table=self.mirrored.table,
            pk_column=pk.column,
            uuid_column=key.column,
            uuid_field=key.field,
        )

    @cached_property
    def pointers(self) -> list[tuple[str, Pointer]]:
        """Each foreign key that travels as it is: the field's name, and what points where."""
        return [
            (
                field.name,
                Pointer(
                    table=self.mirrored.table,
                    column=field.column,
                    to_table=field.field.target_field.model._meta.db_table,  # type: ignore[attr-defined]
                    to_column=str(field.field.target_field.column),  # type: ignore[attr-defined]
                ),
            )
            for field in self.mirrored.fields
            if field.reference is None and getattr(field.field, "db_constraint", False)
        ]

    def key_text(self, change: Change) -> str:
        return key_text(self.mirrored, change)

    def uuid_of(self, change: Change) -> str:
        """What others refer to this row by, where they do."""
        name = self.mirrored.key[0].name
        return self._uuid(name, change.fields.get(name))

    def values(self, change: Change, lookup: Lookup, *, key_only: bool = False) -> dict[str, Any]:
        """Parameters by field name. Raises UnknownField, WrongValue; KeyError for an unknown parent."""
        pairs = self._pairs(change)
        key = {field.name: pairs.get(field.name) for field in self.mirrored.key}
        if None in key.values():
            raise WrongValue(f"a row of {self.mirrored.label} does not say its {', '.join(key)}")
        if key_only:
            pairs = key
        values = {}
        for name, value in pairs.items():
            field = self.fields.get(name)
            if field is None:
                raise UnknownField(f"{self.mirrored.label} has no field {name!r} here")
            if field.reference is not None and value is not None:
                values[name] = lookup[field.reference.label, self._uuid(name, value)]
            elif name in self.generic and isinstance(value, dict):
                values[name] = self._number(name, value, change, lookup)
            else:
                values[name] = self._load(name, value, change)
        return values

    def _number(self, name: str, value: Any, change: Change, lookup: Lookup) -> Any:
        """The local key that a GenericForeignKey holds; 0, which no row has, where the row is gone."""
        uuid = row_uuid(value)
        number = 0
        if uuid is not None:
            number = lookup[self._reference(name, change).label, self._uuid(name, uuid)]
        elif is_missing(value):
            logger.warning(
                "coerced: %s.%s refers to a row that the source does not have, here 0 (in the row %.200s)",
                self.mirrored.label,
                name,
                self.key_text(change),
            )
        else:
            return self._load(name, value, change)
        as_text = isinstance(self.fields[name].field, CharField | TextField)
        return self._load(name, str(number) if as_text else number, change)

    def _reference(self, name: str, change: Change) -> Reference:
        kind = change.fields.get(self.generic[name].kind.name)
        reference = reference_to_rows(kind)
        if reference is None:
            raise WrongValue(
                f"{self.mirrored.label}.{name} is a row of {kind!r:.200}, which has no UUID here"
            )
        return reference

    def _load(self, name: str, value: Any, change: Change) -> Any:
        try:
            return self.writer.load(name, value)
        except WrongValue as error:
            raise WrongValue(f"{error} (in the row {self.key_text(change):.200})") from error

    def _pairs(self, change: Change) -> dict[str, Any]:
        mirrored = self.mirrored
        pairs = dict(change.fields)
        if mirrored.pk is None:
            if not isinstance(change.pk, list) or len(change.pk) != len(mirrored.key):
                raise WrongValue(f"{mirrored.label} has a key of {len(mirrored.key)}, not {change.pk!r:.200}")
            pairs.update(zip((field.name for field in mirrored.key), change.pk, strict=True))
        elif mirrored.pk.name not in pairs and self.own_pk is None:
            pairs[mirrored.pk.name] = change.pk
        return pairs

    def parents(self, change: Change) -> Iterator[tuple[str, str]]:
        """The (label, UUID) of every row that this one refers to by a local key."""
        for field in self.references:
            if (parent := self.parent(field, change)) is not None:
                yield parent
        for name in self.generic:
            uuid = row_uuid(change.fields.get(name))
            if uuid is not None:
                yield self._reference(name, change).label, self._uuid(name, uuid)

    def parent(self, field: MirroredField, change: Change) -> tuple[str, str] | None:
        """The (label, UUID) of the row that a field refers to by a local key."""
        value = change.fields.get(field.name)
        if value is None or field.reference is None or is_missing(value):
            return None
        return field.reference.label, self._uuid(field.name, value)

    def _uuid(self, name: str, value: Any) -> str:
        if is_missing(value):
            raise MissingParent(f"{self.mirrored.label}.{name} refers to a row that the source does not have")
        try:
            return str(UUID(value))
        except (ValueError, TypeError, AttributeError) as error:
            raise WrongValue(
                f"{self.mirrored.label}.{name} is not the UUID of a row: {value!r:.200}"
            ) from error

    # Statements. Values come in columns: a sequence for each of the names.

    def upsert(self, names: Sequence[str], values: Sequence[Sequence[Any]]) -> None:
        missing = self._missing(frozenset(names))
        columns = [self.fields[name].column for name in names] + [str(field.column) for field in missing]
        if missing:
            defaults = [self._default_values(missing) for _row in values[0]]
            values = [*values, *zip(*defaults, strict=True)]
        # A permission that is here already must not use up a number: PostgreSQL would at each conflict.
        if self.connection.features.supports_update_conflicts_with_target and not self.keyed_by_name:
            self._on_conflict(names, columns, values)
        else:
            self._update_or_insert(names, columns, values)

    def delete(self, values: Sequence[Sequence[Any]]) -> None:
        """Delete by key; a row that is not here is gone already."""
        columns = [field.column for field in self.mirrored.key]
        arrays = self._arrays(columns, values)
        if arrays is None:
            self._delete_each(columns, values)
            return
        rows, texts = arrays
        places = ", ".join(f"k{place}" for place in range(len(columns)))
        where = " AND ".join(f"t.{self._quote(column)} = k{place}" for place, column in enumerate(columns))
        with self.connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {self._table} t USING {rows} AS k({places}) WHERE {where}", texts)

    def _delete_each(self, columns: list[str], values: Sequence[Sequence[Any]]) -> None:
        where = [f"{self._quote(column)} = %s" for column in columns]
        values = list(values)
        if self.connection.vendor == "mysql":
            # "A" is "a" to most of its collations: that row is another one, and stays.
            for place, field in enumerate(self.mirrored.key):
                if is_text(root_of(field.field)):
                    column = f"BINARY CONVERT({self._quote(field.column)} USING utf8mb4)"
                    where.append(f"{column} = BINARY CONVERT(%s USING utf8mb4)")
                    values.append(values[place])
        self._execute_many(f"DELETE FROM {self._table} WHERE {' AND '.join(where)}", values)

    def _on_conflict(self, names: Sequence[str], columns: list[str], values: Sequence[Sequence[Any]]) -> None:
        key = [field.name for field in self.mirrored.key]
        changed = [
            self._quote(self.fields[name].column)
            for name in names
            if name not in key and self.fields[name] is not self.own_pk
        ]
        action = (
            "DO UPDATE SET " + ", ".join(f"{column} = EXCLUDED.{column}" for column in changed)
            if changed
            else "DO NOTHING"
        )
        target = ", ".join(self._quote(self.fields[name].column) for name in key)
        conflict = f"ON CONFLICT ({target}) {action}"
        arrays = self._arrays(columns, values)
        if arrays is None:
            self._execute_many(f"{self._insert(columns)} {conflict}", values)
            return
        rows, texts = arrays
        into = f"INSERT INTO {self._table} ({', '.join(map(self._quote, columns))})"
        with self.connection.cursor() as cursor:
            cursor.execute(f"{into} SELECT * FROM {rows} {conflict}", texts)

    def _arrays(
        self, columns: Sequence[str], values: Sequence[Sequence[Any]]
    ) -> tuple[str, list[str]] | None:
        """The rows as an expression with a parameter for each column, where that is faster."""
        if self.connection.vendor != "postgresql" or len(values[0]) < postgresql.MANY:
            return None
        if any(self._types[column].endswith("[]") for column in columns):
            return None  # an array of arrays is unnested down to its elements
        texts = [text for text in map(postgresql.array_text, values) if text is not None]
        if len(texts) < len(values):
            return None
        kinds = (f"%s::{self._types[column]}[]" for column in columns)
        return f"unnest({', '.join(kinds)})", texts

    @cached_property
    def _types(self) -> dict[str, str]:
        return postgresql.column_types(self.connection, self._table)

    def _update_or_insert(
        self, names: Sequence[str], columns: list[str], values: Sequence[Sequence[Any]]
    ) -> None:
        """MySQL's ON DUPLICATE KEY UPDATE would silently take any unique key for the row's own."""
        key = [field.name for field in self.mirrored.key]
        changed = [name for name in names if name not in key and self.fields[name] is not self.own_pk]
        by_name = dict(zip(names, values, strict=False))
        identities = list(zip(*(by_name[name] for name in key), strict=True))
        changes = list(zip(*(by_name[name] for name in changed), strict=True)) or [()] * len(identities)
        present = self.present(identities)
        updates, inserts = [], []
        for identity, change, row in zip(identities, changes, zip(*values, strict=True), strict=True):
            if comparable(identity) not in present:
                inserts.append(row)
            elif changed:
                updates.append((*change, *identity))
        if updates:
            assignments = ", ".join(f"{self._quote(self.fields[name].column)} = %s" for name in changed)
            where = " AND ".join(f"{self._quote(self.fields[name].column)} = %s" for name in key)
            self._execute_rows(f"UPDATE {self._table} SET {assignments} WHERE {where}", updates)
        if inserts:
            self._execute_rows(self._insert(columns), inserts)

    def present(self, identities: Sequence[Sequence[Any]]) -> set[tuple[str, ...]]:
        """Those of these keys that are here, as ``comparable`` makes them of what is read."""
        key = [self._quote(field.column) for field in self.mirrored.key]
        match = "(" + " AND ".join(f"{column} = %s" for column in key) + ")"
        present: set[tuple[str, ...]] = set()
        with self.connection.cursor() as cursor:
            for start in range(0, len(identities), _IN_CHUNK):
                chunk = identities[start : start + _IN_CHUNK]
                cursor.execute(
                    f"SELECT {', '.join(key)} FROM {self._table} WHERE {' OR '.join([match] * len(chunk))}",
                    [value for identity in chunk for value in identity],
                )
                present.update(comparable(found) for found in cursor.fetchall())
        return present

    def _insert(self, columns: list[str]) -> str:
        names = ", ".join(map(self._quote, columns))
        return f"INSERT INTO {self._table} ({names}) VALUES ({', '.join(['%s'] * len(columns))})"

    def _execute_many(self, sql: str, values: Sequence[Sequence[Any]]) -> None:
        self._execute_rows(sql, zip(*values, strict=True))

    def _execute_rows(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Raises DataError for every value that the database does not take."""
        try:
            with self.connection.cursor() as cursor:
                cursor.executemany(sql, list(rows))
        except OperationalError as error:
            if self.connection.vendor == "mysql" and error.args and error.args[0] in _VALUE_CODES:
                raise DataError(*error.args) from error
            raise

    # Columns that the change does not carry: excluded at the source, or new here

    def _missing(self, names: frozenset[str]) -> list[Field[Any, Any]]:
        if names not in self._defaults:
            own = self.own_pk.field if self.own_pk else None
            self._defaults[names] = [
                field
                for field in self.mirrored.model._meta.local_concrete_fields
                if field.name not in names
                and field is not own
                and not getattr(field, "generated", False)
                and getattr(field, "db_default", NOT_PROVIDED) is NOT_PROVIDED
            ]
        return self._defaults[names]

    def _default_values(self, missing: list[Field[Any, Any]]) -> list[Any]:
        if not missing:
            return []
        blank = self.mirrored.model()
        return [field.get_db_prep_save(field.pre_save(blank, True), self.connection) for field in missing]


def key_text(mirrored: MirroredModel | None, change: Change) -> str:
    """What identifies the row on every server, as the oplog stores it."""
    if mirrored is None:
        return str(change.pk)
    if mirrored.pk is None:
        return ",".join(map(str, change.pk)) if isinstance(change.pk, list) else str(change.pk)
    return ",".join(str(change.fields.get(field.name, change.pk)) for field in mirrored.key)


def comparable(key: Sequence[Any]) -> tuple[str, ...]:
    # What is bound and what is read back differ in type: MariaDB takes a UUID and returns its text.
    return tuple(map(str, key))

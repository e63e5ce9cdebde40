"""How the rows of one model are written here: the statements, compiled once for each set of fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import UUID

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import NOT_PROVIDED, Field

from mirror.changes import Change
from mirror.errors import UnknownField, WrongValue
from mirror.registry import MirroredField, MirroredModel, Reference
from mirror.rows import RowWriter

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
        self._writer = RowWriter(mirrored, connection)
        self._quote = connection.ops.quote_name
        self._table = self._quote(mirrored.table)
        self._defaults: dict[frozenset[str], list[Field[Any, Any]]] = {}

    @cached_property
    def own_pk(self) -> MirroredField | None:
        """The key that this server gives out itself, where rows match by UUID."""
        pk = self.mirrored.pk
        return pk if self.mirrored.local_pk and pk is not None and not pk.reference else None

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
            else:
                values[name] = self._writer.load(name, value)
        return values

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
            value = change.fields.get(field.name)
            if value is not None and field.reference is not None:
                yield field.reference.label, self._uuid(field.name, value)

    def _uuid(self, name: str, value: Any) -> str:
        try:
            return str(UUID(value))
        except (ValueError, TypeError, AttributeError) as error:
            raise WrongValue(
                f"{self.mirrored.label}.{name} is not the UUID of a row: {value!r:.200}"
            ) from error

    # Statements

    def upsert(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows that all carry the same fields."""
        names = list(rows[0])
        missing = self._missing(frozenset(names))
        columns = [self.fields[name].column for name in names] + [str(field.column) for field in missing]
        parameters = [[*row.values(), *self._default_values(missing)] for row in rows]
        if self.connection.features.supports_update_conflicts_with_target:
            self._on_conflict(names, columns, parameters)
        else:
            self._update_or_insert(names, columns, rows, parameters)

    def delete(self, rows: Sequence[dict[str, Any]]) -> None:
        """Delete by key; a row that is not here is gone already."""
        where = " AND ".join(f"{self._quote(field.column)} = %s" for field in self.mirrored.key)
        self._execute_many(
            f"DELETE FROM {self._table} WHERE {where}",
            [[row[field.name] for field in self.mirrored.key] for row in rows],
        )

    def _on_conflict(self, names: list[str], columns: list[str], parameters: list[list[Any]]) -> None:
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
        self._execute_many(f"{self._insert(columns)} ON CONFLICT ({target}) {action}", parameters)

    def _update_or_insert(
        self,
        names: list[str],
        columns: list[str],
        rows: Sequence[dict[str, Any]],
        parameters: list[list[Any]],
    ) -> None:
        """MySQL's ON DUPLICATE KEY UPDATE would silently take any unique key for the row's own."""
        key = [field.name for field in self.mirrored.key]
        changed = [name for name in names if name not in key and self.fields[name] is not self.own_pk]
        present = self._present(rows)
        updates, inserts = [], []
        for row, parameter in zip(rows, parameters, strict=True):
            identity = tuple(row[name] for name in key)
            if comparable(identity) not in present:
                inserts.append(parameter)
            elif changed:
                updates.append([*(row[name] for name in changed), *identity])
        if updates:
            assignments = ", ".join(f"{self._quote(self.fields[name].column)} = %s" for name in changed)
            where = " AND ".join(f"{self._quote(self.fields[name].column)} = %s" for name in key)
            self._execute_many(f"UPDATE {self._table} SET {assignments} WHERE {where}", updates)
        if inserts:
            self._execute_many(self._insert(columns), inserts)

    def _present(self, rows: Sequence[dict[str, Any]]) -> set[tuple[str, ...]]:
        key = [field.name for field in self.mirrored.key]
        columns = ", ".join(self._quote(self.fields[name].column) for name in key)
        match = "(" + " AND ".join(f"{self._quote(self.fields[name].column)} = %s" for name in key) + ")"
        present: set[tuple[str, ...]] = set()
        with self.connection.cursor() as cursor:
            for start in range(0, len(rows), _IN_CHUNK):
                chunk = rows[start : start + _IN_CHUNK]
                cursor.execute(
                    f"SELECT {columns} FROM {self._table} WHERE {' OR '.join([match] * len(chunk))}",
                    [row[name] for row in chunk for name in key],
                )
                present.update(comparable(found) for found in cursor.fetchall())
        return present

    def _insert(self, columns: list[str]) -> str:
        names = ", ".join(map(self._quote, columns))
        return f"INSERT INTO {self._table} ({names}) VALUES ({', '.join(['%s'] * len(columns))})"

    def _execute_many(self, sql: str, parameters: list[list[Any]]) -> None:
        with self.connection.cursor() as cursor:
            cursor.executemany(sql, parameters)

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

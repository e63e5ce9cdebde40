"""What a plan of migrations will do that its SQL does not say: who is renamed, and whose values are made up.

A default that is called, such as ``uuid4`` or ``now``, gives the rows that are there other values on every
server; so does a key of another table where keys are each server's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.db.migrations.operations import (
    AddField,
    AlterField,
    RemoveField,
    RenameField,
    RenameModel,
    SeparateDatabaseAndState,
)
from django.db.models import Field, Value

from mirror.conf import conf
from mirror.registry import MirroredModel

__all__ = ["Course", "read_plan"]

#: What these return when they are called is the same everywhere.
_PLAIN = (bool, bytes, dict, float, int, list, set, str, tuple)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    #: Label, old and new name of each field that is renamed, in order.
    renamed_fields: tuple[tuple[str, str, str], ...] = ()
    #: Old and new label of each model that is renamed, in order.
    renamed_models: tuple[tuple[str, str], ...] = ()
    #: Label and column where existing rows get a value that another server would not give them. No column
    #: where the appearance of a column does not say that it has happened.
    made_up: frozenset[tuple[str, str | None]] = frozenset()

    def label_at_the_end(self, label: str) -> str:
        for old, new in self.renamed_models:
            label = new if label == old else label
        return label

    def without_excluded(self, past: Iterable[MirroredModel]) -> Iterator[MirroredModel]:
        """Leave out the fields that MIRROR excludes under the name that they are going to have."""
        excluded = {entry.lower() for entry in conf().exclude_fields}
        for mirrored in past:
            label = self.label_at_the_end(mirrored.label)
            kept = [
                field
                for field in mirrored.fields
                if f"{label}.{self._name_at_the_end(mirrored.label, field.name)}" not in excluded
            ]
            yield replace(mirrored, fields=tuple(kept))

    def _name_at_the_end(self, label: str, name: str) -> str:
        labels = {label, self.label_at_the_end(label)}
        for owner, old, new in self.renamed_fields:
            name = new if owner in labels and name == old else name
        return name.lower()


def read_plan(plan: Sequence[tuple[Any, bool]], past: Mapping[str, MirroredModel], *, copies: bool) -> Course:
    """``plan`` is what ``pre_migrate`` hands out: migrations, and whether each is taken back.

    ``copies`` says that a value for rows that have none is given while they are copied, where no trigger
    sees it, and not by an update.
    """
    fields: list[tuple[str, str, str]] = []
    models: list[tuple[str, str]] = []
    made_up: set[tuple[str, str | None]] = set()
    nullable = {(label, f.name) for label, mirrored in past.items() for f in mirrored.fields if f.field.null}
    for app, operation, backwards in _operations(plan):
        if isinstance(operation, RenameModel):
            names = (f"{app}.{operation.old_name_lower}", f"{app}.{operation.new_name_lower}")
            models.append(names[::-1] if backwards else names)
            continue
        label = f"{app}.{getattr(operation, 'model_name_lower', '')}"
        if isinstance(operation, RenameField):
            old, new = operation.old_name, operation.new_name
            fields.append((label, new, old) if backwards else (label, old, new))
        elif isinstance(operation, RemoveField) and backwards:
            made_up.add((label, None))
        elif isinstance(operation, AddField | AlterField) and not backwards:
            place = (label, operation.name)
            if isinstance(operation, AddField) and not _same_everywhere(operation.field):
                made_up.add((label, _column(operation)))
            elif copies and place in nullable and _fills(operation.field):
                made_up.add((label, None))
            nullable = nullable | {place} if operation.field.null else nullable - {place}
    return Course(renamed_fields=tuple(fields), renamed_models=tuple(models), made_up=frozenset(made_up))


def _operations(plan: Sequence[tuple[Any, bool]]) -> Iterator[tuple[str, Any, bool]]:
    for migration, backwards in plan:
        operations = list(_flat(migration.operations))
        for operation in reversed(operations) if backwards else operations:
            yield migration.app_label, operation, backwards


def _flat(operations: Iterable[Any]) -> Iterator[Any]:
    for operation in operations:
        if isinstance(operation, SeparateDatabaseAndState):
            yield from _flat([*operation.database_operations, *operation.state_operations])
        else:
            # RunSQL may say what it does to the models.
            yield operation
            yield from getattr(operation, "state_operations", None) or ()


def _column(operation: AddField) -> str:
    field = operation.field.clone()
    field.set_attributes_from_name(operation.name)
    return str(field.column)


def _fills(field: Field[Any, Any]) -> bool:
    return not field.null and not _same_everywhere(field)


def _same_everywhere(field: Field[Any, Any]) -> bool:
    """Whether a row that has no value yet is given the same by every server that migrates."""
    if field.many_to_many or getattr(field, "generated", False):
        return True
    if field.has_db_default():
        default: Any = field.db_default
        return isinstance(default, Value) or not hasattr(default, "resolve_expression")
    if field.has_default() and field.default is not None:
        if field.is_relation:
            return False
        return not callable(field.default) or field.default in _PLAIN
    return not (getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False))

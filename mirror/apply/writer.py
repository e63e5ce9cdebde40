"""Writes a run of changes: collapsed to each row's last, parents before children, deletes first.

If a unique value changed hands in a way that the collapsed order cannot follow, the run is written
again one change at a time: in the source's own order every step satisfied the source's constraints.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from graphlib import CycleError, TopologicalSorter
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from mirror.apply.plans import Lookup, ModelPlan
from mirror.changes import Change, Op
from mirror.errors import MissingParent, WrongValue
from mirror.registry import MirroredModel, Reference, mirrored_models

_IN_CHUNK = 500


class BatchWriter:
    """The row writes of one transaction."""

    def __init__(
        self, connection: BaseDatabaseWrapper, plan: Callable[[str], ModelPlan | None], order: dict[str, int]
    ) -> None:
        self.connection = connection
        self._plan = plan
        self._order = order
        #: Local keys by (label, UUID), as far as this transaction needed them.
        self._known: Lookup = {}
        #: Keys given to rows that were referred to before they came.
        self._promised: dict[tuple[str, str], Any] = {}
        self._tables: set[str] = set()
        if connection.vendor == "mysql":
            # MySQL checks foreign keys row by row; the source has checked them at its commit.
            connection.disable_constraint_checking()

    def write(self, changes: list[Change]) -> None:
        known, promised = self._known.copy(), self._promised.copy()
        try:
            with transaction.atomic(using=self.connection.alias):
                self._write(self._collapse(changes))
        except IntegrityError:
            self._known, self._promised = known, promised
            for change in changes:
                self._write([change])

    def finish(self, *, explain: bool) -> None:
        """Before the commit. Raises MissingParent for a row that was referred to and never came."""
        for label, uuid in self._promised:
            raise MissingParent(f"a row refers to {label} {uuid}, which is not here")
        if explain:
            self.connection.check_constraints(table_names=sorted(self._tables))
        if self.connection.vendor == "mysql":
            self.connection.enable_constraint_checking()

    def _collapse(self, changes: list[Change]) -> list[Change]:
        last: dict[tuple[str, str], Change] = {}
        for change in changes:
            plan = self._require(change.model)
            identity = change.model, plan.key_text(change)
            last.pop(identity, None)  # keep the order of the last changes, not of the first
            last[identity] = change
        return list(last.values())

    def _write(self, changes: list[Change]) -> None:
        saves: dict[str, list[Change]] = defaultdict(list)
        deletes: dict[str, list[Change]] = defaultdict(list)
        for change in changes:
            (saves if change.op is Op.SAVE else deletes)[change.model].append(change)
        self._find([change for group in deletes.values() for change in group])
        for label in sorted(deletes, key=self._order.__getitem__, reverse=True):
            self._delete(self._require(label), deletes[label])
        for label in sorted(saves, key=self._order.__getitem__):
            self._save(self._require(label), saves[label])

    def _require(self, label: str) -> ModelPlan:
        plan = self._plan(label)
        assert plan is not None, label
        return plan

    def _delete(self, plan: ModelPlan, changes: list[Change]) -> None:
        rows = []
        for change in changes:
            try:
                rows.append(plan.values(change, self._known, key_only=True))
            except KeyError:
                continue  # its parent is not here, so neither is the row
        if plan.own_pk is not None:
            # Rows that match by these may be deleted later in the same transaction.
            self._look_up(_as_reference(plan.mirrored), [plan.key_text(change) for change in changes])
        if rows:
            plan.delete(rows)
            self._tables.add(plan.mirrored.table)

    def _save(self, plan: ModelPlan, changes: list[Change]) -> None:
        self._find(changes)
        for parent in {parent: None for change in changes for parent in plan.parents(change)}:
            if parent not in self._known:
                self._promise(*parent)
        shapes: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        for change in changes:
            values = plan.values(change, self._known)
            self._redeem(plan, change, values)
            shapes[tuple(values)].append(values)
        for rows in shapes.values():
            plan.upsert(rows)
        self._tables.add(plan.mirrored.table)

    # Local keys of other rows

    def _find(self, changes: Iterable[Change]) -> None:
        wanted: dict[str, list[str]] = defaultdict(list)
        references: dict[str, Reference] = {}
        for change in changes:
            plan = self._require(change.model)
            for field in plan.references:
                uuid = change.fields.get(field.name)
                if uuid is not None and field.reference is not None:
                    references[field.reference.label] = field.reference
                    wanted[field.reference.label].append(uuid)
        for label, uuids in wanted.items():
            self._look_up(references[label], uuids)

    def _look_up(self, reference: Reference, uuids: Iterable[str]) -> None:
        unknown = sorted({uuid for uuid in uuids if (reference.label, uuid) not in self._known})
        quote = self.connection.ops.quote_name
        field = reference.uuid_field
        with self.connection.cursor() as cursor:
            for start in range(0, len(unknown), _IN_CHUNK):
                chunk = unknown[start : start + _IN_CHUNK]
                cursor.execute(
                    f"SELECT {quote(reference.uuid_column)}, {quote(reference.pk_column)} "
                    f"FROM {quote(reference.table)} WHERE {quote(reference.uuid_column)} "
                    f"IN ({', '.join(['%s'] * len(chunk))})",
                    [_prepared(field, value, self.connection) for value in chunk],
                )
                for found, pk in cursor.fetchall():
                    # A UUID, or its text with or without dashes: drivers differ.
                    self._known[reference.label, str(UUID(str(found)))] = pk

    def _promise(self, label: str, uuid: str) -> None:
        """Give a row its local key before it comes: it is later in the transaction, or refers back."""
        plan = self._require(label)
        assert plan.own_pk is not None
        pk = _next_key(self.connection, plan.mirrored.table, plan.own_pk.column, self._promised_keys(label))
        self._known[label, uuid] = self._promised[label, uuid] = pk

    def _promised_keys(self, label: str) -> list[Any]:
        return [pk for (promised, _uuid), pk in self._promised.items() if promised == label]

    def _redeem(self, plan: ModelPlan, change: Change, values: dict[str, Any]) -> None:
        if plan.own_pk is None:
            return
        identity = plan.mirrored.label, plan.key_text(change)
        pk = self._promised.pop(identity, None)
        if pk is not None:
            values[plan.own_pk.name] = pk
        else:
            # Deleted and inserted again in this transaction, it has another local key now.
            self._known.pop(identity, None)


def _prepared(field: Any, uuid: str, connection: BaseDatabaseWrapper) -> Any:
    try:
        return field.get_db_prep_value(field.to_python(uuid), connection)
    except ValidationError as error:
        raise WrongValue(f"{uuid!r:.200} is not a UUID") from error


def _as_reference(mirrored: MirroredModel) -> Reference:
    assert mirrored.pk is not None
    return Reference(
        label=mirrored.label,
        table=mirrored.table,
        pk_column=mirrored.pk.column,
        uuid_column=mirrored.key[0].column,
        uuid_field=mirrored.key[0].field,
    )


def _next_key(connection: BaseDatabaseWrapper, table: str, column: str, promised: list[Any]) -> Any:
    quote = connection.ops.quote_name
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT nextval(pg_get_serial_sequence(%s, %s))", [quote(table), column])
            return cursor.fetchone()[0]
        cursor.execute(f"SELECT COALESCE(MAX({quote(column)}), 0) FROM {quote(table)}")
        return max([cursor.fetchone()[0], *promised]) + 1


def parents_first() -> dict[str, int]:
    """A place for every mirrored model, such that what it points at comes before it."""
    graph: dict[str, set[str]] = {}
    for label, mirrored in mirrored_models().items():
        targets = {
            field.field.related_model._meta.label_lower
            for field in mirrored.fields
            if field.field.is_relation and isinstance(field.field.related_model, type)
        }
        graph[label] = targets - {label}
    return {label: place for place, label in enumerate(_sorted(graph))}


def _sorted(graph: dict[str, set[str]]) -> list[str]:
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        # Models that point at each other have no order; promises carry what the order cannot.
        first, second = error.args[1][1], error.args[1][0]
        graph = {**graph, first: graph[first] - {second}}
        return _sorted(graph)

"""Writes a run of changes: collapsed to each row's last, parents before children, deletes first.

If a unique value changed hands in a way that the collapsed order cannot follow, the run is written
again one change at a time: in the source's own order every step satisfied the source's constraints.
"""

from __future__ import annotations

from collections import ChainMap, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from graphlib import CycleError, TopologicalSorter
from itertools import count
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import DataError

from mirror.apply.plans import ModelPlan, Pointer, comparable
from mirror.changes import Change, Op
from mirror.errors import ConstraintFailed, MissingParent, WrongValue
from mirror.registry import MirroredModel, Reference, mirrored_models

#: Local keys by (label, UUID).
Keys = dict[tuple[str, str], Any]

#: A value that passed its field, and that the database or its driver does not take.
REFUSED = (DataError, OverflowError, UnicodeError)

_IN_CHUNK = 500

#: Local keys that are kept between two runs of a transaction: they can be looked up again.
_KNOWN = 20_000


@contextmanager
def unchecked(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """MySQL checks foreign keys row by row; the source has checked them at its commit."""
    if connection.vendor != "mysql":
        yield
        return
    with connection.constraint_checks_disabled():
        yield


class BatchWriter:
    """The row writes of one transaction."""

    def __init__(
        self, connection: BaseDatabaseWrapper, plan: Callable[[str], ModelPlan | None], order: dict[str, int]
    ) -> None:
        self.connection = connection
        self._plan = plan
        self._order = order
        #: Rows that are here or promised, as far as this transaction needed them.
        self._known: Keys = {}
        #: Rows that this transaction deleted: those that match by them may be deleted after them.
        self._gone: Keys = {}
        #: Keys given to rows that were referred to before they came.
        self._promised: Keys = {}
        #: Keys for the further rows of a table where some are promised: the database would give those out.
        self._free: dict[str, Iterator[int]] = {}
        self._tables: set[str] = set()
        #: What was written into foreign keys that nothing else will check.
        self._pointed: dict[Pointer, set[Any]] = defaultdict(set)

    def write(self, changes: list[Change]) -> None:
        if len(self._known) > _KNOWN:
            self._known = self._promised.copy()
        kept = self._known.copy(), self._gone.copy(), self._promised.copy(), self._free.copy()
        try:
            with transaction.atomic(using=self.connection.alias):
                self._write(self._collapse(changes))
        except (IntegrityError, *REFUSED):
            self._known, self._gone, self._promised, self._free = kept
            for change in changes:
                self._write_one(change)

    def _write_one(self, change: Change) -> None:
        try:
            self._write([change])
        except (IntegrityError, *REFUSED) as error:
            kind = ConstraintFailed if isinstance(error, IntegrityError) else WrongValue
            key = self._require(change.model).key_text(change)
            raise kind(f"the database refused {change.op} of {change.model} {key:.200}: {error}") from error

    def finish(self, *, explain: bool) -> None:
        """Before the commit. Raises MissingParent for a row that was referred to and never came."""
        for (label, uuid), pk in self._promised.items():
            for referring, column in _columns_to(label):
                # Who referred to it may be gone as well, in a later run of changes.
                if self._holds(referring.table, column, pk):
                    raise MissingParent(f"{referring.label} refers to {label} {uuid}, which is not here")
        for pointer, values in self._pointed.items():
            self._check(pointer, list(values))
        if explain:
            self.connection.check_constraints(table_names=sorted(self._tables))

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
        lookup = ChainMap(self._known, self._gone)
        rows = []
        for change in changes:
            try:
                rows.append(plan.values(change, lookup, key_only=True))
            except KeyError:
                continue  # its parent is not here, so neither is the row
        if plan.by_uuid is not None:
            uuids = [plan.uuid_of(change) for change in changes]
            self._look_up(plan.by_uuid, uuids)
            for identity in ((plan.mirrored.label, uuid) for uuid in uuids):
                if identity in self._known:
                    self._gone[identity] = self._known.pop(identity)
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
            if self.connection.vendor == "mysql":  # where the checks are off, see ``unchecked``
                for name, pointer in plan.pointers:
                    if values.get(name) is not None:
                        self._pointed[pointer].add(values[name])
            shapes[tuple(values)].append(values)
        for rows in shapes.values():
            plan.upsert(rows)
        self._tables.add(plan.mirrored.table)

    def _check(self, pointer: Pointer, values: list[Any]) -> None:
        column = self.connection.ops.quote_name(pointer.to_column)
        table = self.connection.ops.quote_name(pointer.to_table)
        for start in range(0, len(values), _IN_CHUNK):
            chunk = values[start : start + _IN_CHUNK]
            with self.connection.cursor() as cursor:
                marks = ", ".join(["%s"] * len(chunk))
                cursor.execute(f"SELECT {column} FROM {table} WHERE {column} IN ({marks})", chunk)
                found = {comparable(row) for row in cursor.fetchall()}
            for value in chunk:
                if comparable([value]) not in found and self._holds(pointer.table, pointer.column, value):
                    raise MissingParent(
                        f"{pointer.table} refers to {pointer.to_table} {value}, which is not here"
                    )

    def _holds(self, table: str, column: str, value: Any) -> bool:
        quote = self.connection.ops.quote_name
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT 1 FROM {quote(table)} WHERE {quote(column)} = %s LIMIT 1", [value])
            return cursor.fetchone() is not None

    # Local keys of other rows

    def _find(self, changes: Iterable[Change]) -> None:
        wanted: dict[str, list[str]] = defaultdict(list)
        for change in changes:
            for label, uuid in self._require(change.model).parents(change):
                wanted[label].append(uuid)
        for label, uuids in wanted.items():
            reference = self._require(label).by_uuid
            assert reference is not None, label
            self._look_up(reference, uuids)

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
                    [field.get_db_prep_value(UUID(uuid), self.connection) for uuid in chunk],
                )
                for found, pk in cursor.fetchall():
                    # A UUID, or its text with or without dashes: drivers differ.
                    self._known[reference.label, str(UUID(str(found)))] = pk

    def _promise(self, label: str, uuid: str) -> None:
        """Give a row its local key before it comes: it is later in the transaction, or refers back."""
        pk = self._next_key(label)
        self._known[label, uuid] = self._promised[label, uuid] = pk

    def _redeem(self, plan: ModelPlan, change: Change, values: dict[str, Any]) -> None:
        pk = plan.own_pk
        if pk is None:
            return
        if plan.by_uuid is not None:
            identity = plan.mirrored.label, plan.uuid_of(change)
            if identity in self._promised:
                values[pk.name] = self._promised.pop(identity)
                return
        if plan.mirrored.label in self._free:
            # A row that is here already keeps the key it has.
            values[pk.name] = self._next_key(plan.mirrored.label)

    def _next_key(self, label: str) -> Any:
        plan = self._require(label)
        assert plan.own_pk is not None
        quote, table, column = self.connection.ops.quote_name, plan.mirrored.table, plan.own_pk.column
        with self.connection.cursor() as cursor:
            if self.connection.vendor == "postgresql":
                cursor.execute("SELECT nextval(pg_get_serial_sequence(%s, %s))", [quote(table), column])
                return cursor.fetchone()[0]
            if label not in self._free:
                cursor.execute(f"SELECT COALESCE(MAX({quote(column)}), 0) FROM {quote(table)}")
                self._free[label] = count(cursor.fetchone()[0] + 1)
        return next(self._free[label])


def _columns_to(label: str) -> Iterator[tuple[MirroredModel, str]]:
    """The columns that hold local keys of this model's rows."""
    for mirrored in mirrored_models().values():
        for field in mirrored.fields:
            if field.reference is not None and field.reference.label == label:
                yield mirrored, field.column


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

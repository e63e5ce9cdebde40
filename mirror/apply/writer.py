"""Writes a run of changes: collapsed to each row's last, parents before children, deletes first.

If a unique value changed hands in a way that the collapsed order cannot follow, the run is written
again in halves, and in the end one change at a time: in the source's own order every step satisfied the
source's constraints. So is a run in which a row gets another UUID: what a UUID means depends on the place in
that order.
"""

from __future__ import annotations

import logging
from collections import ChainMap, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from graphlib import CycleError, TopologicalSorter
from itertools import chain, count
from typing import Any
from uuid import UUID

from django.contrib.contenttypes.models import ContentType
from django.db import IntegrityError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import DataError

from mirror import capture, permits
from mirror.apply import postgresql
from mirror.apply.lanes import Unusual
from mirror.apply.plans import ModelPlan, Pointer, comparable
from mirror.apply.runs import Rows, Run
from mirror.changes import Change, Op
from mirror.errors import ConstraintFailed, MissingParent, WrongValue
from mirror.registry import (
    CONTENT_TYPE,
    GenericReference,
    MirroredField,
    MirroredModel,
    Reference,
    mirrored_models,
    reference_to_rows,
)

logger = logging.getLogger("mirror.apply")

#: Local keys by (label, UUID).
Keys = dict[tuple[str, str], Any]

#: A value that passed its field, and that the database or its driver does not take.
REFUSED = (DataError, OverflowError, UnicodeError)

_IN_CHUNK = 500

#: A run of so few changes that did not go together is written one by one.
_FEW = 500

#: Local keys that are kept between two runs of a transaction: they can be looked up again.
_KNOWN = 20_000


class _OrderMatters(Exception):
    """A row refers to one that is deleted in the same run: before that, or when it had another UUID."""


@contextmanager
def applying(connection: BaseDatabaseWrapper, *, unchecked: bool, loading: bool = False) -> Iterator[None]:
    """A transaction; if ``unchecked``, one in which the database checks no foreign key.

    The source has checked them at its commit. MySQL would check them row by row, which no order of the rows
    may satisfy; PostgreSQL would take its time, and is told with the lock of the ledger. ``loading``: what
    rows refer to may come in another transaction.
    """
    with ExitStack() as stack:
        stack.enter_context(permits.applying())
        if connection.vendor == "mysql":
            stack.enter_context(_strict(connection))
            if unchecked:
                stack.enter_context(connection.constraint_checks_disabled())
        if connection.vendor == "sqlite" and loading:
            stack.enter_context(connection.constraint_checks_disabled())
        stack.enter_context(transaction.atomic(using=connection.alias))
        stack.enter_context(capture.writable(connection))
        yield


@contextmanager
def _strict(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """MySQL makes something else of a value that does not fit, and of a key 0, unless it is told not to."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SET @mirror_mode = @@sql_mode, "
            "sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO')"
        )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SET sql_mode = @mirror_mode")


def may_be_unchecked(connection: BaseDatabaseWrapper) -> bool:
    if connection.vendor == "postgresql":
        return postgresql.may_replicate(connection, [one.table for one in mirrored_models().values()])
    return connection.vendor == "mysql"


class BatchWriter:
    """The row writes of one transaction."""

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        plan: Callable[[str], ModelPlan | None],
        order: dict[str, int],
        *,
        unchecked: bool,
    ) -> None:
        self.connection = connection
        self._plan = plan
        self._order = order
        #: Rows that are here or promised, as far as this transaction needed them.
        self._known: Keys = {}
        #: Rows that this transaction deleted: those that match by them may be deleted after them.
        self._gone: Keys = {}
        #: UUID and key of such rows, by the keys that they had at the source. A row that gets that key there
        #: is the same with another UUID: whatever refers to the key refers to it.
        self._left: dict[tuple[str, int], tuple[str, Any]] = {}
        #: UUIDs that were not known here when rows that are known by them were deleted.
        self._passed_over: set[tuple[str, str]] = set()
        #: Keys given to rows that were referred to before they came.
        self._promised: Keys = {}
        #: Keys for the further rows of a table where some are promised: the database would give those out.
        self._free: dict[str, Iterator[int]] = {}
        self._tables: set[str] = set()
        self._referred_to: dict[str, bool] = {}
        #: Where the database is told not to look, see ``unchecked``.
        self._checks_pointers = unchecked
        #: What was written into foreign keys that nothing else will check.
        self._pointed: dict[Pointer, set[Any]] = defaultdict(set)

    def plan(self, label: str) -> ModelPlan | None:
        """None for a model that is not listed here."""
        return self._plan(label)

    def look_up(self, rows: Iterable[tuple[str, str]]) -> None:
        """Find out which of these (label, UUID) are here."""
        wanted: dict[str, list[str]] = defaultdict(list)
        for label, uuid in rows:
            wanted[label].append(uuid)
        for label, uuids in wanted.items():
            reference = self._require(label).by_uuid
            assert reference is not None, label
            self._look_up(reference, uuids)

    def knows(self, row: tuple[str, str]) -> bool:
        """Whether a (label, UUID) that was looked up is here."""
        return row in self._known

    def knows_parent(self, plan: ModelPlan, field: MirroredField, change: Change) -> bool:
        """Whether the row that this field refers to was looked up and is here."""
        parent = plan.parent(field, change)
        return parent is None or self.knows(parent)

    def identity(self, plan: ModelPlan, change: Change) -> list[Any] | None:
        """The row's key as it is bound here; None where a row that is part of it is not here."""
        self.look_up(plan.parents(change))
        try:
            return list(plan.values(change, self._known, key_only=True).values())
        except KeyError:
            return None

    def write(self, run: Run) -> None:
        if len(self._known) > _KNOWN:
            self._known = self._promised.copy()
        if len(run) == 1:
            self._write_all(run)
            return
        groups = run.last_of_each_row()
        if not any(self._changes_uuids(label, rows) for label, rows in groups.items()):
            kept = (
                self._known.copy(),
                self._gone.copy(),
                self._promised.copy(),
                self._free.copy(),
                self._left.copy(),
                self._passed_over.copy(),
            )
            try:
                with transaction.atomic(using=self.connection.alias):
                    self._write(groups, collapsed=True)
                return
            except (IntegrityError, _OrderMatters, *REFUSED):
                self._known, self._gone, self._promised, self._free, self._left, self._passed_over = kept
        if len(run) > _FEW:
            for half in run.halves():
                self.write(half)
            return
        self._write_all(run)

    def _changes_uuids(self, label: str, rows: Rows) -> bool:
        """Whether two of these rows, or one of them and one that was deleted, had one key at the source."""
        if not (rows.deletes or rows.moved or self._left) or not self._is_known_by_uuid(label):
            return False
        if rows.moved:
            return True
        keys = [change.pk for change in (*rows.deletes, *rows.saves) if isinstance(change.pk, int)]
        return len(set(keys)) < len(keys) or any((label, key) in self._left for key in keys if self._left)

    def _write_all(self, run: Run) -> None:
        for change in run.plain():
            self._write_one(change)

    def _write_one(self, change: Change) -> None:
        try:
            if change.op == Op.SAVE:
                self._take_over(self._require(change.model), change)
            self._write({change.model: Rows.of(change)}, collapsed=False)
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
            for referring, generic in _generic_columns():
                if self._holds_row(referring.table, generic, label, pk):
                    raise MissingParent(f"{referring.label} refers to {label} {uuid}, which is not here")
        for pointer, values in self._pointed.items():
            self._check(pointer, list(values))
        if explain:
            self.connection.check_constraints(table_names=sorted(self._tables))

    def _write(self, groups: Mapping[str, Rows], *, collapsed: bool) -> None:
        for rows in groups.values():
            if rows.deletes:
                self._find_parents(rows, rows.deletes)
        for label in sorted(groups, key=self._order.__getitem__, reverse=True):
            rows = groups[label]
            if rows.deletes and not self._delete_together(rows):
                self._delete(self._require(label), rows.plain(rows.deletes))
            _forget_numbers(label)
        for label in sorted(groups, key=self._order.__getitem__):
            rows = groups[label]
            if self._passed_over and self._is_known_by_uuid(label):
                plan = self._require(label)
                self._passed_over.difference_update(
                    (label, plan.uuid_of(change)) for change in rows.plain(rows.saves)
                )
            if rows.saves and not self._save_together(rows):
                self._save(self._require(label), rows.plain(rows.saves), groups if collapsed else {})
            _forget_numbers(label)

    # A column at a time, where the rows are as usual

    def _find_parents(self, rows: Rows, changes: Sequence[Any]) -> None:
        if rows.lane is not None:
            try:
                for reference, uuids in rows.lane.parents(changes):
                    self._look_up(reference, uuids)
            except Unusual:
                pass
            else:
                return
        self._find(rows.plain(changes))

    def _save_together(self, rows: Rows) -> bool:
        lane = rows.lane
        if lane is None or self._promised or self._free:
            return False
        try:
            for reference, uuids in lane.parents(rows.saves):
                self._look_up(reference, uuids)
            values = lane.values(rows.saves, self._known)
        except Unusual:
            return False
        plan = lane.plan
        if self._checks_pointers:
            for name, pointer in plan.pointers:
                if name in lane.names:
                    self._pointed[pointer].update(values[lane.names.index(name)])
                    self._pointed[pointer].discard(None)
        plan.upsert(lane.names, values)
        self._tables.add(plan.mirrored.table)
        return True

    def _delete_together(self, rows: Rows) -> bool:
        lane = rows.lane
        if lane is None or self._promised or self._free:
            return False
        plan = lane.plan
        try:
            values = lane.key_values(rows.deletes, ChainMap(self._known, self._gone))
        except Unusual:
            return False
        if self._is_known_by_uuid(lane.label):
            self._forget(plan, {lane.key_text(change): change.pk for change in rows.deletes})
        plan.delete(values)
        self._tables.add(plan.mirrored.table)
        return True

    def _is_known_by_uuid(self, label: str) -> bool:
        """Whether there may be rows that refer to these by keys of this server."""
        if label not in self._referred_to:
            columns = chain(_columns_to(label), _generic_columns())
            self._referred_to[label] = self._require(label).by_uuid is not None and any(True for _ in columns)
        return self._referred_to[label]

    # Row by row

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
                # Its parent is not here, so neither is the row.
                self._passed_over.update(parent for parent in plan.parents(change) if parent not in lookup)
            except WrongValue as error:
                if not plan.keyed_by_name:
                    raise
                # Content types are each server's own: it was removed there with the row, or never was here.
                logger.warning("skipped: %s", error)
        if plan.by_uuid is not None:
            self._forget(plan, {plan.uuid_of(change): change.pk for change in changes})
        if rows:
            plan.delete([[row[field.name] for row in rows] for field in plan.mirrored.key])
            self._tables.add(plan.mirrored.table)

    def _forget(self, plan: ModelPlan, uuids: Mapping[str, Any]) -> None:
        """Rows that are deleted now: their UUIDs, and the key that each had at the source."""
        assert plan.by_uuid is not None
        self._look_up(plan.by_uuid, uuids)
        label = plan.mirrored.label
        for uuid, source_pk in uuids.items():
            if (label, uuid) in self._known:
                self._gone[label, uuid] = self._known.pop((label, uuid))
                if isinstance(source_pk, int):
                    self._left[label, source_pk] = uuid, self._gone[label, uuid]

    def _take_over(self, plan: ModelPlan, change: Change) -> None:
        """Give the row the local key of the one that it replaces under the key of the source."""
        label, source_pk = plan.mirrored.label, change.pk
        if plan.by_uuid is None or not isinstance(source_pk, int) or (label, source_pk) not in self._left:
            return
        identity = label, plan.uuid_of(change)
        if identity in self._passed_over:
            raise MissingParent(f"rows that refer to {label} {identity[1]} were deleted before it was known")
        former, left = self._left.pop((label, source_pk))
        if former != identity[1] and (label, former) in self._promised:
            self._known.pop((label, former), None)
            self._point(label, self._promised.pop((label, former)), left)
        self._look_up(plan.by_uuid, [identity[1]])
        own = self._known.get(identity, left)
        if own == left or identity in self._promised:
            self._known[identity] = self._promised[identity] = left
            self._point(label, own, left)
        else:
            self._point(label, left, own)

    def _point(self, label: str, old: Any, new: Any) -> None:
        """Have all rows that refer to one local key refer to another."""
        if old == new:
            return
        quote = self.connection.ops.quote_name
        with self.connection.cursor() as cursor:
            for referring, column in _columns_to(label):
                cursor.execute(
                    f"UPDATE {quote(referring.table)} SET {quote(column)} = %s WHERE {quote(column)} = %s",
                    [new, old],
                )
            for referring, generic in _generic_columns():
                where, parameters = self._naming(generic, label, old)
                cursor.execute(
                    f"UPDATE {quote(referring.table)} SET {quote(generic.number.column)} = %s WHERE {where}",
                    [str(new), *parameters],
                )

    def _save(self, plan: ModelPlan, changes: list[Change], collapsed: Mapping[str, Rows]) -> None:
        self._find(changes)
        parents = {parent: None for change in changes for parent in plan.parents(change)}
        unknown = [parent for parent in parents if parent not in self._known]
        if unknown and not self._deleted(collapsed).isdisjoint(unknown):
            raise _OrderMatters
        for parent in unknown:
            self._promise(*parent)
        shapes: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        for change in changes:
            values = plan.values(change, self._known)
            self._redeem(plan, change, values)
            if self._checks_pointers:
                for name, pointer in plan.pointers:
                    if values.get(name) is not None:
                        self._pointed[pointer].add(values[name])
            shapes[tuple(values)].append(values)
        for names, rows in shapes.items():
            plan.upsert(names, list(zip(*(row.values() for row in rows), strict=True)))
        self._tables.add(plan.mirrored.table)

    def _deleted(self, groups: Mapping[str, Rows]) -> set[tuple[str, str]]:
        return {
            (label, plan.uuid_of(change))
            for label, rows in groups.items()
            if (plan := self._require(label)).by_uuid is not None
            for change in rows.plain(rows.deletes)
        }

    def _check(self, pointer: Pointer, values: list[Any]) -> None:
        for value in self._missing(pointer, values):
            if self._holds(pointer.table, pointer.column, value):
                raise MissingParent(
                    f"{pointer.table} refers to {pointer.to_table} {value}, which is not here"
                )

    def _missing(self, pointer: Pointer, values: list[Any]) -> Iterator[Any]:
        if self.connection.vendor == "postgresql":
            yield from postgresql.missing(self.connection, pointer.to_table, pointer.to_column, values)
            return
        column = self.connection.ops.quote_name(pointer.to_column)
        table = self.connection.ops.quote_name(pointer.to_table)
        for start in range(0, len(values), _IN_CHUNK):
            chunk = values[start : start + _IN_CHUNK]
            with self.connection.cursor() as cursor:
                marks = ", ".join(["%s"] * len(chunk))
                cursor.execute(f"SELECT {column} FROM {table} WHERE {column} IN ({marks})", chunk)
                found = {comparable(row) for row in cursor.fetchall()}
            yield from (value for value in chunk if comparable([value]) not in found)

    def _holds(self, table: str, column: str, value: Any) -> bool:
        quote = self.connection.ops.quote_name
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT 1 FROM {quote(table)} WHERE {quote(column)} = %s LIMIT 1", [value])
            return cursor.fetchone() is not None

    def _holds_row(self, table: str, generic: GenericReference, label: str, pk: Any) -> bool:
        """Whether a GenericForeignKey holds the key of a row of this table."""
        where, parameters = self._naming(generic, label, pk)
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT 1 FROM {self.connection.ops.quote_name(table)} WHERE {where} LIMIT 1", parameters
            )
            return cursor.fetchone() is not None

    def _naming(self, generic: GenericReference, label: str, pk: Any) -> tuple[str, list[Any]]:
        """The condition that a GenericForeignKey names this row, and its parameters."""
        kinds = [
            kind.pk
            for kind in ContentType.objects.db_manager(self.connection.alias).all()
            if (reference := reference_to_rows(kind.natural_key())) is not None and reference.label == label
        ]
        quote = self.connection.ops.quote_name
        where = (
            f"{quote(generic.number.column)} = %s "
            f"AND {quote(generic.kind.column)} IN ({', '.join(['%s'] * len(kinds))})"
        )
        return where, [str(pk), *kinds]  # a number or a text, as each project likes it

    # Local keys of other rows

    def _find(self, changes: Iterable[Change]) -> None:
        self.look_up(parent for change in changes for parent in self._require(change.model).parents(change))

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
        left = {pk for (other, _source_pk), (_uuid, pk) in self._left.items() if other == label}
        return next(pk for pk in self._free[label] if pk not in left)


def _forget_numbers(label: str) -> None:
    """Django remembers the numbers of content types for as long as the process lives."""
    if label == CONTENT_TYPE:
        ContentType.objects.clear_cache()


def _columns_to(label: str) -> Iterator[tuple[MirroredModel, str]]:
    """The columns that hold local keys of this model's rows."""
    for mirrored in mirrored_models().values():
        for field in mirrored.fields:
            if field.reference is not None and field.reference.label == label:
                yield mirrored, field.column


def _generic_columns() -> Iterator[tuple[MirroredModel, GenericReference]]:
    for mirrored in mirrored_models().values():
        for generic in mirrored.generic:
            yield mirrored, generic


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

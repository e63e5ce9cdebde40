"""The guard that keeps triggers, and what they wrote already, right while ``migrate`` changes tables.

SQLite refuses to drop a column that a trigger names, and to rename any table while a trigger names one
that is missing; it forgets the triggers of a table that Django rebuilds. MySQL refuses every write to a table
of which a trigger names a column that is gone. Rows written by the migration itself, or by others meanwhile,
must be captured with the columns that there are at that moment; and what waits in the outbox is read by code
that knows only the names of the end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from django.apps.registry import Apps
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model

from mirror.capture import told, untold
from mirror.capture.course import Course, read_plan
from mirror.capture.ddl import Ddl, read
from mirror.capture.recorder import Recorder
from mirror.capture.triggers import align, captured, captured_tables, record_all, refuses, remove, sync
from mirror.capture.writers import WRITERS
from mirror.conf import conf
from mirror.models import Outbox, Untold
from mirror.registry import MirroredField, MirroredModel, described, mirrored_models

_PAGE = 1000

_Columns = dict[str, msgspec.Raw]


class MigrationGuard:
    """An execute wrapper. ``past`` is what was mirrored before; it follows what happens to the names."""

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        past: Iterable[MirroredModel] = (),
        course: Course | None = None,
    ) -> None:
        self.connection = connection
        self._past = {mirrored.table: mirrored for mirrored in past}
        self._course = course or Course()
        self._made_up = set(self._course.made_up)
        #: Tables, in lower case, that are captured, also while a statement has taken their triggers away.
        self._begun = captured_tables(connection)
        #: While a column has no name that a trigger could say: the number of the newest change before.
        self._unseen_since: int | None = None

    def __call__(
        self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]
    ) -> Any:
        ddl = read(sql) if isinstance(sql, str) else None
        if ddl is None:
            return execute(sql, params, many, context)
        self._clear_the_way(ddl)
        try:
            result = execute(sql, params, many, context)
        except Exception:
            if not self.connection.features.can_rollback_ddl:
                self._align()
            raise
        self._follow(ddl)
        only = self._concerned(ddl)
        if only is None or only:
            self._align(only=only)
            self._make_up_for_what_was_unseen(ddl)
            self._relabel()
            self._record_what_was_made_up(only)
        return result

    def finish(self) -> None:
        """After the last migration: what no statement told of."""
        self._relabel()
        models = mirrored_models()
        for old, _new in self._course.renamed_models:
            if old not in models:
                self._rename_mark(old, self._course.label_at_the_end(old))
        for label, column in self._made_up:
            mirrored = models.get(self._course.label_at_the_end(label))
            if mirrored and (column is None or column in {field.column for field in mirrored.fields}):
                if conf().capture == "signals":
                    Recorder(self.connection, mirrored).record_all()
                else:
                    record_all(self.connection, mirrored)

    def _concerned(self, ddl: Ddl) -> Collection[str] | None:
        """The tables of ours, in lower case, whose triggers may have to change; None for all.

        Asking for all after each statement took a server 100 ms where there were 60.
        """
        if ddl.copies:
            return ()
        models = [*mirrored_models().values(), *self._past.values()]
        named = None if ddl.tables is None else {name.lower() for name in ddl.tables}
        if named is None or named & {Outbox._meta.db_table, Untold._meta.db_table}:
            return None
        return {
            mirrored.table.lower()
            for mirrored in models
            if mirrored.table.lower() in named
            # Its triggers look up a key there.
            or any(field.reference and field.reference.table.lower() in named for field in mirrored.fields)
        }

    def _align(
        self, hidden: Container[tuple[str, str]] = frozenset(), only: Container[str] | None = None
    ) -> None:
        done = align(self.connection, self._past, hidden, only, self._begun)
        self._begun |= {one.table.lower() for one in done.begins}

    def _clear_the_way(self, ddl: Ddl) -> None:
        if Outbox._meta.db_table in ddl.dropped_tables:
            # A trigger that has nowhere to write to would refuse every write of the application.
            remove(self.connection)
        elif ddl.gone_columns and not self._undisturbed():
            if ddl.renamed_columns and not self.connection.features.can_rollback_ddl:
                self._unseen_since = self._number()
            self._align(hidden=ddl.gone_columns)

    def _undisturbed(self) -> bool:
        """Whether triggers may name what is not there while nobody else can write."""
        return WRITERS[self.connection.vendor].IN_PLACE and self.connection.features.can_rollback_ddl

    # Names

    def _follow(self, ddl: Ddl) -> None:
        for table, old, new in ddl.renamed_columns:
            labels = self._labels(table)
            self._past = {
                name: _with_column(mirrored, table, old, new) for name, mirrored in self._past.items()
            }
            self._rename_in_outbox(labels, old, new)
        for old, new in ddl.renamed_tables:
            self._past = {
                new if name == old else name: _with_table(mirrored, old, new)
                for name, mirrored in self._past.items()
            }
            self._follow_table(old.lower(), new.lower())

    def _follow_table(self, old: str, new: str) -> None:
        if old in self._begun:
            self._begun = self._begun - {old} | {new}
        elif old != f"new__{new}":
            # Not as Django makes a table anew on SQLite: it is another one, of which nothing is known.
            self._begun -= {new}

    def _labels(self, table: str) -> set[str]:
        models = [*mirrored_models().values(), *self._past.values()]
        return {mirrored.label for mirrored in models if mirrored.table == table}

    def _rename_in_outbox(self, labels: set[str], old: str, new: str) -> None:
        if not labels or not self._has_outbox():
            return
        entries = Outbox.objects.using(self.connection.alias).filter(model__in=labels).order_by("id")
        last = 0
        while page := list(entries.filter(id__gt=last).values_list("id", "payload")[:_PAGE]):
            for last, payload in page:
                renamed = rename_column(payload, old, new)
                if renamed != payload:
                    entries.filter(id=last).update(payload=renamed)

    def _relabel(self) -> None:
        models = mirrored_models()
        now = {mirrored.table: mirrored.label for mirrored in models.values()}
        for table, mirrored in self._past.items():
            label = now.get(table, mirrored.label)
            if label == mirrored.label or mirrored.label in models or not self._has_outbox():
                continue
            entries = Outbox.objects.using(self.connection.alias).filter(model=mirrored.label)
            entries.update(model=label)
            self._rename_mark(mirrored.label, label)
            self._past[table] = replace(mirrored, label=label)

    def _rename_mark(self, old: str, new: str) -> None:
        if self._has(Untold):
            untold.rename(self.connection.alias, old, new)

    def _has_outbox(self) -> bool:
        return self._has(Outbox)

    def _has(self, model: type[Model]) -> bool:
        return bool(WRITERS[self.connection.vendor].tables(self.connection, [model._meta.db_table]))

    # Values

    def _number(self) -> int | None:
        """A number higher than that of every change that is captured, committed or not."""
        if conf().capture != "triggers" or not self._has_outbox():
            return None
        with transaction.atomic(using=self.connection.alias):
            number: int = Outbox.objects.using(self.connection.alias).create(captured_at=0).pk
            transaction.set_rollback(True, using=self.connection.alias)
        return number

    def _make_up_for_what_was_unseen(self, ddl: Ddl) -> None:
        """MySQL has no transaction around a statement and its triggers: others may have written meanwhile."""
        since, self._unseen_since = self._unseen_since, None
        if since is not None and self._number() != since + 1:
            self._made_up |= {
                (label, new) for table, _old, new in ddl.renamed_columns for label in self._labels(table)
            }

    def _record_what_was_made_up(self, only: Collection[str] | None) -> None:
        if not self._made_up:
            return
        models, tables = captured(self.connection, self._past, only=only)
        for table, mirrored in models.items():
            columns = {field.column for field in mirrored.fields}
            labels = self._labels(table)
            done = {
                (label, column) for label, column in self._made_up if label in labels and column in columns
            }
            if done and table in tables:
                record_all(self.connection, mirrored)
                self._made_up -= done


def before_migrate(
    connection: BaseDatabaseWrapper, past: Apps | None = None, plan: Sequence[tuple[Any, bool]] = ()
) -> None:
    """``past`` and ``plan`` as ``pre_migrate`` has them: the models as they are, and what will be done."""
    if connection.vendor not in WRITERS:
        return
    after_migrate(connection)
    models = described(past) if past is not None and plan else {}
    course = read_plan(plan, models, copies=connection.vendor == "sqlite")
    if conf().capture is None:
        course = replace(course, made_up=frozenset())
    if plan and refuses():
        # A trigger must not name what a migration takes away.
        sync(connection, models)
    connection.execute_wrappers.append(
        MigrationGuard(connection, course.without_excluded(models.values()), course)
    )


def after_migrate(connection: BaseDatabaseWrapper) -> Iterable[MigrationGuard]:
    """Let the guards go; return them, for what they have yet to do."""
    guards = [one for one in connection.execute_wrappers if isinstance(one, MigrationGuard)]
    for guard in guards:
        connection.execute_wrappers.remove(guard)
    return guards


def rename_column(payload: str, old: str, new: str) -> str:
    """Return a payload of the outbox with a column under its new name, each value as it is written there."""
    renamed_row = told.rename_column(payload, old, new)
    if renamed_row is not None:
        return renamed_row
    parts: _Columns | list[_Columns] = msgspec.json.decode(payload, type=_Columns | list[_Columns])
    names = {old: new, f"{old}>": f"{new}>"}
    several = parts if isinstance(parts, list) else [parts]
    if not any(names.keys() & part.keys() for part in several):
        return payload
    renamed = [{names.get(name, name): value for name, value in part.items()} for part in several]
    return msgspec.json.encode(renamed if isinstance(parts, list) else renamed[0]).decode()


def _with_table(mirrored: MirroredModel, old: str, new: str) -> MirroredModel:
    def change(field: MirroredField) -> MirroredField:
        reference = field.reference
        if reference is None or reference.table != old:
            return field
        return replace(field, reference=replace(reference, table=new))

    table = new if mirrored.table == old else mirrored.table
    return replace(
        mirrored,
        table=table,
        fields=tuple(map(change, mirrored.fields)),
        key=tuple(map(change, mirrored.key)),
    )


def _with_column(mirrored: MirroredModel, table: str, old: str, new: str) -> MirroredModel:
    def change(field: MirroredField) -> MirroredField:
        reference = field.reference
        if reference is not None and reference.table == table:
            names = {old: new}
            field = replace(
                field,
                reference=replace(
                    reference,
                    pk_column=names.get(reference.pk_column, reference.pk_column),
                    uuid_column=names.get(reference.uuid_column, reference.uuid_column),
                ),
            )
        return replace(field, column=new) if mirrored.table == table and field.column == old else field

    return replace(mirrored, fields=tuple(map(change, mirrored.fields)), key=tuple(map(change, mirrored.key)))

"""Which triggers there should be, and making those that are installed the same."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from django.apps import apps
from django.db.backends.base.base import BaseDatabaseWrapper

from mirror.capture import untold
from mirror.capture.tables import Selection, Table, is_refusal
from mirror.capture.writers import WRITERS, Writer
from mirror.conf import conf
from mirror.models import Outbox, Untold
from mirror.registry import MirroredField, MirroredModel, mirrored_models

Past = Mapping[str, MirroredModel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """Of the capture of a model: its table had no trigger that captures."""

    label: str
    #: As Django names it, and as it stands in SQL.
    table: str
    quoted: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Between the triggers that are installed and those that there should be."""

    removed: list[str] = field(default_factory=list)
    #: SQL by name.
    added: Mapping[str, str] = field(default_factory=dict)
    begins: Sequence[Beginning] = ()
    #: Labels of the models of which nothing is captured from now on.
    ends: Collection[str] = ()

    def __bool__(self) -> bool:
        return bool(self.removed or self.added)


def sync(connection: BaseDatabaseWrapper, past: Past | None = None) -> list[str]:
    """As ``align``; return what was done, a line each."""
    done = align(connection, past)
    return [f"removed {name}" for name in done.removed] + [f"installed {name}" for name in done.added]


def align(
    connection: BaseDatabaseWrapper,
    past: Past | None = None,
    hidden: Container[tuple[str, str]] = frozenset(),
    only: Container[str] | None = None,
    begun: Container[str] = frozenset(),
) -> Difference:
    """Make the installed triggers those that MIRROR asks for; return what was done.

    While a migration runs, ``past`` has by table what was mirrored when it began, ``hidden`` the tables
    and columns that the triggers must not name, ``only`` the tables, in lower case, that may have changed;
    meanwhile the database refuses nothing. ``begun`` are tables, in lower case, that are captured already,
    also where a statement has just taken their triggers away.
    """
    writer = WRITERS.get(connection.vendor)
    if writer is None or not _difference(connection, writer, past, hidden, only, begun):
        return Difference()
    with writer.alone(connection):
        # Again: whoever was first may have done it.
        due = _difference(connection, writer, past, hidden, only, begun)
        doubted = untold.mark(connection.alias, [one.label for one in due.begins])
        untold.mark(connection.alias, due.ends)
        with connection.cursor() as cursor:
            # What is not in the way stays until the new is there: no write finds a table without triggers.
            for name in due.removed:
                if name in due.added:
                    cursor.execute(writer.drop(connection, name))
            for sql in due.added.values():
                cursor.execute(sql)
            for name in due.removed:
                if name not in due.added:
                    cursor.execute(writer.drop(connection, name))
        untold.acquit(connection, {one.label: one.quoted for one in due.begins if one.label in doubted})
    return due


def remove(connection: BaseDatabaseWrapper) -> list[str]:
    """Remove every trigger of ours; return their names."""
    writer = WRITERS.get(connection.vendor)
    if writer is None:
        return []
    with writer.alone(connection), connection.cursor() as cursor:
        names = list(writer.installed(connection))
        for name in names:
            cursor.execute(writer.drop(connection, name))
    return names


def record_all(connection: BaseDatabaseWrapper, mirrored: MirroredModel) -> None:
    """Record every row of a table as saved: no trigger could see how it got the values that it has."""
    writer = WRITERS[connection.vendor]
    tables = _tables(connection, writer, [mirrored])
    present = _present(mirrored, tables)
    if present is not None and Outbox._meta.db_table in tables:
        with writer.alone(connection), connection.cursor() as cursor:
            cursor.execute(writer.record_all(connection, present, tables))


def selection(connection: BaseDatabaseWrapper, mirrored: MirroredModel) -> Selection | None:
    """How to read the rows of a table as its triggers would write them; None where it can have none."""
    writer = WRITERS[connection.vendor]
    tables = _tables(connection, writer, [mirrored])
    present = _present(mirrored, tables)
    return None if present is None else writer.selection(connection, present, tables)


def foreign(connection: BaseDatabaseWrapper) -> bool:
    """Whether there are triggers that the code and the settings of this process would not make."""
    writer = WRITERS.get(connection.vendor)
    if writer is None:
        return False
    installed = writer.installed(connection)
    if not installed:
        return False
    models, tables = captured(connection, {})
    asked: dict[str, str] = {}
    for triggers in (*_wanted(connection, writer, models, tables).values(), *refusals(connection).values()):
        asked |= triggers
    return any(asked.get(name) != sql for name, (_table, sql) in installed.items())


def captured(
    connection: BaseDatabaseWrapper,
    past: Past,
    hidden: Container[tuple[str, str]] = frozenset(),
    only: Container[str] | None = None,
) -> tuple[dict[str, MirroredModel], dict[str, Table]]:
    """What is to be captured of each table that is there, by table, and the tables.

    In the midst of a migration rows are written that still have the columns, or the table, of the past,
    of which the models of the code know nothing.
    """
    models = {mirrored.table: mirrored for mirrored in mirrored_models().values()}
    if only is not None:
        models, past = (
            {table: mirrored for table, mirrored in some.items() if table.lower() in only}
            for some in (models, past)
        )
    tables = _tables(connection, WRITERS[connection.vendor], [*models.values(), *past.values()])
    if hidden:
        tables = {name: _without(table, name, hidden) for name, table in tables.items()}
    if conf().capture != "triggers" or Outbox._meta.db_table not in tables:
        return {}, tables
    both = {table: _both(models.get(table), past.get(table), tables) for table in {**models, **past}}
    return {table: mirrored for table, mirrored in both.items() if mirrored is not None}, tables


def refusals(connection: BaseDatabaseWrapper) -> dict[str, dict[str, str]]:
    """By table, the name and SQL of each trigger that is to refuse what apply did not write."""
    writer = WRITERS.get(connection.vendor)
    if writer is None or not refuses():
        return {}
    models = {mirrored.table: mirrored for mirrored in mirrored_models().values()}
    tables = _tables(connection, writer, models.values())
    if Outbox._meta.db_table not in tables:
        return {}
    return {
        table: writer.refusals(connection, mirrored, tables)
        for table, mirrored in models.items()
        if table in tables
    }


def captured_tables(connection: BaseDatabaseWrapper) -> set[str]:
    """In lower case: those that have triggers which capture."""
    installed = WRITERS[connection.vendor].installed(connection)
    return {table.lower() for table, sql in installed.values() if table and not is_refusal(sql)}


def refuses() -> bool:
    """Whether the database is to refuse writes. Its triggers and those that capture exclude each other."""
    return conf().read_only == "triggers" and conf().capture != "triggers"


def _difference(
    connection: BaseDatabaseWrapper,
    writer: Writer,
    past: Past | None,
    hidden: Container[tuple[str, str]],
    only: Container[str] | None,
    begun: Container[str],
) -> Difference:
    installed = writer.installed(connection)
    models, tables = captured(connection, past or {}, hidden, only)
    wanted = _wanted(connection, writer, models, tables)
    capturing = {name: table.lower() for name, (table, sql) in installed.items() if not is_refusal(sql)}
    begins = {
        table: models[table]
        for table, triggers in wanted.items()
        if table.lower() not in capturing.values()
        and table.lower() not in begun
        # A table of another schema goes by another name there.
        and not triggers.keys() & capturing.keys()
    }
    # Where it could not be told what was there before, capture does not begin.
    can_mark = Untold._meta.db_table in tables
    asked = {
        name: sql
        for table, triggers in wanted.items()
        if can_mark or table not in begins
        for name, sql in triggers.items()
    }
    if past is None:
        for triggers in refusals(connection).values():
            asked |= triggers
    present = {
        name: sql
        for name, (table, sql) in installed.items()
        # No table has what its table left behind.
        if only is None or not table or table.lower() in only
    }
    added = {name: sql for name, sql in asked.items() if present.get(name) != sql}
    kept = asked if writer.IN_PLACE else asked.keys() - added.keys()
    return Difference(
        removed=[name for name in present if name not in kept],
        added=added,
        begins=[
            Beginning(label=mirrored.label, table=table, quoted=tables[table].name)
            for table, mirrored in begins.items()
            if can_mark
        ],
        ends=_ending(capturing, models) if can_mark and past is None else (),
    )


def _ending(capturing: Mapping[str, str], models: Iterable[str]) -> list[str]:
    """The models of tables whose capture ends because MIRROR does not ask for it any more."""
    if conf().capture == "signals":
        return []
    ended = set(capturing.values()) - {table.lower() for table in models}
    return [
        model._meta.label_lower
        for model in apps.get_models(include_auto_created=True)
        if model._meta.db_table.lower() in ended and not model._meta.proxy
    ]


def _wanted(
    connection: BaseDatabaseWrapper,
    writer: Writer,
    models: Mapping[str, MirroredModel],
    tables: Mapping[str, Table],
) -> dict[str, dict[str, str]]:
    """By table, the name and SQL of each trigger that is to capture."""
    found = {table: writer.triggers(connection, mirrored, tables) for table, mirrored in models.items()}
    return {table: triggers for table, triggers in found.items() if triggers}


def _tables(
    connection: BaseDatabaseWrapper, writer: Writer, models: Iterable[MirroredModel]
) -> dict[str, Table]:
    names = [Outbox._meta.db_table, Untold._meta.db_table]
    for mirrored in models:
        names.append(mirrored.table)
        names += [field.reference.table for field in mirrored.fields if field.reference]
    return writer.tables(connection, list(dict.fromkeys(names)))


def _without(table: Table, name: str, hidden: Container[tuple[str, str]]) -> Table:
    return replace(
        table,
        columns={column: kind for column, kind in table.columns.items() if (name, column) not in hidden},
    )


def _both(
    now: MirroredModel | None, past: MirroredModel | None, tables: Mapping[str, Table]
) -> MirroredModel | None:
    """The model of the code with what else the table still has, or that of the past until it can be told."""
    present = [found for model in (now, past) if model and (found := _present(model, tables))]
    if len(present) < 2:
        return next(iter(present), None)
    columns = {field.column for field in present[0].fields}
    more = [field for field in present[1].fields if field.column not in columns]
    return replace(present[0], fields=(*present[0].fields, *more))


def _present(mirrored: MirroredModel, tables: Mapping[str, Table]) -> MirroredModel | None:
    """What there is of it, or None where one row could not be told from another."""
    table = tables.get(mirrored.table)
    if table is None or not all(field.column in table.columns for field in mirrored.key):
        return None
    fields = [
        field if _can_be_looked_up(field, tables) else replace(field, reference=None)
        for field in mirrored.fields
        if field.column in table.columns
    ]
    return replace(mirrored, fields=tuple(fields))


def _can_be_looked_up(field: MirroredField, tables: Mapping[str, Table]) -> bool:
    reference = field.reference
    parent = tables.get(reference.table) if reference else None
    if reference is None or parent is None:
        return False
    return reference.pk_column in parent.columns and reference.uuid_column in parent.columns

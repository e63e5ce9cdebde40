"""Which triggers there should be, and making those that are installed the same."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace

from django.db.backends.base.base import BaseDatabaseWrapper

from mirror.capture.tables import Table
from mirror.capture.writers import WRITERS, Writer
from mirror.conf import conf
from mirror.models import Outbox
from mirror.registry import MirroredField, MirroredModel, mirrored_models

Past = Mapping[str, MirroredModel]

_NOTHING: Past = {}


def sync(
    connection: BaseDatabaseWrapper,
    past: Past = _NOTHING,
    hidden: Container[tuple[str, str]] = frozenset(),
    only: Container[str] | None = None,
) -> list[str]:
    """Make the installed triggers those that MIRROR asks for; return what was done, a line each.

    While a migration runs, ``past`` has by table what was mirrored when it began, ``hidden`` the tables
    and columns that the triggers must not name, ``only`` the tables, in lower case, that may have changed.
    """
    writer = WRITERS.get(connection.vendor)
    if writer is None:
        return []
    if not any(_difference(connection, writer, past, hidden, only)):
        return []
    with writer.alone(connection):
        # Again: whoever was first may have done it.
        removed, added = _difference(connection, writer, past, hidden, only)
        with connection.cursor() as cursor:
            # What is not in the way stays until the new is there: no write finds a table without triggers.
            for name in removed:
                if name in added:
                    cursor.execute(writer.drop(connection, name))
            for sql in added.values():
                cursor.execute(sql)
            for name in removed:
                if name not in added:
                    cursor.execute(writer.drop(connection, name))
    return [f"removed {name}" for name in removed] + [f"installed {name}" for name in added]


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


def foreign(connection: BaseDatabaseWrapper) -> bool:
    """Whether there are triggers that the code and the settings of this process would not make."""
    writer = WRITERS.get(connection.vendor)
    if writer is None:
        return False
    installed = writer.installed(connection)
    asked = _wanted(connection, writer, _NOTHING, frozenset(), None) if installed else {}
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


def _difference(
    connection: BaseDatabaseWrapper,
    writer: Writer,
    past: Past,
    hidden: Container[tuple[str, str]],
    only: Container[str] | None,
) -> tuple[list[str], dict[str, str]]:
    """The triggers to remove, and those to install."""
    asked = _wanted(connection, writer, past, hidden, only)
    present = {
        name: sql
        for name, (table, sql) in writer.installed(connection).items()
        # No table has what its table left behind.
        if only is None or not table or table.lower() in only
    }
    added = {name: sql for name, sql in asked.items() if present.get(name) != sql}
    kept = asked if writer.IN_PLACE else asked.keys() - added.keys()
    return [name for name in present if name not in kept], added


def _wanted(
    connection: BaseDatabaseWrapper,
    writer: Writer,
    past: Past,
    hidden: Container[tuple[str, str]],
    only: Container[str] | None,
) -> dict[str, str]:
    models, tables = captured(connection, past, hidden, only)
    found: dict[str, str] = {}
    for mirrored in models.values():
        found |= writer.triggers(connection, mirrored, tables)
    return found


def _tables(
    connection: BaseDatabaseWrapper, writer: Writer, models: Iterable[MirroredModel]
) -> dict[str, Table]:
    names = [Outbox._meta.db_table]
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

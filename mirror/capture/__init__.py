"""Capture: triggers that put every change of a mirrored row into the outbox, in the same transaction.

One writer per database vendor knows the SQL; ``sync`` compares what a writer wants with what is
installed. ``migrate`` calls it, also between the statements of a migration, so that a table that
SQLite rebuilds is never left without its triggers.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from mirror.capture import postgresql, sqlite
from mirror.capture.tables import Table
from mirror.conf import conf
from mirror.models import Outbox, Stream
from mirror.registry import MirroredModel, mirrored_models

logger = logging.getLogger("mirror.capture")

_DDL = re.compile(r"\s*(CREATE|ALTER|DROP)\s+TABLE\b", re.IGNORECASE)
_COLUMN_DDL = re.compile(
    r"\s*ALTER\s+TABLE\s+(?P<table>\"[^\"]+\"|\S+)\s+(DROP|RENAME)\s+COLUMN\b", re.IGNORECASE
)


class Writer(Protocol):
    """What a database vendor has to offer. Trigger names begin with ``PREFIX``."""

    PREFIX: str
    #: True where its SQL also replaces what is installed, and that is not in the way of a migration.
    IN_PLACE: bool

    def alone(self, connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
        """Within a transaction: whoever else wants to change the triggers waits for its end."""

    def tables(self, connection: BaseDatabaseWrapper, names: Iterable[str]) -> dict[str, Table]:
        """Those of the tables that exist and can have triggers."""

    def triggers(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel, tables: Mapping[str, Table]
    ) -> dict[str, str]:
        """Name and SQL of each trigger for a table, in a database of these tables."""

    def installed(self, connection: BaseDatabaseWrapper) -> dict[str, tuple[str, str]]:
        """Table and SQL of each trigger of ours, by name."""

    def drop(self, connection: BaseDatabaseWrapper, name: str) -> str:
        """The SQL that removes a trigger."""

    def decoders(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel
    ) -> Mapping[str, Callable[[Any], Any]]:
        """By column: from a value of the payload to what the driver would have returned."""

    def silenced(self, connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
        """Within the current transaction, which has written already: let nothing be captured."""


WRITERS: dict[str, Writer] = {"postgresql": postgresql.Postgresql(), "sqlite": sqlite.Sqlite()}


def supported(vendor: str) -> bool:
    return vendor in WRITERS


def silenced(connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
    """Applying must not echo: what the current transaction writes within this is not captured."""
    writer = WRITERS.get(connection.vendor)
    if writer is None or conf().capture is None:
        return nullcontext()
    return writer.silenced(connection)


def sync(connection: BaseDatabaseWrapper) -> list[str]:
    """Make the installed triggers those that MIRROR asks for; return what was done, a line each."""
    writer = WRITERS.get(connection.vendor)
    if writer is None:
        return []
    if not any(_difference(connection, writer)):
        return []
    with transaction.atomic(using=connection.alias), writer.alone(connection):
        # Again: whoever was first may have done it.
        removed, added = _difference(connection, writer)
        with connection.cursor() as cursor:
            for name in removed:
                cursor.execute(writer.drop(connection, name))
            for sql in added.values():
                cursor.execute(sql)
    return [f"removed {name}" for name in removed] + [f"installed {name}" for name in added]


def _difference(connection: BaseDatabaseWrapper, writer: Writer) -> tuple[list[str], dict[str, str]]:
    """The triggers to remove, and those to install."""
    wanted = _wanted(connection, writer) if conf().capture == "triggers" else {}
    present = {name: sql for name, (_table, sql) in writer.installed(connection).items()}
    added = {name: sql for name, sql in wanted.items() if present.get(name) != sql}
    kept = wanted if writer.IN_PLACE else wanted.keys() - added.keys()
    return [name for name in present if name not in kept], added


def _wanted(connection: BaseDatabaseWrapper, writer: Writer) -> dict[str, str]:
    models = mirrored_models().values()
    tables = writer.tables(connection, [Outbox._meta.db_table, *(mirrored.table for mirrored in models)])
    if Outbox._meta.db_table not in tables:
        return {}
    wanted: dict[str, str] = {}
    for mirrored in models:
        if mirrored.table in tables:
            wanted |= writer.triggers(connection, mirrored, tables)
    return wanted


class MigrationGuard:
    """An execute wrapper that keeps the triggers right while ``migrate`` changes tables.

    SQLite refuses to drop a column that a trigger names, and to rename any table while a trigger names one
    that is missing; it forgets the triggers of a table that Django rebuilds, and rows written later in the
    same ``migrate`` would go unnoticed.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection

    def __call__(
        self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]
    ) -> Any:
        if not isinstance(sql, str) or not _DDL.match(sql):
            return execute(sql, params, many, context)
        column_ddl = _COLUMN_DDL.match(sql)
        if column_ddl:
            self._release(column_ddl["table"].strip('"'))
        result = execute(sql, params, many, context)
        sync(self.connection)
        return result

    def _release(self, table: str) -> None:
        writer = WRITERS[self.connection.vendor]
        if writer.IN_PLACE:
            return
        with self.connection.cursor() as cursor:
            for name, (owner, _sql) in writer.installed(self.connection).items():
                if owner == table:
                    cursor.execute(writer.drop(self.connection, name))


def before_migrate(connection: BaseDatabaseWrapper) -> None:
    if supported(connection.vendor):
        after_migrate(connection)
        connection.execute_wrappers.append(MigrationGuard(connection))


def after_migrate(connection: BaseDatabaseWrapper) -> None:
    connection.execute_wrappers[:] = [
        wrapper for wrapper in connection.execute_wrappers if not isinstance(wrapper, MigrationGuard)
    ]


def prepare(connection: BaseDatabaseWrapper) -> None:
    """After ``migrate``: the triggers, and the stream that they are recorded in."""
    for line in sync(connection):
        logger.info(line)
    if conf().capture is not None:
        Stream.objects.using(connection.alias).get_or_create(local=True)

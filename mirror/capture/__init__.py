"""Capture: triggers that put every change of a mirrored row into the outbox, in the same transaction.

One writer per database vendor knows the SQL; ``sync`` compares what a writer wants with what is
installed. ``migrate`` calls it, also between the statements of a migration, so that a table that
SQLite rebuilds is never left without its triggers.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext

from django.db.backends.base.base import BaseDatabaseWrapper

from mirror.capture import signals, untold
from mirror.capture.migrating import MigrationGuard, after_migrate, before_migrate
from mirror.capture.triggers import refuses, remove, sync
from mirror.capture.writers import WRITERS, Writer
from mirror.conf import conf
from mirror.models import Stream, Untold

__all__ = [
    "WRITERS",
    "MigrationGuard",
    "Writer",
    "after_migrate",
    "before_migrate",
    "prepare",
    "remove",
    "silenced",
    "supported",
    "sync",
    "writable",
]

logger = logging.getLogger("mirror.capture")


def supported(vendor: str) -> bool:
    return vendor in WRITERS


def silenced(connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
    """Applying must not echo: what the current transaction writes within this is not captured."""
    if conf().capture == "signals":
        return signals.silenced(connection)
    writer = WRITERS.get(connection.vendor)
    if writer is None or conf().capture is None:
        return nullcontext()
    return writer.silenced(connection)


def writable(connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
    """What is written within passes by the triggers with which a read-only database refuses."""
    writer = WRITERS.get(connection.vendor)
    return writer.writable(connection) if writer is not None and refuses() else nullcontext()


def prepare(connection: BaseDatabaseWrapper) -> None:
    """After ``migrate``: the triggers, and the stream that they are recorded in."""
    guards = after_migrate(connection)
    for line in sync(connection):
        logger.info(line)
    # "migrate mirror zero" has left nothing to prepare.
    tables = connection.introspection.table_names()
    if Stream._meta.db_table not in tables:
        return
    for guard in guards:
        guard.finish()
    if conf().capture is not None:
        Stream.objects.using(connection.alias).get_or_create(local=True)
    if conf().capture == "signals" and Untold._meta.db_table in tables:
        untold.mark_what_no_entry_tells(connection)

"""A source on PostgreSQL: a database of this run's own, migrated once, emptied before each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.core.management import call_command
from django.db import connection

from mirror import capture, oplogger
from mirror.models import Stream
from tests.fakes import Recorded
from tests.mirror.conftest import attached
from tests.mirror.server_support import (
    DELETE,
    KEPT,
    SAVE,
    at_once,
    database,
    execute,
    fetch,
    names,
    rolled_back,
    seen,
)

__all__ = [
    "DELETE",
    "KEPT",
    "SAVE",
    "at_once",
    "database",
    "execute",
    "fetch",
    "installed",
    "migrated",
    "names",
    "plain",
    "recorded",
    "rolled_back",
    "seen",
]


def installed() -> dict[str, tuple[str, str]]:
    return capture.WRITERS["postgresql"].installed(connection)


def plain() -> psycopg.Connection:
    """A client that knows nothing of Django, in a transaction of its own."""
    settings = connection.settings_dict
    return psycopg.connect(
        host=settings["HOST"], port=settings["PORT"], user=settings["USER"], dbname=settings["NAME"]
    )


@contextmanager
def migrated() -> Iterator[dict[str, Any]]:
    with database("postgresql", "livemirror_source") as settings:
        with attached("default", settings):
            call_command("migrate", verbosity=0)
            execute("CREATE EXTENSION hstore; CREATE EXTENSION citext")
        yield settings


@contextmanager
def recorded(settings: dict[str, Any]) -> Iterator[Recorded]:
    """The default database as a source that has recorded nothing yet."""
    oplogger.forget()
    with attached("default", settings):
        tables = ", ".join(f'"{name}"' for name in set(connection.introspection.table_names()) - KEPT)
        execute("SET session_replication_role = replica")
        execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
        execute("SET session_replication_role = origin")
        capture.sync(connection)
        Stream.objects.create(local=True)
        yield Recorded("default")

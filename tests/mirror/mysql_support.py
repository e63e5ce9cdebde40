"""A source on MariaDB: a database of this run's own, migrated once, emptied before each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pymysql
from django.core.management import call_command
from django.db import connection

from mirror import capture, oplogger
from mirror.models import Outbox, Stream
from tests.fakes import Recorded
from tests.mirror.conftest import attached
from tests.mirror.server_support import KEPT, database, execute


def installed() -> dict[str, tuple[str, str]]:
    return capture.WRITERS["mysql"].installed(connection)


def plain(**options: Any) -> pymysql.Connection:
    """A client that knows nothing of Django, in a transaction of its own."""
    settings = connection.settings_dict
    options = {"user": settings["USER"], "database": settings["NAME"], "charset": "utf8mb4", **options}
    return pymysql.connect(host=settings["HOST"], port=int(settings["PORT"]), **options)


def says(client: pymysql.Connection, sql: str, parameters: Any = None) -> tuple[tuple[Any, ...], ...]:
    with client.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()


@contextmanager
def migrated() -> Iterator[dict[str, Any]]:
    with database("mariadb", "livemirror_source") as settings:
        with attached("default", settings):
            call_command("migrate", verbosity=0)
        yield settings


@contextmanager
def recorded(settings: dict[str, Any]) -> Iterator[Recorded]:
    """The default database as a source that has recorded nothing yet."""
    oplogger.forget()
    with attached("default", settings):
        capture.sync(connection)
        execute("SET foreign_key_checks = 0")
        for table in set(connection.introspection.table_names()) - KEPT:
            # Not TRUNCATE: creating the file anew takes 20 ms a table.
            execute(f"DELETE FROM `{table}`")
        execute("SET foreign_key_checks = 1")
        Outbox.objects.all().delete()
        Stream.objects.create(local=True)
        yield Recorded("default")

"""A source on PostgreSQL: a database of this run's own, migrated once, emptied before each test."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.db.utils import OperationalError

from mirror import capture, oplogger
from mirror.changes import Change, Op
from mirror.models import Stream
from tests.fakes import Recorded
from tests.mirror.conftest import attached, server

KEPT = {"django_migrations", "django_content_type", "auth_permission"}
SAVE, DELETE = Op.SAVE, Op.DELETE


def execute(sql: str, parameters: Any = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)


def fetch(sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()


def seen(changes: list[Change]) -> list[tuple[Op, str]]:
    return [(change.op, change.model.removeprefix("shop.")) for change in changes]


def names(changes: list[Change]) -> list[tuple[Op, str]]:
    return [(change.op, change.fields["name"]) for change in changes]


def installed() -> dict[str, tuple[str, str]]:
    return capture.WRITERS["postgresql"].installed(connection)


def plain() -> psycopg.Connection:
    """A client that knows nothing of Django, in a transaction of its own."""
    settings = connection.settings_dict
    return psycopg.connect(
        host=settings["HOST"], port=settings["PORT"], user=settings["USER"], dbname=settings["NAME"]
    )


def at_once(*works: Callable[[], object]) -> None:
    """Run each in a thread with connections of its own; raise what they raised."""
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=[work]) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class _Undo(Exception):
    pass


@contextmanager
def rolled_back() -> Iterator[None]:
    with suppress(_Undo), transaction.atomic():
        yield
        raise _Undo


@contextmanager
def database(name: str) -> Iterator[dict[str, Any]]:
    """A database that exists for a while; without a server the tests are skipped, or fail where asked to."""
    name = f"{name}_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}_{os.getpid()}"
    try:
        _maintain(f"CREATE DATABASE {name}")
    except OperationalError as error:
        reason = f"no postgresql server on loopback: {error}"
        if os.environ.get("MIRROR_REQUIRE_SERVICES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        yield server("postgresql", name)
    finally:
        _maintain(f"DROP DATABASE {name} WITH (FORCE)")


def _maintain(sql: str) -> None:
    with (
        attached("maintenance", server("postgresql", "postgres")) as maintenance,
        maintenance.cursor() as cursor,
    ):
        cursor.execute(sql)


@contextmanager
def migrated() -> Iterator[dict[str, Any]]:
    with database("livemirror_source") as settings:
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

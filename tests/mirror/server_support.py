"""A source on a database server: what PostgreSQL and MariaDB have in common."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.db import connection, connections, transaction

from mirror.changes import Change, Op
from tests.end_to_end.databases import served

KEPT = {"django_migrations", "django_content_type", "auth_permission"}
SAVE, DELETE = Op.SAVE, Op.DELETE


def execute(sql: str, parameters: Any = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)


def fetch(sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())


def seen(changes: list[Change]) -> list[tuple[Op, str]]:
    return [(change.op, change.model.removeprefix("shop.")) for change in changes]


def names(changes: list[Change]) -> list[tuple[Op, str]]:
    return [(change.op, change.fields["name"]) for change in changes]


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
def database(vendor: str, name: str) -> Iterator[dict[str, Any]]:
    """A database of this test process."""
    with served(vendor, f"{name}_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}_{os.getpid()}") as settings:
        yield settings

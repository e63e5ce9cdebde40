"""Fewer waits for a database server: on loopback a trip there and back is most of a small statement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper


@contextmanager
def in_one_trip(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Statements whose results are not asked for within: they go together where the driver can.

    An error of any of them is raised at the end. What a cursor says of the rows it has changed may be
    asked after that.
    """
    if connection.vendor != "postgresql":
        yield
        return
    with connection.wrap_database_errors, connection.connection.pipeline():
        yield


def fetch_last(
    connection: BaseDatabaseWrapper, statements: Sequence[str], ending: Sequence[str] = ()
) -> list[tuple[Any, ...]]:
    """What the last of some statements without parameters gives; ``ending`` is for PostgreSQL, which gets all
    of them in one trip.
    """
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("; ".join([*statements, *ending]))
            for _statement in statements[1:]:
                cursor.nextset()
        else:
            for statement in statements:
                cursor.execute(statement)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows

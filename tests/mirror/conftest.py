"""Databases for the record: real files and servers with real commits, nothing rolled back behind the test.

``source`` is the default database with its triggers; ``centre`` is another one, without. Both are copies
of a template that was migrated once. ``centre`` runs on each vendor that a test asks for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import override_settings

from mirror import capture, maintenance, oplogger
from tests import mysql_driver
from tests.end_to_end.databases import served
from tests.fakes import Centre, Recorded

_SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=OFF;",
}

VENDORS = [
    "sqlite",
    pytest.param("postgresql", marks=pytest.mark.postgresql),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
]


def sqlite(path: Path) -> dict[str, Any]:
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path), "OPTIONS": dict(_SQLITE_OPTIONS)}


@contextmanager
def attached(alias: str, database: dict[str, Any]) -> Iterator[BaseDatabaseWrapper]:
    """Give an alias another database for a while, in every thread."""
    opened = connections._connections  # type: ignore[attr-defined]
    before = connections.settings.get(alias), getattr(opened, alias, None)
    complete = connections.configure_settings({"default": {}, alias: database})
    connections.settings[alias] = complete[alias]
    connections[alias] = connections.create_connection(alias)
    try:
        yield connections[alias]
    finally:
        connections[alias].close()
        del connections[alias], connections.settings[alias]
        if before[0] is not None:
            connections.settings[alias] = before[0]
        if before[1] is not None:
            connections[alias] = before[1]


# SQLite


@pytest.fixture(scope="session")
def _templates(tmp_path_factory, django_db_blocker) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("templates")
    paths = {"source": directory / "source.sqlite3", "centre": directory / "centre.sqlite3"}
    # Made by whichever test comes first, whatever settings it has.
    with django_db_blocker.unblock(), override_settings(MIRROR={"MODELS": ["shop.*"]}):
        with attached("default", sqlite(paths["source"])) as connection:
            call_command("migrate", verbosity=0)
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(paths["source"], paths["centre"])
        with attached("default", sqlite(paths["centre"])) as connection:
            for name in capture.WRITERS["sqlite"].installed(connection):
                with connection.cursor() as cursor:
                    cursor.execute(f'DROP TRIGGER "{name}"')
            with connection.cursor() as cursor:
                cursor.execute("DELETE FROM mirror_stream")
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return paths


@pytest.fixture
def source_path(_templates, tmp_path) -> Path:
    return shutil.copy(_templates["source"], tmp_path / "source.sqlite3")


@pytest.fixture
def source(source_path, django_db_blocker) -> Iterator[Recorded]:
    """The default database: a source with its triggers."""
    oplogger.forget()
    with django_db_blocker.unblock(), attached("default", sqlite(source_path)):
        yield Recorded("default")


# The zoo, on any two engines


@pytest.fixture(scope="session")
def zoo_databases(tmp_path_factory, django_db_blocker) -> Iterator[Any]:
    """Gives the database of a role ("source" or "centre") on an engine, made when it is first asked for."""
    from tests.zoo import pairs

    with django_db_blocker.unblock(), ExitStack() as stack:

        @cache
        def give(engine: str, role: str, *more_apps: str) -> dict[str, Any]:
            with pairs.zoo(*more_apps):
                directory = tmp_path_factory.mktemp("zoo")
                return stack.enter_context(pairs.migrated(engine, role, directory, *more_apps))

        yield give


@pytest.fixture
def pair(engines, zoo_databases, django_db_blocker) -> Iterator[Any]:
    """An empty source and an empty centre of these two engines, with the tables of ``tests.zoo``."""
    from tests.zoo import pairs

    source, centre = zoo_databases(engines[0], "source"), zoo_databases(engines[1], "centre")
    with django_db_blocker.unblock(), pairs.zoo(), pairs.paired(source, centre, engines) as made:
        yield made


# The centre, on any vendor


@pytest.fixture
def vendor(request) -> str:
    return getattr(request, "param", "sqlite")


@pytest.fixture
def centre_database(vendor, request, tmp_path) -> dict[str, Any]:
    if vendor == "sqlite":
        templates = request.getfixturevalue("_templates")
        return sqlite(shutil.copy(templates["centre"], tmp_path / "centre.sqlite3"))
    return request.getfixturevalue(f"_{vendor}")


@pytest.fixture
def centre(centre_database, vendor, django_db_blocker) -> Iterator[Centre]:
    """Another database, which follows a source named paris."""
    with django_db_blocker.unblock(), attached("centre", centre_database) as connection:
        if vendor != "sqlite":
            with maintenance("an empty database for a test"):
                _empty(connection)
        yield Centre("centre")


@pytest.fixture(scope="session")
def _postgresql(django_db_blocker) -> Iterator[dict[str, Any]]:
    with django_db_blocker.unblock():
        yield from _served("postgresql")


@pytest.fixture(scope="session")
def postgresql_source(django_db_blocker) -> Iterator[dict[str, Any]]:
    """A migrated database with triggers, for ``postgresql_support.recorded``."""
    from tests.mirror.postgresql_support import migrated

    with django_db_blocker.unblock(), migrated() as settings:
        yield settings


@pytest.fixture(scope="session")
def mariadb_source(_mysqldb, django_db_blocker) -> Iterator[dict[str, Any]]:
    """A migrated database with triggers, for ``mysql_support.recorded``."""
    from tests.mirror.mysql_support import migrated

    with django_db_blocker.unblock(), migrated() as settings:
        yield settings


@pytest.fixture(scope="session")
def _mysqldb() -> None:
    mysql_driver.install()


@pytest.fixture(scope="session")
def _mariadb(_mysqldb, django_db_blocker) -> Iterator[dict[str, Any]]:
    with django_db_blocker.unblock():
        yield from _served("mariadb")


def _served(vendor: str) -> Iterator[dict[str, Any]]:
    """A migrated database on a server, which goes with the test run."""
    name = f"livemirror_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}_{os.getpid()}"
    with served(vendor, name) as settings:
        with attached("centre", settings), override_settings(MIRROR={"CAPTURE": None}):
            call_command("migrate", database="centre", verbosity=0)
        yield settings


def _empty(connection: BaseDatabaseWrapper) -> None:
    capture.remove(connection)
    kept = {"django_migrations", "django_content_type", "auth_permission"}
    tables = [name for name in connection.introspection.table_names() if name not in kept]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            names = ", ".join(f'"{name}"' for name in tables)
            cursor.execute(f"TRUNCATE {names} RESTART IDENTITY CASCADE")
            return
        cursor.execute("SET foreign_key_checks = 0")
        for name in tables:
            # Not TRUNCATE: creating the file anew takes 20 ms a table.
            cursor.execute(f"DELETE FROM `{name}`")
        cursor.execute("SET foreign_key_checks = 1")

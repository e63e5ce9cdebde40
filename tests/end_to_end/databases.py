"""Databases of the tests, reached with the plain drivers: what is read here no code of ours has touched."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from psycopg.types.json import set_json_loads

#: As Django's DATABASES has it.
Database = dict[str, Any]


def sqlite(path: Path) -> Database:
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}


class Reading:
    """One snapshot: every query of it sees the same commit."""

    def __init__(self, connection: Any, marker: str) -> None:
        self._connection = connection
        self._marker = marker

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return list(self._execute(sql, parameters).fetchall())

    def dicts(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        cursor = self._execute(sql, parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _execute(self, sql: str, parameters: tuple[Any, ...]) -> Any:
        cursor = self._connection.cursor()
        cursor.execute(sql.replace("?", self._marker), parameters)
        return cursor


@contextmanager
def reading(database: Database) -> Iterator[Reading]:
    engine = database["ENGINE"].rpartition(".")[2]
    if engine == "sqlite3":
        with closing(sqlite3.connect(database["NAME"], timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            yield Reading(connection, "?")
    elif engine == "postgresql":
        with closing(_postgresql(database["NAME"])) as connection:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            yield Reading(connection, "%s")
    else:
        with closing(_mariadb(database["NAME"])) as connection:
            connection.query("SET sql_mode = 'ANSI_QUOTES'")
            connection.query("START TRANSACTION WITH CONSISTENT SNAPSHOT")
            yield Reading(connection, "%s")


def server(engine: str, name: str) -> Database:
    """One on a server of this machine, whether it is there or not."""
    if engine == "postgresql":
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": name,
            "USER": "postgres",
            "HOST": "127.0.0.1",
            "PORT": "5432",
        }
    return {
        "ENGINE": "django.db.backends.mysql",
        "NAME": name,
        "USER": "root",
        "HOST": "127.0.0.1",
        "PORT": "3306",
        "OPTIONS": {"charset": "utf8mb4"},
    }


@contextmanager
def served(engine: str, name: str) -> Iterator[Database]:
    """A new database on a server of this machine, which goes afterwards."""
    try:
        _administer(engine, f"CREATE DATABASE {name}")
    except (psycopg.OperationalError, pymysql.OperationalError) as error:
        if os.environ.get("MIRROR_REQUIRE_SERVICES") == "1":
            pytest.fail(f"no {engine} on loopback: {error}")
        pytest.skip(f"no {engine} on loopback: {error}")
    try:
        yield server(engine, name)
    finally:
        _administer(engine, f"DROP DATABASE {name}{' WITH (FORCE)' if engine == 'postgresql' else ''}")


def _administer(engine: str, sql: str) -> None:
    if engine == "postgresql":
        with closing(_postgresql("postgres")) as connection:
            connection.execute(sql)
    else:
        with closing(_mariadb("mysql")) as connection:
            connection.query(sql)


def _postgresql(name: str) -> psycopg.Connection[tuple[Any, ...]]:
    connection = psycopg.connect(host="127.0.0.1", user="postgres", dbname=name, autocommit=True)
    # JSON as its text, as the others give it: a string of JSON could not be told from one of SQL.
    set_json_loads(lambda text: bytes(text).decode(), connection)
    return connection


def _mariadb(name: str) -> Any:
    return pymysql.connect(host="127.0.0.1", user="root", database=name, charset="utf8mb4", autocommit=True)

"""What is measured, and with what: the versions of packages, servers and peers that are here."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing, suppress
from importlib.metadata import PackageNotFoundError, version

import psycopg
import pymysql

from bench import transport
from bench.cluster import program
from bench.cqrs import peer as cqrs
from bench.sites import connect
from tests.end_to_end.databases import server

_PACKAGES = (
    "Django",
    "django-livemirror",
    "channels",
    "daphne",
    "autobahn",
    "twisted",
    "websockets",
    "msgspec",
    "psycopg",
    "PyMySQL",
)


def of_scenarios() -> dict[str, str]:
    """Their PostgreSQL is a cluster of their own."""
    found = {**_packages(), "SQLite": sqlite3.sqlite_version, "MariaDB": _served("mariadb")}
    if postgres := program("postgres"):
        said = subprocess.run([postgres, "--version"], capture_output=True, text=True, check=True).stdout
        found["PostgreSQL"] = said.strip().rpartition(") ")[2]
    if not transport.absent():
        found["Redis"] = transport.version()
    if not cqrs.absent():
        found |= cqrs.versions()
    return {name: told for name, told in found.items() if told}


def of_capture() -> dict[str, str]:
    found = {**_packages(), "SQLite": sqlite3.sqlite_version}
    found |= {"PostgreSQL": _served("postgresql"), "MariaDB": _served("mariadb")}
    return {name: told for name, told in found.items() if told}


def _packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _served(engine: str) -> str:
    """Of a server on loopback; nothing if none answers."""
    database = server(engine, "postgres" if engine == "postgresql" else "mysql")
    try:
        with closing(connect(database)) as connection:
            cursor = connection.cursor()
            cursor.execute("SHOW server_version" if engine == "postgresql" else "SELECT version()")
            return str(cursor.fetchone()[0])
    except (psycopg.OperationalError, pymysql.OperationalError):
        return ""

"""Benched servers: the same as the end-to-end tests start, with the polls models and no test settings."""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pymysql

from bench.cluster import Cluster, cluster, program
from tests.end_to_end.databases import Database, Reading, reading, served, sqlite
from tests.end_to_end.processes import ROOT, Running, Site

#: What must be the same on both sides; ``pkid`` is each server's own.
_TABLES = (
    "SELECT id, question_text, pub_date FROM polls_question ORDER BY id",
    "SELECT id, question_id, choice_text, votes FROM polls_choice ORDER BY id",
)


class BenchSite(Site):
    settings = "bench.settings"

    def __init__(self, name: str, role: str, directory: Path, database: Database, **conf: Any) -> None:
        super().__init__(name, role, directory, database)
        self.conf = conf if role == "source" else {"CAPTURE": None, **conf}
        if role != "centre":
            self.conf["READ_ONLY"] = False  # peers write on their own

    @property
    def environ(self) -> dict[str, str]:
        return {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": self.settings,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "BENCH_DB": json.dumps(self.database),
            "BENCH_MIRROR": json.dumps(self.conf),
        }

    def token(self, name: str = "centre") -> str:
        return self.manage("mirrortoken", "create", name).split()[-1]

    def follow(self, name: str, url: str, token: str, *, begin: str = "start") -> None:
        self.manage("mirrorsource", "add", name, url, "--token", token, "--from", begin)

    def reading(self) -> AbstractContextManager[Reading]:
        return _reading(self) if self.engine == "postgresql" else reading(self.database)

    @property
    def daphne(self) -> Running:
        """The one that serves."""
        return next(running for running in self.started if running.name.endswith("daphne") and running.alive)

    def position(self) -> int:
        """How many changes this source has given their place; 0 before its stream exists."""
        return int(self.one("SELECT position FROM mirror_stream WHERE local") or 0)

    def writes(self, changes: int, *how: str, seed: int = 1) -> None:
        """So many changes by a process of its own, and its end."""
        writer = self.start("backlog", "-m", "bench.backlog", str(changes), str(seed), *how)
        assert writer.wait(seconds=7200) == 0, writer.log


def connect(database: Database) -> Any:
    """A connection of the plain driver, in autocommit."""
    engine = database["ENGINE"].rpartition(".")[2]
    if engine == "sqlite3":
        return sqlite3.connect(database["NAME"], isolation_level=None, timeout=30)
    if engine == "postgresql":
        return psycopg.connect(
            host=database["HOST"],
            port=database["PORT"],
            user=database["USER"],
            dbname=database["NAME"],
            autocommit=True,
        )
    return pymysql.connect(
        host=database["HOST"], user=database["USER"], database=database["NAME"], autocommit=True
    )


@contextmanager
def _reading(site: Site) -> Iterator[Reading]:
    """As the tests' own, on the bench's PostgreSQL."""
    with closing(connect(site.database)) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        yield Reading(connection, "%s")


def same_tables(source: Site, centre: Site) -> bool:
    with source.reading() as ours, centre.reading() as theirs:
        return all(ours.rows(sql) == theirs.rows(sql) for sql in _TABLES)


class Ground:
    """Makes databases and servers for one scenario; all of them go with it."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self._stack = stack
        self._cluster: Cluster | None = None
        self._made = 0

    @property
    def cluster(self) -> Cluster:
        """The PostgreSQL that every contestant of a scenario works on, started when it is first needed."""
        if self._cluster is None:
            self._cluster = self._stack.enter_context(cluster(self.directory))
        return self._cluster

    def administering(self, engine: str) -> Any:
        """A connection to a server, whatever the database."""
        if engine == "postgresql":
            return self.cluster.connect("postgres")
        return pymysql.connect(host="127.0.0.1", user="root", autocommit=True)

    def database(self, engine: str) -> Database:
        """An empty one."""
        self._made += 1
        name = f"bench_{os.getpid()}_{self._made}"
        if engine == "sqlite":
            return sqlite(self.directory / f"{name}.sqlite3")
        if engine == "postgresql":
            return self.cluster.database(name)
        return self._stack.enter_context(served(engine, name))

    def site(self, role: str, engine: str, **conf: Any) -> BenchSite:
        """Migrated."""
        database = self.database(engine)
        site = self.add(BenchSite(f"{role}_{self._made}", role, self.directory, database, **conf))
        site.manage("migrate", "--verbosity", "0")
        return site

    def add(self, site: BenchSite) -> BenchSite:
        self._stack.callback(site.end)
        return site

    def centre_of(self, source: BenchSite, *, begin: str = "start") -> BenchSite:
        """A centre of the same engine that has the source registered and does not follow it yet."""
        centre = self.site("centre", source_engine(source))
        centre.follow("source", source.url, source.token(centre.name), begin=begin)
        return centre


@contextmanager
def ground() -> Iterator[Ground]:
    with ExitStack() as stack:
        # What a server that ends meanwhile still writes there does not matter.
        directory = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        yield Ground(Path(directory), stack)


def source_engine(site: Site) -> str:
    return {"sqlite3": "sqlite", "postgresql": "postgresql", "mysql": "mariadb"}[site.engine]


def absent(engine: str) -> str:
    """Why nothing can be measured on an engine, or nothing."""
    if engine == "postgresql" and not program("initdb"):
        return "no PostgreSQL server is installed (initdb was not found)"
    if engine == "mariadb":
        try:
            pymysql.connect(host="127.0.0.1", user="root").close()
        except pymysql.OperationalError as error:
            return f"no MariaDB answers on loopback: {error}"
    return ""


def drop(site: Site) -> None:
    """End a server, and on SQLite its files: rounds would pile up gigabytes otherwise."""
    site.end()
    if site.engine == "sqlite3":
        for suffix in ("", "-wal", "-shm"):
            site.path.with_name(site.path.name + suffix).unlink(missing_ok=True)

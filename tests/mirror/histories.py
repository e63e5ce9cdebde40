"""Several clients of one server, a step at a time: what each did, and which of it was committed.

Every client has a thread and a connection of its own. A statement that has to wait for another client's
lock is left waiting, and the next step is another client's; it goes on when that lock is gone. Whether a
client waits is asked of the server, so that a history runs the same way on a fast and on a slow machine.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

import psycopg
import pymysql
from django.db import connection
from pymysql.constants import CLIENT

LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")

#: A row, as it is called on every server, and what a statement called it.
Effect = tuple[UUID, str]


class Server(Protocol):
    def connect(self) -> Any:
        """A connection that knows nothing of Django, in a transaction of its own."""

    def number(self, client: Any) -> int:
        """What the server calls a connection."""

    def begin(self, level: str) -> tuple[str, ...]: ...

    def waits(self, number: int) -> bool:
        """Whether a connection waits for a lock."""

    def kill(self, number: int) -> None: ...


class Postgresql:
    def __init__(self) -> None:
        self._overseer = self.connect()
        self._overseer.autocommit = True

    def connect(self) -> psycopg.Connection:
        settings = connection.settings_dict
        client = psycopg.connect(
            host=settings["HOST"], port=settings["PORT"], user=settings["USER"], dbname=settings["NAME"]
        )
        client.autocommit = True  # BEGIN is a statement here
        client.execute("SET deadlock_timeout = '5ms'")
        return client

    def number(self, client: psycopg.Connection) -> int:
        return client.info.backend_pid

    def begin(self, level: str) -> tuple[str, ...]:
        return (f"BEGIN ISOLATION LEVEL {level}",)

    def waits(self, number: int) -> bool:
        return self._overseer.execute(
            "SELECT cardinality(pg_blocking_pids(%s)) > 0", [number]
        ).fetchone() == (True,)

    def kill(self, number: int) -> None:
        self._overseer.execute("SELECT pg_terminate_backend(%s, 10000)", [number])

    def close(self) -> None:
        self._overseer.close()


class Mariadb:
    def __init__(self) -> None:
        self._overseer = self.connect()

    def connect(self) -> pymysql.Connection:
        settings = connection.settings_dict
        return pymysql.connect(
            host=settings["HOST"],
            port=int(settings["PORT"]),
            user=settings["USER"],
            database=settings["NAME"],
            autocommit=True,
            client_flag=CLIENT.FOUND_ROWS,
        )

    def number(self, client: pymysql.Connection) -> int:
        return client.thread_id()

    def begin(self, level: str) -> tuple[str, ...]:
        return (f"SET TRANSACTION ISOLATION LEVEL {level}", "START TRANSACTION")

    def waits(self, number: int) -> bool:
        # Not innodb_trx: who reads it again within a tenth of a second gets what it said before.
        with self._overseer.cursor() as cursor:
            cursor.execute("SHOW ENGINE INNODB STATUS")
            (_kind, _name, status) = cursor.fetchone()
        return any(
            f" thread id {number}," in transaction and "\nLOCK WAIT " in transaction
            for transaction in status.split("---TRANSACTION ")
        )

    def kill(self, number: int) -> None:
        with self._overseer.cursor() as cursor:
            cursor.execute(f"KILL {number}")
            while cursor.execute("SELECT 1 FROM information_schema.processlist WHERE id = %s", [number]):
                pass  # its transaction is rolled back before it goes

    def close(self) -> None:
        self._overseer.close()


SERVERS: dict[str, Callable[[], Any]] = {"postgresql": Postgresql, "mysql": Mariadb}


class GivenUp(Exception):
    """The transaction finds that it cannot keep what it promised."""


class Statements:
    """What a client runs in its own thread; effects are kept as they happen."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.effects: list[Effect] = []

    def run(self, sql: str, *parameters: Any) -> int:
        with self._client.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.rowcount

    def value(self, sql: str, *parameters: Any) -> Any:
        with self._client.cursor() as cursor:
            cursor.execute(sql, parameters)
            row = cursor.fetchone()
        return row[0] if row else None

    def named(self, row: UUID, name: str, sql: str, *parameters: Any) -> None:
        if self.run(sql, *parameters):
            self.effects.append((row, name))


Work = Callable[[Statements], None]


def _says(statement: str) -> Work:
    def work(ran: Statements) -> None:
        ran.run(statement)

    return work


@dataclass
class Client:
    """One connection. ``waiting`` while a statement of it is not done."""

    server: Any
    level: str = LEVELS[0]
    open: bool = False
    waiting: bool = False
    commits: bool = False
    #: What its transaction did, and at which of them each savepoint is.
    effects: list[Effect] = field(default_factory=list)
    savepoints: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._work: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._done = threading.Event()
        self._error: Exception | None = None
        self._connect()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _connect(self) -> None:
        self._client = self.server.connect()
        self.number = self.server.number(self._client)

    def _run(self) -> None:
        while work := self._work.get():
            self._ran = Statements(self._client)
            try:
                work(self._ran)
            except (psycopg.Error, pymysql.Error, GivenUp) as error:
                self._error = error
            self._done.set()

    def start(self, work: Work, then: Callable[[], None]) -> None:
        """Give it something to do, and wait until it is done or waits for somebody."""
        self._then = then
        self._done.clear()
        self._work.put(work)
        self.waiting = True
        self.settle()

    def settle(self) -> bool:
        """Whether something that waited is done now."""
        if not self.waiting:
            return False
        while not self._done.wait(0.002):
            if self.server.waits(self.number):
                return False
        self.waiting = False
        error, self._error = self._error, None
        if error is not None:
            self.abandon()
        else:
            self.effects += self._ran.effects
            self._then()
        return True

    def abandon(self) -> None:
        """Roll back, whatever state the connection is in."""
        with suppress(psycopg.Error, pymysql.Error):
            Statements(self._client).run("ROLLBACK")
        self.forget()

    def die(self) -> None:
        """The client is gone, as after a kill -9, with its transaction."""
        self.server.kill(self.number)
        if self.waiting:
            self._done.wait()
            self.waiting, self._error = False, None
        self.forget()
        with suppress(psycopg.Error, pymysql.Error):
            self._client.close()
        self._connect()

    def forget(self) -> None:
        self.open = self.commits = False
        self.effects.clear()
        self.savepoints.clear()

    def close(self) -> None:
        self._work.put(None)
        self._thread.join()
        self._client.close()


@dataclass
class Committed:
    """What must be found in the oplog: each committed transaction's effects, and each row's in its order."""

    transactions: list[list[Effect]] = field(default_factory=list)
    rows: dict[UUID, list[str]] = field(default_factory=dict)

    def add(self, effects: list[Effect]) -> None:
        self.transactions.append(list(effects))
        for row, name in effects:
            self.rows.setdefault(row, []).append(name)


class History:
    """Clients and what they have committed."""

    def __init__(self, clients: int) -> None:
        self.server = SERVERS[connection.vendor]()
        self.clients = [Client(self.server) for _ in range(clients)]
        self.committed = Committed()

    def do(self, client: Client, work: Work) -> None:
        """One statement or several, in the client's transaction, which begins with them."""
        if client.waiting:
            return
        begin = () if client.open else self.server.begin(client.level)
        client.open = True

        def begin_and_work(ran: Statements) -> None:
            for statement in begin:
                ran.run(statement)
            work(ran)

        client.start(begin_and_work, lambda: None)
        self.settle()

    def savepoint(self, client: Client) -> None:
        if client.open and not client.waiting:
            name = f"s{len(client.savepoints)}"
            client.start(_says(f"SAVEPOINT {name}"), lambda: client.savepoints.append(len(client.effects)))

    def back(self, client: Client) -> None:
        """To the last savepoint, or out of the transaction."""
        if not client.open or client.waiting:
            return
        if client.savepoints:
            kept = client.savepoints.pop()
            back = _says(f"ROLLBACK TO SAVEPOINT s{len(client.savepoints)}")
            client.start(back, lambda: client.effects.__delitem__(slice(kept, None)))
        else:
            client.abandon()
        self.settle()

    def commit(self, client: Client) -> None:
        if client.open and not client.waiting:
            # It may wait as well: PostgreSQL looks at deferred references only now.
            client.commits = True
            client.start(_says("COMMIT"), lambda: self._commits(client))
            self.settle()

    def _commits(self, client: Client) -> None:
        self.committed.add(client.effects)
        client.forget()

    def die(self, client: Client) -> None:
        self.settle()
        if not client.commits:  # nobody could say what became of it
            client.die()
            self.settle()

    def settle(self) -> None:
        """Whoever waited for what is free now goes on."""
        while any([client.settle() for client in self.clients]):  # noqa: C419 - each of them, every time
            pass

    def end(self) -> None:
        """Everybody commits, as soon as nothing holds him up."""
        while any(client.open for client in self.clients):
            for client in self.clients:
                self.settle()
                self.commit(client)

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.server.close()

    def __iter__(self) -> Iterator[Client]:
        return iter(self.clients)

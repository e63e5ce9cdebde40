"""django-cqrs as a contestant: a master, a replica for each queue, RabbitMQ between them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.options import cqrs_python
from bench.results import Contestant
from bench.sites import BenchSite, Ground
from tests.end_to_end.processes import ROOT, Running, wait_until

_DIGEST = "SELECT (SELECT count(*) FROM polls_question), count(*), coalesce(sum(votes), 0) FROM polls_choice"

#: Seconds. Looking costs a query over all rows.
_LOOK_EVERY = 0.1
_LONGEST = 1200.0


def absent() -> str:
    """Why it cannot be measured, or nothing."""
    if not cqrs_python().exists():
        return "there is no environment with django-cqrs (.venv-cqrs, or BENCH_CQRS_PYTHON)"
    found = subprocess.run([cqrs_python(), "-c", "import dj_cqrs, pika, psycopg"], capture_output=True)
    if found.returncode:
        return "the package django-cqrs is not installed in its environment"
    try:
        socket.create_connection(("127.0.0.1", 5672), timeout=2).close()
    except OSError as error:
        return f"no RabbitMQ answers on loopback: {error}"
    return ""


def versions() -> dict[str, str]:
    """What the peer runs with."""
    said = subprocess.run(
        [cqrs_python(), "-m", "bench.cqrs.versions"], capture_output=True, check=True, cwd=ROOT
    )
    found: dict[str, str] = json.loads(said.stdout)
    return found


class CqrsSite(BenchSite):
    settings = "bench.cqrs.settings"

    def __init__(self, place: Ground, role: str, exchange: str, queue: str) -> None:
        database = place.database("postgresql")
        super().__init__(f"cqrs_{role}_{database['NAME']}", "source", place.directory, database)
        self._role, self._exchange, self._queue = role, exchange, queue
        self.manage("migrate", "--run-syncdb", "--verbosity", "0")

    @property
    def environ(self) -> dict[str, str]:
        told = {"role": self._role, "exchange": self._exchange, "queue": self._queue}
        return {**super().environ, "BENCH_CQRS": json.dumps(told)}

    def start(self, name: str, *command: str) -> Running:
        running = Running(
            f"{self.name} {name}",
            [str(cqrs_python()), *command],
            environ=self.environ,
            cwd=self.cwd,
            log=self.directory / f"{self.name}-{name}.log",
        )
        self.started.append(running)
        return running

    def manage(self, *arguments: str, expect: int | None = 0) -> str:
        running = self.start("manage", "-m", "django", *arguments)
        code = running.wait(seconds=120)
        assert expect is None or code == expect, running.log
        return running.log

    def program(self, what: str, *arguments: str) -> None:
        running = self.start(what, "-m", "bench.cqrs.program", what, *arguments)
        assert running.wait(seconds=7200) == 0, running.log

    def consume(self) -> Running:
        """One worker, without the command's supervisor around it, so that its end is its end."""
        code = "import django; django.setup()\nfrom dj_cqrs.transport import current_transport as found\n"
        return self.start("consumer", "-c", f"{code}found.consume()")

    def digest(self) -> list[tuple[Any, ...]]:
        return self.rows(_DIGEST)


@contextmanager
def master(place: Ground, names: list[str]) -> Iterator[tuple[CqrsSite, str]]:
    """A master whose messages wait in the named queues, and its exchange. All go afterwards."""
    exchange = f"livemirror_bench_{os.getpid()}_{names[0]}"
    queues = [f"{exchange}_{name}" for name in names]
    site = CqrsSite(place, "master", exchange, queues[0])
    place.add(site)
    site.program("prepare", exchange, *queues)
    try:
        yield site, exchange
    finally:
        site.program("remove", exchange, *queues)


@contextmanager
def replica(place: Ground, exchange: str, name: str) -> Iterator[CqrsSite]:
    """Ended before its master: a consumer that lives would declare its queue again."""
    site = CqrsSite(place, "replica", exchange, f"{exchange}_{name}")
    place.add(site)
    try:
        yield site
    finally:
        site.end()


@contextmanager
def contestant(place: Ground, changes: int, repeats: int) -> Iterator[Contestant]:
    """The changes are made once; a queue of its own keeps them for each round."""
    with master(place, [f"round_{number}" for number in range(repeats)]) as (site, exchange):
        site.program("backlog", str(changes))
        aim = site.digest()

        def level(number: int) -> dict[str, float]:
            with replica(place, exchange, f"round_{number}") as target:
                return {"changes/s": changes / _catch_up(target, aim)}

        yield level


def _catch_up(target: CqrsSite, aim: list[tuple[Any, ...]]) -> float:
    """Seconds from the first row, as the start of a Python process is no part of the others' time either."""
    consumer = target.consume()
    wait_until(lambda: target.one("SELECT count(*) FROM polls_question"), seconds=60)
    began = time.perf_counter()
    while target.digest() != aim:
        assert consumer.alive, consumer.log
        assert time.perf_counter() - began < _LONGEST, f"the replica does not get equal: {consumer.log}"
        time.sleep(_LOOK_EVERY)
    return time.perf_counter() - began

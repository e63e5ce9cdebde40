"""Several daphne processes serve one source, with hints between them through a Redis of the test's own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Ground
from tests.end_to_end.databases import served
from tests.end_to_end.oracle import assert_same_shop
from tests.end_to_end.processes import Running, Site, free_port, stream_url, wait_until
from tests.end_to_end.proxy import Proxy
from tests.redis_server import RedisServer, redis_server

pytestmark = [pytest.mark.postgresql, pytest.mark.redis]

#: Sessions that wait at the server for something to be written: those of processes that watch.
_WATCHING = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = ? AND state = 'active' AND starts_with(query, 'EXECUTE livemirror_watch')"""


@dataclass
class Town:
    """A source with two processes, and a centre that follows through each."""

    redis: RedisServer
    source: Site
    daphnes: list[Running]
    lines: list[Proxy]
    centres: list[Site]

    def write(self, text: str, count: int = 1) -> None:
        self.source.run(f"[shop.Ticket.objects.create(text='{text} %d' % n) for n in range({count})]")

    def await_level(self) -> None:
        tickets = self.source.one("SELECT count(*) FROM shop_ticket")
        for centre in self.centres:
            wait_until(lambda centre=centre: centre.one("SELECT count(*) FROM shop_ticket") == tickets)
            assert_same_shop(self.source, centre)

    def watching(self) -> int:
        """How many processes watched the database during the last half second."""
        seen, until = set(), time.monotonic() + 0.5
        while time.monotonic() < until:
            seen |= {pid for (pid,) in self.source.rows(_WATCHING, self.source.database["NAME"])}
            time.sleep(0.01)
        return len(seen)

    @property
    def connected(self) -> list[int]:
        """How many connections each centre has made so far."""
        return [line.opened for line in self.lines]


@pytest.fixture
def town(ground: Ground, tmp_path: Path) -> Iterator[Town]:
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path))
        database = stack.enter_context(served("postgresql", f"livemirror_several_{os.getpid()}"))
        source = Site("source", "source", tmp_path, database)
        source.layers = redis.layers()
        source.migrate()
        stack.callback(source.end)
        ground.sites.append(source)
        daphnes, lines, centres = [], [], []
        for name in ("first", "second"):
            port = free_port()
            daphnes.append(source.serve(port, name=name))
            line = stack.enter_context(Proxy(port))
            centre = ground.centre(name)
            centre.follow("source", stream_url(line.port), source.token(name))
            centre.mirror()
            lines.append(line)
            centres.append(centre)
        yield Town(redis, source, daphnes, lines, centres)


def logged(source: Site) -> list[str]:
    """The times of the lines of the oplogger, to which both processes write."""
    return [line.partition(" ")[0].replace(".", "") for line in source.oplog_log.read_text().splitlines()]


def said(daphne: Running, words: str) -> int:
    """Lines as our logger's handler writes them; the root's puts the time before each."""
    return sum(line.startswith(words) for line in daphne.log.splitlines())


def test_one_watches_for_all_until_redis_dies_and_again_once_it_is_back(town: Town):
    town.write("begin", 20)
    town.await_level()
    wait_until(lambda: town.watching() == 1, what="one process watches")
    before = town.connected
    town.write("with hints", 50)
    town.await_level()

    town.redis.kill()
    town.write("at once", 50)
    town.await_level()
    wait_until(lambda: town.watching() == 2, what="each looks for itself")
    town.write("without hints", 50)
    town.await_level()

    town.redis.start()
    town.write("while it comes back", 50)
    wait_until(lambda: town.watching() == 1, what="one process watches again")
    town.write("again", 50)
    town.await_level()

    changes = [str(ts) for (ts,) in town.source.rows("SELECT ts FROM mirror_oplog ORDER BY ts")]
    assert len(changes) == 270
    wait_until(lambda: len(logged(town.source)) >= len(changes), what="every change has its line")
    assert logged(town.source) == changes
    assert town.connected == before, "no connection was closed"
    for daphne in town.daphnes:
        assert said(daphne, "no hints between processes") == 1
        assert said(daphne, "hints between processes come again") == 1


def test_the_death_of_the_process_that_watches_costs_the_others_mirrors_nothing(town: Town):
    town.write("begin", 20)
    town.await_level()
    wait_until(lambda: town.watching() == 1, what="one process watches")
    other = town.connected[1]
    first, second = town.daphnes  # who has run for longer watches
    town.source.run(
        "import threading\n"
        "def write():\n"
        "    for n in range(300): shop.Ticket.objects.create(text=f'meanwhile {n}')\n"
        "threading.Thread(target=write).start()"
    )
    first.kill()
    wait_until(lambda: town.source.one("SELECT count(*) FROM shop_ticket") == 320)
    wait_until(lambda: town.centres[1].one("SELECT count(*) FROM shop_ticket") == 320)
    wait_until(lambda: town.watching() == 1, what="the other watches")
    assert town.connected[1] == other
    town.source.serve(town.lines[0].target, name="first again")
    town.await_level()
    assert second.alive

"""A source in use, with rows of before its capture, and a mirror that dies again and again.

Small in the usual run. MIRROR_BOOTSTRAP_ROWS=1000000 makes it the acceptance test, MIRROR_TEST_SEED brings
back what a run has diced, and ``-s`` shows its figures:

    MIRROR_BOOTSTRAP_ROWS=1000000 python -m pytest tests/end_to_end/test_bootstrap.py -s -k postgresql

Times are shown and not judged: ``python -m bench loading`` does that.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.end_to_end.databases import Reading, served, sqlite
from tests.end_to_end.processes import Running, Site, Watch, wait_until, wait_until_equal_heads
from tests.end_to_end.proxy import Proxy
from tests.end_to_end.rising import TABLES, hot_numbers, tag_id
from tests.end_to_end.throttle import Throttle

ROWS = int(os.environ.get("MIRROR_BOOTSTRAP_ROWS", 20_000)) // len(TABLES) * len(TABLES)
#: More of them take their time without a line that is slow.
_MANY = 200_000
_KILLS = 5
_RATE = 200
#: Seconds in which the writer has the source for itself, and a mirror that follows.
_ALONE = 1.0 if ROWS < _MANY else 15.0
_PATIENCE = max(60.0, ROWS / 500)
#: Rows that the witness reads at a time, beside those that change all the time.
_PAGE = 1000

_BEFORE = """
from tests.end_to_end.rising import tag_id
def numbers():
    return range(first, min(first + 10_000, {rows} // 2 + 1))
for first in range(1, {rows} // 2 + 1, 10_000):
    shop.Counter.objects.bulk_create([shop.Counter(id=number) for number in numbers()])
    shop.Tag.objects.bulk_create([shop.Tag(id=tag_id(number), label="0") for number in numbers()])
"""

#: By table: the key that means the same on every server, and the version.
_VERSIONS = {"counter": "SELECT id, value FROM shop_counter", "tag": "SELECT id, label FROM shop_tag"}
#: What a page is a range of.
_PLACE = {"counter": "id", "tag": "pkid"}


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ]
)
def pair(request: pytest.FixtureRequest, tmp_path: Path, worker_id: str) -> Iterator[tuple[Site, Site]]:
    """A source that held its rows before anything was captured, and a centre that is to follow it."""
    with ExitStack() as stack:

        def site(role: str, **conf: Any) -> Site:
            database = (
                sqlite(tmp_path / f"{role}.sqlite3")
                if request.param == "sqlite"
                else stack.enter_context(served(request.param, f"livemirror_boot_{role}_{worker_id}"))
            )
            made = Site(role, role, tmp_path, database, conf)
            stack.callback(made.end)
            made.migrate()
            return made

        source, centre = site("source", CAPTURE=None, READ_ONLY=False), site("centre")
        source.run(_BEFORE.format(rows=ROWS), seconds=_PATIENCE)
        source.end()
        source.conf = {
            name: value for name, value in source.conf.items() if name not in {"CAPTURE", "READ_ONLY"}
        }
        source.migrate()
        source.serve()
        url = source.url
        if ROWS < _MANY:
            line = stack.enter_context(Proxy(source.port))
            line.throttle(down=Throttle(bits=ROWS * 500))
            url = line.url
        centre.follow("source", url, source.token())
        yield source, centre


class Witness:
    """Reads a centre page by page, and the rows that change most each time; remembers what it saw."""

    def __init__(self, centre: Site, journal: Path) -> None:
        self._centre = centre
        self._journal = journal
        self._pages = self._turns()
        self._hot = {"counter": list(map(str, hot_numbers(ROWS // 2)))}
        form = UUID.__str__ if centre.engine != "sqlite3" else lambda key: key.hex
        self._hot["tag"] = [form(tag_id(number)) for number in hot_numbers(ROWS // 2)]
        self._seen: dict[tuple[str, int], dict[Any, int]] = {}
        self._gone: dict[str, set[Any]] = {table: set() for table in TABLES}
        #: Rows of which more than one version was seen.
        self.rose: set[tuple[str, Any]] = set()

    def look(self) -> None:
        table, page = next(self._pages)
        with self._centre.reading() as database:
            found = {(name, -1): self._read_hot(database, name) for name in TABLES}
            found[table, page] = self._read(database, table, page)
        for place, versions in found.items():
            self._compare(place, versions)

    def _turns(self) -> Iterator[tuple[str, int]]:
        while True:
            for table in TABLES:
                last = self._centre.one(f"SELECT max({_PLACE[table]}) FROM shop_{table}") or 0
                for page in range(last // _PAGE + 1):
                    yield table, page

    def _read(self, database: Reading, table: str, page: int) -> dict[Any, int]:
        place = _PLACE[table]
        sql = f"{_VERSIONS[table]} WHERE {place} >= ? AND {place} < ?"
        return _versions(database.rows(sql, page * _PAGE, (page + 1) * _PAGE))

    def _read_hot(self, database: Reading, table: str) -> dict[Any, int]:
        keys = self._hot[table]
        return _versions(
            database.rows(f"{_VERSIONS[table]} WHERE id IN ({', '.join('?' * len(keys))})", *keys)
        )

    def _compare(self, place: tuple[str, int], versions: dict[Any, int]) -> None:
        table, before = place[0], self._seen.get(place, {})
        back = [key for key in before.keys() & versions.keys() if versions[key] < before[key]]
        assert not back, f"{table}: {len(back)} rows went back, {back[0]} from {before[back[0]]}"
        again = self._gone[table] & versions.keys()
        assert not again, f"{table}: {len(again)} rows came back that were gone, {min(again)}"
        missing = before.keys() - versions.keys()
        lost = missing - self._deleted(table) if missing else missing
        assert not lost, f"{table}: {len(lost)} rows are gone that the source has, {min(lost)}"
        self._gone[table] |= missing
        self.rose |= {(table, key) for key in before.keys() & versions.keys() if versions[key] > before[key]}
        self._seen[place] = versions

    def _deleted(self, table: str) -> set[Any]:
        """What the source may have deleted by now: said before it is done, so asked for after looking."""
        said = [
            line.split() for line in self._journal.read_text().splitlines(keepends=True) if line[-1] == "\n"
        ]
        numbers = [int(number) for name, number in said if name == table]
        return set(numbers) if table == "counter" else {tag_id(number) for number in numbers}


def _versions(rows: Sequence[Sequence[Any]]) -> dict[Any, int]:
    return {UUID(key) if isinstance(key, str) else key: int(version) for key, version in rows}


def copied(centre: Site) -> int:
    return int(centre.one('SELECT sum("rows") FROM mirror_loading') or 0)


def is_loaded(centre: Site) -> bool:
    states = {state for (state,) in centre.rows("SELECT state FROM mirror_loading")}
    return states == {"done"}


def kill_while_loading(centre: Site, mirror: Running, dice: random.Random) -> int:
    """At random moments; return how many of them found it loading."""
    loading = 0
    for share in sorted(dice.uniform(0, 0.9) for _ in range(_KILLS)):
        wait_until(lambda share=share: copied(centre) >= share * ROWS, seconds=_PATIENCE, what=f"{share:.0%}")
        time.sleep(dice.uniform(0, 0.1))
        loading += not is_loaded(centre)
        mirror.kill()
        mirror = centre.mirror()
    return loading


def assert_same(source: Site, centre: Site) -> None:
    for table, sql in _VERSIONS.items():
        here, there = (_versions(site.rows(sql)) for site in (source, centre))
        assert len(there) == centre.one(f"SELECT count(*) FROM shop_{table}"), (
            f"{table}: a row is there twice"
        )
        differing = [key for key in here.keys() | there.keys() if here.get(key) != there.get(key)]
        assert not differing, f"{table}: {len(differing)} rows differ, {differing[:3]}"
        assert len(here) > ROWS // 2 * 0.8


def commits(writer: Running) -> list[tuple[int, int]]:
    """When each was begun, in epoch nanoseconds, and how many it took."""
    return [(int(began), int(took)) for began, took in map(str.split, writer.log.splitlines())]


def figures(told: Sequence[tuple[int, int]], began: int, ended: int) -> tuple[str, float]:
    """Of the commits between two moments, in words; and their median in milliseconds."""
    took = sorted(took / 1e6 for at, took in told if began <= at < ended)
    rate, p50, p99 = len(took) / (ended - began) * 1e9, statistics.median(took), took[int(len(took) * 0.99)]
    return f"{rate:.0f} writes/s, a commit {p50:.2f} ms (p50), {p99:.1f} ms (p99)", p50


def report(writer: Running, began: int, ended: int) -> str:
    """How the source's writes fared without a mirror, while it loaded and died, and when it followed."""
    told = commits(writer)
    alone, before = figures(told, told[0][0], began)
    beside, meanwhile = figures(told, began, ended)
    followed, afterwards = figures(told, ended, told[-1][0])
    return (
        f"  alone: {alone}\n  while rows are loaded: {beside}\n  while the mirror follows: {followed}\n"
        f"  p50 while loading: {meanwhile / before:.2f} of alone, {meanwhile / afterwards:.2f} of followed\n"
    )


@pytest.mark.timeout(60 + 4 * _PATIENCE)
def test_a_source_in_use_is_brought_over_however_often_the_mirror_dies(
    pair: tuple[Site, Site], tmp_path: Path, seed: int
) -> None:
    source, centre = pair
    dice, journal = random.Random(seed), tmp_path / "deleted"
    journal.touch()
    witness = Witness(centre, journal)
    arguments = ("tests.end_to_end.rising", str(_RATE), str(ROWS), str(seed), str(journal))
    writer = source.start("writer", "-m", *arguments)
    time.sleep(_ALONE + 1)
    began = time.time_ns()
    with Watch(witness.look) as watch:
        loading = kill_while_loading(centre, centre.mirror(), dice)
        wait_until(lambda: is_loaded(centre), seconds=_PATIENCE, what="all is loaded")
        ended = time.time_ns()
        wait_until(lambda: centre.source_row()["state"] == "live", seconds=_PATIENCE, what="live")
        time.sleep(_ALONE)
        writer.finish_input()
        assert writer.wait() == 0, writer.log
        wait_until_equal_heads(source, centre)
    assert_same(source, centre)
    assert centre.one("SELECT count(*) FROM mirror_again") == 0
    assert watch.looks > 10
    assert witness.rose, "rows rose while they were watched"
    sys.stdout.write(
        f"\n{source.engine}, seed {seed}: {ROWS:,} rows in {(ended - began) / 1e9:.1f} s, {_KILLS} kills, "
        f"{loading} of them while rows were loaded; {watch.looks} looks, {len(witness.rose)} rows rose\n"
        f"{report(writer, began, ended)}"
    )

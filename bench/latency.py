"""Commit at the source to visible at the centre: ``python -m bench.latency`` prints milliseconds as JSON.

Real processes on loopback, SQLite on both sides: a writer, daphne, ``runmirror``; the centre is looked at
through a connection of its own every half millisecond. Two runs: single writes with nothing else going on,
and 200 writes a second.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.end_to_end.processes import Site, wait_until

_LOOK_EVERY = 0.0005


def write(count: int, shortest: float, longest: float) -> None:
    """What the writing process does: a line for each commit, its name and when it returned."""
    import django

    django.setup()
    from tests.project.shop.models import Ticket

    Ticket.objects.count()  # the connection is open from here on
    due = time.monotonic()
    for number in range(count):
        due += random.uniform(shortest, longest)
        time.sleep(max(0.0, due - time.monotonic()))
        began = time.time_ns()
        Ticket.objects.create(text=str(number))
        print(number, began, time.time_ns(), flush=True)


def watch(path: Path, count: int, *, seconds: float) -> dict[str, int]:
    """When each of so many rows became visible to a reader."""
    seen: dict[str, int] = {}
    last, version = 0, None
    deadline = time.monotonic() + seconds
    with closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as connection:
        while len(seen) < count and time.monotonic() < deadline:
            (now_version,) = connection.execute("PRAGMA data_version").fetchone()
            if now_version != version:
                version = now_version
                rows = connection.execute(
                    "SELECT rowid, text FROM shop_ticket WHERE rowid > ? ORDER BY rowid", [last]
                ).fetchall()
                now = time.time_ns()
                for rowid, text in rows:
                    last, seen[text] = rowid, now
            time.sleep(_LOOK_EVERY)
    return seen


def measure(count: int, shortest: float, longest: float, directory: Path) -> dict[str, float]:
    with pair(directory) as (source, centre):
        writer = source.start("writer", "-m", "bench.latency", "--write", f"{count},{shortest},{longest}")
        seen = watch(centre.path, count, seconds=count * longest + 60)
        assert writer.wait() == 0, writer.log
        commits = [line.split() for line in writer.log.splitlines()]
    assert len(seen) == count, f"{count - len(seen)} rows never came"
    return {
        "samples": count,
        **spread("visible_ms", [(seen[number] - int(ended)) / 1e6 for number, _began, ended in commits]),
        **spread("commit_ms", [(int(ended) - int(began)) / 1e6 for _number, began, ended in commits]),
    }


@contextmanager
def pair(directory: Path) -> Iterator[tuple[Site, Site]]:
    """A source that is served and a centre that is level with it."""
    sites = [Site(role, role, directory, database(directory / role)) for role in ("source", "centre")]
    source, centre = sites
    try:
        for site in sites:
            site.conf = {}  # as it is for everybody
            site.manage("migrate", "--verbosity", "0")
        source.serve()
        centre.follow("source", source.url, source.token())
        mirror = centre.mirror()
        wait_until(lambda: "live" in mirror.log)
        yield source, centre
    finally:
        for site in sites:
            site.end()


def database(path: Path) -> dict[str, str]:
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{path}.sqlite3"}


def spread(name: str, values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    places = {"p50": len(ordered) // 2, "p99": int(len(ordered) * 0.99), "max": -1}
    return {f"{name}_{label}": round(ordered[place], 2) for label, place in places.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--idle", type=int, default=300, metavar="N", help="single writes (default 300)")
    parser.add_argument("--busy", type=int, default=3000, metavar="N", help="writes at 200/s (default 3000)")
    arguments = parser.parse_args()
    if arguments.write:
        count, shortest, longest = arguments.write.split(",")
        write(int(count), float(shortest), float(longest))
        return
    found = {}
    for name, count, shortest, longest in [
        ("idle", arguments.idle, 0.05, 0.1),
        ("200_writes_per_second", arguments.busy, 0.0, 0.01),
    ]:
        with tempfile.TemporaryDirectory() as directory:
            found[name] = measure(count, shortest, longest, Path(directory))
    json.dump(found, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()

"""Many sources into one centre: the same number of changes from 1, from 10 and from 100.

One process replays what a real source sent, under as many identities: see ``bench.replay``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

from bench.catchup import source_with
from bench.options import Options
from bench.replay import record
from bench.results import Aim, Contestant, Figures, Key, Lineup, Ratio, Result, quotients
from bench.running import catch_up
from bench.sites import BenchSite, Ground, absent, drop, ground
from tests.end_to_end.processes import wait_until

_CHANGES = 400_000
_SOURCES = (1, 10, 100)
#: A mirror holds a connection for each source; those that it, the bench and the last round hold beside.
_OTHERS = 20
#: Connections that a server could take now; PostgreSQL keeps some for itself.
_FREE = {
    "postgresql": "SELECT current_setting('max_connections')::int - count(*) FROM pg_stat_activity",
    "mariadb": "SELECT @@max_connections - count(*) FROM information_schema.processlist",
}
_ADD = """
import django
django.setup()
import sys
from mirror import sources
port, count, token = sys.argv[1:]
for number in range(int(count)):
    sources.add(f"source-{number}", f"ws://127.0.0.1:{port}/{number}/", token)
"""


def run(options: Options) -> list[Result]:
    lineup = Lineup("sources", options.say)
    results: list[Result] = []
    total = options.scaled(_CHANGES, least=1000)
    with ground() as place:
        contestants: dict[Key, Contestant] = {}
        for engine in options.engines:
            for count in _SOURCES:
                changes = max(10, total // count // 10 * 10)
                options.say(f"  {engine}: {count} sources of {changes} changes")
                key = _case(engine, count), "livemirror"
                crowded = lineup.attempt(key, partial(_crowded, place, engine, count), unless=absent(engine))
                if crowded is None:
                    continue
                make = partial(_contestant, place, engine, count, changes)
                if made := lineup.attempt(key, make, unless=crowded):
                    contestants[key] = made
        figures = lineup.rounds(contestants, options.repeats)
    for engine in options.engines:
        results += _results(engine, figures)
    return [*results, *lineup.left_out]


def _crowded(place: Ground, engine: str, count: int) -> str:
    """Why a server cannot serve a mirror of so many sources, or nothing."""
    if engine == "sqlite":
        return ""
    with closing(place.administering(engine)) as connection:
        cursor = connection.cursor()
        cursor.execute(_FREE[engine])
        free = int(cursor.fetchone()[0])
    wanted = count + _OTHERS
    return f"{engine} has {free} of its max_connections left, {wanted} are wanted" if free < wanted else ""


def _results(engine: str, figures: Mapping[Key, Figures]) -> Iterator[Result]:
    one = figures.get((_case(engine, 1), "livemirror"))
    for count in _SOURCES:
        key = _case(engine, count), "livemirror"
        if key not in figures:
            continue
        rates = figures[key]["changes/s"]
        ratios: tuple[Ratio, ...] = ()
        if one and count > 1:
            ratios = (Ratio(to="1 source", figures=quotients(rates, one["changes/s"])),)
        yield Result(
            scenario="sources",
            case=key[0],
            subject=key[1],
            quantity="changes brought over",
            unit="changes/s",
            figures=rates,
            ratios=ratios,
            note="one process replays all sources; row counts compared",
        )
        yield Result(
            scenario="sources",
            case=key[0],
            subject=key[1],
            quantity="memory of the mirror",
            unit="MiB",
            figures=figures[key]["MiB"],
            aim=Aim("at most", 200),
        )


def _case(engine: str, count: int) -> str:
    return f"{engine}, {count} source{'s' if count > 1 else ''}"


def _contestant(place: Ground, engine: str, count: int, changes: int) -> Contestant:
    source = source_with(place, engine, changes)
    token = source.token("records")
    recording = place.directory / f"{source.name}.frames"
    frames, recorded = asyncio.run(record(source, token, changes))
    recording.write_text("".join(f"{frame}\n" for frame in frames))
    assert recorded == changes, f"recorded {recorded} of {changes}"
    rows = _rows(source)
    source.end()

    def level(number: int) -> dict[str, float]:
        centre = place.site("centre", engine)
        port = _replay(centre, recording, count)
        adding = centre.start("add", "-c", _ADD, str(port), str(count), token)
        assert adding.wait() == 0, adding.log
        told = catch_up(centre)
        positions = centre.rows("SELECT position FROM mirror_source")
        assert positions == [(changes,)] * count, "not every source is level"
        assert _rows(centre) == [number * count for number in rows], "rows are missing"
        drop(centre)
        return {"changes/s": changes * count / told["seconds"], "MiB": told["peak MiB"]}

    return level


def _replay(centre: BenchSite, recording: Path, count: int) -> int:
    """The port of a process that is each of the sources."""
    replaying = centre.start("replay", "-m", "bench.replay", str(recording), str(count))

    def port() -> int:
        assert replaying.alive, replaying.log
        return int(replaying.log or 0)

    return wait_until(port, seconds=600, what="the sources are served")


def _rows(site: BenchSite) -> list[int]:
    return [site.one(f"SELECT count(*) FROM polls_{table}") for table in ("question", "choice")]

"""Idle: what a source with one subscriber and its mirror cost while nothing is written, in % of a core."""

from __future__ import annotations

import time
from functools import partial

from bench.options import Options
from bench.results import Aim, Contestant, Key, Lineup, Result
from bench.running import Live, live
from bench.sites import BenchSite, Ground, absent, ground
from bench.watching import processor_seconds

#: Of looking on, at full scale.
_SECONDS = 30
#: Until what was begun by connecting is over.
_SETTLING = 3.0
_AIM = Aim("at most", 1)


def run(options: Options) -> list[Result]:
    lineup = Lineup("idle", options.say)
    results: list[Result] = []
    with ground() as place:
        contestants: dict[Key, Contestant] = {}
        seconds = max(3, options.scaled(_SECONDS))
        for engine in options.engines:
            key = engine, "livemirror"
            if running := lineup.attempt(key, partial(live, place, engine), unless=absent(engine)):
                contestants[key] = _contestant(place, running, seconds)
        time.sleep(_SETTLING)
        figures = lineup.rounds(contestants, options.repeats)
    for (engine, subject), quantities in figures.items():
        results += [
            Result(
                scenario="idle",
                case=engine,
                subject=subject,
                quantity=f"processor time of {process}",
                unit="% of a core",
                figures=each,
                aim=_AIM if process == "daphne" else None,
                note="" if engine != "mariadb" else "the database server's own time is not told apart",
            )
            for process, each in quantities.items()
        ]
    return [*results, *lineup.left_out]


def _contestant(place: Ground, running: Live, seconds: float) -> Contestant:
    processes = {"daphne": running.source.daphne.pid, "runmirror": running.mirror.pid}

    def look_on(number: int) -> dict[str, float]:
        before, began = _spent(place, running, processes), time.perf_counter()
        time.sleep(seconds)
        after, elapsed = _spent(place, running, processes), time.perf_counter() - began
        return {name: (after[name] - before[name]) / elapsed * 100 for name in after}

    return look_on


def _spent(place: Ground, running: Live, processes: dict[str, int]) -> dict[str, float]:
    """Seconds by process; on PostgreSQL also by what serves each side's connections."""
    spent = {name: processor_seconds(pid) for name, pid in processes.items()}
    if running.source.engine == "postgresql":
        spent["the source's connections"] = _backends(place, running.source)
        spent["the centre's connections"] = _backends(place, running.centre)
    return spent


def _backends(place: Ground, site: BenchSite) -> float:
    sql = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
    with place.cluster.connect("postgres") as connection:
        return sum(processor_seconds(pid) for (pid,) in connection.execute(sql, [site.database["NAME"]]))

"""Live latency: from the commit at the source until a reader of the mirror sees the row, in milliseconds.

Writer, servers and reader are processes of their own on this machine; the reader asks every half
millisecond. All contestants stand ready at once, and one after the other is written to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench import logical
from bench.cqrs import peer as cqrs
from bench.options import Options
from bench.results import Aim, Contestant, Figures, Key, Lineup, Ratio, Result, quotients
from bench.running import live
from bench.sites import BenchSite, Ground, absent, connect, ground
from bench.writer import reached_rate
from tests.end_to_end.processes import Running

_RATES = (20, 200, 2000)
#: Of writing, at full scale.
_SECONDS = 15
_LOOK_EVERY = 0.0005
#: Keys by which a writer may be late.
_OUT_OF_ORDER = 50
_NEW_ROWS = "SELECT pkid, question_text FROM polls_question WHERE pkid > {} ORDER BY pkid"
_AIMS = {("p50", 200): Aim("at most", 5), ("p99", 200): Aim("at most", 25)}


@dataclass(frozen=True, slots=True)
class Pair:
    """Where rows become visible, and what starts a process that writes at a rate so many of them."""

    target: BenchSite
    write: Callable[[float, int], Running]

    def measure(self, rate: float, count: int) -> dict[str, float]:
        with _new_rows(self.target) as look:
            writer = self.write(rate, count)
            seen = _watch(look, count, writer, seconds=count / rate * 20 + 60)
        assert writer.wait(seconds=60) == 0, writer.log
        lines = [[int(word) for word in line.split()] for line in writer.log.splitlines()]
        assert len(seen) >= count, f"{count - len(seen)} rows never came"
        waited = sorted((seen[number] - ended) / 1e6 for number, _began, ended in lines)
        return {**percentiles(waited), "reached": reached_rate(lines)}


def percentiles(ordered: Sequence[float]) -> dict[str, float]:
    return {"p50": ordered[len(ordered) // 2], "p99": ordered[int(len(ordered) * 0.99)], "max": ordered[-1]}


def run(options: Options) -> list[Result]:
    lineup = Lineup("latency", options.say)
    results: list[Result] = []
    with ExitStack() as stack:
        place = stack.enter_context(ground())
        pairs: dict[Key, Pair] = {}
        for engine, name, why, begin in _contestants(place, stack, options):
            if pair := lineup.attempt((engine, name), begin, unless=why):
                pairs[engine, name] = pair
        for rate in _RATES:
            options.say(f"  {rate} writes/s")
            count = max(20, round(rate * _SECONDS * options.scale))
            contestants = {
                (f"{engine}, {rate} writes/s", name): _at(pair, rate, count)
                for (engine, name), pair in pairs.items()
            }
            results += _results(rate, count, lineup.rounds(contestants, options.repeats))
    return [*results, *lineup.left_out]


def _at(pair: Pair, rate: float, count: int) -> Contestant:
    return lambda number: pair.measure(rate, count)


def _contestants(
    place: Ground, stack: ExitStack, options: Options
) -> Iterator[tuple[str, str, str, Callable[[], Pair]]]:
    """Engine, name, why it is left out or nothing, and what prepares it."""
    for engine in options.engines:
        yield engine, "livemirror", absent(engine), partial(_mirror, place, engine)
    if "postgresql" in options.engines:
        why = absent("postgresql")
        yield "postgresql", "logical replication", why, lambda: stack.enter_context(_logical(place))
        yield (
            "postgresql",
            "django-cqrs",
            why or cqrs.absent(),
            lambda: stack.enter_context(_cqrs(place)),
        )


def _mirror(place: Ground, engine: str) -> Pair:
    running = live(place, engine)
    return Pair(running.centre, writer_of(running.source))


def writer_of(source: BenchSite) -> Callable[[float, int], Running]:
    return lambda rate, count: source.start("writer", "-m", "bench.writer", str(rate), str(count))


@contextmanager
def _logical(place: Ground) -> Iterator[Pair]:
    source = logical.publisher(place)
    logical.slot(place, source, "live")
    with logical.subscriber(place, source, "live") as target:
        logical.enable(place, target, "live")
        yield Pair(target, writer_of(source))


@contextmanager
def _cqrs(place: Ground) -> Iterator[Pair]:
    with (
        cqrs.master(place, ["live"]) as (source, exchange),
        cqrs.replica(place, exchange, "live") as target,
    ):
        target.consume()
        program = ("-m", "bench.cqrs.program", "writer")
        yield Pair(target, lambda rate, count: source.start("writer", *program, str(rate), str(count)))


# The reader

_Look = Callable[[], list[tuple[Any, ...]]]


def _watch(look: _Look, count: int, writer: Running, *, seconds: float) -> dict[int, int]:
    """When each write became visible, in epoch nanoseconds; those below 1 are not counted."""
    seen: dict[int, int] = {}
    deadline = time.monotonic() + seconds
    ended = False
    while len(seen) < count and time.monotonic() < deadline:
        rows = look()
        now = time.time_ns()
        for _pkid, text in rows:
            if text.isdecimal() and text != "0":
                seen.setdefault(int(text), now)
        if not ended and not writer.alive:
            ended, deadline = True, min(deadline, time.monotonic() + 60)
        time.sleep(_LOOK_EVERY)
    return seen


@contextmanager
def _new_rows(site: BenchSite) -> Iterator[_Look]:
    """What gives new rows, some of them again: writers that wait for each other commit out of order."""
    with closing(connect(site.database)) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT coalesce(max(pkid), 0) FROM polls_question")
        first = last = cursor.fetchone()[0]
        sql = _NEW_ROWS.format("?" if site.engine == "sqlite3" else "%s")
        version = None

        def look() -> list[tuple[Any, ...]]:
            nonlocal last, version
            if site.engine == "sqlite3":
                # Costs three microseconds, a query many times that.
                former, version = version, cursor.execute("PRAGMA data_version").fetchone()
                if version == former:
                    return []
            cursor.execute(sql, [max(first, last - _OUT_OF_ORDER)])
            rows = list(cursor.fetchall())
            last = rows[-1][0] if rows else last
            return rows

        yield look


# What is told


def _results(rate: int, count: int, figures: Mapping[Key, Figures]) -> Iterator[Result]:
    for (case, name), quantities in figures.items():
        reached = min(quantities["reached"])
        slow = f"; the writer reached only {reached:,.0f} a second" if reached < 0.9 * rate else ""
        ours = name == "livemirror"
        for quantity in ("p50", "p99", "max"):
            yield Result(
                scenario="latency",
                case=case,
                subject=name,
                quantity=f"commit to visible, {quantity}",
                unit="ms",
                figures=quantities[quantity],
                aim=_AIMS.get((quantity, rate)) if ours and not case.startswith("mariadb") else None,
                ratios=tuple(_ratios(case, quantity, figures)) if ours else (),
                note=f"{count:,} writes a round{slow}",
            )


def _ratios(case: str, quantity: str, figures: Mapping[Key, Figures]) -> Iterator[Ratio]:
    ours = figures[case, "livemirror"][quantity]
    for (other, name), quantities in figures.items():
        if other == case and name != "livemirror":
            yield Ratio(to=name, figures=quotients(ours, quantities[quantity]))

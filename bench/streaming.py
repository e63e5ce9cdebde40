"""Sequencing alone; streaming alone, to 1, 50 and 500 subscribers that discard; what a subscriber costs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from bench import sequencing
from bench.catchup import source_with
from bench.options import Options
from bench.results import Aim, Contestant, Figures, Key, Lineup, Ratio, Result, quotients
from bench.sites import BenchSite, Ground, absent, ground, source_engine
from bench.watching import resident
from tests.end_to_end.processes import wait_until

_CHANGES = 400_000
_OUTBOX = 100_000
#: Of the newest changes, what each of many subscribers gets: dialling is a part of the time.
_LEAST = 4_000
_SUBSCRIBERS = (1, 50, 500)
_RATE = 200
_SECONDS = 15
#: Seconds after which what has not come will not come.
_LONGEST = 1800.0


def run(options: Options) -> list[Result]:
    lineup = Lineup("streaming", options.say)
    results: list[Result] = []
    with ground() as place:
        contestants: dict[Key, Contestant] = {}
        changes = options.scaled(_CHANGES, least=1000)
        for engine in options.engines:
            options.say(f"  {engine}: an oplog of {changes} changes")
            begin = partial(source_with, place, engine, changes)
            if source := lineup.attempt((engine, "livemirror"), begin, unless=absent(engine)):
                for case, make in _cases(place, source, changes, options):
                    if made := lineup.attempt((case, "livemirror"), make):
                        contestants[case, "livemirror"] = made
        figures = lineup.rounds(contestants, options.repeats)
    for engine in options.engines:
        results += _results(engine, {case: of_it for (case, _), of_it in figures.items()})
    return [*results, *lineup.left_out]


def _cases(
    place: Ground, source: BenchSite, changes: int, options: Options
) -> Iterator[tuple[str, Callable[[], Contestant]]]:
    engine = source_engine(source)
    outbox = options.scaled(_OUTBOX, least=1000)
    yield f"{engine}, sequencing", partial(sequencing.contestant, place, engine, outbox)
    token = source.token("discards")
    for count in _SUBSCRIBERS:
        part = max(changes // count, min(changes, options.scaled(_LEAST)))
        yield _case(engine, count), partial(_draining, source, token, count, changes, part)
    yield f"{engine}, live", partial(_live, place, engine, max(2, options.scaled(_SECONDS)))


def _case(engine: str, count: int) -> str:
    return f"{engine}, {count} subscriber{'s' if count > 1 else ''}"


class Subscribers:
    """Many subscribers in one process."""

    def __init__(self, source: BenchSite, token: str, count: int, seek: str | int) -> None:
        self._process = source.start(
            f"{count}-subscribers", "-m", "bench.subscriber", str(source.port), token, str(count), str(seek)
        )
        self._source = source

    def wait_ready(self) -> None:
        self._line(0)

    def reach(self, position: int) -> dict[str, Any]:
        """Until each of them is there; how that went."""
        self._process.tell(str(position))
        found: dict[str, Any] = json.loads(self._line(1))
        return found

    def end(self) -> None:
        self._process.finish_input()
        assert self._process.wait() == 0, self._process.log

    def _line(self, number: int) -> str:
        def line() -> str | None:
            found = self._process.log.splitlines(keepends=True)
            if len(found) > number and found[number].endswith("\n"):
                assert found[number][0] in "r{", self._process.log
                return found[number]
            assert self._process.alive, self._process.log
            return None

        return wait_until(line, seconds=_LONGEST, what="the subscribers answer")


def _draining(source: BenchSite, token: str, count: int, changes: int, part: int) -> Contestant:
    """Changes a second, of all subscribers together, that each get the newest part of the oplog."""

    def drain(number: int) -> dict[str, float]:
        since = source.one("SELECT ts FROM mirror_oplog WHERE position = ?", changes - part + 1)
        subscribers = Subscribers(source, token, count, since if part < changes else "start")
        told = subscribers.reach(changes)
        subscribers.end()
        return {
            "changes/s": told["changes"] / told["seconds"],
            "MiB/s": told["bytes"] / 2**20 / told["seconds"],
            "redialled": told["redialled"],
        }

    return drain


def _live(place: Ground, engine: str, seconds: int) -> Contestant:
    """As many subscribers as there are to be, idle, and then while somebody writes at a rate."""
    source = place.site("source", engine)
    count = max(_SUBSCRIBERS)
    token = source.token("live")

    def live(number: int) -> dict[str, float]:
        daphne = source.serve()
        first = Subscribers(source, token, 1, "now")
        first.wait_ready()
        before = resident(daphne.pid)
        subscribers = Subscribers(source, token, count, "now")
        subscribers.wait_ready()
        memory = (resident(daphne.pid) - before) / count
        writer = source.start("writer", "-m", "bench.writer", str(_RATE), str(_RATE * seconds))
        assert writer.wait(seconds=seconds * 10 + 60) == 0, writer.log
        written = time.perf_counter()
        told = subscribers.reach(_captured(source))
        behind = time.perf_counter() - written
        subscribers.end()
        first.end()
        daphne.stop()
        return {
            "KiB each": memory / 1024,
            "behind": behind,
            "p50": told["delay_ms"]["p50"],
            "p99": told["delay_ms"]["p99"],
        }

    return live


def _captured(source: BenchSite) -> int:
    """The position that the newest committed change has or will have."""
    with source.reading() as database:
        ((position,),) = database.rows("SELECT position FROM mirror_stream WHERE local")
        ((waiting,),) = database.rows("SELECT count(*) FROM mirror_outbox")
    return int(position) + int(waiting)


def _results(engine: str, figures: Mapping[str, Figures]) -> Iterator[Result]:
    """``figures``: by case."""
    if (case := f"{engine}, sequencing") in figures:
        rates = figures[case]["changes/s"]
        yield _result(case, "sequenced", "changes/s", rates, note="one pass over a full outbox")
    one = figures.get(_case(engine, 1))
    for count in _SUBSCRIBERS:
        if (case := _case(engine, count)) in figures:
            rates = figures[case]["changes/s"]
            ratios = (
                (Ratio(to="1 subscriber", figures=quotients(rates, one["changes/s"])),)
                if one and count > 1
                else ()
            )
            most = max(figures[case]["redialled"])
            note = f"up to {most:.0f} dials a round got no answer and were repeated" if most else ""
            yield _result(case, "received by all together", "changes/s", rates, ratios=ratios, note=note)
    if (case := f"{engine}, live") in figures:
        live, many = figures[case], max(_SUBSCRIBERS)
        note = f"{many} subscribers in one process beside it, {_RATE} writes/s"
        yield _result(
            case,
            f"memory of daphne, each of {many} idle",
            "KiB",
            live["KiB each"],
            aim=Aim("at most", 100),
        )
        level = f"until all {many} are level after the last write"
        yield _result(case, level, "s", live["behind"], aim=Aim("at most", 1), note=note)
        for name in ("p50", "p99"):
            yield _result(case, f"captured to received, {name}", "ms", live[name], note=note)


def _result(case: str, quantity: str, unit: str, figures: tuple[float, ...], **more: Any) -> Result:
    return Result(
        scenario="streaming",
        case=case,
        subject="livemirror",
        quantity=quantity,
        unit=unit,
        figures=figures,
        **more,
    )

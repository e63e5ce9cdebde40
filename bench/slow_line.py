"""A slow line: catch-up and live latency over little bandwidth, compressed and not; and what that costs on a
line that is faster than both sides.

The line is a proxy that lets through so many bits a second, of all bytes above TCP, and delays them. On
loopback there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

from bench.catchup import source_with
from bench.latency import Pair, writer_of
from bench.options import Options
from bench.results import Aim, Contestant, Figures, Key, Lineup, Ratio, Result, quotients
from bench.running import level_after
from bench.sites import BenchSite, Ground, absent, drop, ground, same_tables
from bench.watching import MIB, processor_seconds
from tests.end_to_end.processes import Running, wait_until
from tests.end_to_end.proxy import Proxy
from tests.end_to_end.throttle import Throttle

_CHANGES = 20_000
_RATE = 20
#: Of writing, at full scale.
_SECONDS = 15
#: Bits a second, by how it is called.
_LINES = {"1 Mbit/s": 1e6, "10 Mbit/s": 1e7, "loopback": None}
#: Seconds, one way.
_LATENCY = 0.02
_LONGEST = 3600.0
_SUBJECTS = {"livemirror": True, "livemirror, uncompressed": False}


def run(options: Options) -> list[Result]:
    changes = options.scaled(_CHANGES, least=100) // 10 * 10
    writes = max(20, round(_RATE * _SECONDS * options.scale))
    lineup = Lineup("slow-line", options.say)
    with ground() as place:
        contestants: dict[Key, Contestant] = {}
        for engine in options.engines:
            options.say(f"  {engine}: {changes} changes to catch up")
            made = partial(source_with, place, engine, changes)
            source = lineup.attempt((engine, "livemirror"), made, unless=absent(engine))
            if source is None:
                continue
            for line, bits in _LINES.items():
                for subject, compression in _SUBJECTS.items():
                    contestants[f"{engine}, {line}", subject] = _contestant(
                        place, source, engine, bits, writes, compression=compression
                    )
        figures = lineup.rounds(contestants, options.repeats)
    return [*_results(figures, changes, writes), *lineup.left_out]


def _contestant(
    place: Ground, source: BenchSite, engine: str, bits: float | None, writes: int, *, compression: bool
) -> Contestant:
    def follow(number: int) -> dict[str, float]:
        centre = place.site("centre", engine, COMPRESSION=compression)
        with ExitStack() as stack:
            line = stack.enter_context(_line(source, bits)) if bits else None
            centre.follow("source", line.url if line else source.url, source.token(centre.name))
            changes = source.position()
            told = _catch_up(source, centre, line)
            told["changes/s"] = changes / told["seconds"]
            pair = Pair(centre, writer_of(source))
            live = pair.measure(_RATE, writes)
            assert same_tables(source, centre), "source and centre differ"
            drop(centre)
        return {**told, "p50": live["p50"], "p99": live["p99"]}

    return follow


@contextmanager
def _line(source: BenchSite, bits: float) -> Iterator[Proxy]:
    with Proxy(source.port) as line:
        line.throttle(up=_way(bits), down=_way(bits))
        yield line


def _way(bits: float) -> Throttle:
    return Throttle(bits=bits, latency=_LATENCY)


def _catch_up(source: BenchSite, centre: BenchSite, line: Proxy | None) -> dict[str, float]:
    """``seconds`` from dialling to live, the ``MiB`` that came, and what either side's processor did."""
    daphne = source.daphne
    before = processor_seconds(daphne.pid)
    mirror = centre.mirror()
    _wait_live(centre, mirror)
    carried = {"MiB": line.carried / MIB} if line else {}
    return {
        "seconds": level_after(mirror.log),
        "source's s": processor_seconds(daphne.pid) - before,
        "mirror's s": processor_seconds(mirror.pid),
        **carried,
    }


def _wait_live(centre: BenchSite, mirror: Running) -> None:
    def live() -> bool:
        assert mirror.alive, mirror.log
        return bool(centre.source_row()["state"] == "live")

    wait_until(live, seconds=_LONGEST, what="the mirror is live")


_QUANTITIES = {
    "changes/s": ("changes brought over", "changes/s"),
    "MiB": ("came over the line", "MiB"),
    "source's s": ("processor time of daphne, catch-up", "s"),
    "mirror's s": ("processor time of runmirror, start and catch-up", "s"),
    "p50": (f"commit to visible at {_RATE} writes/s, p50", "ms"),
    "p99": (f"commit to visible at {_RATE} writes/s, p99", "ms"),
}


def _results(figures: Mapping[Key, Figures], changes: int, writes: int) -> Iterator[Result]:
    for (case, subject), quantities in figures.items():
        plain = figures.get((case, "livemirror, uncompressed")) if subject == "livemirror" else None
        for name, (quantity, unit) in _QUANTITIES.items():
            if name not in quantities:
                continue
            aim = Aim("at least", 0.95) if name == "changes/s" else None
            ratio = (
                (Ratio(to="uncompressed", figures=quotients(quantities[name], plain[name]), aim=aim),)
                if plain
                else ()
            )
            yield Result(
                scenario="slow-line",
                case=case,
                subject=subject,
                quantity=quantity,
                unit=unit,
                figures=quantities[name],
                ratios=ratio,
                note=f"{changes:,} changes to catch up, {writes:,} written live; tables compared",
            )

"""Loading: a source that held rows before anything was captured, and an empty centre; the peers too.

Each round a new mirror loads all rows. Beside it, on a source of its own: what a writer commits there while
a mirror loads, against what it commits alone, and while the mirror follows afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

from bench import logical
from bench.backlog import PER_QUESTION
from bench.options import Options
from bench.results import Aim, Contestant, Figures, Key, Lineup, Ratio, Result, quotients
from bench.running import catch_up, until_loaded, until_loading, until_position
from bench.sites import BenchSite, Ground, absent, drop, ground, same_tables
from bench.steady import Steady

_ROWS = 400_000
#: For writing alone, at full scale.
_SECONDS = 10
_RATE = "rows/s"
_ALONE, _BESIDE, _FOLLOWED = "us a commit, alone", "while rows are loaded", "while the mirror follows"


def run(options: Options) -> list[Result]:
    rows = options.scaled(_ROWS, least=100) // PER_QUESTION * PER_QUESTION
    lineup = Lineup("loading", options.say)
    with ExitStack() as stack:
        place = stack.enter_context(ground())
        contestants: dict[Key, Contestant] = {}
        for key, why, begin in _contestants(place, stack, rows, options):
            options.say(f"  {', '.join(key)}: {rows:,} rows")
            if made := lineup.attempt(key, begin, unless=why):
                contestants[key] = made
        figures = lineup.rounds(contestants, options.repeats)
    return [*_results(figures, rows), *lineup.left_out]


def _contestants(
    place: Ground, stack: ExitStack, rows: int, options: Options
) -> Iterator[tuple[Key, str, Callable[[], Contestant]]]:
    """Key, why it is left out or nothing, and what prepares it."""
    seconds = max(2.0, _SECONDS * options.scale)
    for engine in options.engines:
        why = absent(engine)
        yield (engine, "livemirror"), why, partial(_mirror, place, engine, rows)
        if engine == "postgresql":
            peer = (engine, "logical replication")
            yield peer, why, lambda: stack.enter_context(_copied(place, rows, options.repeats))
        writer = (f"{engine}, a writer at the source", "livemirror")
        yield writer, why, partial(_beside_a_writer, place, engine, rows, seconds)


def source_of(place: Ground, engine: str, rows: int) -> BenchSite:
    """A served source that captures by now, and holds so many rows of before."""
    source = place.site("source", engine, CAPTURE=None)
    source.writes(rows, "--rows")
    del source.conf["CAPTURE"]
    source.manage("migrate", "--verbosity", "0")
    source.serve()
    return source


def _mirror(place: Ground, engine: str, rows: int) -> Contestant:
    source = source_of(place, engine, rows)

    def load(number: int) -> dict[str, float]:
        centre = place.centre_of(source)
        told = catch_up(centre)
        assert same_tables(source, centre), "source and centre differ after loading"
        drop(centre)
        return {_RATE: rows / told["seconds"], "peak MiB": told["peak MiB"]}

    return load


def _beside_a_writer(place: Ground, engine: str, rows: int, seconds: float) -> Contestant:
    source = source_of(place, engine, rows)

    def load(number: int) -> dict[str, float]:
        centre = place.centre_of(source)
        with Steady(source) as writer:
            alone = writer.commits_in(seconds)
            mirror = centre.mirror()
            until_loading(centre, mirror)
            beside = writer.commits_until(partial(until_loaded, centre, mirror))
            followed = writer.commits_in(seconds)
        until_position(source, centre, mirror)
        assert same_tables(source, centre), "source and centre differ after loading beside a writer"
        drop(centre)
        return {_ALONE: 1e6 / alone, _BESIDE: 1e6 / beside, _FOLLOWED: 1e6 / followed}

    return load


@contextmanager
def _copied(place: Ground, rows: int, repeats: int) -> Iterator[Contestant]:
    """PostgreSQL's own: the initial copy of a new subscription."""
    source = logical.publisher(place)
    source.writes(rows, "--rows")
    for number in range(repeats):
        logical.slot(place, source, f"copy_{number}")

    def load(number: int) -> dict[str, float]:
        name = f"copy_{number}"
        with logical.subscriber(place, source, name, copy=True) as target:
            seconds = logical.resume(place, source, target, name)
            assert same_tables(source, target), "publisher and subscriber differ"
        return {_RATE: rows / seconds}

    yield load


def _results(figures: Mapping[Key, Figures], rows: int) -> Iterator[Result]:
    for (case, name), quantities in figures.items():
        if _BESIDE in quantities:
            yield _writing(case, quantities, rows)
            continue
        ratios: tuple[Ratio, ...] = ()
        peer = figures.get((case, "logical replication"))
        if name == "livemirror" and peer is not None:
            ratios = (Ratio(to="logical replication", figures=quotients(quantities[_RATE], peer[_RATE])),)
        yield Result(
            scenario="loading",
            case=case,
            subject=name,
            quantity="rows brought over",
            unit=_RATE,
            figures=quantities[_RATE],
            ratios=ratios,
            note=f"{rows:,} rows of before capture, from dialling to live; tables compared",
        )
        if "peak MiB" in quantities:
            yield Result(
                scenario="loading",
                case=case,
                subject=name,
                quantity="memory of the mirror",
                unit="MiB",
                figures=quantities["peak MiB"],
                aim=Aim("at most", 200),
            )


def _writing(case: str, quantities: Figures, rows: int) -> Result:
    beside = quantities[_BESIDE]
    alone, followed = (quotients(beside, quantities[other]) for other in (_ALONE, _FOLLOWED))
    return Result(
        scenario="loading",
        case=case,
        subject="livemirror",
        quantity="a commit at the source while rows are loaded",
        unit="us",
        figures=beside,
        ratios=(
            Ratio(to="that without a mirror", figures=alone, aim=Aim("at most", 1.2)),
            Ratio(to="that of a source that is followed", figures=followed),
        ),
        note=f"{rows:,} rows are loaded; one writer without a pause, on the machine that the mirror works on",
    )

"""Catch-up: a mirror was away while changes accumulated; how fast it is level again, and the peers too.

The changes are made once for each contestant; each round a new mirror, with an empty database, takes all
of them. What goes through Django's ORM row by row gets a part of them: its cost per change does not depend
on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from bench import articles, logical, transport
from bench.cqrs import peer as cqrs
from bench.options import Options
from bench.results import Aim, Contestant, Figures, Key, Lineup, Ratio, Result, quotients
from bench.running import catch_up, until_at, until_sequenced
from bench.sites import BenchSite, Ground, absent, drop, ground, same_tables, source_engine
from bench.torn import Watcher

_CHANGES = 400_000
#: For the peers that go row by row.
_FEW = 4_000
_LEAST = 400
#: As many states of the centre's tables are seen at least: before, between and after.
_STATES = 3
#: Written without a pause while the mirror is watched.
_MORE = 40_000
_RATE = "changes/s"
_AIMS = {"the articles' ingestion": Aim("at least", 30), "logical replication": Aim("at least", 1)}


def run(options: Options) -> list[Result]:
    changes = options.scaled(_CHANGES, least=100) // 10 * 10
    few = min(changes, options.scaled(_FEW, least=_LEAST) // 10 * 10)
    lineup = Lineup("catch-up", options.say)
    with ExitStack() as stack:
        place = stack.enter_context(ground())
        contestants: dict[Key, Contestant] = {}
        sources: dict[str, BenchSite] = {}
        for engine in options.engines:
            key, theirs = (engine, "livemirror"), (engine, "the articles' ingestion")
            options.say(f"  {engine}: {changes} changes to catch up")
            made = lineup.attempt(key, partial(source_with, place, engine, changes), unless=absent(engine))
            if made is None:
                continue
            sources[engine] = made
            contestants[key] = _mirror(place, made, changes)
            if peer := lineup.attempt(theirs, partial(articles.contestant, place, made, few)):
                contestants[theirs] = peer
        for key, why, begin in _peers(place, stack, sources, changes, few, options):
            options.say(f"  preparing {', '.join(key)}")
            if peer := lineup.attempt(key, begin, unless=why):
                contestants[key] = peer
        figures = lineup.rounds(contestants, options.repeats)
        results = list(_results(figures, changes, few))
        for engine, source in sources.items():
            options.say(f"  {engine}: a round that is watched")
            watched = partial(_watched, place, source, changes, options.scaled(_MORE, least=2_000))
            results += lineup.attempt((engine, "livemirror, watched"), watched) or []
    return [*results, *lineup.left_out]


def source_with(place: Ground, engine: str, changes: int, **conf: Any) -> BenchSite:
    """A served source whose oplog holds so many changes."""
    source = place.site("source", engine, **conf)
    source.serve()
    source.writes(changes)
    until_sequenced(source, changes)
    return source


def _peers(
    place: Ground,
    stack: ExitStack,
    sources: Mapping[str, BenchSite],
    changes: int,
    few: int,
    options: Options,
) -> Iterator[tuple[Key, str, Callable[[], Contestant]]]:
    """Engine and name, why it is left out or nothing, and what prepares it."""
    postgresql = ("" if "postgresql" in options.engines else "--engine") or absent("postgresql")
    if postgresql != "--engine":
        yield (
            ("postgresql", "logical replication"),
            postgresql,
            lambda: stack.enter_context(logical.contestant(place, changes, options.repeats)),
        )
        yield (
            ("postgresql", "django-cqrs"),
            postgresql or cqrs.absent(),
            lambda: stack.enter_context(cqrs.contestant(place, few, options.repeats)),
        )
    if sources:
        source = next(iter(sources.values()))
        yield (
            ("no database", "Redis Streams, transport only"),
            transport.absent(),
            lambda: stack.enter_context(transport.contestant(source, changes)),
        )


def _mirror(place: Ground, source: BenchSite, changes: int) -> Contestant:
    def level(number: int) -> dict[str, float]:
        centre = place.centre_of(source)
        told = catch_up(centre)
        assert same_tables(source, centre), "source and centre differ after the catch-up"
        drop(centre)
        return {_RATE: changes / told["seconds"], "peak MiB": told["peak MiB"]}

    return level


def _watched(place: Ground, source: BenchSite, changes: int, more: int) -> list[Result]:
    """A round beside the others, because it costs time: does anybody see a torn transaction?"""
    centre = place.centre_of(source)
    watcher, mirror = Watcher(centre), centre.mirror()
    until_at(centre, mirror, changes)
    found = [_torn(centre, "catching up", watcher)]
    watcher = Watcher(centre)
    # As fast as it can, while the mirror follows.
    source.writes(more, seed=2)
    until_at(centre, mirror, changes + more)
    found.append(_torn(centre, "following writes without a pause", watcher))
    assert same_tables(source, centre), "source and centre differ after they were watched"
    drop(centre)
    return found


def _torn(centre: BenchSite, phase: str, watcher: Watcher) -> Result:
    told = watcher.end()
    result = Result(
        scenario="catch-up",
        case=source_engine(centre),
        subject="livemirror, watched",
        quantity=f"looks that saw a torn transaction, {phase}",
        unit="looks",
        figures=(float(told["torn"]),),
        aim=Aim("at most", 0),
        note=f"{phase}, {told['looks']:,} looks saw {told['states']:,} states",
    )
    if told["states"] < _STATES and not told["torn"]:
        why = f"{phase}, only {told['states']} states were seen: too few changes for a verdict"
        return replace(result, figures=(), aim=None, note="", left_out=why)
    if told["torn"]:
        return replace(result, note=f"{result.note}; the first torn one: {told['first_torn']}")
    return result


def _results(figures: Mapping[Key, Figures], changes: int, few: int) -> Iterator[Result]:
    for (engine, name), quantities in figures.items():
        rates = quantities[_RATE]
        ours = name == "livemirror"
        yield Result(
            scenario="catch-up",
            case=engine,
            subject=name,
            quantity="changes brought over",
            unit=_RATE,
            figures=rates,
            ratios=tuple(_ratios(engine, rates, figures)) if ours else (),
            note=_note(name, changes, few),
        )
        if ours:
            yield Result(
                scenario="catch-up",
                case=engine,
                subject=name,
                quantity="memory of the mirror",
                unit="MiB",
                figures=quantities["peak MiB"],
                aim=Aim("at most", 200),
            )


def _ratios(engine: str, rates: tuple[float, ...], figures: Mapping[Key, Figures]) -> Iterator[Ratio]:
    for (other, name), quantities in figures.items():
        if name != "livemirror" and other in (engine, "no database"):
            yield Ratio(to=name, figures=quotients(rates, quantities[_RATE]), aim=_AIMS.get(name))
    if engine == "sqlite" and ("postgresql", "livemirror") in figures:
        others = figures["postgresql", "livemirror"][_RATE]
        yield Ratio(to="livemirror on postgresql", figures=quotients(rates, others), aim=Aim("at least", 1))


def _note(name: str, changes: int, few: int) -> str:
    if name == "livemirror":
        return f"{changes:,} changes, from dialling to live; tables compared"
    if name in ("the articles' ingestion", "django-cqrs"):
        return f"{few:,} changes"
    return f"{changes:,} changes"

"""Catch-up: a mirror was away while changes accumulated; how fast it is level again, and the peers too.

The changes are made once for each contestant; each round a new mirror, with an empty database, takes all
of them. What goes through Django's ORM row by row gets a part of them: its cost per change does not depend
on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

from bench import articles, logical, transport
from bench.cqrs import peer as cqrs
from bench.options import Options
from bench.results import Aim, Contestant, Figures, Key, Ratio, Result, quotients, rounds
from bench.running import catch_up, until_sequenced
from bench.sites import BenchSite, Ground, absent, drop, ground, same_tables

_CHANGES = 400_000
#: For the peers that go row by row.
_FEW = 20_000
_RATE = "changes/s"
_AIMS = {"the articles' ingestion": Aim("at least", 30), "logical replication": Aim("at least", 1)}


def run(options: Options) -> list[Result]:
    changes = options.scaled(_CHANGES, least=100) // 10 * 10
    few = min(changes, options.scaled(_FEW, least=100) // 10 * 10)
    left_out: list[Result] = []
    with ExitStack() as stack:
        place = stack.enter_context(ground())
        contestants: dict[Key, Contestant] = {}
        sources = {}
        for engine in options.engines:
            if why := absent(engine):
                left_out.append(_left_out(engine, "livemirror", why))
                continue
            options.say(f"  {engine}: {changes} changes to catch up")
            sources[engine] = source_with(place, engine, changes)
            contestants[engine, "livemirror"] = _mirror(place, sources[engine], changes)
            contestants[engine, "the articles' ingestion"] = articles.contestant(place, sources[engine], few)
        for (engine, name), why, begin in _peers(place, stack, sources, changes, few, options):
            if why:
                left_out.append(_left_out(engine, name, why))
            else:
                options.say(f"  {engine}: preparing {name}")
                contestants[engine, name] = begin()
        figures, failed = rounds("catch-up", contestants, options.repeats, options.say)
    return [*_results(figures, changes, few), *left_out, *failed]


def source_with(place: Ground, engine: str, changes: int) -> BenchSite:
    """A served source whose oplog holds so many changes."""
    source = place.site("source", engine)
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


def _left_out(engine: str, name: str, why: str) -> Result:
    return Result(scenario="catch-up", case=engine, subject=name, left_out=why)

"""Growth: what a change costs, and what memory is taken, as oplog, backlog or one transaction grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from bench.catchup import source_with
from bench.filling import fill
from bench.options import Options
from bench.results import Aim, Contestant, Figures, Key, Ratio, Result, quotients, rounds
from bench.running import catch_up, until_sequenced
from bench.sequencing import sequenced
from bench.sites import Ground, absent, drop, ground, same_tables
from bench.watching import MIB, forget_peak, peak, resident

_LOGS = (10_000, 1_000_000, 10_000_000)
_BACKLOGS = (10_000, 1_000_000)
_TRANSACTION = 1_000_000
#: Changes of a round in an oplog of any size.
_MORE = 20_000
_MEMORY = {"mirror MiB": Aim("at most", 200), "source MiB more": Aim("at most", 32)}
_COSTS = {
    "sequencing us": "sequencing, of a change",
    "mirror us": "from the oplog to the mirror, of a change",
}


def run(options: Options) -> list[Result]:
    results: list[Result] = []
    with ground() as place:
        contestants: dict[Key, Contestant] = {}
        sizes: dict[tuple[str, str], list[int]] = {}
        for engine in options.engines:
            if why := absent(engine):
                results.append(Result(scenario="growth", case=engine, subject="livemirror", left_out=why))
                continue
            for what, size, make in _sizes(options):
                options.say(f"  {engine}: {what} {size:,}")
                contestants[_case(engine, what, size), "livemirror"] = make(place, engine, size)
                sizes.setdefault((engine, what), []).append(size)
        figures, failed = rounds("growth", contestants, options.repeats, options.say)
    for (engine, what), of_it in sizes.items():
        least = figures.get((_case(engine, what, of_it[0]), "livemirror"))
        for size in of_it:
            case = _case(engine, what, size)
            if (case, "livemirror") in figures:
                base = (of_it[0], least) if least and size > of_it[0] else None
                results += _results(case, figures[case, "livemirror"], base)
    return [*results, *failed]


def _case(engine: str, what: str, size: int) -> str:
    return f"{engine}, {what} {size:,}"


def _sizes(options: Options) -> Iterator[tuple[str, int, Callable[[Ground, str, int], Contestant]]]:
    more = options.scaled(_MORE, least=200) // 10 * 10
    base = options.scaled(_LOGS[0], least=100) // 10 * 10
    for size in _LOGS:
        yield "oplog of", options.scaled(size, least=100), _in_oplog(base, more)
    for size in _BACKLOGS:
        yield "backlog of", options.scaled(size, least=100) // 10 * 10, _with_backlog
    yield "one transaction of", options.scaled(_TRANSACTION, least=100), _one_transaction


def _in_oplog(base: int, more: int) -> Callable[[Ground, str, int], Contestant]:
    """Both sides' oplogs have their size; then so many changes more pass through, each round."""

    def make(place: Ground, engine: str, size: int) -> Contestant:
        source = source_with(place, engine, base)
        centre = place.centre_of(source)
        catch_up(centre)
        source.end()
        for site in (source, centre):
            fill(site, size)

        def pass_through(number: int) -> dict[str, float]:
            source.writes(more, seed=number + 2)
            sequencing = sequenced(source, more)
            daphne = source.serve()
            before = _fresh(daphne.pid)
            told = catch_up(centre)
            weighed = _weighed(told, daphne.pid, before)
            assert centre.source_row()["position"] == source.position()
            source.end()
            return {
                "sequencing us": sequencing / more * 1e6,
                "mirror us": told["seconds"] / more * 1e6,
                **weighed,
            }

        return pass_through

    return make


def _with_backlog(place: Ground, engine: str, size: int) -> Contestant:
    """The whole oplog is the backlog of a new mirror, each round."""
    source = source_with(place, engine, size)
    daphne = source.daphne

    def level(number: int) -> dict[str, float]:
        centre = place.centre_of(source)
        before = _fresh(daphne.pid)
        told = catch_up(centre)
        weighed = _weighed(told, daphne.pid, before)
        assert same_tables(source, centre), "source and centre differ after the catch-up"
        drop(centre)
        return {"mirror us": told["seconds"] / size * 1e6, **weighed}

    return level


def _one_transaction(place: Ground, engine: str, size: int) -> Contestant:
    """Committed while the source is served and the mirror is away, each round one more."""
    source = source_with(place, engine, 10)
    daphne = source.daphne
    centre = place.centre_of(source)
    catch_up(centre)

    def level(number: int) -> dict[str, float]:
        aim = source.position() + size
        before = _fresh(daphne.pid)
        source.writes(size, "--at-once", seed=number + 2)
        until_sequenced(source, aim)
        told = catch_up(centre)
        weighed = _weighed(told, daphne.pid, before)
        assert same_tables(source, centre), "source and centre differ after the transaction"
        return {"mirror us": told["seconds"] / size * 1e6, **weighed}

    return level


def _fresh(pid: int) -> int:
    """What a process has resident now, as the beginning of what is weighed."""
    forget_peak(pid)
    return resident(pid)


def _weighed(told: Mapping[str, float], pid: int, before: int) -> dict[str, float]:
    return {"mirror MiB": told["peak MiB"], "source MiB more": (peak(pid) - before) / MIB}


def _results(case: str, figures: Figures, base: tuple[int, Figures] | None) -> Iterator[Result]:
    """``base``: the smallest of its kind and its figures."""
    for name, quantity in _COSTS.items():
        if name in figures:
            ratios = ()
            if base is not None:
                size, others = base
                ratios = (
                    Ratio(
                        to=f"that of {size:,}",
                        figures=quotients(figures[name], others[name]),
                        aim=Aim("at most", 1.2),
                    ),
                )
            yield Result(
                scenario="growth",
                case=case,
                subject="livemirror",
                quantity=quantity,
                unit="us",
                figures=figures[name],
                ratios=ratios,
            )
    for name, quantity in [
        ("mirror MiB", "highest memory of the mirror"),
        ("source MiB more", "memory of daphne, more than before"),
    ]:
        yield Result(
            scenario="growth",
            case=case,
            subject="livemirror",
            quantity=quantity,
            unit="MiB",
            figures=figures[name],
            aim=_MEMORY[name],
        )

"""Growth: what a change costs, and what memory is taken, as oplog, backlog or one transaction grow."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial

from bench.catchup import source_with
from bench.filling import fill
from bench.options import Options
from bench.results import Aim, Contestant, Figures, Key, Lineup, Ratio, Result, quotients
from bench.running import catch_up, until_sequenced
from bench.sequencing import sequenced
from bench.sites import BenchSite, Ground, absent, drop, ground, same_tables
from bench.streaming import Subscribers
from bench.watching import MIB, forget_peak, peak, resident
from mirror.wire import Subscribe, encode
from tests.end_to_end.processes import Running
from tests.end_to_end.raw_socket import RawSocket

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
    lineup = Lineup("growth", options.say)
    results: list[Result] = []
    with ground() as place:
        contestants: dict[Key, Contestant] = {}
        sizes: dict[tuple[str, str], list[int]] = {}
        for engine in options.engines:
            why = absent(engine)
            for what, size, make in _cases(place, engine, options):
                options.say(f"  {engine}: {what} {size:,}")
                key = _case(engine, what, size), "livemirror"
                if made := lineup.attempt(key, make, unless=why):
                    contestants[key] = made
                    sizes.setdefault((engine, what), []).append(size)
        figures = lineup.rounds(contestants, options.repeats)
    for (engine, what), of_it in sizes.items():
        least = figures.get((_case(engine, what, of_it[0]), "livemirror"))
        for size in of_it:
            case = _case(engine, what, size)
            if (case, "livemirror") in figures:
                base = (of_it[0], least) if least and size > of_it[0] else None
                results += _results(case, figures[case, "livemirror"], base)
    return [*results, *lineup.left_out]


def _case(engine: str, what: str, size: int) -> str:
    return f"{engine}, {what} {size:,}"


def _cases(
    place: Ground, engine: str, options: Options
) -> Iterator[tuple[str, int, Callable[[], Contestant]]]:
    more = options.scaled(_MORE, least=200) // 10 * 10
    base = options.scaled(_LOGS[0], least=100) // 10 * 10
    for log in _LOGS:
        size = options.scaled(log, least=100)
        yield "oplog of", size, partial(_in_oplog, place, engine, size, base, more)
    for backlog in _BACKLOGS:
        size = options.scaled(backlog, least=100) // 10 * 10
        # Whoever is stalled shall not be given up: that is the easy case.
        source = cache(partial(source_with, place, engine, size, DEADLINE=7200.0))
        yield "backlog of", size, partial(_with_backlog, place, source, size)
    yield "beside a stalled subscriber, backlog of", size, partial(_beside_a_stalled, source, size)
    size = options.scaled(_TRANSACTION, least=100)
    yield "one transaction of", size, partial(_one_transaction, place, engine, size)


def _in_oplog(place: Ground, engine: str, size: int, base: int, more: int) -> Contestant:
    """Both sides' oplogs have their size; then so many changes more pass through, each round."""
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


def _with_backlog(place: Ground, begin: Callable[[], BenchSite], size: int) -> Contestant:
    """The whole oplog is the backlog of a new mirror, each round."""
    source = begin()

    def level(number: int) -> dict[str, float]:
        centre = place.centre_of(source)
        daphne = _served_anew(source)
        before = _fresh(daphne.pid)
        told = catch_up(centre)
        weighed = _weighed(told, daphne.pid, before)
        assert same_tables(source, centre), "source and centre differ after the catch-up"
        drop(centre)
        return {"mirror us": told["seconds"] / size * 1e6, **weighed}

    return level


def _beside_a_stalled(begin: Callable[[], BenchSite], size: int) -> Contestant:
    """One subscriber wants the whole oplog and never reads, another takes it, each round."""
    source = begin()
    stalled_token, token = source.token("stalled"), source.token("discards")
    request = Subscribe(mirror=str(uuid.uuid4()), window=2**40, seek="start")

    def level(number: int) -> dict[str, float]:
        daphne = _served_anew(source)
        before = _fresh(daphne.pid)
        with RawSocket(source.port, stalled_token, receive_buffer=4096) as stalled:
            stalled.send_text(encode(request))
            assert b'"type":"subscribed"' in stalled.receive()
            other = Subscribers(source, token, 1, "start")
            other.reach(size)
            other.end()
            return {"source MiB more": (peak(daphne.pid) - before) / MIB}

    return level


def _served_anew(source: BenchSite) -> Running:
    """Memory that an earlier round has taken would not be seen again."""
    source.daphne.stop()
    return source.serve()


def _one_transaction(place: Ground, engine: str, size: int) -> Contestant:
    """Committed while the source is served and the mirror is away, each round one more."""
    source = source_with(place, engine, 10)
    centre = place.centre_of(source)
    catch_up(centre)

    def level(number: int) -> dict[str, float]:
        aim = source.position() + size
        daphne = _served_anew(source)
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
            ratios: tuple[Ratio, ...] = ()
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
        if name in figures:
            yield Result(
                scenario="growth",
                case=case,
                subject="livemirror",
                quantity=quantity,
                unit="MiB",
                figures=figures[name],
                aim=_MEMORY[name],
            )

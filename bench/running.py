"""Mirrors that run: to the end, timed and weighed; or level and live."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

from bench.sites import BenchSite, Ground
from bench.watching import MIB, peak
from tests.end_to_end.processes import Running, wait_until

_LOOK_EVERY = 0.02
_LONGEST = 7200.0


def catch_up(centre: BenchSite) -> dict[str, float]:
    """``runmirror`` until it is level with all its sources: ``seconds``, and its ``peak MiB``.

    From the moment when it dials the first source until it says of the last one that it is live; the start
    and the end of a Python process are no part of it. The caller looks whether what arrived is right.
    """
    began = time.perf_counter()
    mirror = centre.mirror("--until-caught-up")
    highest = 0
    while mirror.alive:
        with suppress(ProcessLookupError):
            highest = max(highest, peak(mirror.pid))
        assert time.perf_counter() - began < _LONGEST, mirror.log
        time.sleep(_LOOK_EVERY)
    assert mirror.wait() == 0, mirror.log
    return {"seconds": level_after(mirror.log), "peak MiB": highest / MIB}


def level_after(log: str) -> float:
    """Seconds in a log of ``runmirror`` from its first "connecting" to its last "live"."""
    said = [line.split(" ", 1) for line in log.splitlines()]
    began = min(float(moment) for moment, what in said if what.endswith(": connecting"))
    return max(float(moment) for moment, what in said if what.endswith(": live")) - began


def until_sequenced(source: BenchSite, position: int) -> None:
    wait_until(lambda: source.position() >= position, seconds=_LONGEST, what=f"{position} changes in order")


def until_at(centre: BenchSite, mirror: Running, position: int) -> None:
    def there() -> bool:
        assert mirror.alive, mirror.log
        return bool(centre.source_row()["position"] >= position)

    wait_until(there, seconds=_LONGEST, what=f"the mirror is at {position}")


def until_loading(centre: BenchSite, mirror: Running) -> None:
    """Until the mirror knows that it has rows to load."""

    def began() -> bool:
        assert mirror.alive, mirror.log
        return bool(centre.one("SELECT count(*) FROM mirror_loading"))

    wait_until(began, what="the mirror begins to load")


def until_loaded(centre: BenchSite, mirror: Running) -> None:
    """Until all rows that the mirror has to load are there; more may come as changes meanwhile."""
    left = "SELECT count(*), sum(CASE WHEN state = 'done' THEN 0 ELSE 1 END) FROM mirror_loading"

    def loaded() -> bool:
        assert mirror.alive, mirror.log
        ((models, undone),) = centre.rows(left)
        return models > 0 and not undone

    wait_until(loaded, seconds=_LONGEST, what=f"all rows are loaded: {mirror.log}")


def until_position(source: BenchSite, centre: BenchSite, mirror: Running) -> None:
    """Until the mirror has all that was committed at a source that nobody writes to any more."""
    wait_until(
        lambda: not source.one("SELECT count(*) FROM mirror_outbox"), seconds=_LONGEST, what="all is in order"
    )
    until_at(centre, mirror, source.position())


@dataclass(frozen=True, slots=True)
class Live:
    """A source that is served, and a centre that is level with it and follows on."""

    source: BenchSite
    centre: BenchSite
    mirror: Running


def live(place: Ground, engine: str) -> Live:
    source = place.site("source", engine)
    source.serve()
    centre = place.centre_of(source)
    mirror = centre.mirror()
    wait_until(lambda: centre.source_row()["state"] == "live", what=f"the mirror is live: {mirror.log}")
    return Live(source, centre, mirror)

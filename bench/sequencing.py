"""Sequencing alone: ``python -m bench.sequencing`` prints the seconds of one pass over the outbox."""

from __future__ import annotations

import time

from bench.results import Contestant
from bench.sites import BenchSite, Ground


def contestant(place: Ground, engine: str, changes: int) -> Contestant:
    """So many changes from a full outbox into the oplog, each round."""
    source = place.site("source", engine)

    def sequence(number: int) -> dict[str, float]:
        source.writes(changes, seed=number)
        return {"changes/s": changes / sequenced(source, changes)}

    return sequence


def sequenced(source: BenchSite, changes: int) -> float:
    """Seconds of a pass over an outbox of so many changes."""
    before = source.position()
    sequencer = source.start("sequencer", "-m", "bench.sequencing")
    assert sequencer.wait(seconds=7200) == 0, sequencer.log
    assert source.position() == before + changes, f"{source.position() - before} changes of {changes}"
    return float(sequencer.log.splitlines()[-1])


def main() -> None:
    import django

    django.setup()
    from django.core.management import call_command

    began = time.perf_counter()
    call_command("runsequencer", "--once", verbosity=0)
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main()

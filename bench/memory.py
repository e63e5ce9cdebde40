"""Memory, as JSON in MiB: ``python -m bench.memory``.

A source while a subscriber does not read and 100,000 changes pass; a mirror while it catches up a backlog
of a million changes in one go.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import uuid
from pathlib import Path

from bench.latency import database, pair
from tests.end_to_end.processes import Running, Site, wait_until
from tests.end_to_end.raw_socket import RawSocket

_CHUNK = 5000
_CHANGES = f"shop.Ticket.objects.bulk_create([shop.Ticket(text='x' * 200) for _ in range({_CHUNK})])"


def mebibytes(count: int) -> float:
    return round(count / 1024 / 1024, 1)


class Peak:
    """The highest resident memory of a process, and where it began."""

    def __init__(self, process: Running) -> None:
        self.process = process
        self.before = self.highest = process.resident_bytes()

    def look(self) -> None:
        self.highest = max(self.highest, self.process.resident_bytes())

    def as_json(self) -> dict[str, float]:
        return {
            "before": mebibytes(self.before),
            "highest": mebibytes(self.highest),
            "growth": mebibytes(self.highest - self.before),
        }


def with_a_stalled_subscriber(count: int, directory: Path) -> dict[str, float]:
    with pair(directory) as (source, centre):
        token = source.token("stalled")
        source.run(_CHANGES)
        wait_until(lambda: centre.source_row()["position"] == _CHUNK)
        daphne = next(running for running in source.started if running.name.endswith("daphne"))
        with RawSocket(source.port, token, receive_buffer=4096) as stalled:
            request = {"type": "subscribe", "mirror": str(uuid.uuid4()), "window": 2**40}
            stalled.send_text(json.dumps(request))
            peak = Peak(daphne)
            for _ in range(count // _CHUNK):
                source.run(_CHANGES)
                peak.look()

            def level() -> bool:
                peak.look()
                return bool(centre.source_row()["position"] >= count + _CHUNK)

            wait_until(level, seconds=600)
        return {"changes": count, **peak.as_json()}


def catching_up(count: int, directory: Path) -> dict[str, float]:
    source = Site("source", "source", directory, database(directory / "source"), {})
    centre = Site("centre", "centre", directory, database(directory / "centre"), {})
    try:
        for site in (source, centre):
            site.manage("migrate", "--verbosity", "0")
        for _ in range(count // _CHUNK):
            source.run(_CHANGES)
        source.serve()
        centre.follow("source", source.url, source.token())
        wait_until(lambda: source.one("SELECT count(*) FROM mirror_outbox") == 0, seconds=1800)
        mirror = centre.mirror()
        wait_until(lambda: "catching up" in mirror.log)
        peak = Peak(mirror)

        def level() -> bool:
            peak.look()
            return bool(centre.source_row()["position"] >= count)

        wait_until(level, seconds=1800)
        return {"changes": count, **peak.as_json()}
    finally:
        source.end()
        centre.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stalled", type=int, default=100_000, metavar="N")
    parser.add_argument("--backlog", type=int, default=1_000_000, metavar="N")
    arguments = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as directory:
        found["source_with_a_stalled_subscriber"] = with_a_stalled_subscriber(
            arguments.stalled, Path(directory)
        )
    with tempfile.TemporaryDirectory() as directory:
        found["mirror_catching_up"] = catching_up(arguments.backlog, Path(directory))
    json.dump(found, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()

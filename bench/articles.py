"""The ingestion of the original articles, restated: ``python -m bench.articles FILE`` prints seconds.

A line of ``oplog.log`` at a time: skip what is not newer than the last one, let Django's deserializer make
the object, find the row with the same UUID so that its local key is kept, save or delete it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from bench.results import Contestant
from bench.sites import BenchSite, Ground, drop, source_engine


def ingest(path: Path) -> int:
    from django.core import serializers

    last, count = 0.0, 0
    with path.open() as lines:
        for line in lines:
            moment, verb, objects = line.rstrip("\n").split(" ", 2)
            if float(moment) <= last:
                continue
            for entry in serializers.deserialize("json", objects):
                told: Any = entry.object
                found = type(told)._default_manager.filter(id=told.id).first()
                told.pkid = found.pkid if found else None
                if verb == "SAVE":
                    entry.save()
                elif found:
                    told.delete()
                count += 1
            last = float(moment)
    return count


def contestant(place: Ground, source: BenchSite, changes: int) -> Contestant:
    """Takes the first changes of the source's oplog, as the articles' lines, into an empty database."""
    path = place.directory / f"{source.name}-articles.log"
    with path.open("w") as file:
        bodies = source.rows("SELECT body FROM mirror_oplog ORDER BY ts LIMIT ?", changes)
        file.writelines(_line(json.loads(body)) for (body,) in bodies)

    def level(number: int) -> dict[str, float]:
        centre = place.site("articles", source_engine(source))
        ingesting = centre.start("ingest", "-m", "bench.articles", str(path))
        assert ingesting.wait(seconds=7200) == 0, ingesting.log
        told = json.loads(ingesting.log.splitlines()[-1])
        assert told["changes"] == changes, told
        saved = {(body["model"], body["pk"]) for body in _objects(path)}
        rows = sum(centre.one(f"SELECT count(*) FROM polls_{table}") for table in ("question", "choice"))
        assert rows == len(saved), f"{rows} rows instead of {len(saved)}"
        drop(centre)
        return {"changes/s": changes / told["seconds"]}

    return level


def _line(change: dict[str, object]) -> str:
    ts, op = change.pop("ts"), change.pop("op")
    assert isinstance(ts, int)
    return f"{ts // 10**6}.{ts % 10**6:06} {op} {json.dumps([change])}\n"


def _objects(path: Path) -> list[dict[str, str]]:
    return [json.loads(line.split(" ", 2)[2])[0] for line in path.read_text().splitlines()]


def main() -> None:
    import django

    django.setup()
    began = time.perf_counter()
    count = ingest(Path(sys.argv[1]))
    print(json.dumps({"seconds": time.perf_counter() - began, "changes": count}))


if __name__ == "__main__":
    main()

"""Transport alone: the same JSON, a message a change, through Redis Streams to a reader that discards it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.results import Contestant
from bench.sites import BenchSite

_PAGE = 5000


def absent() -> str:
    """Why it cannot be measured, or nothing."""
    try:
        import redis
    except ImportError:
        return "the package redis is not installed"
    try:
        with redis.Redis() as client:
            client.ping()
    except redis.RedisError as error:
        return f"no Redis answers on loopback: {error}"
    return ""


def version() -> str:
    import redis

    with redis.Redis() as client:
        return str(client.info()["redis_version"])


@contextmanager
def contestant(source: BenchSite, changes: int) -> Iterator[Contestant]:
    """The bodies of a source's oplog, put into a stream once and read from its beginning each round."""
    import redis

    key = f"livemirror-bench-{os.getpid()}"
    with redis.Redis() as client:
        try:
            bodies = source.rows("SELECT body FROM mirror_oplog ORDER BY ts LIMIT ?", changes)
            for page in _pages(bodies):
                with client.pipeline(transaction=False) as pipeline:
                    for (body,) in page:
                        pipeline.xadd(key, {"body": body})
                    pipeline.execute()

            def level(number: int) -> dict[str, float]:
                began = time.perf_counter()
                found = _read(client, key)
                assert found == changes, f"{found} messages of {changes}"
                return {"changes/s": changes / (time.perf_counter() - began)}

            yield level
        finally:
            client.delete(key)


def _pages(rows: list[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    for start in range(0, len(rows), _PAGE):
        yield rows[start : start + _PAGE]


def _read(client: Any, key: str) -> int:
    last, count = "0", 0
    while answer := client.xread({key: last}, count=_PAGE):
        ((_name, messages),) = answer.items() if isinstance(answer, dict) else answer
        count += len(messages)
        last = messages[-1][0]
    return count

"""A writer without a pause: ``python -m bench.steady`` inserts questions, one a transaction.

For each line on standard input it says how many it has committed and when that was, in monotonic seconds.
Ends with its input.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from bench.sites import BenchSite
from tests.end_to_end.processes import wait_until

#: What it says of a moment: commits until then, and seconds.
Mark = tuple[int, float]


class Steady:
    """The writer as the bench holds it; entered, it is at work."""

    def __init__(self, source: BenchSite) -> None:
        self._process = source.start("steady", "-m", "bench.steady")
        self._asked = 0

    def __enter__(self) -> Steady:
        self._mark()
        return self

    def __exit__(self, *error: Any) -> None:
        self._process.finish_input()
        assert self._process.wait() == 0, self._process.log

    def commits_in(self, seconds: float) -> float:
        """Commits a second."""
        return self.commits_until(lambda: time.sleep(seconds))

    def commits_until(self, ends: Callable[[], None]) -> float:
        """Commits a second, until this returns."""
        before = self._mark()
        ends()
        return rate(before, self._mark())

    def _mark(self) -> Mark:
        self._asked += 1
        self._process.tell("how many")

        def answer() -> list[str] | None:
            said = self._process.log.splitlines(keepends=True)
            assert self._process.alive, self._process.log
            return said if len(said) >= self._asked and said[-1].endswith("\n") else None

        count, moment = wait_until(answer, seconds=60, what="the writer answers")[-1].split()
        return int(count), float(moment)


def rate(before: Mark, after: Mark) -> float:
    """Commits a second between two marks. Raises ValueError if there were none."""
    commits, seconds = after[0] - before[0], after[1] - before[1]
    if commits <= 0:
        raise ValueError(f"no commit in {seconds:.1f} s")
    return commits / seconds


def main() -> None:
    import django

    django.setup()
    from django.db import connection

    sql = "INSERT INTO polls_question (id, question_text, pub_date) VALUES (%s, %s, %s)"
    native = connection.features.has_native_uuid_field
    asked: list[str] = []
    ended = threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            asked.append(line)  # noqa: PERF402 - each at once, not all at the end
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    count = 0
    while not ended.is_set():
        key = uuid.uuid4()
        with connection.cursor() as cursor:
            cursor.execute(sql, [key if native else key.hex, str(count), "2026-01-01 00:00:00"])
        count += 1
        while asked:
            asked.pop()
            print(count, time.monotonic(), flush=True)


if __name__ == "__main__":
    main()

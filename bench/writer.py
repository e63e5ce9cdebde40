"""Writes at a pace: ``python -m bench.writer RATE COUNT`` inserts questions, one a transaction.

Prints a line for each: its number, and the epoch nanoseconds at which it was begun and committed.
"""

from __future__ import annotations

import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

#: Seconds that a connection may take.
_READY = 60.0


def paced(rate: float, count: int, write: Callable[[int], None], *, writers: int = 1) -> None:
    """``rate`` writes a second on average, at times that no loop of anybody can fall into step with.

    ``writers`` threads share them: one alone waits for the disk with every commit.
    """
    told: list[str] = []
    ready = threading.Barrier(writers)

    def turns(first: int) -> None:
        write(1 - first)  # not measured; the connection is open from here on
        ready.wait(_READY)
        due = time.monotonic()
        for number in range(first, count + 1, writers):
            due += random.uniform(0, 2 * writers / rate)
            time.sleep(max(0.0, due - time.monotonic()))
            began = time.time_ns()
            write(number)
            told.append(f"{number} {began} {time.time_ns()}")

    with ThreadPoolExecutor(writers) as threads:
        for _ in threads.map(turns, range(1, writers + 1)):
            pass  # raises what a thread has raised
    print("\n".join(told), flush=True)


def writers_for(rate: float, vendor: str) -> int:
    """How many threads a rate needs; SQLite lets one write at a time anyway."""
    return 1 if vendor == "sqlite" else max(1, round(rate / 500))


def reached_rate(lines: Sequence[Sequence[int]]) -> float:
    """Writes a second, from the first to the last."""
    seconds = max(ended for _, _, ended in lines) - min(began for _, began, _ in lines)
    return len(lines) / seconds * 1e9


def main() -> None:
    import django

    django.setup()
    from django.db import connection

    sql = "INSERT INTO polls_question (id, question_text, pub_date) VALUES (%s, %s, %s)"
    native = connection.features.has_native_uuid_field

    def write(number: int) -> None:
        key = uuid.uuid4()
        with connection.cursor() as cursor:
            cursor.execute(sql, [key if native else key.hex, str(number), "2026-01-01 00:00:00"])

    rate = float(sys.argv[1])
    paced(rate, int(sys.argv[2]), write, writers=writers_for(rate, connection.vendor))


if __name__ == "__main__":
    main()

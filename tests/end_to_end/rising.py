"""A writer whose rows only ever rise: ``python -m tests.end_to_end.rising RATE ROWS SEED JOURNAL``.

Finds so many rows of version 0, half of them counters and half tags, each numbered from 1. Until its standard
input ends it raises versions by one, inserts and deletes, one row a transaction, so many a second on average.
No row comes again once it is deleted, and before it is, the journal says so: a line of its table and number.
At the end prints a line for each write: the epoch nanoseconds when it was begun, and those that it took.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO
from uuid import UUID

TABLES = ("counter", "tag")

_INSERTING = {
    "counter": "INSERT INTO shop_counter (value, id) VALUES (%s, %s)",
    "tag": "INSERT INTO shop_tag (label, id) VALUES (%s, %s)",
}
_RAISING = {
    "counter": "UPDATE shop_counter SET value = %s WHERE id = %s",
    "tag": "UPDATE shop_tag SET label = %s WHERE id = %s",
}
_DELETING = {"counter": "DELETE FROM shop_counter WHERE id = %s", "tag": "DELETE FROM shop_tag WHERE id = %s"}


def tag_id(number: int) -> UUID:
    """Neighbours lie far apart, as with random ones."""
    return UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128, version=4)


def hot_numbers(rows: int) -> list[int]:
    """Of a table of so many rows, those that are raised again and again; they are not deleted."""
    return [int(rows * place) + number for place in (0.1, 0.4, 0.7, 0.95) for number in range(1, 26)]


class Table:
    """What the writer knows of one table."""

    def __init__(self, name: str, rows: int, dice: random.Random) -> None:
        self.name = name
        self.hot = hot_numbers(rows)
        self._kept = set(self.hot)
        self._dice = dice
        self._last = rows
        self._versions: defaultdict[int, int] = defaultdict(int)
        self._deleted: set[int] = set()
        #: Rows that were written of late, whose changes are still on their way.
        self._fresh: list[int] = []

    def insert(self) -> tuple[str, int, int]:
        self._last += 1
        return _INSERTING[self.name], 0, self._note(self._last)

    def raise_one(self) -> tuple[str, int, int]:
        number = self._dice.choice(self.hot) if self._dice.random() < 0.5 else self._any()
        self._versions[number] += 1
        return _RAISING[self.name], self._versions[number], self._note(number)

    def delete(self) -> tuple[str, int]:
        number = self._dice.choice(self._fresh) if self._dice.random() < 0.5 and self._fresh else 0
        while not number or number in self._kept or number in self._deleted:
            number = self._any()
        self._deleted.add(number)
        return _DELETING[self.name], number

    def _any(self) -> int:
        while (number := self._dice.randint(1, self._last)) in self._deleted:
            continue
        return number

    def _note(self, number: int) -> int:
        self._fresh = [*self._fresh[-9:], number]
        return number


class Writer:
    def __init__(self, rows: int, seed: int, journal: TextIO) -> None:
        from django.db import connection

        self.dice = random.Random(seed)
        self._tables = [Table(name, rows // len(TABLES), self.dice) for name in TABLES]
        self._journal = journal
        self._cursor = connection.cursor()
        self._native = connection.features.has_native_uuid_field

    def write(self) -> None:
        table, kind = self.dice.choice(self._tables), self.dice.random()
        if kind < 0.12:
            sql, number = table.delete()
            self._journal.write(f"{table.name} {number}\n")
            self._journal.flush()
            self._cursor.execute(sql, [self._key(table, number)])
            return
        sql, version, number = table.insert() if kind < 0.3 else table.raise_one()
        self._cursor.execute(sql, [version, self._key(table, number)])

    def _key(self, table: Table, number: int) -> Any:
        if table.name == "counter":
            return number
        return tag_id(number) if self._native else tag_id(number).hex


def paced(writer: Writer, rate: float, ended: threading.Event) -> Iterable[tuple[int, int]]:
    """At times that no loop of anybody can fall into step with."""
    due = time.monotonic()
    while not ended.is_set():
        due += writer.dice.uniform(0, 2 / rate)
        time.sleep(max(0.0, due - time.monotonic()))
        began = time.time_ns()
        writer.write()
        yield began, time.time_ns() - began


def main(rate: str, rows: str, seed: str, journal: str) -> None:
    import django

    django.setup()
    ended = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    with Path(journal).open("a") as file:
        told = list(paced(Writer(int(rows), int(seed), file), float(rate), ended))
    sys.stdout.write("".join(f"{began} {took}\n" for began, took in told))


if __name__ == "__main__":
    main(*sys.argv[1:])

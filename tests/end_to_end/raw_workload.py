"""A writer that knows only ``sqlite3``: for each number on its standard input, so many transactions."""

from __future__ import annotations

import json
import random
import sqlite3
import sys
import uuid


class Writer:
    def __init__(self, path: str, seed: int) -> None:
        self.dice = random.Random(seed)
        self.connection = sqlite3.connect(path, timeout=60, isolation_level=None)

    def work(self, count: int) -> None:
        operations = [self.tickets, self.tickets, self.untie, self.counters, self.product, self.roll_back]
        for operation in self.dice.choices(operations, k=count):
            self.connection.execute("BEGIN IMMEDIATE")
            self.connection.execute(operation())

    def uuid(self) -> str:
        return uuid.UUID(int=self.dice.getrandbits(128), version=4).hex

    # One transaction each; they return how it ends

    def tickets(self) -> str:
        for _ in range(2):
            self.connection.execute(
                "INSERT INTO shop_ticket (id, text, secret) VALUES (?, ?, '')", [self.uuid(), "raw ž"]
            )
        return "COMMIT"

    def untie(self) -> str:
        self.connection.execute("UPDATE shop_ticket SET text = text || '!' WHERE rowid % 37 = 1")
        return "COMMIT"

    def counters(self) -> str:
        amount = self.dice.randrange(1000)
        for value in (amount, -amount):
            self.connection.execute("INSERT INTO shop_counter (value) VALUES (?)", [value])
        return "COMMIT"

    def product(self) -> str:
        self.connection.execute(
            "INSERT INTO shop_product (id, name, stock, price, on_sale, details, brand_id, second_brand_id) "
            "SELECT ?, 'raw product', 1, 2.5, 0, ?, id, pkid FROM shop_brand LIMIT 1",
            [self.uuid(), json.dumps({"raw": True})],
        )
        return "COMMIT"

    def roll_back(self) -> str:
        self.connection.execute(
            "INSERT INTO shop_brand (id, name) VALUES (?, 'rolled back raw')", [self.uuid()]
        )
        self.connection.execute("DELETE FROM shop_ticket")
        return "ROLLBACK"


def main() -> None:
    writer = Writer(sys.argv[1], int(sys.argv[2]))
    for line in sys.stdin:
        writer.work(int(line))
        sys.stdout.write("done\n")
        sys.stdout.flush()
    writer.connection.close()


if __name__ == "__main__":
    main()

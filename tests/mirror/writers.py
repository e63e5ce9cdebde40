"""Processes of the concurrency tests: a writer that knows nothing of Django, and a sequencer.

``python -m tests.mirror.writers VENDOR NAME NUMBER TRANSACTIONS LEVEL`` prints the ticket of each transaction
that it committed. Transfers take their rows in any order, so that writers run into each other's locks; what
the server gives up for it is tried again.
"""

from __future__ import annotations

import random
import sys
import uuid
from typing import Any

ROWS = range(1, 6)


def connect(vendor: str, name: str) -> Any:
    if vendor == "postgresql":
        import psycopg

        client = psycopg.connect(host="127.0.0.1", user="postgres", dbname=name)
        client.execute("SET deadlock_timeout = '5ms'")
        client.commit()
        return client
    import pymysql

    return pymysql.connect(host="127.0.0.1", user="root", database=name)


def refused(error: Exception) -> bool:
    """Whether the server gave the transaction up for the sake of another: deadlock, or serialization."""
    return getattr(error, "sqlstate", None) in {"40001", "40P01"} or error.args[0] in {1213, 1020}


def transact(client: Any, level: str, ticket: uuid.UUID, dice: random.Random) -> None:
    cursor = client.cursor()
    cursor.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
    a, b = dice.sample(ROWS, 2)
    cursor.execute("INSERT INTO shop_ticket (id, text, secret) VALUES (%s, '', '')", [str(ticket)])
    cursor.execute("UPDATE shop_counter SET value = value - 1 WHERE id = %s", [a])
    cursor.execute("SAVEPOINT s")
    cursor.execute("UPDATE shop_counter SET value = value + 100 WHERE id = %s", [b])
    cursor.execute("ROLLBACK TO SAVEPOINT s")
    cursor.execute("UPDATE shop_counter SET value = value + 1 WHERE id = %s", [b])


def main(vendor: str, name: str, number: str, transactions: str, level: str) -> None:
    dice = random.Random(int(number))
    client = connect(vendor, name)
    again = 0
    for _ in range(int(transactions)):
        ticket = uuid.UUID(int=dice.getrandbits(128), version=4)
        while True:
            try:
                transact(client, level, ticket, dice)
                if dice.random() < 0.2:
                    client.rollback()
                    break
                client.commit()
                sys.stdout.write(f"{ticket}\n")
                break
            except Exception as error:
                client.rollback()
                if not refused(error):
                    raise
                again += 1
    sys.stderr.write(f"{again} times again\n")
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A source on each database, written to by Django and by the database's own command-line client."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.end_to_end.databases import Database, served, sqlite
from tests.end_to_end.oracle import assert_same_shop
from tests.end_to_end.processes import Site, wait_until

PAIRS = [
    pytest.param("sqlite", "sqlite", id="sqlite"),
    pytest.param("postgresql", "postgresql", id="postgresql", marks=pytest.mark.postgresql),
    pytest.param("mariadb", "mariadb", id="mariadb", marks=pytest.mark.mariadb),
    pytest.param("mariadb", "sqlite", id="mariadb to sqlite", marks=pytest.mark.mariadb),
    pytest.param("sqlite", "postgresql", id="sqlite to postgresql", marks=pytest.mark.postgresql),
]

_WRITES = """
import datetime, decimal
brand = shop.Brand.objects.create(name="Ébène 😀")
shop.Brand.objects.bulk_create([shop.Brand(name=f"brand {number}") for number in range(20)])
product = shop.Product.objects.create(
    name="one", brand=brand, second_brand=brand, price=decimal.Decimal("10.90"), weight=1 / 3,
    photo=b"\\0\\xff", details={"a": [1, None, "é"]},
    listed_at=datetime.datetime(2026, 2, 1, 1, 2, 3, 4, tzinfo=datetime.UTC),
    shelf_life=datetime.timedelta(days=-1, microseconds=3),
)
shop.Product.objects.create(name="two", parent=product)
product.tags.add(shop.Tag.objects.create(label="red"), shop.Tag.objects.create(label="blue"))
product.tags.remove(shop.Tag.objects.get(label="red"))
shop.Bundle.objects.create(name="bundle", discount=5)
shop.Brand.objects.filter(name__endswith="7").delete()
shop.Product.objects.update(stock=7, on_sale=True)
for number in range(3): shop.Ticket.objects.create(text=f"orm {number}")
"""

_TICKETS = "SELECT text, secret FROM shop_ticket ORDER BY text"


def client(engine: str, database: Database) -> list[str]:
    """How its own client is called; the SQL comes on its standard input."""
    name = str(database["NAME"])
    program, *arguments = {
        "sqlite": ["sqlite3", "-bail", "-cmd", ".timeout 20000", name],
        "postgresql": ["psql", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres", name],
        "mariadb": ["mariadb", "--default-character-set=utf8mb4", "-h", "127.0.0.1", "-u", "root", name],
    }[engine]
    found = shutil.which(program)
    if found is None:
        reason = f"the client {program} is not installed"
        if os.environ.get("MIRROR_REQUIRE_SERVICES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return [found, *arguments]


@pytest.fixture
def sites(request, tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    with ExitStack() as stack:
        made = []
        for role, engine in zip(("source", "centre"), request.param, strict=True):
            suffix = f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}_{os.getpid()}"
            database = (
                sqlite(tmp_path / f"{role}.sqlite3")
                if engine == "sqlite"
                else stack.enter_context(served(engine, f"livemirror_{role}_e2e_{suffix}"))
            )
            site = Site(role, role, tmp_path, database)
            stack.callback(site.end)
            site.migrate()
            made.append(site)
        source, centre = made
        source.serve()
        centre.follow("source", source.url, source.token())
        centre.mirror()
        yield source, centre


@pytest.mark.parametrize(
    ("sites", "engine"),
    [pytest.param(pair.values, pair.values[0], id=pair.id, marks=pair.marks) for pair in PAIRS],
    indirect=["sites"],
)
def test_what_django_and_the_command_line_write_arrives(sites: tuple[Site, Site], engine: str):
    source, centre = sites
    command = client(engine, source.database)
    source.run(_WRITES)
    wait_until(lambda: len(centre.rows(_TICKETS)) == 3)

    script = (
        "INSERT INTO shop_ticket (id, text, secret) VALUES "
        "('00000000-0000-4000-8000-000000000001', 'from the command line', 'é😀');\n"
        "UPDATE shop_ticket SET secret = 'told' WHERE text = 'orm 1';\n"
        "DELETE FROM shop_ticket WHERE text = 'orm 2';\n"
    )
    if engine == "sqlite":  # which stores a UUID without its dashes
        script = script.replace("00000000-0000-4000-8000-000000000001", f"{'0' * 12}40008{'0' * 14}1")
    subprocess.run(command, input=script, text=True, check=True, timeout=30)
    expected = [("from the command line", "é😀"), ("orm 0", ""), ("orm 1", "told")]
    assert source.rows(_TICKETS) == expected
    wait_until(lambda: centre.rows(_TICKETS) == expected, what=f"{expected} at the centre")
    assert_same_shop(source, centre)

"""Rows that no log tells of reach the centre, and what was broken there is mended."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Ground
from tests.end_to_end.databases import served, sqlite
from tests.end_to_end.oracle import assert_same_shop
from tests.end_to_end.processes import (
    Site,
    copy_database,
    restore_database,
    wait_until,
    wait_until_equal_heads,
    wait_until_level,
    wait_until_state,
)

PAIRS = [
    pytest.param(("sqlite", "sqlite"), id="sqlite"),
    pytest.param(("postgresql", "postgresql"), id="postgresql", marks=pytest.mark.postgresql),
    pytest.param(("mariadb", "mariadb"), id="mariadb", marks=pytest.mark.mariadb),
    pytest.param(("mariadb", "postgresql"), id="mariadb to postgresql", marks=pytest.mark.mariadb),
]

_BEFORE = """
brands = shop.Brand.objects.bulk_create([shop.Brand(name=f"brand {number}") for number in range(500)])
brands = list(shop.Brand.objects.all())
tags = [shop.Tag.objects.create(label=f"tag {number}") for number in range(20)]
products = [
    shop.Product.objects.create(name=f"product {number}", brand=brands[number], second_brand=brands[-number])
    for number in range(100)
]
for number, product in enumerate(products[:-1]):
    product.parent = products[number + 1]  # parents come later
    product.save()
    product.tags.add(tags[number % 20], tags[number % 7])
shop.Bundle.objects.create(name="bundle", discount=5)
counters = shop.Counter.objects.bulk_create([shop.Counter(value=number) for number in range(5000)])
counter = shop.Counter.objects.first()
shop.Reading.objects.bulk_create([shop.Reading(counter=counter) for number in range(5000)])
shop.Ticket.objects.bulk_create([shop.Ticket(text=f"ticket {number}") for number in range(5000)])
"""

_MEANWHILE = """
import random
dice = random.Random({seed})
for number in range(30):
    brand = shop.Brand.objects.create(name=f"new {seed} {{number}}")
    parent = shop.Product.objects.order_by("?").first()
    shop.Product.objects.create(name="new", brand=brand, second_brand=brand, parent=parent)
    ticket = shop.Ticket.objects.order_by("?").first()
    ticket.text = f"changed {{dice.random()}}"
    ticket.save()
    shop.Ticket.objects.order_by("?").first().delete()
    shop.Counter.objects.filter(id__gt=1).order_by("?").first().delete()
    shop.Reading.objects.order_by("?").first().delete()
"""


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path, worker_id: str) -> Iterator[tuple[Site, Site]]:
    """A source that held rows before anything was captured, and a centre that follows it."""
    engines = dict(zip(("source", "centre"), request.param, strict=True))
    with ExitStack() as stack:
        sites = []
        for role, engine in engines.items():
            database = (
                sqlite(tmp_path / f"{role}.sqlite3")
                if engine == "sqlite"
                else stack.enter_context(served(engine, f"livemirror_load_{role}_{worker_id}"))
            )
            conf = {"CAPTURE": None, "READ_ONLY": False} if role == "source" else {}
            site = Site(role, role, tmp_path, database, conf)
            stack.callback(site.end)
            site.migrate()
            sites.append(site)
        source, centre = sites
        source.run(_BEFORE)
        source.end()
        source.conf = {
            key: value for key, value in source.conf.items() if key not in {"CAPTURE", "READ_ONLY"}
        }
        source.migrate()
        source.serve()
        centre.follow("source", source.url, source.token())
        yield source, centre


@pytest.mark.parametrize("pair", PAIRS, indirect=True)
def test_rows_from_before_capture_arrive_while_others_change_and_the_mirror_dies(
    pair: tuple[Site, Site], seed: int
) -> None:
    source, centre = pair
    dice = random.Random(seed)
    mirror = centre.mirror()
    for _ in range(4):
        source.run(_MEANWHILE.format(seed=dice.randrange(10**9)))
        mirror.kill()
        mirror = centre.mirror()
    wait_until_state(centre, "live")
    wait_until_equal_heads(source, centre)
    assert_same_shop(source, centre)
    assert centre.one("SELECT count(*) FROM mirror_loading WHERE state = 'done'") > 5
    assert centre.one("SELECT count(*) FROM mirror_again") == 0
    source.run("shop.Ticket.objects.create(text='after it')")
    wait_until_equal_heads(source, centre)
    assert_same_shop(source, centre)


def test_what_was_changed_at_the_centre_is_mended_by_loading_again(ground: Ground) -> None:
    source, centre = ground.pair()
    source.run("for n in range(50): shop.Ticket.objects.create(text=str(n))")
    source.run("for n in range(50): shop.Brand.objects.create(name=str(n))")
    centre.mirror()
    wait_until_level(source, centre)
    with centre.writing() as connection:
        connection.execute("UPDATE shop_ticket SET text = 'broken' WHERE text IN ('1', '2')")
        connection.execute("DELETE FROM shop_ticket WHERE text = '3'")
        connection.execute("INSERT INTO shop_ticket (id, text, secret) VALUES (?, 'x', '')", [f"{1:032x}"])
        connection.execute("UPDATE shop_brand SET name = 'broken' WHERE name = '4'")
    out = centre.manage("mirrorsource", "resync", "source")
    assert "mirrorstatus" in out
    wait_until(lambda: centre.one("SELECT count(*) FROM mirror_loading WHERE state != 'done'") == 0)
    wait_until_level(source, centre)
    assert_same_shop(source, centre)


def test_a_clone_of_a_source_that_goes_its_own_way_is_loaded_as_another_history(ground: Ground) -> None:
    """F38: the disk breaks, yesterday's copy goes on, and further than the mirror had come."""
    source, centre = ground.pair()
    source.run("for n in range(5): shop.Ticket.objects.create(text=str(n))")
    centre.mirror()
    wait_until_level(source, centre)
    backup = ground.directory / "backup.sqlite3"
    copy_database(source.path, backup)
    source.run("for n in range(5): shop.Ticket.objects.create(text='lost by the restore')")
    wait_until_level(source, centre)
    source.end()
    restore_database(backup, source.path)
    source.serve()
    with source.writing() as connection:
        connection.executemany(
            "INSERT INTO shop_ticket (id, text, secret) VALUES (?, 'another history', '')",
            [[f"{number:032x}"] for number in range(50)],
        )
    seen = set()

    def equal() -> bool:
        seen.add(centre.one("SELECT count(*) FROM shop_ticket WHERE text IN ('0', '1', '2', '3', '4')"))
        return centre.one("SELECT count(*) FROM shop_ticket WHERE text = 'another history'") == 50

    wait_until(equal)
    wait_until_state(centre, "live")
    wait_until_level(source, centre)
    assert_same_shop(source, centre)
    assert seen == {5}, "what is in both histories was readable all the time"

"""What was changed behind the mirror's back is found, named and mended, while the source is written to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.end_to_end.databases import served, sqlite
from tests.end_to_end.oracle import assert_same_shop
from tests.end_to_end.processes import Site, wait_until_equal_heads

PAIRS = [
    pytest.param(("sqlite", "sqlite"), id="sqlite"),
    pytest.param(("postgresql", "postgresql"), id="postgresql", marks=pytest.mark.postgresql),
    pytest.param(("mariadb", "sqlite"), id="mariadb to sqlite", marks=pytest.mark.mariadb),
]

_ROWS = """
brands = [shop.Brand.objects.create(name=f"brand {number}") for number in range(50)]
for number in range(50):
    shop.Product.objects.create(name=f"product {number}", brand=brands[number], second_brand=brands[-number])
counters = shop.Counter.objects.bulk_create([shop.Counter(value=number) for number in range(3000)])
counter = shop.Counter.objects.first()
shop.Reading.objects.bulk_create([shop.Reading(counter=counter) for number in range(3000)])
shop.Ticket.objects.bulk_create([shop.Ticket(text=f"ticket {number}") for number in range(3000)])
"""

_BREAK = """
from django.db import connection
from mirror import maintenance
with maintenance("somebody's hand"), connection.cursor() as cursor:
    cursor.execute("UPDATE shop_counter SET value = 70000 WHERE value = 2500")
    cursor.execute("UPDATE shop_ticket SET text = 'broken' WHERE text IN ('ticket 7', 'ticket 2999')")
    cursor.execute("DELETE FROM shop_ticket WHERE text = 'ticket 1500'")
    cursor.execute("UPDATE shop_product SET stock = 99 WHERE name = 'product 3'")
with maintenance("somebody's hand"):
    shop.Tag.objects.create(label="nobody's")
"""

_WRITE = """
import time
end = time.monotonic() + {seconds}
number = 0
while time.monotonic() < end:
    number += 1
    shop.Counter.objects.filter(pk__gt=1).exclude(value=2500).order_by("?")[:1].get().delete()
    shop.Counter.objects.create(value=number + 10000)
    left_alone = ["ticket 7", "ticket 1500", "ticket 2999"]
    ticket = shop.Ticket.objects.exclude(text__in=left_alone).order_by("?").first()
    ticket.text = f"written {{number}}"
    ticket.save()
    shop.Ticket.objects.create(text=f"new {{number}}")
"""


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path, worker_id: str) -> Iterator[tuple[Site, Site]]:
    engines = dict(zip(("source", "centre"), request.param, strict=True))
    with ExitStack() as stack:
        sites = []
        for role, engine in engines.items():
            database = (
                sqlite(tmp_path / f"{role}.sqlite3")
                if engine == "sqlite"
                else stack.enter_context(served(engine, f"livemirror_compare_{role}_{worker_id}"))
            )
            site = Site(role, role, tmp_path, database, {"HEARTBEAT": 0.5})
            stack.callback(site.end)
            site.migrate()
            sites.append(site)
        source, centre = sites
        source.serve()
        centre.follow("source", source.url, source.token())
        yield source, centre


@pytest.mark.parametrize("pair", PAIRS, indirect=True)
def test_nothing_is_found_under_load_and_what_was_broken_is_found_and_mended(pair: tuple[Site, Site]) -> None:
    source, centre = pair
    centre.mirror()
    source.run(_ROWS)
    wait_until_equal_heads(source, centre)
    with ThreadPoolExecutor() as pool:
        writing = pool.submit(source.run, _WRITE.format(seconds=5))
        while not writing.done():
            out = centre.manage("mirrorverify", "source")
            assert "identical" in out, out
        writing.result()
    wait_until_equal_heads(source, centre)
    centre.run(_BREAK)
    out = centre.manage("mirrorverify", "source", expect=1)
    for named in ("shop.counter", "shop.ticket", "shop.product", "shop.tag", "stock"):
        assert named in out, out
    status = json.loads(centre.manage("mirrorstatus", "--json", expect=1))
    assert status["sources"][0]["verified"]["different"] == 4, status
    centre.manage("mirrorverify", "source", "--repair")
    wait_until_equal_heads(source, centre)
    assert_same_shop(source, centre)
    centre.manage("mirrorstatus")

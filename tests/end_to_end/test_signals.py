"""A source without a trigger: real processes write through the ORM, and everything arrives."""

from __future__ import annotations

import pytest

from tests.end_to_end.conftest import Ground
from tests.end_to_end.databases import reading
from tests.end_to_end.oracle import assert_same_shop
from tests.end_to_end.processes import wait_until_level
from tests.end_to_end.test_references import _ATOMIC, _TRANSACTIONS

_WRITES = """
from django.db.models import F
shop.Product.objects.bulk_create([shop.Product(name=str(n), stock=n) for n in range(1200)])
shop.Product.objects.filter(stock__gte=600).update(stock=F("stock") * 2, price=F("stock"))
brand = shop.Brand.objects.create(name="b")
shop.Product.objects.filter(stock__lt=50).update(second_brand=brand, brand=brand)
shop.Bundle.objects.create(name="bundle", discount=5).tags.add(shop.Tag.objects.create(label="t"))
shop.Bundle.objects.update(name="renamed", discount=F("discount") + 1)
shop.Seat.objects.create(row="A", number=1, guest="Ada")
shop.Seat.objects.update(number=2)
brand.delete()
shop.Product.objects.filter(stock__lt=100, bundle=None).delete()
"""


@pytest.mark.timeout(240)
def test_what_the_orm_writes_arrives_without_a_trigger(ground: Ground):
    source, centre = ground.source(CAPTURE="signals"), ground.centre()
    source.migrate()
    with reading(source.database) as database:
        ours = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'livemirror%'"
        assert database.rows(ours) == []
    source.serve()
    centre.follow("source", source.url, source.token())
    centre.mirror()
    source.run(_WRITES)
    wait_until_level(source, centre)
    assert_same_shop(source, centre)
    for name, transaction in _TRANSACTIONS.items():
        source.run(
            f"{_ATOMIC}old = P.create(name='old'); young = P.create(name='young', parent=old)\n"
            f"with transaction.atomic():\n    {transaction}"
        )
        wait_until_level(source, centre)
        try:
            assert_same_shop(source, centre)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error

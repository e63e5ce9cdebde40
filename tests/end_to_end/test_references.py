"""References inside one transaction, in every order that a writer may choose."""

from __future__ import annotations

import pytest

from tests.end_to_end.conftest import Ground
from tests.end_to_end.oracle import assert_same_shop
from tests.end_to_end.processes import wait_until_level

_ATOMIC = "from django.db import transaction; from django.db.models import F\nP = shop.Product.objects\n"


#: What one transaction does, to a shop that has the products ``old`` and its child ``young``.
_TRANSACTIONS = {
    "the parent is saved, then its child": "old.save(); young.save()",
    "the child is saved, then its parent": "young.save(); old.save()",
    "a new child, then its new parent again": (
        "a = P.create(name='a'); P.create(name='b', parent=a); a.save()"
    ),
    "many new children, then their parent again": (
        "a = P.create(name='a'); [P.create(name=str(i), parent=a) for i in range(50)]; a.save()"
    ),
    "each is the other's parent": (
        "a = P.create(name='a'); b = P.create(name='b', parent=a); a.parent = b; a.save()"
    ),
    "it is its own parent": "a = P.create(name='a'); a.parent = a; a.save()",
    "deleted and made again under a new child": (
        "i = old.id; P.filter(pk=young.pk).update(parent=None); P.filter(pk=old.pk).delete()\n"
        "    shop.Ticket.objects.bulk_create([shop.Ticket() for _ in range(2500)])\n"
        "    a = P.create(id=i, name='again'); P.create(name='b', parent=a); young.parent = a; young.save()"
    ),
    "deleted, made again and tagged": (
        "i = old.id; old.tags.add(shop.Tag.objects.create(label='x'))\n"
        "    P.filter(pk=young.pk).update(parent=None); old.delete()\n"
        "    shop.Ticket.objects.bulk_create([shop.Ticket() for _ in range(2500)])\n"
        "    a = P.create(id=i, name='again'); a.tags.add(shop.Tag.objects.get(label='x'))"
    ),
    "a whole family is deleted": "old.tags.add(shop.Tag.objects.create(label='x')); old.delete()",
    "a bundle is made of nothing, and unmade to its product": (
        "b = shop.Bundle.objects.create(name='b', parent=old); b.save(); b.delete(keep_parents=True)"
    ),
}


@pytest.mark.timeout(240)
def test_references_arrive_whatever_their_order(ground: Ground):
    source, centre = ground.pair()
    centre.mirror()
    for name, transaction in _TRANSACTIONS.items():
        source.run(
            f"{_ATOMIC}old = P.create(name='old'); young = P.create(name='young', parent=old)\n"
            f"with transaction.atomic():\n    {transaction}"
        )
        try:
            wait_until_level(source, centre)
            assert_same_shop(source, centre)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error

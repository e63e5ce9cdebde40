"""Writes, passes, deliveries, chunks and crashes in any order: in the end both sides are equal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror import loading
from mirror.apply import loading as apply_loading
from mirror.changes import Change
from mirror.models import Again
from tests.fakes import Centre
from tests.mirror.loading_support import (
    LABELS,
    Mirror,
    Shop,
    anew,
    brand,
    clear,
    counter,
    here,
    product,
    reading,
    there,
)


@pytest.fixture(autouse=True)
def as_a_centre(settings):
    settings.MIRROR = {"MODELS": ["shop.*"], "CAPTURE": None, "DATABASE": "centre"}


class Story:
    """Draws what happens, and has it happen."""

    def __init__(self, data: st.DataObject, mirror: Mirror) -> None:
        self.data, self.mirror, self.shop = data, mirror, mirror.shop

    def pick(self, label: str) -> int | None:
        known = sorted(self.shop.rows[label])
        return self.data.draw(st.sampled_from(known)) if known else None

    def write(self) -> None:
        number = self.data.draw(st.integers(0, 7))
        kind = self.data.draw(st.sampled_from([*LABELS, "drop brand", "drop product", "drop counter"]))
        shop = self.shop
        if kind == "shop.brand":
            shop.commit(brand(shop, number, f"{self.data.draw(st.sampled_from('ab'))}{number}"))
        elif kind == "shop.product":
            parent = self.pick("shop.product")
            shop.commit(
                product(shop, number, of=self.pick("shop.brand"), parent=None if parent == number else parent)
            )
        elif kind == "shop.counter":
            shop.commit(counter(shop, number, self.data.draw(st.integers(0, 3))))
        elif kind == "shop.reading":
            of = self.pick("shop.counter")
            shop.commit(*([] if of is None else [reading(shop, number, of=of)]))
        else:
            self.drop(f"shop.{kind.split()[1]}")

    def drop(self, label: str) -> None:
        """With what refers to it, as Django does it."""
        pk = self.pick(label)
        if pk is None:
            return
        rows = self.shop.rows
        changes: list[Change] = []
        if label == "shop.counter":
            found = [one for one, row in rows["shop.reading"].items() if row["counter"] == pk]
            changes += [self.shop.drop("shop.reading", one) for one in found]
        elif label == "shop.brand":
            changes += self.cut("brand", rows[label][pk]["id"], brand=None, second_brand=None)
        else:
            changes += self.cut("parent", rows[label][pk]["id"], parent=None)
        self.shop.commit(*changes, self.shop.drop(label, pk))

    def cut(self, name: str, uuid: str, **fields: Any) -> list[Change]:
        products = self.shop.rows["shop.product"]
        found = [one for one, row in products.items() if row[name] == uuid]
        return [self.shop.put("shop.product", one, **{**products[one], **fields}) for one in found]

    def go_on(self) -> None:
        happens = self.data.draw(
            st.sampled_from(["write", "write", "sequence", "deliver", "load", "load", "load", "crash"])
        )
        if happens == "write":
            self.write()
        elif happens == "sequence":
            self.shop.sequence()
        elif happens == "deliver":
            self.mirror.deliver(1)
        elif happens == "load":
            self.mirror.load_a_little()
        else:
            self.mirror.crash()


def tell(centre: Centre, monkeypatch: Any, data: st.DataObject) -> None:
    clear()
    monkeypatch.setattr(apply_loading, "_KEYS", data.draw(st.integers(8, 10)))
    shop = Shop()
    mirror = Mirror(centre, shop, limit=data.draw(st.integers(1, 4)))
    mirror.crash()
    story = Story(data, mirror)
    for _ in range(data.draw(st.integers(0, 12))):
        story.write()
    shop.sequence()
    if data.draw(st.booleans(), label="there is something of before"):
        mirror.deliver()
        for _ in range(data.draw(st.integers(0, 8))):
            story.write()
        shop.sequence()
    again = data.draw(st.none() | st.sets(st.sampled_from(LABELS), min_size=1), label="loaded again")
    if again is None:
        mirror.applied = len(shop.log)  # what is in between is pruned
        anew(centre)
    else:
        mirror.deliver()
        loading.begin(centre.source, again, anew=False, sweep=True)
        mirror.crash()
    for _ in range(data.draw(st.integers(0, 40))):
        story.go_on()
    shop.sequence()
    mirror.deliver()
    mirror.load()
    mirror.deliver()
    assert here(centre) == there(shop)
    assert not Again.objects.using("centre").exists()


@pytest.mark.parametrize("vendor", ["sqlite"], indirect=True)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_happens_meanwhile_both_are_equal_in_the_end(centre, monkeypatch, data):
    tell(centre, monkeypatch, data)


@pytest.mark.parametrize("vendor", ["postgresql", "mariadb"], indirect=True)
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_so_they_are_where_a_server_keeps_the_rows(centre, monkeypatch, data):
    tell(centre, monkeypatch, data)

"""Writes, passes, deliveries, chunks and crashes in any order: in the end both sides are equal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror import loading
from mirror.apply import loading as apply_loading
from mirror.models import Again
from tests.fakes import Centre
from tests.mirror.loading_support import (
    LABELS,
    Mirror,
    Shop,
    anew,
    clear,
    here,
    there,
)
from tests.mirror.stories import Story


@pytest.fixture(autouse=True)
def as_a_centre(settings):
    settings.MIRROR = {"MODELS": ["shop.*"], "CAPTURE": None, "DATABASE": "centre"}


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
        story.go_on("load", "load", "load")
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

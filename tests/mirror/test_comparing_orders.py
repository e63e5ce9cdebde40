"""Writes, passes, deliveries, comparisons and crashes in any order: no false alarm, nothing stays broken."""

from __future__ import annotations

import pytest
from django.db import connections
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror import maintenance, verifying
from mirror.apply import verifying as apply_verifying
from mirror.models import Again, Difference, Loading, Verification, VerificationState
from tests.fakes import Centre
from tests.mirror.loading_support import LABELS, Mirror, Shop, clear, here, there
from tests.mirror.stories import Story

#: What somebody does to rows of the centre.
_BREAKS = (
    "UPDATE shop_counter SET value = value + 1 WHERE id = {number}",
    "UPDATE shop_brand SET name = 'broken' WHERE name LIKE '%{number}'",
    "UPDATE shop_product SET brand_id = NULL WHERE name = 'product {number}'",
    "DELETE FROM shop_reading WHERE id = {number}",
    "INSERT INTO shop_counter (id, value) VALUES (10{number}, 0)",
)


@pytest.fixture(autouse=True)
def as_a_centre(settings):
    settings.MIRROR = {"MODELS": ["shop.*"], "CAPTURE": None, "DATABASE": "centre"}


def begin(centre: Centre, monkeypatch: pytest.MonkeyPatch, data: st.DataObject) -> Story:
    """Both have the same rows."""
    clear()
    for model in (Again, Difference, Loading, Verification):
        model.objects.using("centre").all().delete()
    if not data.draw(st.booleans(), label="together"):
        monkeypatch.setattr(apply_verifying, "order_of", lambda *of: "")
    mirror = Mirror(centre, Shop(), limit=data.draw(st.integers(1, 4)))
    mirror.crash()
    story = Story(data, mirror)
    for _ in range(data.draw(st.integers(0, 12))):
        story.write()
    mirror.shop.sequence()
    mirror.deliver()
    return story


def compare(story: Story, *, repair: bool) -> None:
    mirror, data = story.mirror, story.data
    verifying.request(mirror.centre.source, LABELS, repair=repair)
    mirror.centre.applier.verifier.refresh()
    for _ in range(data.draw(st.integers(0, 40))):
        story.go_on("compare", "compare", "compare", "load")
    mirror.settle()
    mirror.shop.sequence()
    mirror.deliver()
    mirror.settle()
    done = Verification.objects.using("centre").filter(state=VerificationState.DONE, refused="")
    assert set(done.values_list("model", flat=True)) == set(LABELS)
    assert here(mirror.centre) == there(mirror.shop)


def tell_of_no_difference(centre: Centre, monkeypatch: pytest.MonkeyPatch, data: st.DataObject) -> None:
    compare(begin(centre, monkeypatch, data), repair=False)
    assert not Difference.objects.using("centre").exists()


def break_some(data: st.DataObject) -> None:
    broken = data.draw(st.lists(st.tuples(st.sampled_from(_BREAKS), st.integers(0, 7)), unique=True))
    with maintenance("somebody's hand"), connections["centre"].cursor() as cursor:
        for sql, number in broken:
            cursor.execute(sql.format(number=number))


def tell_of_broken_rows(centre: Centre, monkeypatch: pytest.MonkeyPatch, data: st.DataObject) -> None:
    story = begin(centre, monkeypatch, data)
    break_some(data)
    compare(story, repair=True)


def tell_what_is_broken(centre: Centre, monkeypatch: pytest.MonkeyPatch, data: st.DataObject) -> None:
    story = begin(centre, monkeypatch, data)
    break_some(data)
    mine, theirs = here(centre), there(story.shop)
    verifying.request(centre.source, LABELS, repair=False)
    centre.applier.verifier.refresh()
    story.mirror.settle()
    found = Difference.objects.using("centre").values_list("model", "key")
    assert set(found) == {
        (label, str(row[0])) for label in LABELS for row in set(mine[label]) ^ set(theirs[label])
    }
    assert len(found) == len(set(found))


on_sqlite = pytest.mark.parametrize("vendor", ["sqlite"], indirect=True)
on_servers = pytest.mark.parametrize("vendor", ["postgresql", "mariadb"], indirect=True)
many = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
few = settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))


@on_sqlite
@many
@given(data=st.data())
def test_whatever_happens_meanwhile_the_same_is_found_to_be_the_same(centre, monkeypatch, data):
    with monkeypatch.context() as patch:
        tell_of_no_difference(centre, patch, data)


@on_servers
@few
@given(data=st.data())
def test_so_it_is_where_a_server_keeps_the_rows(centre, monkeypatch, data):
    with monkeypatch.context() as patch:
        tell_of_no_difference(centre, patch, data)


@on_sqlite
@many
@given(data=st.data())
def test_whatever_happens_meanwhile_what_is_broken_is_mended(centre, monkeypatch, data):
    with monkeypatch.context() as patch:
        tell_of_broken_rows(centre, patch, data)


@on_servers
@few
@given(data=st.data())
def test_so_it_is_mended_where_a_server_keeps_the_rows(centre, monkeypatch, data):
    with monkeypatch.context() as patch:
        tell_of_broken_rows(centre, patch, data)


@on_sqlite
@many
@given(data=st.data())
def test_exactly_what_is_broken_is_found(centre, monkeypatch, data):
    with monkeypatch.context() as patch:
        tell_what_is_broken(centre, patch, data)


@on_servers
@few
@given(data=st.data())
def test_so_it_is_found_where_a_server_keeps_the_rows(centre, monkeypatch, data):
    with monkeypatch.context() as patch:
        tell_what_is_broken(centre, patch, data)

"""Rows here are compared with the source's while the stream goes on: what differs is found, nothing else."""

from __future__ import annotations

import pytest
from django.db import connections

from mirror import loading, maintenance, verifying
from mirror.apply import Pause, Question
from mirror.apply import verifying as apply_verifying
from mirror.apply.writer import parents_first
from mirror.errors import Gap, Malformed, UnknownModel
from mirror.models import Difference, Loading, Source, Verification, VerificationState
from mirror.wire import Chunk
from tests.mirror.conftest import VENDORS
from tests.mirror.loading_support import (
    LABELS,
    Mirror,
    Shop,
    brand,
    counter,
    here,
    product,
    reading,
    there,
    uuid_of,
)

pytestmark = pytest.mark.parametrize("vendor", VENDORS, indirect=True)


@pytest.fixture(autouse=True)
def as_a_centre(settings):
    settings.MIRROR = {"MODELS": ["shop.*"], "CAPTURE": None, "DATABASE": "centre"}


@pytest.fixture(params=["together", "one by one"], autouse=True)
def way(request, monkeypatch) -> str:
    """Whether many rows are told by one digest first."""
    if request.param == "one by one":
        monkeypatch.setattr(apply_verifying, "order_of", lambda *of: "")
    return request.param


@pytest.fixture
def shop(centre) -> Shop:
    """Five of each, that the centre has too."""
    shop = Shop()
    for number in range(5):
        shop.commit(brand(shop, number), counter(shop, number))
        shop.commit(product(shop, number, of=number), reading(shop, number, of=number))
    shop.sequence()
    return shop


@pytest.fixture
def mirror(centre, shop) -> Mirror:
    mirror = Mirror(centre, shop, limit=2)
    mirror.deliver()
    assert here(centre) == there(shop)
    return mirror


def ask(mirror, *labels, repair=False):
    verifying.request(mirror.centre.source, labels or LABELS, repair=repair)
    mirror.centre.applier.verifier.refresh()


def compare(mirror, *labels, repair=False):
    ask(mirror, *labels, repair=repair)
    mirror.settle()
    return {
        (one.model, one.key, one.kind, one.fields)
        for one in Difference.objects.using("centre").filter(source=mirror.centre.source)
    }


def execute(sql, *values):
    with maintenance("somebody's hand"), connections["centre"].cursor() as cursor:
        cursor.execute(sql, values)


def results():
    return {one.model: one for one in Verification.objects.using("centre")}


def test_what_is_the_same_is_found_to_be_the_same(mirror):
    assert compare(mirror) == set()
    found = results()
    assert {one.state for one in found.values()} == {VerificationState.DONE}
    assert {(one.rows, one.total, one.differences) for one in found.values()} == {(5, 5, 0)}
    assert {one.cursor for one in found.values()} == {mirror.centre.cursor}
    assert all(one.began_at <= one.ended_at for one in found.values())


def test_a_changed_field_is_found_and_named(mirror):
    execute("UPDATE shop_counter SET value = 7 WHERE id = 3")
    assert compare(mirror) == {("shop.counter", "3", "different", "value")}
    assert results()["shop.counter"].different == 1


def test_a_reference_to_another_row_is_found(mirror, centre):
    execute("UPDATE shop_reading SET counter_id = 1 WHERE id = 4")
    assert compare(mirror) == {("shop.reading", "4", "different", "counter")}


def test_a_row_that_is_missing_is_found(mirror):
    execute("DELETE FROM shop_reading WHERE id = 2")
    assert compare(mirror) == {("shop.reading", "2", "missing", "")}


def test_a_row_that_the_source_does_not_have_is_found(mirror):
    execute("INSERT INTO shop_counter (id, value) VALUES (77, 0)")
    assert compare(mirror) == {("shop.counter", "77", "extra", "")}


def test_two_rows_that_changed_places_are_found(mirror):
    execute("UPDATE shop_counter SET value = 1")
    for number in range(5):
        mirror.shop.commit(counter(mirror.shop, number, value=number))
    mirror.shop.sequence()
    mirror.deliver()
    execute("UPDATE shop_counter SET value = 5 - value WHERE id IN (2, 3)")
    assert compare(mirror) == {
        ("shop.counter", "2", "different", "value"),
        ("shop.counter", "3", "different", "value"),
    }


def test_rows_that_match_by_uuid_are_compared_without_the_key_that_is_each_servers_own(mirror, centre):
    execute("UPDATE shop_brand SET name = 'another' WHERE name = 'brand 3'")
    assert compare(mirror, "shop.brand") == {("shop.brand", uuid_of(3), "different", "name")}


def test_changes_that_come_meanwhile_make_no_difference(mirror):
    shop = mirror.shop
    ask(mirror)
    number = 100
    while mirror.compare_a_little() is not None:
        number += 1
        shop.commit(brand(shop, number), counter(shop, number, value=number))
        shop.commit(shop.drop("shop.reading", number - 101) if number < 106 else counter(shop, 1, number))
        shop.commit(product(shop, number, of=number), counter(shop, 0, value=number))
        shop.sequence()
    assert not Difference.objects.using("centre").exists()
    assert {one.state for one in results().values()} == {VerificationState.DONE}


def test_a_row_whose_change_waits_for_its_place_makes_no_difference(mirror, way):
    shop = mirror.shop
    shop.commit(counter(shop, 3, value=9), counter(shop, 50))
    shop.commit(shop.drop("shop.reading", 0), shop.drop("shop.counter", 0))
    ask(mirror, "shop.counter")
    while not isinstance(mirror.compare_a_little(), Pause):
        assert results()["shop.counter"].rows <= 3
    mirror.compare()
    assert not Difference.objects.using("centre").exists()
    # What waits overwrites the row; of those that are told one by one it is awaited.
    assert results()["shop.counter"].rows == (3 if way == "together" else 5)


def test_what_is_missing_or_different_is_loaded_again_and_what_is_extra_is_deleted(mirror, centre):
    execute("UPDATE shop_counter SET value = 7 WHERE id = 3")
    execute("DELETE FROM shop_reading WHERE id = 2")
    execute("INSERT INTO shop_counter (id, value) VALUES (77, 0)")
    execute("UPDATE shop_product SET name = 'another', brand_id = NULL WHERE name = 'product 1'")
    assert len(compare(mirror, repair=True)) == 4
    assert here(centre) == there(mirror.shop)
    assert set(Difference.objects.using("centre").values_list("repaired", flat=True)) == {True}
    assert compare(mirror) == set()


def test_parents_are_compared_before_their_children(mirror):
    """A bundle is a product, and comes before it in the alphabet."""
    ask(mirror, *LABELS, "shop.bundle")
    asked = []
    while (question := mirror.compare_a_little()) is not None:
        asked += [question.model] if isinstance(question, Question) else []
    models = list(dict.fromkeys(asked))
    assert set(models) == {*LABELS, "shop.bundle"}
    assert models == sorted(models, key=lambda label: parents_first()[label])
    assert models.index("shop.product") < models.index("shop.bundle")


def test_a_row_of_the_centre_alone_stays_while_others_refer_to_it_and_goes_after_them(mirror, centre):
    shop = mirror.shop
    shop.commit(counter(shop, 60), reading(shop, 61, of=60))
    shop.sequence()
    mirror.deliver()
    # As if the source had lost both, and nobody was told.
    shop.rows["shop.reading"].pop(61), shop.rows["shop.counter"].pop(60)
    assert compare(mirror, repair=True) == {
        ("shop.counter", "60", "extra", ""),
        ("shop.reading", "61", "extra", ""),
    }
    repaired = dict(Difference.objects.using("centre").values_list("key", "repaired"))
    assert repaired["61"]
    if not repaired["60"]:
        assert compare(mirror, repair=True) == {("shop.counter", "60", "extra", "")}
    assert here(centre) == there(shop)
    assert compare(mirror) == set()


def test_many_rows_to_mend_are_loaded_with_their_model(mirror, centre, monkeypatch):
    monkeypatch.setattr(apply_verifying, "_MENDED", 3)
    execute("UPDATE shop_counter SET value = 7")
    ask(mirror, "shop.counter", repair=True)
    mirror.compare()
    assert Difference.objects.using("centre").count() == 5
    assert Loading.objects.using("centre").get(model="shop.counter").state == "waiting"
    mirror.load()
    assert here(centre) == there(mirror.shop)


def test_only_so_many_differences_are_stored_but_all_are_counted(mirror, monkeypatch):
    monkeypatch.setattr(apply_verifying, "_STORED", 3)
    execute("UPDATE shop_counter SET value = 7")
    execute("INSERT INTO shop_counter (id, value) VALUES (77, 0)")
    assert len(compare(mirror, "shop.counter")) == 3
    assert (results()["shop.counter"].different, results()["shop.counter"].extra) == (5, 1)


def test_a_row_that_was_mended_by_a_change_meanwhile_counts_as_repaired(mirror):
    shop = mirror.shop
    execute("UPDATE shop_counter SET value = 7 WHERE id = 0")
    ask(mirror, "shop.counter")
    while not Difference.objects.using("centre").exists():
        mirror.compare_a_little()
    shop.commit(counter(shop, 0, value=3))
    shop.sequence()
    mirror.compare()
    found = Difference.objects.using("centre").get()
    assert (found.key, found.fields, found.repaired) == ("0", "", True)


def test_nothing_is_compared_while_rows_are_loaded_and_then_it_begins_anew(mirror, centre):
    ask(mirror, "shop.counter")
    assert isinstance(mirror.compare_a_little(), Question)
    loading.begin(centre.source, ["shop.counter"], anew=False, sweep=True)
    centre.applier.loader.refresh()
    assert centre.applier.comparison() is None
    assert centre.applier.verifier.active
    mirror.settle()
    assert results()["shop.counter"].rows == 5


def test_another_process_begins_the_model_anew(mirror):
    execute("INSERT INTO shop_counter (id, value) VALUES (77, 0)")
    ask(mirror, "shop.counter")
    mirror.compare_a_little()
    mirror.compare_a_little()
    mirror.crash()
    mirror.compare()
    assert (results()["shop.counter"].rows, results()["shop.counter"].extra) == (5, 1)
    assert Difference.objects.using("centre").count() == 1


def test_a_request_that_is_made_again_begins_anew(mirror):
    ask(mirror, "shop.counter")
    mirror.compare_a_little()
    ask(mirror, "shop.counter")
    mirror.compare()
    assert (results()["shop.counter"].rows, results()["shop.counter"].state) == (5, "done")


def test_rows_of_other_sources_are_not_taken_for_extra(mirror):
    Source.objects.using("centre").create(name="other", url="ws://x/", token="t")
    execute("INSERT INTO shop_brand (id, name) VALUES (%s, 'theirs')", _bound(uuid_of(500)))
    assert compare(mirror, "shop.brand") == set()


def _bound(uuid):
    connection = connections["centre"]
    return uuid if connection.features.has_native_uuid_field else uuid.replace("-", "")


def test_a_model_that_the_source_does_not_tell_says_so(mirror, centre):
    ask(mirror, "shop.counter")
    question = centre.applier.comparison()
    chunk = Chunk(number=1, model="shop.counter", at=centre.cursor, refused=UnknownModel.code)
    centre.applier.load(question, chunk)
    assert results()["shop.counter"].refused == "unknown_model"
    assert results()["shop.counter"].state == VerificationState.DONE


def test_a_field_that_is_unknown_here_is_said_so(mirror, centre):
    ask(mirror, "shop.counter")
    question = centre.applier.comparison()
    centre.applier.load(question, Chunk(number=1, model="shop.counter", at=centre.cursor, names=["colour"]))
    assert results()["shop.counter"].refused == "unknown_field"


@pytest.mark.parametrize("told", [b"7", b"[]", b"[1]", b"[1,2,3]", b"[1,2]", b"{}", b"[1,"])
def test_what_is_told_in_no_such_form_is_refused(mirror, centre, told):
    import msgspec

    ask(mirror, "shop.counter")
    question = centre.applier.comparison()
    chunk = Chunk(number=1, model="shop.counter", at=centre.cursor, told=[msgspec.Raw(told)], names=["value"])
    with pytest.raises(Malformed):
        centre.applier.load(question, chunk)
    mirror.compare()
    assert results()["shop.counter"].rows == 5, "it begins anew"


def test_rows_of_another_moment_are_refused(mirror, centre):
    ask(mirror, "shop.counter")
    question = centre.applier.comparison()
    with pytest.raises(Gap):
        centre.applier.load(question, Chunk(number=1, model="shop.counter", at=centre.cursor + 1))


def test_a_range_that_differs_is_compared_row_by_row(mirror, way):
    ask(mirror, "shop.counter")
    asked = []
    execute("UPDATE shop_counter SET value = 7 WHERE id = 3")
    while (question := mirror.compare_a_little()) is not None:
        asked += [question] if isinstance(question, Question) else []
    together = [one for one in asked if one.order]
    assert [one.after for one in together] == ([None, 1] if way == "together" else [])
    assert [one.after for one in asked if one.digests and not one.order] == [None, 1, 3]
    assert [one.keys for one in asked if not one.digests] == [(3,)]


def test_rows_whose_order_the_source_does_not_share_are_compared_one_by_one(mirror, monkeypatch, way):
    if way == "together":
        monkeypatch.setattr(apply_verifying, "order_of", lambda *of: "of another kind")
    execute("UPDATE shop_counter SET value = 7 WHERE id = 3")
    assert compare(mirror) == {("shop.counter", "3", "different", "value")}


def test_what_is_here_alone_is_looked_for_page_by_page(mirror, centre, monkeypatch):
    monkeypatch.setattr(apply_verifying, "_PAGE", 2)
    for number in (70, 71, 72):
        execute("INSERT INTO shop_counter (id, value) VALUES (%s, 0)", number)
    ask(mirror, "shop.counter")
    pauses = 0
    while (question := mirror.compare_a_little()) is not None:
        pauses += isinstance(question, Pause)
    assert pauses == 5  # eight rows, by two, and one that is empty
    assert results()["shop.counter"].extra == 3


def test_a_model_that_is_asked_for_once_more_while_an_answer_is_under_way_begins_anew(mirror, centre):
    ask(mirror, "shop.counter")
    question = centre.applier.comparison()
    verifying.request(centre.source, ["shop.counter"], repair=False)
    centre.applier.load(question, mirror.shop.answer(question, centre.cursor, 2))
    assert results()["shop.counter"].state == "waiting"
    mirror.settle()
    assert (results()["shop.counter"].rows, results()["shop.counter"].differences) == (5, 0)

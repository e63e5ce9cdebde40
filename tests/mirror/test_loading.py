"""Rows are loaded chunk by chunk while the stream goes on: in the end both sides are equal."""

from __future__ import annotations

import pytest

from mirror import loading, maintenance
from mirror.apply import Question
from mirror.apply import loading as apply_loading
from mirror.changes import Change
from mirror.errors import Gap, MissingParent, UnknownStream
from mirror.models import Again, Loaded, Loading, LoadingState
from mirror.wire import Chunk
from tests.fakes import save
from tests.mirror.conftest import VENDORS
from tests.mirror.loading_support import (
    Mirror,
    Shop,
    anew,
    brand,
    counter,
    here,
    product,
    reading,
    there,
    uuid_of,
)
from tests.project.shop.models import Brand, Counter

pytestmark = pytest.mark.parametrize("vendor", VENDORS, indirect=True)


@pytest.fixture(autouse=True)
def as_a_centre(settings):
    settings.MIRROR = {"MODELS": ["shop.*"], "CAPTURE": None, "DATABASE": "centre"}


# Examples


def test_rows_that_no_log_tells_of_are_copied(centre):
    shop = Shop()
    for number in range(5):
        brand(shop, number), product(shop, number, of=number), counter(shop, number)
        reading(shop, number, of=number)
    anew(centre)
    Mirror(centre, shop, limit=2).load()
    assert here(centre) == there(shop)
    assert set(Loading.objects.using("centre").values_list("state", flat=True)) == {LoadingState.DONE}
    loaded = Loading.objects.using("centre").get(model="shop.brand")
    assert (loaded.rows, loaded.total) == (5, 5)
    assert loaded.began_at <= loaded.ended_at


def test_a_tree_whose_parents_come_last_is_copied(centre):
    shop = Shop()
    for number in reversed(range(9)):
        product(shop, number, parent=number + 1 if number < 8 else None)
    anew(centre)
    Mirror(centre, shop, limit=2).load()
    assert here(centre) == there(shop)
    assert not Again.objects.using("centre").exists()


def test_rows_that_refer_to_each_other_come_together(centre):
    shop = Shop()
    product(shop, 1), product(shop, 2, parent=1)
    product(shop, 1, parent=2)
    anew(centre)
    Mirror(centre, shop, limit=1).load()
    assert here(centre) == there(shop)


def test_rows_that_refer_to_each_other_come_though_they_are_asked_for_one_by_one(centre, monkeypatch):
    monkeypatch.setattr(apply_loading, "_KEYS", 1)
    shop = Shop()
    for number in range(5):
        product(shop, number)
    for number in range(5):
        product(shop, number, parent=(number + 1) % 5)
    anew(centre)
    Mirror(centre, shop, limit=1).load()
    assert here(centre) == there(shop)
    assert not Again.objects.using("centre").exists()


def test_a_row_whose_parent_exists_nowhere_is_told_of(centre):
    shop = Shop()
    product(shop, 1), product(shop, 2, parent=1)
    shop.drop("shop.product", 1)
    anew(centre)
    with pytest.raises(MissingParent, match=r"shop\.product"):
        Mirror(centre, shop, limit=5).load()


def test_what_the_source_does_not_have_is_deleted_only_when_its_model_was_copied(centre):
    shop = Shop()
    centre.apply(
        save("shop.brand", 7, id=uuid_of(7), name="gone"), save("shop.brand", 8, id=uuid_of(8), name="old")
    )
    brand(shop, 8, "new")
    for number in range(20, 24):
        brand(shop, number)
    anew(centre)
    mirror = Mirror(centre, shop, limit=2)
    names = set()
    for _ in range(3):
        mirror.load_a_little()
        if Loading.objects.using("centre").get(model="shop.brand").state == LoadingState.COPYING:
            names = set(Brand.objects.using("centre").values_list("name", flat=True))
            assert "gone" in names
    assert names
    mirror.load()
    assert here(centre) == there(shop)
    assert not Loaded.objects.using("centre").exists()


def test_a_unique_value_that_a_row_of_before_still_holds_waits_until_that_is_gone(centre):
    shop = Shop()
    centre.apply(save("shop.brand", 7, id=uuid_of(7), name="the one"))
    brand(shop, 8, "the one")
    anew(centre)
    Mirror(centre, shop, limit=2).load()
    assert here(centre) == there(shop)


def test_changes_of_models_that_were_not_begun_are_passed_over(centre):
    shop = Shop()
    brand(shop, 1), product(shop, 1, of=1)
    anew(centre)
    mirror = Mirror(centre, shop, limit=1)
    shop.commit(product(shop, 2, of=1), reading_of_a_new_counter(shop))
    shop.sequence()
    mirror.deliver()
    assert here(centre)["shop.product"] == here(centre)["shop.reading"] == []
    mirror.load()
    assert here(centre) == there(shop)


def reading_of_a_new_counter(shop: Shop) -> Change:
    counter(shop, 1)
    return reading(shop, 1, of=1)


def test_models_that_are_loaded_again_go_on_meanwhile(centre):
    shop = Shop()
    mirror = Mirror(centre, shop, limit=1)
    shop.commit(counter(shop, 1), counter(shop, 2), brand(shop, 1))
    shop.sequence()
    mirror.deliver()
    with maintenance("somebody breaks it"):
        Counter.objects.using("centre").filter(id=1).update(value=99)
        Counter.objects.using("centre").create(id=3, value=3)
    loading.begin(centre.source, ["shop.counter"], anew=False, sweep=True)
    centre.applier.loader.refresh()
    shop.commit(counter(shop, 2, 22), brand(shop, 2))
    shop.sequence()
    mirror.deliver()
    assert (2, 22) in here(centre)["shop.counter"], "its turn has not come"
    mirror.load()
    assert here(centre) == there(shop)


def test_a_model_that_the_source_does_not_tell_keeps_its_rows(centre):
    centre.apply(save("shop.counter", 1, value=1))
    anew(centre)
    for _ in range(100):
        question = centre.applier.question()
        if question is None:
            break
        assert isinstance(question, Question)
        refusal = Chunk(number=1, model=question.model, at=centre.cursor, refused="unknown_model")
        centre.applier.load(question, refusal)
    assert list(Counter.objects.using("centre").values_list("id", "value")) == [(1, 1)]


def test_rows_of_another_moment_are_refused(centre):
    shop = Shop()
    counter(shop, 1)
    anew(centre)
    question = centre.applier.question()
    assert isinstance(question, Question)
    with pytest.raises(Gap):
        centre.applier.load(question, shop.answer(question, 77, 5))


def test_rows_of_before_the_first_of_the_source_are_not_the_sources_and_stay(centre):
    shop = Shop()
    centre.apply(save("shop.brand", 7, id=uuid_of(7), name="our own"))
    brand(shop, 8)
    loading.begin(centre.source, ["shop.brand"], anew=True, sweep=False)
    mirror = Mirror(centre, shop, limit=2)
    mirror.crash()
    mirror.load()
    assert set(Brand.objects.using("centre").values_list("name", flat=True)) == {"our own", "brand 8"}


def test_a_source_that_tells_no_rows_at_all_is_not_taken_for_an_empty_one(centre):
    anew(centre)
    question = centre.applier.question()
    with pytest.raises(UnknownStream):
        centre.applier.load(
            question, Chunk(number=1, model=question.model, at=centre.cursor, refused="unknown_stream")
        )


# What has to be loaded


def states(centre) -> dict[str, str]:
    return dict(Loading.objects.using("centre").values_list("model", "state"))


def test_a_source_whose_log_tells_everything_has_nothing_loaded(centre):
    loading.cover(centre.source, ["shop.brand", "shop.tag"], {})
    assert states(centre) == {"shop.brand": "done", "shop.tag": "done"}


def test_a_model_that_is_listed_later_is_loaded(centre):
    loading.cover(centre.source, ["shop.brand"], {})
    loading.cover(centre.source, ["shop.brand", "shop.tag"], {})
    assert states(centre) == {"shop.brand": "done", "shop.tag": "waiting"}


def test_a_model_whose_capture_began_with_rows_is_loaded_once(centre):
    loading.cover(centre.source, ["shop.brand", "shop.tag"], {})
    loading.cover(centre.source, ["shop.brand", "shop.tag"], {"shop.tag": 5})
    assert states(centre) == {"shop.brand": "done", "shop.tag": "waiting"}
    Loading.objects.using("centre").update(state=LoadingState.DONE)
    loading.cover(centre.source, ["shop.brand", "shop.tag"], {"shop.tag": 5})
    assert states(centre) == {"shop.brand": "done", "shop.tag": "done"}
    loading.cover(centre.source, ["shop.brand", "shop.tag"], {"shop.tag": 6})
    assert states(centre)["shop.tag"] == "waiting", "it was unlisted meanwhile, and listed again"


def test_what_waits_to_be_loaded_anyway_makes_up_for_the_mark(centre):
    loading.begin(centre.source, ["shop.brand"], anew=True, sweep=False)
    loading.cover(centre.source, ["shop.brand"], {"shop.brand": 5})
    Loading.objects.using("centre").update(state=LoadingState.DONE)
    loading.cover(centre.source, ["shop.brand"], {"shop.brand": 5})
    assert states(centre) == {"shop.brand": "done"}


def test_who_follows_from_a_later_time_wants_nothing_of_before(centre):
    centre.source.begin = "now"
    loading.cover(centre.source, ["shop.brand"], {"shop.brand": 5})
    assert states(centre) == {}
    loading.begin(centre.source, ["shop.brand"], anew=False, sweep=True)
    loading.cover(centre.source, ["shop.brand", "shop.tag"], {})
    assert states(centre) == {"shop.brand": "waiting"}, "what somebody asked for alone"
    loading.begin(centre.source, ["shop.brand"], anew=True, sweep=True)
    loading.cover(centre.source, ["shop.brand", "shop.tag"], {})
    assert states(centre)["shop.tag"] == "waiting", "until everything had to be loaded"


def test_a_row_whose_new_parent_is_loaded_again_is_not_lost_though_its_own_model_is_not_loaded(centre):
    shop = Shop()
    mirror = Mirror(centre, shop, limit=1)
    shop.commit(brand(shop, 1), brand(shop, 2))
    shop.sequence()
    mirror.deliver()
    loading.begin(centre.source, ["shop.brand"], anew=False, sweep=True)
    centre.applier.loader.refresh()
    mirror.load_a_little()  # from here on changes of brands are passed over until they are asked for
    shop.commit(brand(shop, 3), product(shop, 1, of=3))
    shop.sequence()
    mirror.deliver()
    mirror.load()
    assert here(centre) == there(shop)


def test_a_model_that_is_asked_for_once_more_while_an_answer_is_under_way_begins_anew(centre):
    shop = Shop()
    for number in range(5):
        counter(shop, number)
    anew(centre)
    mirror = Mirror(centre, shop, limit=2)
    question = centre.applier.question()
    while question.model != "shop.counter":
        centre.applier.load(question, shop.answer(question, centre.cursor, 2))
        question = centre.applier.question()
    loading.begin(centre.source, ["shop.counter"], anew=True, sweep=True)
    centre.applier.load(question, shop.answer(question, centre.cursor, 2))
    mirror.load()
    assert here(centre) == there(shop)
    assert Loading.objects.using("centre").get(model="shop.counter").rows == 5

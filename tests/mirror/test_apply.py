from __future__ import annotations

import json
from itertools import count
from uuid import UUID, uuid4

import msgspec
import pytest
from django.db import DEFAULT_DB_ALIAS, connection, connections

from mirror import capture, maintenance
from mirror.apply import Applier, Prepared
from mirror.apply import writer as writer_module
from mirror.changes import mark_of
from mirror.errors import (
    ApplyError,
    ConstraintFailed,
    Gap,
    Malformed,
    MissingParent,
    ModelOwned,
    Superseded,
    UnknownField,
    UnknownModel,
    WrongValue,
)
from mirror.models import ModelOwner, Oplog, Outbox, Source, Stream
from mirror.wire import Batch
from tests.fakes import Centre, delete, save
from tests.mirror.conftest import VENDORS
from tests.project.shop.models import Brand, Bundle, Counter, Product, Reading, Seat, Tag, Ticket

pytestmark = pytest.mark.parametrize("vendor", VENDORS, indirect=True)

A, B, C, D, ELSEWHERE = (str(UUID(int=number)) for number in range(1, 6))


@pytest.fixture(autouse=True)
def as_a_centre(settings):
    settings.MIRROR = {"MODELS": ["shop.*"], "CAPTURE": None, "DATABASE": "centre"}


def brand(uuid, name, pk=None):
    return save("shop.brand", pk, id=uuid, name=name)


def product(uuid, name="p", **fields):
    return save("shop.product", None, **{"id": uuid, "name": name, "stock": 0, "details": {}, **fields})


def unbrand(uuid):
    return delete("shop.brand", None, id=uuid, name="")


def names(centre) -> dict[str, str]:
    return {str(uuid): name for uuid, name in Brand.objects.using("centre").values_list("id", "name")}


def the(model, **filters):
    return model.objects.using("centre").get(**filters)


def nothing_happened(centre) -> bool:
    source = Source.objects.using("centre").get(pk=centre.source.pk)
    return (source.cursor, source.position, Oplog.objects.using("centre").count()) == (
        centre.cursor,
        centre.position,
        centre.position,
    )


# Rows


def test_a_saved_row_is_here(centre):
    centre.apply(brand(A, "a"))
    assert names(centre) == {A: "a"}


def test_saving_again_updates_and_keeps_the_local_key(centre):
    centre.apply(brand(A, "a"))
    before = the(Brand).pkid
    centre.apply(brand(A, "b"))
    assert (names(centre), the(Brand).pkid) == ({A: "b"}, before)


def test_a_deleted_row_is_gone_and_may_be_deleted_again(centre):
    centre.apply(brand(A, "a"), brand(B, "b"))
    centre.apply(unbrand(A))
    centre.apply(unbrand(A))
    assert names(centre) == {B: "b"}


def test_the_last_of_many_changes_to_a_row_counts(centre):
    centre.apply(brand(A, "a"), unbrand(A), brand(A, "b"), brand(B, "x"), brand(A, "c"), unbrand(B))
    assert names(centre) == {A: "c"}


def test_local_keys_are_the_centres_own(centre):
    with maintenance("a row of its own"):
        Brand.objects.using("centre").create(name="local")
    centre.apply(brand(A, "a", pk=1), product(B, second_brand=A))
    assert names(centre)[A] == "a"
    assert the(Product).second_brand.name == "a"


def test_integer_keys_are_the_sources(centre):
    centre.apply(save("shop.counter", 7, value=1), save("shop.counter", 9, value=2))
    centre.apply(save("shop.counter", 7, value=3), delete("shop.counter", 9, value=2))
    assert list(Counter.objects.using("centre").values_list("id", "value")) == [(7, 3)]


def test_a_row_of_two_keys_is_matched_by_both(centre):
    centre.apply(save("shop.seat", ["A", 1], guest="Ada"), save("shop.seat", ["A", 2], guest="Bob"))
    centre.apply(save("shop.seat", ["A", 1], guest="Eve"), delete("shop.seat", ["A", 2], guest="Bob"))
    assert list(Seat.objects.using("centre").values_list("row", "number", "guest")) == [("A", 1, "Eve")]


def test_a_row_that_is_only_a_key_can_be_saved_again(centre, settings):
    settings.MIRROR = {
        "MODELS": ["shop.Counter"], "EXCLUDE_FIELDS": ["shop.Counter.value"], "DATABASE": "centre"
    }  # fmt: skip
    again = Centre("centre", "lyon")
    again.apply(save("shop.counter", 1))
    again.apply(save("shop.counter", 1))
    assert list(Counter.objects.using("centre").values_list("id", "value")) == [(1, 0)]


# References


def test_references_by_uuid_and_by_local_key_point_at_the_same_row(centre):
    centre.apply(brand(A, "a"), product(B, brand=A, second_brand=A))
    found = the(Product)
    assert found.brand == found.second_brand == the(Brand)


def test_a_child_may_come_before_its_parent(centre):
    centre.apply(product(B, brand=A, second_brand=A), brand(A, "a"))
    assert the(Product).second_brand.name == "a"


def test_a_child_may_come_before_its_parent_in_another_flush(centre, monkeypatch):
    monkeypatch.setattr("mirror.apply._FLUSH", 1)
    centre.apply(product(C, brand=A, second_brand=A), brand(B, "b"), brand(D, "d"), brand(A, "a"))
    assert the(Product).second_brand.name == "a"
    assert names(centre) == {A: "a", B: "b", D: "d"}


def test_a_row_may_refer_to_itself_and_in_a_circle(centre):
    centre.apply(product(A, parent=A), product(B, parent=C), product(C, parent=B))
    assert {str(row.id): str(row.parent.id) for row in Product.objects.using("centre").all()} == {
        A: A,
        B: C,
        C: B,
    }


@pytest.mark.parametrize("flush", [1, 2, 2000])
def test_rows_beside_one_that_was_promised_a_key_get_others(centre, monkeypatch, flush):
    # The database would give the next key out to the first that asks.
    monkeypatch.setattr("mirror.apply._FLUSH", flush)
    more = [str(uuid4()) for _ in range(5)]
    centre.apply(product(B, parent=A), *(product(uuid) for uuid in more), product(A))
    centre.apply(product(C, parent=D), product(A, name="again"), product(D), product(str(uuid4())))
    found = {str(row.id): row for row in Product.objects.using("centre").select_related("parent")}
    assert len(found) == 10
    assert (str(found[B].parent.id), str(found[C].parent.id), found[A].name) == (A, D, "again")


def test_keys_go_on_after_a_promise(centre):
    centre.apply(product(B, parent=A), product(A))
    with maintenance("a row of its own"):
        local = Product.objects.using("centre").create(name="local")
    centre.apply(product(C))
    assert len({row.pkid for row in Product.objects.using("centre").all()} | {local.pkid}) == 4


def test_a_reference_may_move_to_another_row(centre):
    centre.apply(brand(A, "a"), brand(B, "b"), product(C, second_brand=A))
    centre.apply(product(C, second_brand=B))
    assert the(Product).second_brand.name == "b"
    centre.apply(product(C, second_brand=None))
    assert the(Product).second_brand is None


@pytest.mark.parametrize("flush", [1, 2, 2000])
def test_a_row_that_gets_another_uuid_keeps_what_refers_to_it(centre, monkeypatch, flush):
    monkeypatch.setattr("mirror.apply._FLUSH", flush)
    centre.apply(brand(A, "a", pk=7), product(B, second_brand=A), product(D))
    local = the(Brand).pkid
    centre.apply(
        product(D, second_brand=A),
        delete("shop.brand", 7, id=A, name="a"),
        brand(C, "a", pk=7),
        product(D, name="later", second_brand=C),
    )
    assert (names(centre), the(Brand).pkid) == ({C: "a"}, local)
    assert {row.second_brand_id for row in Product.objects.using("centre").all()} == {local}


def moved(old, new, name, pk=7):
    return delete("shop.brand", pk, id=old, name=name), brand(new, name, pk=pk)


def brands_of_products(centre) -> dict[str, str]:
    products = Product.objects.using("centre").select_related("second_brand")
    return {product.name: product.second_brand.name for product in products}


@pytest.mark.parametrize("flush", [1, 2, 3, 2000])
def test_a_uuid_means_the_row_that_had_it_at_that_place(centre, monkeypatch, flush):
    monkeypatch.setattr("mirror.apply._FLUSH", flush)
    centre.apply(brand(A, "a", pk=7), brand(B, "b", pk=8), product(C, "c", second_brand=A))
    centre.apply(
        product(D, "d", second_brand=A),
        *moved(A, ELSEWHERE, "a"),
        product(str(uuid4()), "between", second_brand=ELSEWHERE),
        *moved(B, A, "b", pk=8),
        product(str(uuid4()), "other", second_brand=A),
        *moved(ELSEWHERE, B, "a"),
        product(str(uuid4()), "after", second_brand=B),
    )
    assert names(centre) == {A: "b", B: "a"}
    assert brands_of_products(centre) == {"c": "a", "d": "a", "between": "a", "other": "b", "after": "a"}


@pytest.mark.parametrize("flush", [1, 2, 3, 2000])
@pytest.mark.parametrize("known", [True, False])
def test_a_new_uuid_may_be_referred_to_before_it_is_told(centre, monkeypatch, flush, known):
    """A trigger of the application's writes on while ours has not been called yet."""
    monkeypatch.setattr("mirror.apply._FLUSH", flush)
    first = [brand(A, "a", pk=7), product(C, "c", second_brand=A)]
    if known:
        centre.apply(*first)
        first = []
    centre.apply(*first, product(D, "d", second_brand=B), *moved(A, B, "a"))
    assert names(centre) == {B: "a"}
    assert brands_of_products(centre) == {"c": "a", "d": "a"}


@pytest.mark.parametrize("flush", [1, 2, 2000])
def test_an_old_uuid_may_be_referred_to_until_the_new_one_is_told(centre, monkeypatch, flush):
    monkeypatch.setattr("mirror.apply._FLUSH", flush)
    centre.apply(brand(A, "a", pk=7), product(C, "c", second_brand=A))
    gone, saved = moved(A, B, "a")
    centre.apply(gone, product(D, "d", second_brand=A), saved)
    assert brands_of_products(centre) == {"c": "a", "d": "a"}
    gone, saved = moved(B, A, "a")
    centre.apply(gone, product(D, "d", second_brand=B), brand(B, "again", pk=8), saved)
    assert names(centre) == {A: "a", B: "again"}
    assert brands_of_products(centre) == {"c": "a", "d": "again"}


@pytest.mark.parametrize("flush", [1, 2, 2000])
def test_an_old_uuid_that_is_referred_to_afterwards_is_missed(centre, monkeypatch, flush):
    monkeypatch.setattr("mirror.apply._FLUSH", flush)
    centre.apply(brand(A, "a", pk=7))
    with pytest.raises(MissingParent, match=A):
        centre.apply(*moved(A, B, "a"), product(D, second_brand=A))
    assert names(centre) == {A: "a"}


@pytest.mark.parametrize("flush", [1, 2, 2000])
def test_a_row_may_get_the_uuid_of_one_that_came_from_elsewhere(centre, monkeypatch, flush):
    monkeypatch.setattr("mirror.apply._FLUSH", flush)
    with maintenance("a row of its own"):
        Brand.objects.using("centre").create(id=B, name="from elsewhere")
    centre.apply(brand(A, "a", pk=7), product(C, "c", second_brand=A))
    centre.apply(*moved(A, B, "both"))
    assert (names(centre), brands_of_products(centre)) == ({B: "both"}, {"c": "both"})


def test_a_reference_by_integer_key_is_the_sources(centre):
    centre.apply(
        save("shop.reading", 1, counter=5, taken_at="2026-01-01T00:00:00.000001Z"),
        save("shop.counter", 5, value=0),
    )
    assert the(Reading).counter_id == 5
    assert the(Reading).taken_at.isoformat() == "2026-01-01T00:00:00.000001+00:00"


def test_a_parent_may_be_deleted_before_its_child(centre):
    centre.apply(brand(A, "a"), product(B, brand=A, second_brand=A))
    centre.apply(unbrand(A), delete("shop.product", None, id=B, name="p", brand=A, second_brand=A))
    assert not Product.objects.using("centre").exists()
    assert not names(centre)


def test_a_row_deleted_and_inserted_again_takes_its_references_along(centre, monkeypatch):
    monkeypatch.setattr("mirror.apply._FLUSH", 1)
    centre.apply(brand(A, "a"), product(B, second_brand=A))
    centre.apply(
        delete("shop.product", None, id=B, second_brand=A),
        unbrand(A),
        brand(C, "between"),
        brand(A, "again"),
        product(B, second_brand=A),
    )
    assert the(Product).second_brand.name == "again"


def test_a_child_of_a_row_deleted_and_inserted_again_may_come_first(centre, monkeypatch):
    monkeypatch.setattr("mirror.apply._FLUSH", 1)
    centre.apply(brand(A, "a"))
    centre.apply(unbrand(A), product(B, second_brand=A), brand(C, "c"), brand(A, "again"))
    assert the(Product).second_brand.name == "again"


def bought(uuid, brand):
    return product(uuid, brand=brand, second_brand=brand)


def unbuy(uuid, brand):
    return delete("shop.product", None, id=uuid, name="p", brand=brand, second_brand=brand)


@pytest.mark.parametrize(
    "changes",
    [
        [brand(A, "a"), bought(B, A), unbrand(A), unbuy(B, A)],  # parents first, as Django may delete
        [bought(B, A), brand(A, "a"), unbuy(B, A), unbrand(A)],
        [bought(B, A), brand(A, "a"), unbrand(A), unbuy(B, A)],
    ],
)
@pytest.mark.parametrize("flush", [1, 2, 3, 2000])
def test_rows_that_came_and_went_within_a_group_leave_nothing_to_miss(centre, monkeypatch, flush, changes):
    monkeypatch.setattr("mirror.apply._FLUSH", flush)
    centre.apply(*changes)
    centre.apply(brand(A, "a"), bought(B, A))
    centre.apply(bought(B, A), unbrand(A), unbuy(B, A))
    assert not centre.rows("shop_product")
    assert not names(centre)


# Rows without a UUID of their own


def bundle(uuid, **fields):
    return [product(uuid), save("shop.bundle", 1, product_ptr=uuid, **fields)]


def test_a_multi_table_row_matches_by_its_parent(centre):
    centre.apply(product(D))
    centre.apply(*bundle(A, discount=5))
    centre.apply(save("shop.bundle", 99, product_ptr=A, discount=6))
    assert [(str(row.id), row.discount) for row in Bundle.objects.using("centre").all()] == [(A, 6)]
    centre.apply(delete("shop.bundle", 1, product_ptr=A, discount=6), delete("shop.product", None, id=A))
    assert not Bundle.objects.using("centre").exists()
    assert [str(row.id) for row in Product.objects.using("centre").all()] == [D]


@pytest.mark.parametrize("flush", [1, 2000])
def test_a_multi_table_row_may_be_deleted_after_its_parent(centre, monkeypatch, flush):
    monkeypatch.setattr("mirror.apply._FLUSH", flush)
    centre.apply(*bundle(A, discount=5))
    centre.apply(delete("shop.product", None, id=A), delete("shop.bundle", 1, product_ptr=A, discount=5))
    assert not Product.objects.using("centre").exists()
    assert not centre.rows("shop_bundle")


def tagged(uuid, tag, *, op=save):
    return op("shop.product_tags", 1, product=uuid, tag=tag)


def tags(centre) -> set[tuple[str, str]]:
    rows = Product.tags.through.objects.using("centre").values_list("product__id", "tag__id")
    return {(str(product), str(tag)) for product, tag in rows}


def test_rows_of_a_many_to_many_match_by_both_ends(centre):
    centre.apply(product(A), product(B), save("shop.tag", 1, id=C, label="c"))
    centre.apply(tagged(A, C), tagged(B, C))
    centre.apply(tagged(A, C))
    assert tags(centre) == {(A, C), (B, C)}
    centre.apply(tagged(A, C, op=delete))
    assert tags(centre) == {(B, C)}
    centre.apply(tagged(B, C, op=delete), tagged(B, C))
    assert tags(centre) == {(B, C)}


@pytest.mark.parametrize("flush", [1, 2000])
def test_rows_of_a_many_to_many_may_go_after_both_ends(centre, monkeypatch, flush):
    monkeypatch.setattr("mirror.apply._FLUSH", flush)
    centre.apply(product(A), save("shop.tag", 1, id=C, label="c"), tagged(A, C))
    centre.apply(
        delete("shop.tag", 1, id=C, label="c"),
        delete("shop.product", None, id=A),
        tagged(A, C, op=delete),
    )
    assert not tags(centre)
    assert not centre.rows("shop_product_tags")


def test_a_row_of_a_many_to_many_may_come_before_both_ends(centre, monkeypatch):
    monkeypatch.setattr("mirror.apply._FLUSH", 1)
    centre.apply(
        tagged(A, C), save("shop.tag", 1, id=D, label="d"), save("shop.tag", 1, id=C, label="c"), product(A)
    )
    assert tags(centre) == {(A, C)}


@pytest.mark.parametrize("flush", [1, 2, 2000])
def test_a_row_of_a_many_to_many_that_went_before_the_new_uuid_of_an_end_was_told(centre, monkeypatch, flush):
    """It cannot be found, but must not stay behind in silence."""
    monkeypatch.setattr("mirror.apply._FLUSH", flush)
    owned = {"name": "p", "stock": 0, "details": {}}
    changed = delete("shop.product", 7, id=A, **owned), save("shop.product", 7, id=B, **owned)
    centre.apply(save("shop.product", 7, id=A, **owned), save("shop.tag", 1, id=C, label="c"), tagged(A, C))
    with pytest.raises(MissingParent, match=B):
        centre.apply(tagged(B, C, op=delete), *changed)
    assert tags(centre) == {(A, C)}
    centre.apply(*changed, tagged(B, C, op=delete))
    assert tags(centre) == set()


# Unique values


@pytest.mark.parametrize("flush", [1, 2, 3, 2000])
def test_unique_values_may_be_swapped(centre, monkeypatch, flush):
    monkeypatch.setattr("mirror.apply._FLUSH", flush)
    centre.apply(brand(A, "a"), brand(B, "b"))
    centre.apply(brand(A, "between"), brand(B, "a"), brand(A, "b"))
    assert names(centre) == {A: "b", B: "a"}


def test_only_the_part_of_a_run_that_needs_it_is_written_one_by_one(centre, monkeypatch):
    monkeypatch.setattr(writer_module, "_FEW", 4)
    centre.apply(brand(A, "a"), brand(B, "b"))
    one_by_one, write_one = [], writer_module.BatchWriter._write_one
    monkeypatch.setattr(
        writer_module.BatchWriter,
        "_write_one",
        lambda writer, change: (one_by_one.append(change.fields["name"]), write_one(writer, change)),
    )
    others = [brand(str(uuid4()), str(number)) for number in range(29)]
    centre.apply(*others, brand(A, "between"), brand(B, "a"), brand(A, "b"))
    found = names(centre)
    assert (found[A], found[B], len(found)) == ("b", "a", 31)
    assert one_by_one == ["28", "between", "a", "b"]


def test_a_unique_value_may_be_handed_over(centre):
    centre.apply(brand(A, "a"))
    centre.apply(unbrand(A), brand(B, "a"))
    assert names(centre) == {B: "a"}
    centre.apply(brand(B, "b"), brand(C, "a"))
    assert names(centre) == {B: "b", C: "a"}


def test_a_unique_value_may_go_through_many_hands(centre):
    centre.apply(*(brand(uuid, uuid) for uuid in (A, B, C, D)))
    centre.apply(brand(D, "x"), brand(A, D), brand(B, A), brand(C, B), brand(D, C))
    assert names(centre) == {A: D, B: A, C: B, D: C}


def test_promises_survive_writing_the_run_again(centre):
    centre.apply(brand(A, "a"), brand(B, "b"))
    centre.apply(
        product(D, parent=C, second_brand=A), brand(A, "x"), brand(B, "a"), brand(A, "b"), product(C)
    )
    assert names(centre) == {A: "b", B: "a"}
    assert str(the(Product, id=D).parent.id) == C


@pytest.fixture
def unique_discounts(centre, vendor):
    """A unique column of a model that is written after those it refers to."""

    def execute(sql):
        with connections["centre"].cursor() as cursor:
            cursor.execute(sql)

    execute("CREATE UNIQUE INDEX unique_discount ON shop_bundle (discount)")
    yield
    execute("DROP INDEX unique_discount" + (" ON shop_bundle" if vendor == "mariadb" else ""))


def test_a_promise_that_was_kept_in_vain_is_kept_again(centre, monkeypatch, unique_discounts):
    centre.apply(*bundle(A, discount=1), *bundle(B, discount=2))
    monkeypatch.setattr("mirror.apply._FLUSH", 4)
    fill = save("shop.tag", 1, id=A, label="")
    swap = [
        save("shop.bundle", 1, product_ptr=uuid, discount=discount)
        for uuid, discount in [(A, 9), (B, 1), (A, 2)]
    ]
    centre.apply(product(D, parent=C), fill, fill, fill, product(C), *swap)
    assert {(str(row.id), row.discount) for row in Bundle.objects.using("centre").all()} == {(A, 2), (B, 1)}
    assert str(the(Product, id=D).parent.id) == C


def test_the_order_of_the_last_changes_spares_a_second_try(centre, monkeypatch):
    centre.apply(brand(A, "a"), brand(B, "b"))
    monkeypatch.setattr(writer_module.BatchWriter, "_write_one", None)
    centre.apply(brand(A, "a again"), brand(B, "c"), brand(A, "b"))
    assert names(centre) == {A: "b", B: "c"}


# What is refused, and nothing of it kept


REFUSED = {
    "an unknown field": (UnknownField, "colour", [save("shop.brand", 1, id=A, name="a", colour="red")]),
    "an unknown model": (UnknownModel, "shop.nothing", [save("shop.nothing", 1, id=A)]),
    "a value of the wrong kind": (WrongValue, "shop.counter.value", [save("shop.counter", 1, value="many")]),
    "a value too large": (WrongValue, "shop.counter", [save("shop.counter", 1, value=10**30)]),
    "a key that is no UUID": (WrongValue, "shop.brand", [brand("a", "a")]),
    "a key that is no text": (WrongValue, "shop.brand", [brand({"a": 1}, "a")]),
    "no key": (WrongValue, "shop.brand", [save("shop.brand", 1, name="a")]),
    "no integer key": (WrongValue, "shop.counter", [save("shop.counter", None, value=1)]),
    "no key to delete by": (WrongValue, "shop.brand", [delete("shop.brand", 1, name="a")]),
    "a key of one instead of two": (WrongValue, "shop.seat", [save("shop.seat", 5, guest="")]),
    "a key of three instead of two": (WrongValue, "shop.seat", [save("shop.seat", ["A", 1, 2], guest="")]),
    "a reference that is no UUID": (WrongValue, "second_brand", [product(A, second_brand=5)]),
    "a reference that is a list": (WrongValue, "second_brand", [product(A, second_brand=[A])]),
    "a reference to nothing": (MissingParent, A, [product(B, second_brand=A)]),
    "a child of nothing": (MissingParent, A, [save("shop.bundle", 1, product_ptr=A, discount=1)]),
    "an end of nothing": (MissingParent, A, [product(B), tagged(B, A)]),
    "a reference by UUID to nothing": (ApplyError, "shop_product", [product(B, brand=A)]),
    "a reference by integer to nothing": (
        ApplyError,
        "shop_reading",
        [save("shop.reading", 1, counter=5, taken_at="2026-01-01T00:00:00Z")],
    ),
    "a unique value twice": (ConstraintFailed, "shop.brand", [brand(A, "a"), brand(B, "a")]),
    "NULL where there may be none": (ConstraintFailed, "shop.brand", [brand(A, None)]),
}


@pytest.mark.parametrize(("error", "named", "changes"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_applied_is_refused_whole(centre, error, named, changes):
    centre.apply(save("shop.ticket", D, text="kept", secret=""))
    with pytest.raises(error, match=named) as caught:
        centre.apply(save("shop.tag", 1, id=C, label="beside"), *changes)
    assert not caught.value.retryable
    assert not Tag.objects.using("centre").exists()
    assert nothing_happened(centre)
    # Its cause removed, it goes on.
    centre.apply(save("shop.tag", 1, id=C, label="after"))
    assert the(Tag).label == "after"


def test_a_text_longer_than_its_column_is_here_or_refused(centre, vendor):
    if vendor == "sqlite":
        centre.apply(brand(A, "a" * 300))
        assert names(centre)[A] == "a" * 300
        return
    with pytest.raises(WrongValue, match=rf"shop.brand.name .* holds 100 characters, not 300 .*{A}"):
        centre.apply(brand(B, "b"), brand(A, "a" * 300))
    assert nothing_happened(centre)


def test_a_nul_in_a_text_is_here_or_refused(centre, vendor):
    if vendor != "postgresql":
        centre.apply(brand(A, "a\0b"))
        assert names(centre)[A] == "a\0b"
        return
    with pytest.raises(WrongValue, match=rf"shop.brand.name .* holds no NUL .*{A}"):
        centre.apply(brand(B, "b"), brand(A, "a\0b"))
    assert nothing_happened(centre)


def test_a_long_key_is_copied_in_short(centre):
    # A model that is not listed here: its key is only history.
    centre.apply(save("polls.page", "x" * 500), save("polls.page", "x" * 500 + "y"))
    one, other = Oplog.objects.using("centre").values_list("key", flat=True)
    assert len(one) == len(other) == 200
    assert one != other


def test_a_name_longer_than_its_column_is_copied_or_refused(centre, vendor):
    changes = [save("shop.counter", 1, value=1), save("polls." + "x" * 300, 1)]
    if vendor == "sqlite":
        assert centre.apply(*changes).skipped == 1
        return
    with pytest.raises(WrongValue):
        centre.apply(*changes)
    assert nothing_happened(centre)
    # Not even who owns what it would have written.
    Centre("centre", "lyon").apply(save("shop.counter", 1, value=2))
    with pytest.raises(ModelOwned):
        centre.apply(save("shop.counter", 1, value=1))


# What follows, and what does not


def test_a_batch_that_comes_again_is_refused(centre):
    batch = centre.batch(brand(A, "a"))
    centre.take(batch)
    with pytest.raises(Gap):
        centre.applier.apply([batch])
    assert nothing_happened(centre)


def test_a_batch_that_skips_is_refused(centre):
    with pytest.raises(Gap):
        centre.applier.apply([centre.batch(brand(A, "a"), prev=(5, 0))])
    assert nothing_happened(centre)


@pytest.mark.parametrize(
    "wrong",
    [
        {"last": 9},  # ends elsewhere
        {"position": 9},
        {"ends": [1]},  # not at the end
        {"ends": [2, 3]},  # at a change that is not there
        {"ends": []},  # a group that goes on
    ],
)
def test_a_batch_that_is_not_what_it_says_is_refused(centre, wrong):
    batch = msgspec.structs.replace(centre.batch(brand(A, "a"), brand(B, "b")), **wrong)
    with pytest.raises(Gap):
        centre.applier.apply([batch])
    assert nothing_happened(centre)


def test_changes_out_of_order_are_refused(centre):
    batch = centre.batch(brand(A, "a"), brand(B, "b"), brand(C, "c"))
    first, second, third = batch.changes
    with pytest.raises(Gap):
        centre.applier.apply([msgspec.structs.replace(batch, changes=[second, first, third])])
    assert nothing_happened(centre)


@pytest.mark.parametrize("raw", [b"0", b'{"ts":1}', b"[" * 100_000, b'"' + b"\xff" + b'"'])
def test_what_is_no_change_is_malformed(centre, raw):
    batch = msgspec.structs.replace(centre.batch(brand(A, "a")), changes=[msgspec.Raw(raw)])
    with pytest.raises(Malformed):
        centre.applier.apply([batch])
    assert nothing_happened(centre)


def test_an_older_process_cannot_commit_any_more(centre):
    Source.objects.using("centre").update(fence=1)
    with pytest.raises(Superseded):
        centre.apply(brand(A, "a"))
    assert nothing_happened(centre)


def test_a_source_that_was_removed_cannot_be_applied(centre):
    Source.objects.using("centre").all().delete()
    with pytest.raises(Superseded):
        centre.apply(brand(A, "a"))


def test_a_source_that_was_reset_cannot_be_applied(centre):
    Source.objects.using("centre").update(stream=None)
    with pytest.raises(Superseded, match="reset"):
        centre.apply(brand(A, "a"))


def test_where_the_mirror_is_is_stored_with_the_rows(centre):
    applied = centre.apply(brand(A, "a"), brand(B, "b"))
    source = Source.objects.using("centre").select_related("stream").get()
    last = Oplog.objects.using("centre").latest("ts")
    assert (applied.cursor, applied.position, applied.mark) == (2, 2, mark_of(last.body))
    assert (source.cursor, source.position, source.mark) == (2, 2, applied.mark)
    assert (source.stream.head, source.stream.position) == (2, 2)
    assert (applied.changes, applied.skipped, source.heard_at is None) == (2, 0, False)


def test_batches_of_one_group_are_applied_together(centre):
    first = centre.batch(brand(A, "a"), ends=False)
    second = centre.batch(brand(B, "b"), prev=(first.last, first.position))
    with pytest.raises(Gap):
        centre.applier.apply([first])
    centre.take(first, second)
    assert set(names(centre)) == {A, B}


def copied(centre):
    return list(
        Oplog.objects.using("centre")
        .order_by("ts")
        .values_list("ts", "position", "op", "model", "key", "row", "ends_group", "body")
    )


def test_what_was_prepared_before_its_turn_is_applied_like_anything_else(centre):
    usual = [brand(str(uuid4()), f"{number}\t\\\n{'é' * number}") for number in range(12)]
    tabbed = product(C, "p\ttab", details={"a": "\\n"}, second_brand=None)
    centre.apply(brand(A, "a"), product(B, second_brand=A))
    other = Centre("centre", "lyon")
    other.apply(brand(A, "a"), product(B, second_brand=A))
    batch = centre.batch(*usual, tabbed, product(B, second_brand=None), unbrand(A))
    prepared = centre.applier.prepare(batch)
    assert isinstance(prepared, Prepared)
    centre.take(prepared)
    first = {str(row.id): (row.name, row.details) for row in Product.objects.using("centre").all()}
    assert (len(names(centre)), first[C]) == (12, ("p\ttab", {"a": "\\n"}))
    mine = copied(centre)
    Oplog.objects.using("centre").filter(stream=centre.stream).delete()
    other.take(batch)
    assert copied(other)[-len(usual) - 3 :] == mine[-len(usual) - 3 :]


def test_what_is_unusual_is_not_prepared_but_left_for_its_turn(centre):
    batch = centre.batch(brand(A, "a"))
    assert centre.applier.prepare(batch) is batch  # brands are not known yet
    centre.take(batch)
    later = centre.batch(brand(B, "b"), save("shop.tag", None, id=C, label="t"))
    assert centre.applier.prepare(later) is later
    spoilt = msgspec.structs.replace(centre.batch(brand(B, "b")), changes=[msgspec.Raw(b'{"ts":2}')])
    assert centre.applier.prepare(spoilt) is spoilt
    with pytest.raises(Malformed):
        centre.take(spoilt)


def test_what_was_prepared_is_checked_in_its_turn(centre):
    centre.apply(brand(A, "a"))
    for wrong in ({"position": 7}, {"prev": 0}, {"last": 9}, {"ends": [9]}):
        spoilt = msgspec.structs.replace(centre.batch(brand(B, "b")), **wrong)
        prepared = centre.applier.prepare(spoilt)
        assert isinstance(prepared, Prepared)
        with pytest.raises(Gap):
            centre.applier.apply([prepared])
    assert set(names(centre)) == {A}


def test_what_was_prepared_may_meet_fields_that_are_new(centre):
    centre.apply(save("shop.tag", 1, id=A, label="a"))
    batch = centre.batch(save("shop.tag", 2, id=B, label="b"))
    prepared = centre.applier.prepare(batch)
    assert isinstance(prepared, Prepared)
    between = centre.batch(save("shop.tag", 3, id=C), prev=(batch.last, batch.position))
    centre.take(prepared, between)
    late = centre.applier.prepare(centre.batch(save("shop.tag", 4, id=D)))
    centre.take(centre.batch(save("shop.tag", 2, id=B, label="c"), ends=True))
    assert isinstance(late, Prepared)
    tags = {str(tag.id): tag.label for tag in Tag.objects.using("centre").all()}
    assert tags == {A: "a", B: "c", C: ""}


def test_a_group_larger_than_what_is_held_is_one_transaction(centre, monkeypatch):
    monkeypatch.setattr("mirror.apply._FLUSH", 7)
    numbers = count()
    rows = [brand(str(uuid4()), str(next(numbers))) for _ in range(50)]
    with pytest.raises(UnknownField):
        centre.apply(*rows, save("shop.tag", 1, id=A, label="", colour=""))
    assert nothing_happened(centre)
    centre.apply(*rows)
    assert len(names(centre)) == 50
    assert centre.position == 50


def test_what_is_known_of_other_rows_is_bounded_but_promises_are_kept(centre, monkeypatch):
    monkeypatch.setattr("mirror.apply._FLUSH", 2)
    monkeypatch.setattr(writer_module, "_KNOWN", 1)
    centre.apply(
        brand(A, "a"), brand(B, "b"), product(C, second_brand=A), product(D, second_brand=B, parent=C)
    )
    another = str(uuid4())
    centre.apply(
        product(A, second_brand=B, parent=B),
        product(C, second_brand=A),
        product(another, second_brand=A, parent=B),
        product(B),
    )
    found = {str(row.id): row for row in Product.objects.using("centre").select_related("parent")}
    assert str(found[A].parent.id) == str(found[another].parent.id) == B
    assert found[C].second_brand.name == "a"


def test_the_copy_of_the_oplog_is_exact(centre):
    # Spaces and escapes as they came: the mark of a change is that of its text.
    bodies = [
        f'{{"ts": {ts}, "op":"SAVE","model":"shop.brand","pk":1,\n'
        f'"fields":{{"id":"{uuid}","name":"\\u00e9 {ts}"}}}}'
        for ts, uuid in [(5, A), (9, B)]
    ]
    centre.take(
        Batch(
            prev=0,
            last=9,
            position=2,
            head=9,
            head_position=2,
            ends=[9],
            changes=[msgspec.Raw(body.encode()) for body in bodies],
        )
    )
    copied = Oplog.objects.using("centre").order_by("ts")
    assert [entry.body for entry in copied] == bodies
    assert list(copied.values_list("ts", "position", "op", "model", "key", "ends_group")) == [
        (5, 1, "SAVE", "shop.brand", A, False),
        (9, 2, "SAVE", "shop.brand", B, True),
    ]


# What is listed here


def test_models_that_are_not_listed_here_are_skipped_counted_and_copied(centre, settings):
    settings.MIRROR = {"MODELS": ["shop.Brand"], "CAPTURE": None, "DATABASE": "centre"}
    applied = centre.apply(brand(A, "a"), save("shop.counter", 1, value=1), save("polls.poll", 1, x=2))
    assert (applied.skipped, applied.changes) == (2, 3)
    assert not Counter.objects.using("centre").exists()
    assert Source.objects.using("centre").get().skipped == 2
    assert list(Oplog.objects.using("centre").order_by("ts").values_list("model", flat=True)) == [
        "shop.brand",
        "shop.counter",
        "polls.poll",
    ]


def test_a_field_that_does_not_come_keeps_its_value_here_or_takes_its_default(centre):
    centre.apply(save("shop.ticket", A, text="a", secret="from an older source"))
    with maintenance("a value of its own"):
        Ticket.objects.using("centre").update(secret="ours")
    centre.apply(save("shop.ticket", A, text="b"), save("shop.ticket", B, text="new"))
    rows = Ticket.objects.using("centre").order_by("id").values_list("text", "secret")
    assert list(rows) == [("b", "ours"), ("new", "")]


def test_a_second_source_may_not_write_rows_matched_by_integer_keys(centre):
    other = Centre("centre", "lyon")
    centre.apply(save("shop.counter", 1, value=1))
    with pytest.raises(ModelOwned, match=r"shop\.counter .* paris"):
        other.apply(save("shop.counter", 1, value=2))
    assert the(Counter).value == 1
    assert ModelOwner.objects.using("centre").get().model == "shop.counter"


def test_a_refused_group_leaves_its_models_to_others(centre):
    other = Centre("centre", "lyon")
    with pytest.raises(WrongValue):
        centre.apply(save("shop.counter", 1, value="many"))
    other.apply(save("shop.counter", 1, value=2))
    with pytest.raises(ModelOwned):
        centre.apply(save("shop.counter", 1, value=1))


def test_rows_matched_by_uuid_come_from_many_sources(centre):
    other = Centre("centre", "lyon")
    centre.apply(brand(A, "a", pk=1), save("shop.ticket", A, text="", secret=""))
    other.apply(brand(B, "b", pk=1), product(C, second_brand=A), save("shop.ticket", B, text="", secret=""))
    assert names(centre) == {A: "a", B: "b"}
    assert Stream.objects.using("centre").count() == 2


# A centre that is itself recorded


def test_applying_does_not_echo(centre, settings):
    settings.MIRROR = {"MODELS": ["shop.*"], "DATABASE": "centre"}
    capture.prepare(connections["centre"])
    with maintenance("a row of its own"):
        Brand.objects.using("centre").create(id=C, name="its own")
    applier = Applier(centre.source.pk, fence=0, using="centre")
    applier.apply([centre.batch(brand(A, "a"), product(B, second_brand=A))])
    assert [json.loads(entry.payload)["name"] for entry in Outbox.objects.using("centre").all()] == [
        "its own"
    ]
    with maintenance("a row of its own"):
        Brand.objects.using("centre").filter(id=A).update(name="changed here")
    assert Outbox.objects.using("centre").count() == 2


def test_the_default_database_is_not_touched(centre, source):
    centre.apply(brand(A, "a"))
    assert connection.alias == DEFAULT_DB_ALIAS
    assert not Brand.objects.exists()


def test_foreign_keys_are_checked_again_afterwards(centre, vendor):
    if vendor != "mariadb":
        pytest.skip("it checks at commit")

    def checked():
        with connections["centre"].cursor() as cursor:
            cursor.execute("SELECT @@foreign_key_checks")
            return cursor.fetchone()[0]

    centre.apply(brand(A, "a"))
    assert checked() == 1
    with pytest.raises(WrongValue):
        centre.apply(brand("x", "a"))
    assert checked() == 1

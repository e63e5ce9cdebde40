from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.apps import apps
from django.db import models

from mirror.models import Outbox
from mirror.registry import listed, matches, mirrored_models
from tests.project.shop.models import Brand, Bundle, Counter, Product, Seat, Sink, Tag, Ticket


def described(label: str):
    return mirrored_models()[f"shop.{label}"]


def key_of(label: str) -> tuple[str, ...]:
    return tuple(field.name for field in described(label).key)


def references(label: str) -> dict[str, str]:
    return {field.name: field.reference.label for field in described(label).fields if field.reference}


@pytest.fixture
def model():
    """Models without a table, for one test."""
    made = []

    def make(name: str, base: type[models.Model] = models.Model, *, meta: dict | None = None, **fields):
        options = type("Meta", (), {"app_label": "shop", **(meta or {})})
        model: Any = type(name, (base,), {"__module__": Brand.__module__, "Meta": options, **fields})
        made.append(model)
        mirrored_models.cache_clear()
        return model

    yield make
    for model in made:
        del apps.all_models["shop"][model._meta.model_name]
    apps.clear_cache()
    mirrored_models.cache_clear()


# What identifies a row


@pytest.mark.parametrize(
    ("label", "key", "local_pk", "merges"),
    [
        ("brand", ("id",), True, True),  # a UUIDModel
        ("product", ("id",), True, True),
        ("bundle", ("product_ptr",), True, True),  # a multi-table child, by its parent
        ("product_tags", ("product", "tag"), True, True),  # an automatic m2m row, by its ends
        ("ticket", ("id",), False, True),  # a UUID as primary key
        ("counter", ("id",), False, False),  # an integer
        ("seat", ("row", "number"), False, False),  # two columns
    ],
)
def test_each_kind_of_model_is_matched_by_its_key(label, key, local_pk, merges):
    mirrored = described(label)
    assert (key_of(label), mirrored.local_pk, mirrored.merges) == (key, local_pk, merges)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        # By pkid, and itself; ``brand`` points at the UUID already.
        ("product", {"second_brand": "shop.brand", "parent": "shop.product"}),
        ("bundle", {"product_ptr": "shop.product"}),
        ("product_tags", {"product": "shop.product", "tag": "shop.tag"}),
        ("reading", {}),  # by the integer of a Counter
        ("brand", {}),
    ],
)
def test_references_to_local_keys_are_known(label, expected):
    assert references(label) == expected


def test_a_reference_says_where_its_uuid_is():
    (reference,) = [field.reference for field in described("bundle").fields if field.reference]
    assert (reference.table, reference.pk_column, reference.uuid_column) == ("shop_product", "pkid", "id")


def test_a_reference_to_a_multi_table_child_leads_to_its_parent(model):
    model("Offer", bundle=models.ForeignKey(Bundle, models.CASCADE))
    assert references("offer") == {"bundle": "shop.product"}


def test_a_projects_own_uuid_model_is_recognised_by_its_shape(model):
    model(
        "Older",
        pkid=models.AutoField(primary_key=True),
        id=models.UUIDField(default=uuid.uuid4, unique=True),
    )
    assert key_of("older") == ("id",)
    assert described("older").local_pk


@pytest.mark.parametrize(
    "fields",
    [
        {"pkid": models.BigAutoField(primary_key=True), "id": models.UUIDField(unique=True, null=True)},
        {"pkid": models.BigAutoField(primary_key=True), "id": models.UUIDField()},
        {"pkid": models.BigAutoField(primary_key=True), "id": models.CharField(max_length=36, unique=True)},
        {"pkid": models.BigAutoField(primary_key=True), "uuid": models.UUIDField(unique=True)},
        {"pkid": models.CharField(max_length=9, primary_key=True), "id": models.UUIDField(unique=True)},
    ],
)
def test_what_is_not_quite_a_uuid_model_is_matched_by_its_primary_key(model, fields):
    model("Nearly", **fields)
    assert key_of("nearly") == ("pkid",)


def test_an_explicit_through_model_is_a_model_like_any_other(model):
    model(
        "Label",
        product=models.ForeignKey(Product, models.CASCADE),
        tag=models.ForeignKey(Tag, models.CASCADE),
    )
    assert key_of("label") == ("id",)
    assert not described("label").merges


# Which models


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("shop.Brand", True),
        ("shop.brand", True),
        ("SHOP.BRAND", True),
        ("shop.*", True),
        ("shop.B*", True),
        ("*", True),
        ("shop", False),
        ("shop.Brands", False),
        ("hop.Brand", False),
    ],
)
def test_patterns_name_models_whatever_their_case(pattern, found):
    assert matches("shop.Brand", [pattern]) is found
    assert matches("shop.Brand", ["other.*", pattern]) is found


def test_nothing_is_mirrored_that_is_not_listed(settings):
    settings.MIRROR = {"MODELS": ["shop.Brand", "auth.Group"]}
    assert set(mirrored_models()) == {"shop.brand", "auth.group"}


def test_the_rows_of_a_many_to_many_follow_both_ends(settings):
    settings.MIRROR = {"MODELS": ["shop.Product", "shop.Tag"]}
    assert set(mirrored_models()) == {"shop.product", "shop.tag", "shop.product_tags"}
    settings.MIRROR = {"MODELS": ["shop.Product"]}
    assert set(mirrored_models()) == {"shop.product"}


def test_the_record_itself_is_never_mirrored(settings):
    settings.MIRROR = {"MODELS": ["*"]}
    assert not listed(Outbox)
    assert not [label for label in mirrored_models() if label.startswith("mirror.")]


def test_a_proxy_is_its_model(model):
    model("Mark", Brand, meta={"proxy": True})
    assert "shop.mark" not in mirrored_models()
    assert "shop.brand" in mirrored_models()


def test_a_changed_setting_is_noticed(settings):
    assert "shop.counter" in mirrored_models()
    settings.MIRROR = {"MODELS": []}
    assert mirrored_models() == {}


# Which columns


def test_the_columns_are_those_of_the_models_own_table():
    assert [field.name for field in described("bundle").fields] == ["product_ptr", "discount"]
    assert [field.column for field in described("product").fields][:4] == [
        "pkid",
        "id",
        "brand_id",
        "second_brand_id",
    ]
    assert set(described("sink").by_name()) == {field.name for field in Sink._meta.local_concrete_fields}


def test_excluded_fields_are_left_out_whatever_their_case(settings):
    settings.MIRROR = {"MODELS": ["shop.*"], "EXCLUDE_FIELDS": ["shop.ticket.SECRET"]}
    assert [field.name for field in described("ticket").fields] == ["id", "text"]
    assert "secret" in {field.name for field in Ticket._meta.fields}


def test_the_primary_key_is_known_but_where_there_are_two():
    assert described("brand").pk.name == "pkid"
    assert described("counter").pk.name == "id"
    assert described("seat").pk is None
    assert (Seat._meta.pk.name, Counter._meta.pk.name) == ("pk", "id")

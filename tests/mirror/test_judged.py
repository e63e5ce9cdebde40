"""What Django's own tests found wrong (see docs/judge.md), each without them."""

from __future__ import annotations

import uuid

import pytest
from django.apps import apps
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.contrib.postgres.fields import ArrayField
from django.db import connection, connections, models, transaction

from mirror import capture
from mirror.changes import Change, Op
from mirror.errors import WrongValue
from mirror.models import UUIDModel
from mirror.registry import mirrored_models
from tests.fakes import save
from tests.project.shop.models import Brand


@pytest.fixture
def model():
    """Models that exist for one test, without tables of their own."""
    made: list[type[models.Model]] = []

    def make(name: str, base: type[models.Model] = models.Model, *, meta: dict | None = None, **fields):
        options = type("Meta", (), {"app_label": "shop", **(meta or {})})
        made.append(type(name, (base,), {"__module__": Brand.__module__, "Meta": options, **fields}))
        mirrored_models.cache_clear()
        return made[-1]

    yield make
    for one in made:
        del apps.all_models["shop"][one._meta.model_name]
    apps.clear_cache()
    mirrored_models.cache_clear()


# Two models, one table


@pytest.fixture
def twin(model):
    """An unmanaged model that sees less of another's table, as reports and legacy applications have them."""
    return model("Imprint", UUIDModel, meta={"managed": False, "db_table": Brand._meta.db_table})


def test_a_row_of_two_models_is_told_once_with_all_its_columns(source, twin):
    assert capture.sync(connection) == []
    brand = Brand.objects.create(name="acme")
    twin.objects.get().save(force_update=True)
    told = [(change.model, change.fields["id"], change.fields["name"]) for change in source.news()]
    assert told == [("shop.brand", str(brand.id), "acme")] * 2


def test_the_managed_model_speaks_for_its_table_whatever_their_order(model):
    model("Early", meta={"managed": False, "db_table": "shop_late"}, more=models.TextField())
    model("Late", meta={"db_table": "shop_late"})
    assert mirrored_models()["shop.late"].table == "shop_late"
    assert "shop.early" not in mirrored_models()


def test_of_two_unmanaged_models_the_one_with_more_columns_speaks(model):
    shared = {"managed": False, "db_table": "legacy"}
    model("Few", meta=shared)
    model("Many", meta=shared, more=models.TextField())
    assert {"shop.few", "shop.many"} & mirrored_models().keys() == {"shop.many"}


def test_a_reference_to_the_twin_is_one_to_the_model_that_speaks(model, twin):
    model("Edition", imprint=models.ForeignKey(twin, models.CASCADE))
    (reference,) = [one.reference for one in mirrored_models()["shop.edition"].fields if one.reference]
    assert reference.label == "shop.brand"


# Content types, where they are mirrored themselves


@pytest.fixture
def names(settings, source):
    """A source that mirrors content types and what migrate makes for them."""
    settings.MIRROR = {"MODELS": ["contenttypes.ContentType", "auth.Permission"]}
    capture.sync(connection)
    ContentType.objects.clear_cache()
    yield source
    ContentType.objects.clear_cache()


def permission(kind: ContentType, codename: str) -> Permission:
    return Permission.objects.create(content_type=kind, codename=codename, name=codename)


def names_at_the_centre() -> tuple[set[str], set[str]]:
    kinds, permissions = ContentType.objects.using("centre"), Permission.objects.using("centre")
    return (
        set(kinds.filter(app_label="legacy").values_list("model", flat=True)),
        set(permissions.filter(content_type__app_label="legacy").values_list("codename", flat=True)),
    )


def test_a_content_type_that_goes_takes_its_permissions_along_at_the_centre(names, centre):
    kind = ContentType.objects.create(app_label="legacy", model="invoice")
    permission(kind, "pay")
    centre.follow(names)
    assert names_at_the_centre() == ({"invoice"}, {"pay"})
    kind.delete()
    centre.follow(names)
    assert names_at_the_centre() == (set(), set())


def test_a_permission_that_goes_after_its_content_type_is_still_told_by_name(names, centre):
    kind = ContentType.objects.create(app_label="legacy", model="invoice")
    permission(kind, "pay")
    centre.follow(names)
    with transaction.atomic():  # as flush empties tables, one after the other, in any order
        for table in ("django_content_type", "auth_permission"):
            with connection.cursor() as cursor:
                cursor.execute(f"DELETE FROM {table}")
    told = [change.fields["content_type"] for change in names.news() if change.model == "auth.permission"]
    assert ["legacy", "invoice"] in told
    assert all(isinstance(name, list) for name in told)


def test_content_types_that_change_numbers_are_told_as_they_were(names, centre):
    first = ContentType.objects.create(app_label="legacy", model="invoice")
    second = ContentType.objects.create(app_label="legacy", model="receipt")
    names.news()
    permission(first, "pay")
    for kind, model in ((first, "parked"), (second, "invoice"), (first, "receipt")):
        ContentType.objects.filter(pk=kind.pk).update(model=model)
    permission(first, "print")
    told = [change.fields["content_type"] for change in names.news() if change.model == "auth.permission"]
    assert told == [["legacy", "invoice"], ["legacy", "receipt"]]


def test_a_content_type_is_the_same_whatever_its_number(names, centre):
    ContentType.objects.using("centre").create(id=5000, app_label="legacy", model="invoice")
    kind = ContentType.objects.create(app_label="legacy", model="invoice")
    permission(kind, "pay")
    centre.follow(names)
    assert Permission.objects.using("centre").get(codename="pay").content_type_id == 5000


@pytest.mark.parametrize("apart", [True, False], ids=["in two transactions", "in one"])
def test_a_content_type_that_came_anew_is_not_taken_for_the_old_one(names, centre, monkeypatch, apart):
    monkeypatch.setattr("mirror.apply._FLUSH", 1)  # as in a transaction of thousands of changes
    kind = ContentType.objects.create(app_label="legacy", model="invoice")
    permission(kind, "pay")
    centre.follow(names)
    old = ContentType.objects.using("centre").get(app_label="legacy").pk
    kind.delete()
    if apart:
        centre.follow(names)
    permission(ContentType.objects.create(app_label="legacy", model="invoice"), "pay")
    centre.follow(names)
    (found,) = Permission.objects.using("centre").filter(content_type__app_label="legacy")
    assert found.content_type_id != old


def test_the_number_that_a_failed_transaction_gave_is_forgotten(names, centre):
    invoice = {"app_label": "legacy", "model": "invoice"}
    kind = Change(ts=0, op=Op.SAVE, model="contenttypes.contenttype", pk=1, fields=invoice)
    pay = save("auth.permission", 1, content_type=["legacy", "invoice"], codename="pay", name="pay")
    bad = save("auth.permission", 2, content_type=["no", "such"], codename="pay", name="pay")
    with pytest.raises(WrongValue):
        centre.apply(kind, pay, bad)
    ContentType.objects.using("centre").create(app_label="other", model="in_between")
    centre.apply(kind, pay)
    assert Permission.objects.using("centre").get(codename="pay").content_type.model == "invoice"


# Many rows at once, where PostgreSQL takes a column as an array


@pytest.fixture
def lists(model, request):
    """A model with a column of arrays, at a centre that begins when it is there."""
    made = model("Lists", UUIDModel, numbers=ArrayField(models.IntegerField(), null=True))
    request.getfixturevalue("centre")
    with connections["centre"].schema_editor() as editor:
        editor.create_model(made)
    yield made
    with connections["centre"].schema_editor() as editor:
        editor.delete_model(made)


@pytest.mark.postgresql
@pytest.mark.parametrize("vendor", ["postgresql"], indirect=True)
@pytest.mark.parametrize("told", [None, {"$postgresql": "{1,2}"}], ids=["NULL", "arrays"])
def test_many_rows_with_a_column_of_arrays_are_written(vendor, lists, centre, told):
    saves = [save("shop.lists", place, id=str(uuid.uuid4()), numbers=told) for place in range(20)]
    centre.apply(*saves)
    numbers = set(map(str, lists.objects.using("centre").values_list("numbers", flat=True)))
    assert numbers == {"None" if told is None else "[1, 2]"}
    assert lists.objects.using("centre").count() == 20

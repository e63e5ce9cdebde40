"""Permissions: ``migrate`` makes them on every server, so they are known by name and not by number."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.db.models import F

from mirror import capture
from mirror.changes import Op
from mirror.registry import mirrored_models
from tests.fakes import delete, save
from tests.mirror.conftest import VENDORS
from tests.project.shop.models import Brand, Tag

pytestmark = pytest.mark.parametrize("vendor", VENDORS, indirect=True)

ADD_BRAND = ["add_brand", "shop", "brand"]


@pytest.fixture
def source(settings, source):
    settings.MIRROR = {"MODELS": ["auth.Permission", "auth.Group"]}
    capture.sync(connection)
    ContentType.objects.clear_cache()
    yield source
    ContentType.objects.clear_cache()


@pytest.fixture
def centre(centre):
    """It has numbered its permissions otherwise; the server's databases are used again."""
    permissions = Permission.objects.using("centre")
    made = set(permissions.values_list("id", flat=True))
    permissions.update(id=F("id") + 1000)
    yield centre
    Group.objects.using("centre").all().delete()
    permissions.filter(id__gt=1000).update(id=F("id") - 1000)
    permissions.exclude(id__in=made).delete()


def at_the_centre(*name: str) -> Permission:
    return Permission.objects.db_manager("centre").get_by_natural_key(*name)


def numbers() -> dict[tuple[int, str], int]:
    rows = Permission.objects.using("centre").values_list("content_type_id", "codename", "id")
    return {(kind, codename): number for kind, codename, number in rows}


def test_a_permission_is_known_by_its_name(source, centre):
    mirrored = mirrored_models()["auth.permission"]
    assert [field.name for field in mirrored.key] == ["content_type", "codename"]
    assert mirrored.local_pk
    assert mirrored.merges


def test_permissions_that_both_servers_made_are_the_same(source, centre):
    before = numbers()
    Permission.objects.update(name=F("name"))
    changes = source.news()
    assert len(changes) == len(before)
    centre.follow(source)
    assert numbers() == before


def test_a_group_has_the_same_permissions_whatever_their_numbers(source, centre):
    group = Group.objects.create(name="sellers")
    group.permissions.add(Permission.objects.get_by_natural_key(*ADD_BRAND))
    *_, change = source.news()
    assert (change.model, change.fields["permission"]) == ("auth.group_permissions", ADD_BRAND)
    centre.follow(source)
    (found,) = Group.objects.using("centre").get(name="sellers").permissions.all()
    assert found == at_the_centre(*ADD_BRAND)
    group.permissions.clear()
    centre.follow(source)
    assert not Group.objects.using("centre").get(name="sellers").permissions.exists()


def test_a_permission_is_made_renamed_and_deleted(source, centre):
    permission = Permission.objects.create(
        codename="praise", name="May praise", content_type=ContentType.objects.get_for_model(Brand)
    )
    centre.follow(source)
    here = at_the_centre("praise", "shop", "brand")
    permission.codename, permission.content_type = "blame", ContentType.objects.get_for_model(Tag)
    permission.save()
    assert [change.op for change in source.news()] == [Op.DELETE, Op.SAVE]
    centre.follow(source)
    assert at_the_centre("blame", "shop", "tag").name == here.name
    assert not Permission.objects.using("centre").filter(codename="praise").exists()
    permission.delete()
    centre.follow(source)
    assert not Permission.objects.using("centre").filter(codename="blame").exists()


def test_permissions_that_are_here_already_use_no_numbers_up(source, centre):
    kind = ContentType.objects.get_for_model(Brand)
    for codename in ["praise", "blame"]:
        Permission.objects.create(codename=codename, name="May", content_type=kind)
        centre.follow(source)
        Permission.objects.update(name=F("name"))
        centre.follow(source)
    assert at_the_centre("blame", "shop", "brand").pk == at_the_centre("praise", "shop", "brand").pk + 1


def test_a_permission_whose_content_type_is_gone_may_be_deleted(source, centre, caplog):
    kept = numbers()
    centre.apply(
        delete("auth.permission", 1, content_type={"$missing": 17}, name="", codename="add_old"),
        delete("auth.permission", 2, content_type=["old", "thing"], name="", codename="add_thing"),
        save("auth.group", 1, name="sellers"),
    )
    assert numbers() == kept
    assert Group.objects.using("centre").get().name == "sellers"
    assert "skipped" in caplog.text

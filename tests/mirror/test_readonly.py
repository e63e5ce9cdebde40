"""A server that follows others and captures nothing is read-only: apply writes, everybody else is refused."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import authenticate
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from django.core.serializers import serialize
from django.db import DatabaseError, connection, connections, models, transaction
from django.test import Client

import mirror
from mirror import doctor, permits
from mirror.conf import read_only
from mirror.errors import CODES, MirrorError, ReadOnly
from mirror.models import Hole, Stream
from mirror.readonly import Guard
from tests.fakes import save
from tests.mirror.conftest import VENDORS
from tests.project.shop.models import Brand, Bundle, Counter, Product, Reading, Seat, Tag

CENTRE = {"MODELS": ["shop.*"], "CAPTURE": None, "DATABASE": "centre"}
UUID_A = UUID(int=1)

on_every_engine = pytest.mark.parametrize("vendor", VENDORS, indirect=True)


@pytest.fixture(autouse=True)
def as_a_centre(settings, centre):
    settings.MIRROR = CENTRE
    with mirror.maintenance("rows for a test"):
        brand = Brand.objects.using("centre").create(id=UUID_A, name="a")
        product = Product.objects.using("centre").create(name="p", brand=brand)
        product.tags.add(Tag.objects.using("centre").create(label="t"))
        Tag.objects.using("centre").create(label="spare")
        counter = Counter.objects.using("centre").create(value=1)
        Reading.objects.using("centre").create(counter=counter)
        Seat.objects.using("centre").create(row="a", number=1)
        Bundle.objects.using("centre").create(name="b")
    Hole.objects.using("centre").all().delete()


def everything() -> dict[str, Any]:
    shop = Brand._meta.app_config.get_models(include_auto_created=True)
    return {
        model._meta.label: list(model._base_manager.using("centre").order_by("pk").values_list())
        for model in shop
    }


def brand() -> Brand:
    return Brand.objects.using("centre").get(id=UUID_A)


def product() -> Product:
    return Product.objects.using("centre").get(name="p")


def raw(sql: str, *params: Any) -> None:
    with connections["centre"].cursor() as cursor:
        cursor.execute(sql, params or None)


def many(sql: str, rows: list[list[Any]]) -> None:
    with connections["centre"].cursor() as cursor:
        cursor.executemany(sql, rows)


WAYS = {
    "create": lambda: Brand.objects.using("centre").create(name="new"),
    "save of a new row": lambda: Tag(label="new").save(using="centre"),
    "save of a known row": lambda: brand().save(),
    "save of some fields": lambda: brand().save(update_fields=["name"]),
    "delete": lambda: brand().delete(),
    "delete of a queryset": lambda: Counter.objects.using("centre").all().delete(),
    "raw delete": lambda: Seat.objects.using("centre").all()._raw_delete("centre"),
    "update": lambda: Product.objects.using("centre").update(stock=models.F("stock") + 1),
    "bulk_create": lambda: Tag.objects.using("centre").bulk_create([Tag(label="x"), Tag(label="y")]),
    "bulk_create that ignores": lambda: Tag.objects.using("centre").bulk_create(
        [Tag()], ignore_conflicts=True
    ),
    "bulk_update": lambda: Product.objects.using("centre").bulk_update([product()], ["stock"]),
    "get_or_create": lambda: Brand.objects.using("centre").get_or_create(name="new"),
    "update_or_create": lambda: Brand.objects.using("centre").update_or_create({"name": "b"}, id=UUID_A),
    "m2m add": lambda: product().tags.add(Tag.objects.using("centre").get(label="spare")),
    "m2m clear": lambda: product().tags.clear(),
    "a multi-table child": lambda: Bundle.objects.using("centre").update(discount=5),
    "raw insert": lambda: raw("INSERT INTO shop_counter (value) VALUES (%s)", 2),
    "raw update": lambda: raw("UPDATE shop_counter SET value = 5"),
    "raw delete by hand": lambda: raw("DELETE FROM shop_counter"),
    "executemany": lambda: many("INSERT INTO shop_counter (value) VALUES (%s)", [[1], [2]]),
    "alter table": lambda: raw("ALTER TABLE shop_counter ADD COLUMN extra integer"),
    "drop table": lambda: raw("DROP TABLE shop_reading"),
}


@on_every_engine
@pytest.mark.parametrize("way", WAYS)
def test_no_way_of_django_writes_to_a_mirrored_table(way):
    before = everything()
    with pytest.raises(ReadOnly):
        WAYS[way]()
    assert everything() == before


OTHER_WORDS = {
    "sqlite": [
        "WITH d AS (SELECT 1) DELETE FROM shop_counter",
        "/* x */ REPLACE INTO [shop_counter] VALUES (1, 5)",
    ],
    "postgresql": [
        "WITH d AS (DELETE FROM shop_reading RETURNING *) SELECT count(*) FROM d",
        "SELECT 1; DELETE FROM public.shop_reading",
        'TRUNCATE "shop_reading"',
        "DO $$ BEGIN NULL; END $$; UPDATE ONLY shop_counter SET value = 5",
    ],
    "mysql": [
        "DELETE r FROM `shop_reading` r JOIN shop_counter c ON c.id = r.counter_id",
        "# x\nUPDATE `shop_counter` SET value = 5",
        "TRUNCATE TABLE shop_reading",
    ],
}


@on_every_engine
def test_nor_does_the_sql_of_an_engine():
    before = everything()
    for sql in OTHER_WORDS[connections["centre"].vendor]:
        with pytest.raises(ReadOnly):
            raw(sql)
    assert everything() == before


@on_every_engine
def test_reading_is_not_refused():
    assert len(everything()) > 5
    with transaction.atomic(using="centre"):
        assert Brand.objects.using("centre").select_for_update().get().name == "a"
    assert list(Brand.objects.using("centre").raw("WITH x AS (SELECT * FROM shop_brand) SELECT * FROM x"))


@on_every_engine
def test_tables_that_are_not_mirrored_are_written_to():
    user = User.objects.db_manager("centre").create_user("somebody", password="x")
    user.groups.create(name="people")
    raw("UPDATE auth_user SET first_name = (SELECT max(name) FROM shop_brand)")
    user.refresh_from_db()
    assert user.first_name == "a"
    user.delete()


@on_every_engine
def test_the_transaction_stays_usable():
    with transaction.atomic(using="centre"):
        User.objects.db_manager("centre").create_user("before")
        with suppress(ReadOnly):
            raw("DELETE FROM shop_reading")
        with suppress(ReadOnly), transaction.atomic(using="centre"):
            User.objects.db_manager("centre").create_user("within")
            brand().delete()
        User.objects.db_manager("centre").create_user("after")
    assert set(User.objects.using("centre").values_list("username", flat=True)) == {"before", "after"}


@on_every_engine
def test_applying_is_not_refused(centre):
    centre.apply(save("shop.brand", None, id=str(UUID_A), name="from the source"))
    assert brand().name == "from the source"
    with pytest.raises(ReadOnly):
        brand().save()


# The error


def test_the_error_names_the_model_the_operation_and_who_asked_for_it():
    with pytest.raises(ReadOnly) as caught:
        Brand.objects.using("centre").filter(name="a").update(name="b")
    error: Any = caught.value
    assert (error.model, error.table, error.operation) == ("shop.Brand", "shop_brand", "UPDATE")
    assert __file__ in error.offender
    assert test_the_error_names_the_model_the_operation_and_who_asked_for_it.__name__ in error.offender
    for part in (
        "shop.Brand",
        "UPDATE",
        "shop_brand",
        error.offender,
        "mirror.maintenance",
        "docs/readonly.md",
    ):
        assert part in str(error)


def test_the_error_is_of_both_trees():
    with pytest.raises(DatabaseError) as caught:
        brand().delete()
    assert isinstance(caught.value, MirrorError)
    assert (caught.value.code, caught.value.retryable) == ("read_only", False)
    assert CODES["read_only"] is ReadOnly


# Where it holds


@pytest.mark.parametrize(
    ("setting", "refuses"),
    [
        ({"CAPTURE": None}, True),
        ({"CAPTURE": None, "READ_ONLY": False}, False),
        ({"CAPTURE": "triggers"}, False),
        ({"CAPTURE": "signals"}, False),
        ({"CAPTURE": "triggers", "READ_ONLY": True}, True),
        ({"CAPTURE": None, "READ_ONLY": "triggers"}, True),
    ],
)
def test_a_server_is_read_only_where_it_captures_nothing_or_is_told_to(settings, setting, refuses):
    settings.MIRROR = {**CENTRE, **setting}
    assert read_only() is refuses
    before = Tag.objects.using("centre").count()
    with suppress(ReadOnly):
        Tag.objects.using("centre").create(label="new")
    assert Tag.objects.using("centre").count() == before + (not refuses)


def test_a_server_that_follows_nobody_is_not(settings):
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "client"]
    assert not read_only()


def test_a_connection_that_is_opened_later_is_guarded_once():
    connections["centre"].close()
    with pytest.raises(ReadOnly):
        raw("DELETE FROM shop_counter")
    assert sum(isinstance(wrapper, Guard) for wrapper in connections["centre"].execute_wrappers) == 1


def test_another_database_is_not_guarded(source):
    Brand.objects.using("default").create(name="elsewhere")
    assert not any(isinstance(wrapper, Guard) for wrapper in connection.execute_wrappers)


def test_a_wrapper_of_the_project_that_is_the_first_to_connect_leaves_the_guard():
    def note(execute, sql, params, many, context):
        return execute(sql, params, many, context)

    connections["centre"].close()
    connections["centre"].execute_wrappers.clear()
    with connections["centre"].execute_wrapper(note):
        Brand.objects.using("centre").count()
    with pytest.raises(ReadOnly):
        raw("DELETE FROM shop_counter")


def test_another_thread_is_refused_too():
    caught: list[Exception] = []

    def write() -> None:
        try:
            Tag.objects.using("centre").create(label="new")
        except ReadOnly as error:
            caught.append(error)
        finally:
            connections["centre"].close()

    with mirror.maintenance("only this thread"):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert len(caught) == 1


# Maintenance


@on_every_engine
def test_in_maintenance_rows_can_be_written():
    with mirror.maintenance("a repair"):
        Brand.objects.using("centre").update(name="b")
        raw("DELETE FROM shop_reading")
    assert brand().name == "b"
    with pytest.raises(ReadOnly):
        Brand.objects.using("centre").update(name="c")


def test_maintenance_is_told_to_the_log_with_its_reason(caplog):
    with caplog.at_level(logging.WARNING, "mirror.readonly"), mirror.maintenance("brand 5 was lost"):
        Brand.objects.using("centre").update(name="b")
        Brand.objects.using("centre").count()
    assert [record.getMessage() for record in caplog.records if record.name == "mirror.readonly"] == [
        "maintenance begins, mirrored tables may be written to: brand 5 was lost",
        "maintenance ends after 1 statements: brand 5 was lost",
    ]


def test_what_was_written_in_maintenance_is_counted_stored_and_shown(settings):
    from django.utils import timezone

    from mirror.capture import holes

    holes._tallies.clear()
    with mirror.maintenance("a repair"):
        Brand.objects.using("centre").filter(name="a").update(name="secret")
    hole = Hole.objects.using("centre").get()
    assert (hole.kind, hole.model, hole.count) == ("maintenance", "shop.brand", 1)
    assert "a repair" in hole.sample
    assert "secret" not in hole.sample
    (finding,) = [
        one for one in doctor.examine(doctor.gather(timezone.now())) if one.code == "hole-maintenance"
    ]
    assert "shop.brand" in finding.what
    assert "a repair" in finding.what


@pytest.mark.parametrize("reason", ["", "  ", None, 5])
def test_maintenance_wants_a_reason(reason):
    with pytest.raises(ValueError, match="Say why"), mirror.maintenance(reason):
        pytest.fail("it was entered")


def test_maintenance_ends_with_its_block_also_after_an_error():
    with suppress(ZeroDivisionError), mirror.maintenance("a"), mirror.maintenance("b"):
        raise ZeroDivisionError
    assert permits.permit() is None


async def test_tasks_have_permits_of_their_own():
    entered, leave = asyncio.Event(), asyncio.Event()

    async def mends() -> str:
        with mirror.maintenance("one task"):
            entered.set()
            await leave.wait()
            held = await sync_to_async(permits.permit)()
            return str(held and held.reason)

    async def writes() -> bool:
        await entered.wait()
        held = permits.permit()
        leave.set()
        return held is None

    assert await asyncio.gather(mends(), writes()) == ["one task", True]


async def test_a_task_that_outlives_the_maintenance_it_was_started_in_has_no_permit():
    go_on = asyncio.Event()

    async def late() -> bool:
        await go_on.wait()
        return permits.permit() is None

    with mirror.maintenance("short"):
        task = asyncio.create_task(late())
        await asyncio.sleep(0)
    go_on.set()
    assert await task


def test_async_code_is_refused():
    async def write() -> None:
        await Tag.objects.using("centre").acreate(label="new")

    with pytest.raises(ReadOnly):
        asyncio.run(write())


def test_a_command_is_run_in_maintenance(tmp_path):
    rows = tmp_path / "rows.json"
    rows.write_text(serialize("json", [Counter(pk=77, value=7)]))
    with pytest.raises(ReadOnly):
        call_command("loaddata", str(rows), database="centre", verbosity=0)
    call_command("mirrormaintenance", "lost rows", "loaddata", str(rows), "--database", "centre", "-v", "0")
    assert Counter.objects.using("centre").get(pk=77).value == 7


def test_flush_is_refused():
    before = everything()
    with pytest.raises(CommandError) as caught:
        call_command("flush", database="centre", interactive=False, verbosity=0)
    assert isinstance(caught.value.__cause__, ReadOnly)
    assert everything() == before


@pytest.mark.parametrize("words", [[" ", "check"], ["why", "nonsense"], ["why", "mirrormaintenance"]])
def test_a_command_that_is_none_or_has_no_reason_is_refused(words):
    with pytest.raises(CommandError):
        call_command("mirrormaintenance", *words)


# Migrations


@on_every_engine
def test_a_migration_may_write(tmp_path, settings, monkeypatch):
    package = tmp_path / "written_migrations"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "0001_rows.py").write_text(
        "from django.db import migrations\n"
        "def write(apps, editor):\n"
        "    apps.get_model('shop', 'Counter').objects.using(editor.connection.alias).create(value=41)\n"
        "class Migration(migrations.Migration):\n"
        "    dependencies = [('shop', '0001_initial')]\n"
        "    operations = [migrations.RunPython(write, migrations.RunPython.noop),\n"
        "        migrations.RunSQL('UPDATE shop_counter SET value = value + 1 WHERE value = 41', '')]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings.MIGRATION_MODULES = {"mirror_streamer": "written_migrations"}
    call_command("migrate", "mirror_streamer", database="centre", verbosity=0)
    call_command("migrate", "mirror_streamer", "zero", database="centre", verbosity=0)
    assert Counter.objects.using("centre").filter(value=42).exists()
    with pytest.raises(ReadOnly):
        Counter.objects.using("centre").create()


# People who log in


USERS = {**CENTRE, "MODELS": ["shop.*", "auth.User"]}


@pytest.fixture
def people(source, settings):
    """The default database is the centre here: it is where Django looks for users."""
    Stream.objects.all().delete()
    settings.MIRROR = {"MODELS": []}
    User.objects.create_superuser("ann", password="x")
    return lambda **more: setattr(settings, "MIRROR", {**USERS, "DATABASE": "default", **more})


def test_a_login_leaves_a_mirrored_column_alone(people):
    people(EXCLUDE_FIELDS=["auth.User.password"])
    client = Client()
    assert client.login(username="ann", password="x")
    assert User.objects.get().last_login is None


def test_a_column_that_is_not_mirrored_is_the_centres_own(people):
    people(EXCLUDE_FIELDS=["auth.User.password", "auth.User.last_login"])
    assert Client().login(username="ann", password="x")
    ann = User.objects.get()
    assert ann.last_login is not None
    ann.set_password("y")
    ann.save(update_fields=["password"])
    assert authenticate(username="ann", password="y")
    with pytest.raises(ReadOnly):
        ann.save()
    with pytest.raises(ReadOnly):
        ann.save(update_fields=["password", "email"])
    with pytest.raises(ReadOnly):
        User.objects.create_user("ben")


def test_a_login_is_noted_where_users_are_not_mirrored(people):
    people(MODELS=["shop.*"])
    assert Client().login(username="ann", password="x")
    assert User.objects.get().last_login is not None


# The admin


def test_an_admin_without_the_mixin_does_not_write_either(people):
    people(MODELS=["auth.Group"])
    client = Client()
    client.login(username="ann", password="x")
    with pytest.raises(ReadOnly):
        client.post("/admin/auth/group/add/", {"name": "people"})
    assert not Group.objects.exists()

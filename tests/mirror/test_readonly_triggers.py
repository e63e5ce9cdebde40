"""READ_ONLY "triggers": the database itself refuses what apply did not write, whoever asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

import mirror
from mirror import capture, doctor
from mirror.apply import writer as writer_module
from mirror.capture.writers import WRITERS
from mirror.errors import ReadOnly
from tests.fakes import Centre, delete, save
from tests.mirror.conftest import VENDORS
from tests.project.shop.models import Brand, Counter, Product, Tag, Ticket

pytestmark = pytest.mark.parametrize("vendor", VENDORS, indirect=True)

SETTING = {
    "MODELS": ["shop.*"],
    "CAPTURE": None,
    "DATABASE": "centre",
    "READ_ONLY": "triggers",
    "EXCLUDE_FIELDS": ["shop.Ticket.secret"],
}
A = str(UUID(int=1))


@pytest.fixture(autouse=True)
def centre(settings, centre: Centre) -> Iterator[Centre]:
    settings.MIRROR = SETTING
    call_command("migrate", database="centre", verbosity=0)
    yield centre
    capture.remove(connections["centre"])


@pytest.fixture
def shell(centre, centre_database, vendor) -> Iterator[Any]:
    """Another program on the same database: it knows nothing of Django."""
    if vendor == "sqlite":
        import sqlite3

        opened: Any = sqlite3.connect(centre_database["NAME"], isolation_level=None, timeout=20)
    elif vendor == "postgresql":
        import psycopg

        parameters = connections["centre"].get_connection_params()
        names = ("host", "port", "user", "password", "dbname")
        opened = psycopg.connect(
            **{name: parameters[name] for name in names if name in parameters}, autocommit=True
        )
    else:
        import pymysql

        given = connections["centre"].settings_dict
        opened = pymysql.connect(
            host=given["HOST"] or "localhost",
            port=int(given["PORT"] or 3306),
            user=given["USER"],
            password=given["PASSWORD"],
            database=given["NAME"],
            autocommit=True,
        )
    yield opened
    opened.close()


def names() -> set[str]:
    connection = connections["centre"]
    return set(WRITERS[connection.vendor].installed(connection))


def counters() -> list[tuple[Any, ...]]:
    return list(Counter.objects.using("centre").order_by("pk").values_list("pk", "value"))


def count(value: int) -> None:
    with mirror.maintenance("a row for a test"):
        Counter.objects.using("centre").create(value=value)


def past_the_guard(connection: BaseDatabaseWrapper, sql: str) -> None:
    """As a program with a driver of its own does."""
    with connection.cursor() as cursor:
        cursor.cursor.execute(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO shop_counter (value) VALUES (9)",
        "UPDATE shop_counter SET value = 9",
        "DELETE FROM shop_counter",
    ],
)
def test_another_program_is_refused_and_told_where_to_write(shell, sql):
    count(1)
    before = counters()
    with pytest.raises(
        Exception, match=r"mirrored and read-only here: write at the source \(docs/readonly.md\)"
    ):
        shell.cursor().execute(sql)
    assert counters() == before


def test_other_tables_are_written_to_by_other_programs(shell):
    shell.cursor().execute("INSERT INTO auth_group (name) VALUES ('people')")
    shell.cursor().execute("DELETE FROM auth_group")


def test_truncate_is_refused_where_the_database_tells_of_it(shell, vendor):
    count(1)
    if vendor != "postgresql":
        pytest.skip("it has no TRUNCATE, or fires no triggers for it")
    with pytest.raises(Exception, match="read-only"):
        shell.cursor().execute("TRUNCATE shop_counter CASCADE")
    assert len(counters()) == 1


def test_a_column_that_is_not_mirrored_may_be_written_to(shell):
    with mirror.maintenance("a row for a test"):
        Ticket.objects.using("centre").create(text="a", secret="b")
    shell.cursor().execute("UPDATE shop_ticket SET secret = 'c'")
    Ticket.objects.using("centre").update(secret="d")
    assert Ticket.objects.using("centre").get().secret == "d"
    with pytest.raises(Exception, match="read-only"):
        shell.cursor().execute("UPDATE shop_ticket SET secret = 'c', text = 'd'")


@pytest.mark.parametrize("unchecked", [True, False])
def test_apply_passes(centre, monkeypatch, unchecked):
    if not unchecked:
        monkeypatch.setattr(centre.applier, "_unchecked", False)
    centre.apply(save("shop.brand", None, id=A, name="a"))
    centre.apply(save("shop.brand", None, id=A, name="b"), save("shop.counter", 5, value=1))
    assert [one.name for one in Brand.objects.using("centre").all()] == ["b"]
    centre.apply(delete("shop.brand", None, id=A, name=""))
    assert not Brand.objects.using("centre").exists()
    with pytest.raises(Exception, match="read-only"):
        past_the_guard(connections["centre"], "UPDATE shop_counter SET value = 9")
    assert counters() == [(5, 1)]


def test_an_apply_that_fails_leaves_nothing_open(centre, monkeypatch):
    count(1)
    applying = writer_module.applying(connections["centre"], unchecked=False)
    with suppress(ZeroDivisionError), applying:
        past_the_guard(connections["centre"], "UPDATE shop_counter SET value = 9")
        raise ZeroDivisionError
    with pytest.raises(Exception, match="read-only"):
        past_the_guard(connections["centre"], "UPDATE shop_counter SET value = 9")
    assert [value for _pk, value in counters()] == [1]


def test_maintenance_passes_with_and_without_a_transaction():
    count(1)
    with mirror.maintenance("a repair"):
        brand = Brand.objects.using("centre").create(name="a")
        Tag.objects.using("centre").bulk_create([Tag(label=str(number)) for number in range(3)])
        with transaction.atomic(using="centre"):
            product = Product.objects.using("centre").create(name="p", brand=brand)
            product.tags.set(Tag.objects.using("centre").all())
            Counter.objects.using("centre").update(value=7)
        assert product.tags.count() == 3
    assert [value for _pk, value in counters()] == [7]
    with pytest.raises(ReadOnly):
        Counter.objects.using("centre").update(value=8)
    with pytest.raises(Exception, match="read-only"):
        past_the_guard(connections["centre"], "UPDATE shop_counter SET value = 9")


def test_they_stay_with_every_migrate_and_go_with_the_setting(settings):
    assert len({name.lower() for name in names()}) >= 8
    before = names()
    call_command("migrate", database="centre", verbosity=0)
    assert names() == before
    settings.MIRROR = {**SETTING, "READ_ONLY": True}
    call_command("migrate", database="centre", verbosity=0)
    assert names() == set()


def test_they_go_when_the_mirror_does():
    assert capture.remove(connections["centre"])
    assert names() == set()


def test_the_doctor_finds_nothing_wrong_and_finds_one_that_is_gone(vendor):
    def codes() -> set[str]:
        found = doctor.examine(doctor.gather(timezone.now()))
        # What other tests left in the databases that are connected to as well is theirs.
        return {one.code for one in found if one.code.startswith("trigger")} - {"trigger-elsewhere"}

    assert codes() == set()
    connection = connections["centre"]
    with connection.cursor() as cursor:
        cursor.execute(WRITERS[connection.vendor].drop(connection, min(names())))
    assert codes() == {"trigger-missing"}


def test_a_migration_may_write_and_change_tables(tmp_path, settings, monkeypatch):
    count(41)
    package = tmp_path / "changing_migrations"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "0001_rows.py").write_text(
        "from django.db import migrations, models\n"
        "def write(apps, editor):\n"
        "    apps.get_model('shop', 'Counter').objects.using(editor.connection.alias).update(value=42)\n"
        "class Migration(migrations.Migration):\n"
        "    dependencies = [('shop', '0001_initial')]\n"
        "    operations = [migrations.RunPython(write, migrations.RunPython.noop),\n"
        "        migrations.RunSQL('ALTER TABLE shop_counter ADD COLUMN more integer NULL',\n"
        "            'ALTER TABLE shop_counter DROP COLUMN more')]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings.MIGRATION_MODULES = {"mirror_streamer": "changing_migrations"}
    before = names()
    call_command("migrate", "mirror_streamer", database="centre", verbosity=0)
    assert [value for _pk, value in counters()] == [42]
    assert names() == before
    call_command("migrate", "mirror_streamer", "zero", database="centre", verbosity=0)
    assert names() == before

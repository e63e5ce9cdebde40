"""What is left behind when something is removed: nothing, and the application goes on writing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.apps import apps
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import DatabaseError, connection
from django.db.models.signals import pre_migrate
from django.test import override_settings

from mirror.models import Outbox
from tests.mirror.depot import execute, fetch, leave_behind
from tests.mirror.doctor_support import CREATE_ITEM, ITEM, app, codes, made, on_every_engine, run

__all__ = ["app", "made"]

PAGE = (Path(__file__).resolve().parents[2] / "docs/uninstall.md").read_text()

SECTION = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB and MySQL"}
TABLES = "The tables, on every engine"

LABEL = """
class Label(models.Model):
    id = models.BigIntegerField(primary_key=True)
    class Meta:
        db_table = "Depot's labels"
"""

CREATE_LABEL = """
migrations.CreateModel(
    "Label", [("id", models.BigIntegerField(primary_key=True))], {"db_table": "Depot's labels"}
),
"""


@pytest.fixture
def shop(app):
    """Two tables with their triggers, one of a name that must be quoted."""
    app(ITEM + LABEL, CREATE_ITEM + CREATE_LABEL)
    write()
    assert Outbox.objects.count() == 6
    yield
    # For whoever comes next; the tables may be gone.
    call_command("migrate", verbosity=0)


def write() -> None:
    for table in ("depot_item", "Depot's labels"):
        execute(f'INSERT INTO "{table}" (id) VALUES (1)')
        execute(f'UPDATE "{table}" SET id = 1')
        execute(f'DELETE FROM "{table}"')


def ours() -> set[str]:
    """Tables of the mirror's own."""
    return {name for name in connection.introspection.table_names() if name.startswith("mirror_")}


def statements(section: str) -> list[str]:
    """The SQL of a section of the page."""
    text = re.split(rf"^### {re.escape(section)}$", PAGE, flags=re.MULTILINE)[1].partition("\n##")[0]
    (block,) = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    return [block] if "$$" in block else [one for one in block.split(";\n") if one.strip()]


def obey(section: str) -> None:
    """Run the SQL of a section, and what that prints."""
    for statement in statements(section):
        with connection.cursor() as cursor:
            cursor.execute(statement)
            printed = cursor.fetchall() if cursor.description else []
            for (line,) in printed:
                cursor.execute(line)


# By migrate


@on_every_engine
def test_a_model_that_is_no_longer_listed_leaves_nothing_of_its_own(shop, settings):
    before = leave_behind()
    assert any("labels" in name for name in before)
    settings.MIRROR = {"MODELS": ["depot.Item"]}
    call_command("migrate", verbosity=0)
    assert not any("labels" in name for name in leave_behind())
    assert len(leave_behind()) == len(before) / 2
    Outbox.objects.all().delete()
    write()
    assert set(Outbox.objects.values_list("model", flat=True)) == {"depot.item"}


@on_every_engine
@pytest.mark.parametrize(
    "mirror", [{"MODELS": []}, {"MODELS": ["depot.*"], "CAPTURE": None, "READ_ONLY": False}]
)
def test_where_nothing_is_captured_any_more_nothing_is_left(shop, settings, mirror):
    settings.MIRROR = mirror
    call_command("migrate", verbosity=0)
    assert leave_behind() == []
    write()
    assert Outbox.objects.count() == 6


@on_every_engine
def test_the_tables_take_the_triggers_with_them(shop):
    call_command("migrate", "mirror", "zero", verbosity=0)
    assert leave_behind() == []
    assert ours() == set()
    write()


@on_every_engine
def test_the_triggers_go_before_their_outbox_so_that_no_write_fails_meanwhile(shop):
    left: list[list[str]] = []

    def watch(execute, sql, params, many, context):
        if re.match("DROP TABLE .mirror_outbox", sql):
            left.append(leave_behind())
        return execute(sql, params, many, context)

    def begin(**kwargs):
        # After the guard, so nearer to the database.
        connection.execute_wrappers.append(watch)

    last = apps.get_app_config("depot")
    pre_migrate.connect(begin, sender=last)
    try:
        call_command("migrate", "mirror", "zero", verbosity=0)
    finally:
        pre_migrate.disconnect(begin, sender=last)
        connection.execute_wrappers.remove(watch)
    assert left == [[]]


@on_every_engine
def test_everything_comes_back_after_the_tables_were_dropped(shop):
    call_command("migrate", "mirror", "zero", verbosity=0)
    call_command("migrate", verbosity=0)
    write()
    assert Outbox.objects.count() == 6
    assert codes() == set()


@on_every_engine
def test_the_steps_of_the_page_leave_nothing(shop, settings):
    settings.MIRROR = {"MODELS": ["depot.*"], "CAPTURE": None}
    call_command("migrate", verbosity=0)
    call_command("migrate", "mirror", "zero", verbosity=0)
    left = [name for name in settings.INSTALLED_APPS if name not in {"mirror", "streamer", "client"}]
    with override_settings(INSTALLED_APPS=left):
        call_command("remove_stale_contenttypes", include_stale_apps=True, interactive=False, verbosity=0)
        # As step 5 says, only without the app.
        call_command("migrate", verbosity=0)
        assert not ContentType.objects.filter(app_label="mirror").exists()
        assert fetch("SELECT count(*) FROM auth_permission WHERE codename LIKE '%outbox%'") == [(0,)]
        assert fetch("SELECT count(*) FROM django_migrations WHERE app = 'mirror'") == [(0,)]
        assert (leave_behind(), ours()) == ([], set())
        write()


def test_the_steps_name_the_commands_that_the_tests_run():
    for command in ("migrate mirror zero", "remove_stale_contenttypes --include-stale-apps"):
        assert f"manage.py {command}`" in PAGE
    assert '"CAPTURE"]` to `None` and run `manage.py migrate`' in PAGE


# By hand


@on_every_engine
def test_the_doctor_removes_them_too(shop):
    assert run("--remove-triggers")[0] == 0
    assert leave_behind() == []
    write()
    assert Outbox.objects.count() == 6


@on_every_engine
def test_the_sql_of_the_page_removes_triggers_that_were_left_behind(engine, shop):
    obey(SECTION[engine])
    assert leave_behind() == []
    write()
    assert Outbox.objects.count() == 6


@on_every_engine
def test_the_sql_of_the_page_mends_writes_that_fail(engine, shop):
    obey(TABLES)
    assert ours() == set()
    with pytest.raises(DatabaseError, match="mirror_outbox"):
        execute("INSERT INTO depot_item (id) VALUES (1)")
    obey(SECTION[engine])
    assert leave_behind() == []
    write()


@on_every_engine
def test_the_sql_of_the_page_leaves_what_is_not_ours(engine, shop):
    theirs = {
        "sqlite": "CREATE TRIGGER livemirrorless AFTER INSERT ON depot_item BEGIN SELECT 1; END",
        "postgresql": (
            "CREATE FUNCTION livemirrorless() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
            "CREATE TRIGGER livemirrorless AFTER INSERT ON depot_item EXECUTE FUNCTION livemirrorless()"
        ),
        "mariadb": "CREATE TRIGGER livemirrorless AFTER INSERT ON depot_item FOR EACH ROW SET @nothing = 1",
    }
    execute(theirs[engine])
    try:
        obey(SECTION[engine])
        assert set(leave_behind()) == {"livemirrorless"}
    finally:
        gone = "FUNCTION livemirrorless CASCADE" if engine == "postgresql" else "TRIGGER livemirrorless"
        execute(f"DROP {gone}")


def test_the_sql_of_the_page_drops_every_table_of_ours():
    dropped = re.findall(r"^DROP TABLE IF EXISTS (\w+);$", PAGE, re.MULTILINE)
    tables = [model._meta.db_table for model in apps.get_app_config("mirror").get_models()]
    assert sorted(dropped) == sorted(tables)

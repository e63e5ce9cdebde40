"""CAPTURE "signals" beside the paths of Django's: transactions, races, modes, what it leaves alone."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import DatabaseError, IntegrityError, connection, connections, migrations, models, transaction
from django.db.migrations.state import ModelState, ProjectState
from django.db.models import F
from django.test import override_settings

from mirror import capture
from mirror.capture import holes
from mirror.changes import Op
from mirror.models import Hole, Outbox, Stream
from tests.fakes import Centre, Recorded
from tests.mirror.conftest import attached, sqlite
from tests.mirror.signals_support import engines, execute, signalled, told
from tests.zoo import models as zoo
from tests.zoo.pairs import empty

SAVE, DELETE = Op.SAVE, Op.DELETE


@pytest.fixture
def engine() -> str:
    return "sqlite"


@pytest.fixture
def triggered(engine, zoo_databases) -> dict[str, Any]:
    """A database whose triggers are installed."""
    return zoo_databases(engine, "source")


@pytest.fixture
def source(engine, triggered, zoo_databases, django_db_blocker) -> Iterator[Recorded]:
    """Without a trigger."""
    database = zoo_databases(engine, "centre")
    with django_db_blocker.unblock(), signalled(database) as made:
        yield made


# One transaction


@engines()
@pytest.mark.parametrize(
    "write",
    [
        lambda: zoo.Keeper.objects.create(name="new"),
        lambda: zoo.Keeper.objects.update(name="new"),
        lambda: zoo.Keeper.objects.bulk_create([zoo.Keeper(name="new"), zoo.Keeper(name="newer")]),
        lambda: zoo.Keeper.objects.get().delete(),
        lambda: zoo.Keeper.objects.get().save(),
    ],
    ids=["create", "update", "bulk_create", "delete", "save"],
)
def test_a_row_that_cannot_be_told_is_not_written_in_autocommit(source, write):
    zoo.Keeper.objects.create(name="old")
    execute("ALTER TABLE mirror_outbox RENAME TO mirror_hidden")
    try:
        with pytest.raises(DatabaseError, match="mirror_outbox"):
            write()
    finally:
        execute("ALTER TABLE mirror_hidden RENAME TO mirror_outbox")
    assert [keeper.name for keeper in zoo.Keeper.objects.all()] == ["old"]
    assert told(source.news(), "name") == [(SAVE, "keeper", "old")]


_KILLED = """
import django, os, signal
django.setup()
from django.db import connection
from tests.project.shop.models import Counter

def die(execute, sql, params, many, context):
    result = execute(sql, params, many, context)
    if sql.startswith(os.environ["DIE_AFTER"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return result

Counter.objects.count()
connection.execute_wrappers.append(die)
Counter.objects.create(id=2)
"""


@pytest.mark.parametrize("last", ['INSERT INTO "shop_counter"', 'INSERT INTO "mirror_outbox"'])
def test_a_process_that_is_killed_between_a_row_and_its_change_leaves_neither(source_path, last):
    environ = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.project.settings",
        "MIRROR_TEST_DB": json.dumps(sqlite(source_path)),
        "MIRROR_TEST_CONF": json.dumps({"CAPTURE": "signals"}),
        "DIE_AFTER": last,
    }
    manage = [sys.executable, "manage.py", "migrate"]
    subprocess.run(manage, env=environ, check=True, capture_output=True, timeout=100)
    ran = subprocess.run([sys.executable, "-c", _KILLED], env=environ, check=False, timeout=100)
    assert ran.returncode == -signal.SIGKILL
    with closing(sqlite3.connect(source_path)) as database:
        assert database.execute("SELECT * FROM shop_counter").fetchall() == []
        assert database.execute("SELECT * FROM mirror_outbox").fetchall() == []


@engines()
def test_a_savepoint_takes_the_changes_back_with_the_rows(source):
    with transaction.atomic():
        zoo.Place.objects.create(name="before")
        with suppress(ZeroDivisionError), transaction.atomic():
            zoo.Place.objects.create(name="within")
            raise ZeroDivisionError
        zoo.Place.objects.create(name="after")
    assert told(source.news(), "name") == [(SAVE, "place", "before"), (SAVE, "place", "after")]


@engines()
def test_an_error_within_a_transaction_is_the_one_that_django_raises(source):
    zoo.TextKeyed.objects.create(pk="a")
    with transaction.atomic():
        with suppress(IntegrityError), transaction.atomic():
            zoo.TextKeyed.objects.create(pk="a")
        zoo.TextKeyed.objects.create(pk="b")
    assert [change.pk for change in source.news()] == ["a", "b"]


@engines()
def test_a_project_that_commits_by_itself_is_told_of(source):
    transaction.set_autocommit(False)
    try:
        zoo.Place.objects.create(name="lost")
        transaction.rollback()
        zoo.Place.objects.create(name="kept")
        transaction.commit()
    finally:
        transaction.set_autocommit(True)
    assert told(source.news(), "name") == [(SAVE, "place", "kept")]


# What an UPDATE or a DELETE by a condition touches


@contextmanager
def meanwhile(beginning: str, work: Callable[[], object]) -> Iterator[None]:
    """Another connection does and commits something just before a statement that begins like this."""
    done: list[bool] = []

    def elsewhere() -> None:
        try:
            work()
            done.append(True)
        finally:
            connections.close_all()

    def before(run: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith(beginning) and not done:
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join(30)
        return run(sql, params, many, context)

    with connection.execute_wrapper(before):
        yield
    assert done


def _quoted(sql: str, engine: str) -> str:
    return sql.replace('"', "`") if engine == "mariadb" else sql


@engines("postgresql", "mariadb")
@pytest.mark.parametrize(
    ("beginning", "write"),
    [
        ('UPDATE "zoo_textkeyed"', lambda: zoo.TextKeyed.objects.filter(value=1).update(value=2)),
        ('DELETE FROM "zoo_textkeyed"', lambda: zoo.TextKeyed.objects.filter(value=1)._raw_delete("default")),
    ],
    ids=["update", "delete"],
)
def test_a_row_that_begins_to_match_meanwhile_is_not_written_untold(source, engine, beginning, write):
    zoo.TextKeyed.objects.create(pk="a", value=1)
    source.news()
    with meanwhile(_quoted(beginning, engine), lambda: zoo.TextKeyed.objects.create(pk="late", value=1)):
        assert write() == 1
    assert zoo.TextKeyed.objects.get(pk="late").value == 1
    assert sorted(change.pk for change in source.news()) == ["a", "late"]


@engines("postgresql", "mariadb")
def test_rows_that_are_read_cannot_change_before_they_are_written(source, engine):
    """An optimistic lock holds: who comes second waits, and finds nothing."""
    zoo.TextKeyed.objects.create(pk="a", value=1)
    counts = []

    def take() -> None:
        try:
            with transaction.atomic():
                counts.append(zoo.TextKeyed.objects.filter(value=1).update(value=F("value") + 1))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(counts) == [0, 0, 0, 1]
    assert told(source.news(), "value") == [(SAVE, "textkeyed", 1), (SAVE, "textkeyed", 2)]


@engines()
def test_more_rows_than_a_statement_takes_are_all_written_and_told(source):
    zoo.Place.objects.bulk_create([zoo.Place(name=str(number)) for number in range(2500)])
    assert [change.fields["name"] for change in source.news()] == [str(number) for number in range(2500)]
    assert zoo.Place.objects.exclude(name="0").update(name="x") == 2499
    assert [change.fields["name"] for change in source.news()] == ["x"] * 2499
    assert zoo.Place.objects.exclude(name="0").delete()[0] == 2499
    assert [change.op for change in source.news()] == [DELETE] * 2499


@engines()
def test_nothing_that_matches_is_nothing_told(source):
    assert zoo.Place.objects.filter(name="none").update(name="x") == 0
    assert zoo.Place.objects.filter(name="none").delete() == (0, {})
    assert zoo.Cafe.objects.filter(seats__gt=5).update(name="x", seats=1) == 0
    assert source.news() == []


@engines()
def test_columns_of_a_parent_and_of_a_child_are_changes_of_each(source):
    cafe = zoo.Cafe.objects.create(name="a", seats=1)
    zoo.Cafe.objects.create(name="b", seats=2)
    source.news()
    assert zoo.Cafe.objects.filter(name="a").update(name="c") == 1
    assert told(source.news(), "name") == [(SAVE, "place", "c")]
    assert zoo.Cafe.objects.filter(name="c").update(name="d", seats=5) == 1
    assert told(source.news(), "name", "seats") == [(SAVE, "place", "d", None), (SAVE, "cafe", None, 5)]
    cafe = zoo.Cafe.objects.defer("seats").get(pk=cafe.pk)
    cafe.name = "e"
    cafe.save()
    assert told(source.news(), "name") == [(SAVE, "place", "e")]


@engines()
def test_primary_keys_that_move_by_an_expression_leave_no_row_behind(source):
    zoo.Place.objects.bulk_create([zoo.Place(pk=number * 10, name=str(number)) for number in (1, 2, 3)])
    source.news()
    zoo.Place.objects.filter(pk__gte=20).update(id=F("id") + 1000)
    assert [(change.op, change.pk) for change in source.news()] == [
        (DELETE, 20),
        (DELETE, 30),
        (SAVE, 1020),
        (SAVE, 1030),
    ]


# Databases that do not say which rows they inserted


@engines("sqlite", "mariadb")
def test_rows_are_told_where_a_database_returns_no_more_than_the_last_key(source, monkeypatch):
    monkeypatch.setattr(type(connection.features), "can_return_rows_from_bulk_insert", False)
    # Of the instance, which may have it cached.
    monkeypatch.setitem(vars(connection.features), "can_return_columns_from_insert", False)
    zoo.Keeper.objects.bulk_create([zoo.Keeper(name="a"), zoo.Keeper(name="b")])
    assert told(source.news(), "name") == [(SAVE, "keeper", "a"), (SAVE, "keeper", "b")]
    kept = zoo.Keeper.objects.get(name="a")
    zoo.Keeper.objects.bulk_create([zoo.Keeper(id=kept.id), zoo.Keeper(name="c")], ignore_conflicts=True)
    assert (SAVE, "keeper", "c") in told(source.news(), "name")
    targets = {} if connection.vendor == "mysql" else {"unique_fields": ["id"]}
    zoo.Keeper.objects.bulk_create(
        [zoo.Keeper(id=kept.id, name="aa"), zoo.Keeper(name="d")],
        update_conflicts=True,
        update_fields=["name"],
        **targets,
    )
    assert sorted(told(source.news(), "name")) == [(SAVE, "keeper", "aa"), (SAVE, "keeper", "d")]
    assert zoo.Keeper.objects.create(name="e").pk is not None
    assert told(source.news(), "name") == [(SAVE, "keeper", "e")]


@engines()
def test_an_upsert_that_gives_a_row_another_identity_takes_the_old_one_back(source, engine):
    keeper = zoo.Keeper.objects.create(pkid=5, name="a")
    source.news()
    targets = {} if engine == "mariadb" else {"unique_fields": ["pkid"]}
    zoo.Keeper.objects.bulk_create(
        [zoo.Keeper(pkid=5, id=UUID(int=77), name="b")],
        update_conflicts=True,
        update_fields=["id", "name"],
        **targets,
    )
    assert told(source.news(), "id", "name") == [
        (DELETE, "keeper", str(keeper.id), "a"),
        (SAVE, "keeper", str(UUID(int=77)), "b"),
    ]


# Values that the driver does not show as they are


@engines("postgresql")
@pytest.mark.parametrize(
    ("stored", "told"),
    [
        ("1 mon", {"$postgresql": "1 mon"}),
        ("24:00:00", {"$postgresql": "24:00:00", "$read": "1 00:00:00"}),
        ("1 day", "1 00:00:00"),
    ],
)
def test_an_interval_is_told_as_the_server_prints_it(source, stored, told):
    zoo.Times.objects.create(span=timedelta(1))
    execute("UPDATE zoo_times SET span = %s", [stored])
    zoo.Times.objects.update(day=date(2026, 1, 1))
    assert source.news()[-1].fields["span"] == told


# What is left alone


def test_what_is_not_listed_is_not_told(source):
    with override_settings(
        MIRROR={"MODELS": ["zoo.Place"], "CAPTURE": "signals", "EXCLUDE_FIELDS": ["zoo.Place.name"]}
    ):
        zoo.Keeper.objects.create(name="a")
        place = zoo.Place.objects.create(name="secret")
        zoo.Place.objects.update(name="secret still")
        changes = source.news()
    assert [(change.model, change.pk) for change in changes] == [("zoo.place", place.pk)] * 2
    assert [change.fields for change in changes] == [{}, {}]


def test_another_database_is_not_told_of(source, triggered):
    with attached("other", triggered):
        zoo.Place.objects.using("other").create(name="a")
        zoo.Place.objects.using("other").all().delete()
    assert source.news() == []


@pytest.mark.parametrize("way", [None, "triggers"])
def test_another_way_of_capturing_leaves_django_as_it_is(source, way):
    with override_settings(MIRROR={"MODELS": ["zoo.*"], "CAPTURE": way, "READ_ONLY": False}):
        assert "get_compiler" not in vars(models.sql.InsertQuery)
        assert not any(isinstance(wrapper, holes.Watch) for wrapper in connection.execute_wrappers)
        zoo.Place.objects.create(name="a")
    assert "get_compiler" in vars(models.sql.InsertQuery)
    assert source.news() == []


@engines()
def test_applying_does_not_echo(source, triggered):
    """A centre that captures its own writes tells of none that it applied, and finds no hole in them."""
    mirror = {"MODELS": ["zoo.*"], "CAPTURE": "signals", "DATABASE": "centre"}
    keeper = zoo.Keeper.objects.create(name="k")
    zoo.Animal.objects.create(name="a", favourite=keeper).keepers.add(keeper)
    with attached("centre", triggered) as other:
        empty(other)
        with override_settings(MIRROR=mirror):
            # Its triggers would tell of everything.
            capture.sync(other)
            own = Recorded("centre")
            Stream.objects.using("centre").create(local=True)
            Centre("centre").follow(source)
            assert zoo.Keeper.objects.using("centre").count() == 1
            assert own.news() == []
            assert not Hole.objects.using("centre").exists()
            zoo.Place.objects.using("centre").create(name="its own")
            assert told(own.news(), "name") == [(SAVE, "place", "its own")]
        with override_settings(MIRROR={**mirror, "CAPTURE": "triggers"}):
            capture.sync(other)


# From one way to the other


@engines()
def test_what_waits_from_both_ways_is_told_in_its_order(triggered, django_db_blocker):
    listed = {"MODELS": ["zoo.*"]}
    with django_db_blocker.unblock(), signalled(triggered, {**listed, "CAPTURE": "triggers"}) as source:
        keeper = zoo.Keeper.objects.create(name="by trigger")
        with override_settings(MIRROR={**listed, "CAPTURE": "signals"}):
            capture.prepare(connection)
            assert not capture.WRITERS[connection.vendor].installed(connection)
            animal = zoo.Animal.objects.create(name="by signal", favourite=keeper)
        capture.prepare(connection)
        animal.name = "by trigger"
        animal.save()
        changes = source.news()
    assert told(changes, "name") == [
        (SAVE, "keeper", "by trigger"),
        (SAVE, "animal", "by signal"),
        (SAVE, "animal", "by trigger"),
    ]
    assert {change.fields["favourite"] for change in changes[1:]} == {str(keeper.id)}


# Migrations


def test_rows_that_a_migration_writes_under_old_names_arrive_under_the_new(source):
    """A column is renamed while changes wait that still have its old name."""
    state = ProjectState()
    fields = [("code", models.CharField(max_length=40, primary_key=True)), ("number", models.IntegerField())]
    state.add_model(ModelState("zoo", "TextKeyed", fields))
    with connection.schema_editor() as editor:
        editor.execute('ALTER TABLE "zoo_textkeyed" RENAME COLUMN "value" TO "number"')
    state.apps.get_model("zoo", "TextKeyed").objects.create(pk="a", number=7)
    capture.before_migrate(connection, past=state.apps, plan=[(migrations.Migration("m", "zoo"), False)])
    try:
        with connection.schema_editor() as editor:
            editor.execute('ALTER TABLE "zoo_textkeyed" RENAME COLUMN "number" TO "value"')
    finally:
        capture.after_migrate(connection)
    (change,) = source.news()
    assert (change.pk, change.fields) == ("a", {"value": 7})


def test_another_uuid_in_a_migration_is_told_with_what_refers_to_it_there(source):
    """The table that refers to it has a column under its old name, and others are not there yet."""
    keeper = zoo.Keeper.objects.create(name="a", favourite=zoo.Animal.objects.create(name="a"))
    source.news()
    state = ProjectState()
    number, uuid = ("pkid", models.BigAutoField(primary_key=True)), ("id", models.UUIDField(unique=True))
    state.add_model(ModelState("zoo", "Animal", [number, uuid, ("name", models.CharField(max_length=20))]))
    favourite = models.ForeignKey("zoo.Animal", models.SET_NULL, null=True)
    fields = [number, uuid, ("title", models.CharField(max_length=20)), ("favourite", favourite)]
    state.add_model(ModelState("zoo", "Keeper", fields))
    with connection.schema_editor() as editor:
        editor.execute('ALTER TABLE "zoo_keeper" RENAME COLUMN "name" TO "title"')
    state.apps.get_model("zoo", "Animal").objects.update(id=UUID(int=7))
    capture.before_migrate(connection, past=state.apps, plan=[(migrations.Migration("m", "zoo"), False)])
    try:
        with connection.schema_editor() as editor:
            editor.execute('ALTER TABLE "zoo_keeper" RENAME COLUMN "title" TO "name"')
    finally:
        capture.after_migrate(connection)
    changes = source.news()
    assert told(changes, "name") == [(DELETE, "animal", "a"), (SAVE, "animal", "a"), (SAVE, "keeper", "a")]
    assert (changes[-1].fields["id"], changes[-1].fields["favourite"]) == (str(keeper.id), str(UUID(int=7)))


def test_before_the_first_migrate_writes_are_only_writes(source):
    execute("ALTER TABLE mirror_outbox RENAME TO mirror_hidden")
    vars(connections["default"]).pop("_livemirror")
    try:
        zoo.Place.objects.create(name="early")
    finally:
        execute("ALTER TABLE mirror_hidden RENAME TO mirror_outbox")
    zoo.Place.objects.create(name="captured")
    assert told(source.news(), "name") == [(SAVE, "place", "captured")]
    assert not Outbox.objects.exists()

"""Processes whose code is not that of the tables: nothing is lost because somebody was not restarted yet."""

from __future__ import annotations

import logging
import threading

import pytest
from django.core.management import call_command
from django.db import connection

from mirror import capture, maintenance
from mirror.changes import decode_change
from mirror.models import Oplog, Outbox
from mirror.sequencer import Sequencer
from tests.mirror.depot import execute, fetch
from tests.mirror.server_support import at_once
from tests.mirror.test_migrations_names import ITEM, app, database, sql

__all__ = ["app", "database"]

OLD = """
class Item(models.Model):
    id = models.BigIntegerField(primary_key=True)
    value = models.IntegerField(null=True)
"""
NEWER = 'migrations.AddField("item", "note", models.IntegerField(null=True)),'


def waiting() -> list[str]:
    return list(Outbox.objects.order_by("id").values_list("model", flat=True))


def logged() -> list[dict]:
    return [
        decode_change(body).fields for body in Oplog.objects.order_by("ts").values_list("body", flat=True)
    ]


@pytest.fixture
def clock():
    """A clock that a test sets: seconds in a list."""
    return [0.0]


def sequencer(clock) -> Sequencer:
    return Sequencer(clock=lambda: clock[0])


def test_a_sequencer_of_old_code_leaves_new_columns_to_the_new(app, clock, caplog):
    source = app(OLD, ITEM, NEWER)
    source.migrate()
    source.old_code("0002_step")  # triggers as the newer code made them
    execute("INSERT INTO depot_item (id, value, note) VALUES (1, 5, 7)")
    old = sequencer(clock)
    with caplog.at_level(logging.ERROR, "mirror.sequencer"):
        assert [old.step(), old.step()] == [0, 0]
    (record,) = caplog.records
    assert "depot.item: note" in record.getMessage()
    assert waiting() == ["depot.item"]
    # Who migrates with the old code wants it so.
    call_command("migrate", verbosity=0)
    assert old.step() == 0
    clock[0] += 5
    assert old.step() == 1
    assert logged() == [{"value": 5}]


def test_a_sequencer_of_old_code_leaves_new_models_to_the_new(app, clock):
    source = app(
        OLD, ITEM, 'migrations.CreateModel("Other", [("id", models.BigIntegerField(primary_key=True))]),'
    )
    source.migrate()
    source.old_code("0002_step")
    execute("INSERT INTO depot_other (id) VALUES (1)")
    execute("INSERT INTO depot_item (id, value) VALUES (1, 5)")
    assert sequencer(clock).step() == 0
    assert waiting() == ["depot.other", "depot.item"]


def test_columns_that_are_gone_since_do_not_stop_anybody(app, clock):
    source = app(OLD, ITEM, NEWER, 'migrations.RemoveField("item", "note"),')
    source.migrate("0002")
    source.old_code("0002_step")
    execute("INSERT INTO depot_item (id, value, note) VALUES (1, 5, 7)")
    source.migrate()
    assert sequencer(clock).step() == 1
    assert logged() == [{"value": 5}]


def test_what_is_excluded_since_stops_nobody_and_is_not_told(app, clock, settings):
    source = app(OLD, ITEM)
    source.migrate()
    execute("INSERT INTO depot_item (id, value) VALUES (1, 5)")
    settings.MIRROR = {"MODELS": ["depot.*"], "EXCLUDE_FIELDS": ["depot.Item.value"]}
    assert sequencer(clock).step() == 1
    assert logged() == [{}]


def test_a_model_that_is_not_listed_any_more_stops_nobody(app, clock, settings):
    source = app(OLD, ITEM)
    source.migrate()
    execute("INSERT INTO depot_item (id, value) VALUES (1, 5)")
    settings.MIRROR = {"MODELS": ["shop.*"]}
    assert sequencer(clock).step() == 0
    assert waiting() == []


# A server that only mirrors, and one without triggers


def test_a_centre_that_migrates_records_nothing(app, settings):
    added = 'migrations.AddField("item", "note", models.UUIDField(default=uuid.uuid4)),'
    back = 'migrations.RemoveField("item", "value"),'
    source = app(
        "class Item(models.Model):\n    id = models.BigIntegerField(primary_key=True)", ITEM, added + back
    )
    settings.MIRROR = {"MODELS": ["depot.*"], "CAPTURE": None}
    source.migrate("0001")
    with maintenance("a row that the source would have sent"):
        execute("INSERT INTO depot_item (id, value) VALUES (1, 5)")
    source.migrate()
    source.migrate("0001")
    assert waiting() == []
    assert source.triggers() == set()


def test_with_signals_values_that_a_migration_makes_up_are_told(app, settings):
    source = app(
        "class Item(models.Model):\n    id = models.BigIntegerField(primary_key=True)\n"
        "    value = models.IntegerField(null=True)\n    note = models.FloatField()",
        ITEM,
        "migrations.AddField('item', 'note', models.FloatField(default=__import__('time').time), "
        "preserve_default=False),",
    )
    settings.MIRROR = {"MODELS": ["depot.*"], "CAPTURE": "signals"}
    source.migrate("0001")
    execute("INSERT INTO depot_item (id, value) VALUES (1, 5)")
    source.migrate()
    ((note,),) = fetch("SELECT note FROM depot_item")
    assert source.told() == [("SAVE", "item", 1, {"value": 5, "note": note})]


# Two at once


def test_a_failed_migration_leaves_no_guard_in_the_next(app):
    source = app(OLD, ITEM, sql("ALTER TABLE depot_nowhere RENAME TO depot_somewhere"))
    source.migrate("0001")
    with pytest.raises(Exception, match="depot_nowhere"):
        source.migrate()
    call_command("migrate", "depot", "0001", verbosity=0)
    assert not any(isinstance(one, capture.MigrationGuard) for one in connection.execute_wrappers)


def test_processes_that_migrate_at_once_install_each_trigger_once(app):
    source = app(OLD, ITEM)
    source.migrate()
    there = source.triggers()
    capture.remove(connection)
    start, done = threading.Barrier(4), []

    def migrate() -> None:
        from django.db import connection

        connection.ensure_connection()
        start.wait()
        call_command("migrate", verbosity=0)
        done.append(source.triggers())

    at_once(*[migrate] * 4)
    assert done == [there] * 4
    execute("INSERT INTO depot_item (id, value) VALUES (1, 5)")
    assert len(source.told()) == 1

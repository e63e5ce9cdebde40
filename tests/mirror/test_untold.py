"""Which models the oplog does not tell whole, and that nobody is let begin at its start then."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from mirror import capture, oplog
from mirror.capture import untold
from mirror.errors import Incomplete, Pruned
from mirror.models import Oplog, Outbox, Stream, Untold
from tests.mirror.depot import Depot, depot, execute
from tests.mirror.doctor_support import CREATE_ITEM, ITEM, app, made, on, on_every_engine

__all__ = ["app", "made"]

EVERYTHING = {"MODELS": ["depot.*"]}
NOTHING = {"MODELS": []}

THING = ITEM.replace("Item", "Thing")
TWO = ITEM + THING
CREATE_BOTH = CREATE_ITEM + CREATE_ITEM.replace("Item", "Thing")


def marked() -> list[str]:
    return list(Untold.objects.order_by("model").values_list("model", flat=True))


def insert(table: str = "depot_item") -> None:
    execute(f'INSERT INTO "{table}" (id, value) SELECT COALESCE(MAX(id), 0) + 1, 1 FROM "{table}"')


def migrate() -> None:
    call_command("migrate", verbosity=0)


def sql(statement: str) -> str:
    return f"migrations.RunSQL({statement!r}, migrations.RunSQL.noop),"


@pytest.fixture
def unlisted(app, settings):
    """Two tables of which nothing was captured yet, one of them with a row."""
    source = app(TWO, CREATE_BOTH)
    settings.MIRROR = NOTHING
    migrate()
    Untold.objects.all().delete()
    assert source.triggers() == set()
    insert()
    return source


# Where capture begins


@on_every_engine
def test_rows_that_were_there_before_capture_mark_their_model_and_no_other(unlisted, settings):
    settings.MIRROR = EVERYTHING
    migrate()
    assert marked() == ["depot.item"]
    assert Untold.objects.get().since is not None


@on_every_engine
def test_rows_that_come_after_capture_mark_nothing(app):
    app()
    insert()
    migrate()
    assert marked() == []


@on_every_engine
def test_rows_of_the_migration_that_makes_the_table_mark_nothing(app):
    source = app(ITEM, CREATE_ITEM + sql("INSERT INTO depot_item (id, value) VALUES (1, 1)"))
    assert marked() == []
    assert len(source.told()) == 1


@on_every_engine
def test_rows_that_were_there_before_the_mirror_was_mark_their_model(unlisted, settings):
    """As where somebody adds it to a project that is in use."""
    call_command("migrate", "mirror", "zero", verbosity=0)
    settings.MIRROR = EVERYTHING
    migrate()
    assert marked() == ["depot.item"]
    insert()
    assert Outbox.objects.count() == 1


@on_every_engine
def test_a_migrate_that_ends_in_the_midst_of_the_mirrors_own_forgets_no_rows(unlisted, settings):
    """Capture does not begin before there is a table to mark in, so the next one finds it all."""
    call_command("migrate", "mirror", "zero", verbosity=0)
    settings.MIRROR = EVERYTHING
    call_command("migrate", "mirror", "0004", verbosity=0)
    assert unlisted.triggers() == set()
    migrate()
    assert marked() == ["depot.item"]


@on_every_engine
def test_an_installation_that_is_upgraded_is_not_marked_and_stays_captured(app, settings):
    source = app()
    insert()
    before = source.triggers()
    call_command("migrate", "mirror", "0004", verbosity=0)
    assert source.triggers() == before
    insert()
    migrate()
    assert source.triggers() == before
    assert marked() == []
    assert len(source.told()) == 2


@on_every_engine
def test_triggers_that_somebody_dropped_mark_what_has_rows(app):
    app(TWO, CREATE_BOTH)
    insert()
    capture.remove(connection)
    migrate()
    assert marked() == ["depot.item"]


@on_every_engine
def test_a_centre_that_becomes_a_source_does_not_tell_of_what_it_was_sent(unlisted, settings):
    """Its tables had triggers of ours before, but those that refuse."""
    settings.MIRROR = {**EVERYTHING, "CAPTURE": None, "READ_ONLY": "triggers"}
    migrate()
    assert unlisted.triggers()
    assert marked() == []
    settings.MIRROR = EVERYTHING
    migrate()
    assert marked() == ["depot.item"]


@on_every_engine
def test_whoever_is_interrupted_leaves_a_mark_rather_than_none(unlisted, settings, monkeypatch):
    settings.MIRROR = EVERYTHING

    def die(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(untold, "acquit", die)
        with pytest.raises(KeyboardInterrupt):
            capture.sync(connection)
    migrate()
    assert "depot.item" in marked()


# Where it ends, and begins again


@on_every_engine
@pytest.mark.parametrize("away", [NOTHING, {**EVERYTHING, "CAPTURE": None, "READ_ONLY": False}])
def test_a_model_that_is_listed_again_is_marked(app, settings, away):
    app(TWO, CREATE_BOTH)
    insert()
    settings.MIRROR = away
    migrate()
    insert()
    settings.MIRROR = EVERYTHING
    migrate()
    assert "depot.item" in marked()


@on_every_engine
def test_a_model_whose_rows_went_while_it_was_not_listed_is_marked_although_it_has_none(app, settings):
    """The log tells that they came, and would bring them back."""
    app()
    insert()
    settings.MIRROR = NOTHING
    migrate()
    execute("DELETE FROM depot_item")
    settings.MIRROR = EVERYTHING
    migrate()
    assert marked() == ["depot.item"]


# In the course of migrations


RENAMED = 'migrations.RenameModel("Item", "Thing"),'


CHANGES = {
    "a column that is altered": (
        ITEM.replace("null=True", "default=1"),
        'migrations.AlterField("item", "value", models.IntegerField(default=1)),',
    ),
    "a column that is renamed": (
        ITEM.replace("value =", "amount ="),
        'migrations.RenameField("item", "value", "amount"),',
    ),
    "the key that is renamed": (
        ITEM.replace("id =", "number ="),
        'migrations.RenameField("item", "id", "number"),',
    ),
    "another table": (
        f'{ITEM}    class Meta:\n        db_table = "depot_kept"\n',
        'migrations.AlterModelTable("item", "depot_kept"),',
    ),
    "another name": (THING, RENAMED),
}


@pytest.fixture
def old(engine, made, tmp_path, django_db_blocker):
    """Return a function that installs an application whose last migration is still to come."""
    with django_db_blocker.unblock(), ExitStack() as stack:

        def install(models: str, *steps: str) -> Depot:
            source = stack.enter_context(depot(made(engine), tmp_path, models, CREATE_ITEM, *steps))
            source.migrate("0001")
            return source

        yield install


@on_every_engine
@pytest.mark.parametrize("change", CHANGES)
def test_a_table_that_was_captured_is_not_marked_whatever_a_migration_does_to_it(old, change):
    models, step = CHANGES[change]
    source = old(models, step)
    source.old_code("0001_step")
    insert()
    source.migrate()
    assert source.triggers()
    assert marked() == []


@on_every_engine
def test_a_table_that_one_migration_makes_and_fills_and_the_next_makes_anew_is_not_marked(app):
    models, step = CHANGES["a column that is altered"]
    app(models, CREATE_ITEM + sql("INSERT INTO depot_item (id, value) VALUES (1, 1)"), step)
    assert marked() == []


@on_every_engine
@pytest.mark.parametrize("listed", ["depot.*", "depot.Thing"])
@pytest.mark.parametrize("table", ["moves", "stays"])
def test_a_model_that_is_renamed_keeps_its_mark(old, settings, listed, table):
    thing = f'{THING}    class Meta:\n        db_table = "depot_item"\n' if table == "stays" else THING
    named = 'migrations.AlterModelTable("item", "depot_item"),' if table == "stays" else ""
    source = old(thing, named + RENAMED)
    source.old_code("0001_step")
    Untold.objects.create(model="depot.item", since=timezone.now())
    settings.MIRROR = {"MODELS": [listed]}
    source.migrate()
    assert marked() == ["depot.thing"]


@on_every_engine
def test_a_table_that_takes_the_name_of_one_that_was_captured_is_marked(old):
    """Its rows are others, of which nothing was ever told."""
    source = old(
        ITEM,
        'migrations.DeleteModel("Item"),'
        + sql("CREATE TABLE other (id BIGINT PRIMARY KEY, value INTEGER NULL)")
        + sql("INSERT INTO other (id) VALUES (1)")
        + sql("ALTER TABLE other RENAME TO depot_item")
        + CREATE_ITEM.replace(
            "migrations.CreateModel", "migrations.SeparateDatabaseAndState([], [migrations.CreateModel"
        ).rstrip(",\n")
        + "]),",
    )
    source.migrate()
    assert marked() == ["depot.item"]


# Signals


@pytest.fixture
def signalled(unlisted, settings):
    settings.MIRROR = {**EVERYTHING, "CAPTURE": "signals"}
    return unlisted


@on_every_engine
def test_with_signals_rows_without_a_change_mark_their_model(signalled):
    migrate()
    assert marked() == ["depot.item"]


@on_every_engine
def test_with_signals_a_model_whose_rows_were_told_is_not_marked(signalled):
    execute("DELETE FROM depot_item")
    migrate()
    assert marked() == []
    apps.get_model("depot", "Item").objects.create(id=1)
    migrate()
    assert marked() == []
    assert len(signalled.told()) == 1
    migrate()
    assert marked() == []


@on("sqlite")
def test_with_signals_nothing_is_known_once_changes_are_pruned(signalled):
    Stream.objects.update(head=20, position=2, anchor=10, anchor_position=1)
    migrate()
    assert marked() == []


@on_every_engine
def test_from_triggers_to_signals_nothing_is_marked(app, settings):
    app()
    insert()
    settings.MIRROR = {**EVERYTHING, "CAPTURE": "signals"}
    migrate()
    assert marked() == []


# Whoever would follow


@pytest.fixture
def stream(app) -> Stream:
    app(TWO, CREATE_BOTH)
    return Stream.objects.get()


def told(stream: Stream) -> None:
    Oplog.objects.create(
        stream=stream, ts=20, position=1, op="SAVE", model="depot.item", key="1", ends_group=True, body="{}"
    )


def mark(*labels: str) -> None:
    for label in labels:
        Untold.objects.create(model=label, since=timezone.now())


@on_every_engine
@pytest.mark.parametrize("place", ["start", 0, 5])
def test_nobody_begins_at_the_start_of_a_log_that_lacks_rows(stream, place):
    told(stream)
    assert oplog.seek(stream, place) == (0, 0, "")
    mark("depot.thing")
    with pytest.raises(Incomplete, match=r"rows of depot\.thing were there .* --from now"):
        oplog.seek(stream, place)


@on("sqlite")
def test_everybody_begins_later(stream):
    told(stream)
    mark("depot.item")
    assert oplog.seek(stream, "now")[0] == 20
    assert oplog.seek(stream, 21)[0] == 20


@on("sqlite")
def test_now_is_a_place_of_an_empty_log_too(stream):
    mark("depot.item")
    assert oplog.seek(stream, "now") == (0, 0, "")


@on("sqlite")
def test_a_mark_of_a_model_that_is_not_listed_now_keeps_nobody_away(stream, settings):
    mark("depot.thing", "depot.gone")
    settings.MIRROR = {"MODELS": ["depot.Item"]}
    assert oplog.seek(stream, "start") == (0, 0, "")


@on("sqlite")
def test_a_copy_of_a_log_is_as_complete_as_what_it_was_copied_from(stream):
    mark("depot.item")
    copied = Stream.objects.create(local=None)
    assert oplog.seek(copied, "start") == (0, 0, "")


@on("sqlite")
def test_what_was_pruned_is_said_first(stream):
    mark("depot.item")
    stream.anchor = 10
    with pytest.raises(Pruned):
        oplog.seek(stream, "start")


@on("sqlite")
def test_of_many_models_an_error_names_a_few(stream, settings):
    mark(*(f"auth.{name}" for name in ("group", "permission", "user")))
    mark("depot.item", "depot.thing", "contenttypes.contenttype")
    settings.MIRROR = {"MODELS": ["auth.*", "contenttypes.*", "depot.*"]}
    with pytest.raises(Incomplete, match=r"rows of auth\.group, .* and 1 more were there"):
        oplog.seek(stream, "start")

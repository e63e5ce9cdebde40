"""What the doctor finds: each finding where its cause was made in a real database, and not without."""

from __future__ import annotations

import json
import re
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections, models
from django.db.migrations.recorder import MigrationRecorder
from django.db.migrations.state import ModelState, ProjectState
from django.test import override_settings
from django.utils import timezone

import mirror
from mirror import capture, oplog
from mirror.capture import holes
from mirror.models import Hole, Oplog, Outbox, Source, Stream, Verification
from tests.end_to_end.databases import served, server
from tests.mirror.conftest import attached, sqlite
from tests.mirror.depot import execute, leave_behind
from tests.mirror.doctor_support import (
    CREATE_ITEM,
    ITEM,
    app,
    codes,
    finding,
    findings,
    made,
    on,
    on_every_engine,
    run,
)

__all__ = ["app", "made"]

ROOT = Path(__file__).resolve().parents[2]


def one_trigger() -> str:
    return min(capture.WRITERS[connection.vendor].installed(connection))


def drop(trigger: str) -> None:
    execute(capture.WRITERS[connection.vendor].drop(connection, trigger))


# Nothing


@on_every_engine
def test_where_nothing_is_wrong_only_what_cannot_be_helped_is_found(engine, app):
    app()
    execute("INSERT INTO depot_item (id, value) VALUES (1, 1)")
    expected = {"mariadb": ["truncate"]}.get(engine, [])
    assert [one.code for one in findings()] == expected
    code, out = run()
    assert code == 0
    assert "Nothing is wrong." in out


@on_every_engine
def test_on_a_centre_nothing_is_wrong_either(app, settings):
    app()
    settings.MIRROR = {"MODELS": ["depot.*"], "CAPTURE": None}
    call_command("migrate", verbosity=0)
    assert findings() == []


# Settings


@on("sqlite")
@pytest.mark.parametrize(
    ("mirror", "code"),
    [
        ({"MODEL": []}, "mirror.E001"),
        ({"MODELS": ["depot.Itm"]}, "mirror.E002"),
        ({"MODELS": ["depot.*"], "EXCLUDE_FIELDS": ["depot.Item.id"]}, "mirror.E005"),
        ({"MODELS": ["depot.*"], "DATABASE": "nowhere"}, "mirror.E006"),
        ({}, "mirror.W004"),
    ],
)
def test_what_the_checks_say_is_found_with_its_hint(app, settings, mirror, code):
    app()
    assert code not in codes()
    settings.MIRROR = mirror
    assert finding(code).mend
    assert run()[0] == 1


# The mirror's own tables


@on_every_engine
def test_a_database_that_lacks_a_migration_of_ours_is_found(app):
    app()
    applied = MigrationRecorder(connection)
    applied.record_unapplied("mirror", "0002_hole")
    try:
        assert codes() == {"migrations"}
        assert "mirror.0002_hole" in finding("migrations").what
    finally:
        applied.record_applied("mirror", "0002_hole")
    assert codes() == set()


def test_a_database_that_was_never_migrated_is_found(tmp_path, django_db_blocker):
    with django_db_blocker.unblock(), attached("default", sqlite(tmp_path / "new.sqlite3")):
        assert codes() == {"migrations"}
        assert run()[0] == 1
        assert connection.introspection.table_names() == []


@on_every_engine
def test_an_outbox_that_is_gone_is_found_with_the_triggers_that_want_it(app):
    app()
    execute("ALTER TABLE mirror_outbox RENAME TO put_away")
    try:
        assert codes() == {"tables-lost", "trigger-nowhere"}
        assert "mirror_outbox" in finding("tables-lost").what
        assert "depot_item" in finding("trigger-nowhere").what
        capture.remove(connection)
        assert codes() == {"tables-lost"}
    finally:
        execute("ALTER TABLE put_away RENAME TO mirror_outbox")
    call_command("migrate", verbosity=0)
    assert codes() == set()


@on_every_engine
def test_a_stream_that_is_gone_is_found(app, settings):
    app()
    Stream.objects.all().delete()
    assert codes() == {"stream"}
    call_command("migrate", verbosity=0)
    assert codes() == set()


# Triggers


@on_every_engine
def test_a_trigger_that_is_gone_is_found_with_its_table(app):
    app()
    gone = one_trigger()
    drop(gone)
    assert codes() == {"trigger-missing"}
    assert gone in finding("trigger-missing").what
    assert "depot_item" in finding("trigger-missing").what
    call_command("migrate", verbosity=0)
    assert codes() == set()


@on_every_engine
def test_a_trigger_of_other_settings_is_found(app, settings):
    app()
    settings.MIRROR = {"MODELS": ["depot.*"], "EXCLUDE_FIELDS": ["depot.Item.value"]}
    assert codes() == {"trigger-stale"}
    assert "depot_item" in finding("trigger-stale").what
    call_command("migrate", verbosity=0)
    assert codes() == set()


@on("sqlite", "mariadb")
def test_a_trigger_too_many_is_found(engine, app):
    app()
    body = "BEGIN SELECT 1; END" if engine == "sqlite" else "FOR EACH ROW SET @nothing = 1"
    execute(f"CREATE TRIGGER livemirror_depot_item_else AFTER INSERT ON depot_item {body}")
    assert codes() == {"trigger-stale"}
    call_command("migrate", verbosity=0)
    assert codes() == set()


@on("postgresql")
def test_a_function_that_lost_one_of_its_triggers_is_found(app):
    app()
    execute("DROP TRIGGER livemirror_insert ON depot_item")
    assert codes() == {"trigger-stale"}
    call_command("migrate", verbosity=0)
    assert codes() == set()


@on_every_engine
@pytest.mark.parametrize("capturing", ["triggers", "signals", None])
def test_a_trigger_that_nobody_wants_is_found(app, settings, capturing):
    app(
        ITEM + "class Label(models.Model):\n    id = models.BigIntegerField(primary_key=True)\n",
        CREATE_ITEM + 'migrations.CreateModel("Label", [("id", models.BigIntegerField(primary_key=True))]),',
    )
    assert codes() == set()
    settings.MIRROR = {"MODELS": ["depot.Label"], "CAPTURE": capturing}
    assert codes() == {"trigger-left"}
    assert "depot_item" in finding("trigger-left").what
    assert ("depot_label" in finding("trigger-left").what) == (capturing != "triggers")
    call_command("migrate", verbosity=0)
    assert codes() == set()


@on("postgresql")
@pytest.mark.parametrize("how", ["DISABLE TRIGGER USER", "ENABLE REPLICA TRIGGER livemirror_update"])
def test_triggers_that_are_switched_off_are_found(app, how):
    app()
    execute(f"ALTER TABLE depot_item {how}")
    assert codes() == {"trigger-disabled"}
    assert f"{how.rpartition(' ')[0]} livemirror_update" in finding("trigger-disabled").what
    call_command("migrate", verbosity=0)
    assert codes() == set()


@on("postgresql")
def test_a_session_that_calls_no_triggers_is_found(app):
    app()
    execute("SET session_replication_role = replica")
    assert codes() == {"trigger-deaf"}
    assert "this session" in finding("trigger-deaf").what
    execute("RESET session_replication_role")
    assert codes() == set()


@on("postgresql")
@pytest.mark.parametrize(
    ("who", "told"),
    [
        ("DATABASE {}", "the database {}"),
        ("ROLE postgres IN DATABASE {}", "the role postgres in the database {}"),
    ],
)
def test_sessions_that_are_going_to_call_no_triggers_are_found(app, who, told):
    app()
    name = connection.settings_dict["NAME"]
    execute(f"ALTER {who.format(name)} SET session_replication_role = replica")
    try:
        assert codes() == {"trigger-deaf"}
        assert told.format(name) in finding("trigger-deaf").what
    finally:
        execute(f"ALTER {who.format(name)} RESET session_replication_role")
    assert codes() == set()


@pytest.fixture
def other(tmp_path):
    """Another database, which was the recorded one for a while."""
    with attached("other", sqlite(tmp_path / "other.sqlite3")):
        with override_settings(MIRROR={"MODELS": ["depot.*"], "DATABASE": "other"}):
            call_command("migrate", database="other", verbosity=0)
        yield connections["other"]


@on_every_engine
def test_triggers_in_another_database_are_found_and_can_be_removed(app, request):
    app()
    assert codes() == set()
    other = request.getfixturevalue("other")
    assert codes() == {"trigger-elsewhere"}
    assert "'other' has 3" in finding("trigger-elsewhere").what
    assert run("--remove-triggers", "--database", "other")[1].count("removed") == 3
    assert capture.WRITERS["sqlite"].installed(other) == {}
    assert codes() == set()


@on("sqlite")
def test_the_same_database_by_another_name_is_not_another(app):
    app()
    with attached("other", connection.settings_dict):
        assert codes() == set()


@on("sqlite")
def test_a_copy_of_the_database_is_not_another(app, tmp_path):
    app()
    execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copy = shutil.copy(connection.settings_dict["NAME"], tmp_path / "copy.sqlite3")
    with attached("other", sqlite(copy)):
        assert codes() == set()


@on("mariadb")
def test_triggers_of_a_recorded_table_that_stands_in_another_database_are_not_elsewhere(app, made, settings):
    with served("mariadb", f"{made('mariadb')['NAME'][-60:]}_far") as far:
        name = far["NAME"]
        away = (
            "class Far(models.Model):\n    id = models.BigIntegerField(primary_key=True)\n"
            f"    class Meta:\n        db_table = '{name}`.`depot_far'\n        managed = False\n"
        )
        app(ITEM + away, CREATE_ITEM)
        execute(f"CREATE TABLE {name}.depot_far (id bigint PRIMARY KEY)")
        call_command("migrate", verbosity=0)
        with attached("other", far):
            assert len(capture.WRITERS["mysql"].installed(connections["other"])) == 3
            assert codes() == set()
            call_command("migrate", verbosity=0)
            assert len(capture.WRITERS["mysql"].installed(connections["other"])) == 3
            settings.MIRROR = {"MODELS": ["depot.Item"]}
            call_command("migrate", verbosity=0)
            assert capture.WRITERS["mysql"].installed(connections["other"]) == {}


@on("sqlite")
def test_another_database_that_is_away_is_of_no_concern(app):
    app()
    with attached("other", sqlite(Path("/nowhere/other.sqlite3"))):
        assert codes() == set()


# Tables


@on_every_engine
def test_a_table_that_is_not_there_is_found(engine, app):
    app()
    execute("DROP TABLE depot_item")
    # A trigger goes with its table, but not the function that PostgreSQL has for it.
    left = {"trigger-left"} if engine == "postgresql" else set()
    assert codes() == {"table-missing"} | left
    assert "depot.item has no table depot_item" in finding("table-missing").what
    assert finding("table-missing").mend == "manage.py migrate"


@on_every_engine
def test_whoever_makes_a_table_himself_is_told_to(app):
    own = "class Own(models.Model):\n    class Meta:\n        managed = False\n"
    app(ITEM + own, CREATE_ITEM)
    assert codes() == {"table-missing"}
    assert finding("table-missing").mend.startswith("Create it")
    execute("CREATE TABLE depot_own (id bigint NOT NULL PRIMARY KEY)")
    assert codes() == {"trigger-missing"}
    call_command("migrate", verbosity=0)
    assert codes() == set()


@on_every_engine
def test_a_column_that_is_not_there_is_found(app):
    app(ITEM + "    note = models.CharField(max_length=9, null=True)\n", CREATE_ITEM)
    found = finding("column-missing")
    assert found.severity == "warning"
    assert "depot_item has no column note" in found.what
    capture.remove(connection)
    execute("ALTER TABLE depot_item ADD note varchar(9) NULL")
    call_command("migrate", verbosity=0)
    assert codes() == set()


@on_every_engine
def test_a_key_that_is_not_there_is_worse(app):
    app(
        """
        class Item(models.Model):
            pkid = models.BigAutoField(primary_key=True)
            id = models.UUIDField(unique=True)
        """,
        'migrations.CreateModel("Item", [("pkid", models.BigAutoField(primary_key=True))]),',
    )
    assert codes() == {"column-missing"}
    assert finding("column-missing").severity == "error"


NO_TABLES = {
    "sqlite": {
        "view": ("CREATE VIEW depot_seen AS SELECT id FROM depot_item", "DROP VIEW depot_seen"),
        "virtual table": ("CREATE VIRTUAL TABLE depot_seen USING fts5(id)", "DROP TABLE depot_seen"),
    },
    "postgresql": {
        "view": ("CREATE VIEW depot_seen AS SELECT id FROM depot_item", "DROP VIEW depot_seen"),
        "materialized view": (
            "CREATE MATERIALIZED VIEW depot_seen AS SELECT id FROM depot_item",
            "DROP MATERIALIZED VIEW depot_seen",
        ),
        "foreign table": (
            (
                "CREATE FOREIGN DATA WRAPPER afar; CREATE SERVER afar FOREIGN DATA WRAPPER afar;"
                "CREATE FOREIGN TABLE depot_seen (id bigint) SERVER afar"
            ),
            "DROP FOREIGN DATA WRAPPER afar CASCADE",
        ),
    },
    "mariadb": {"view": ("CREATE VIEW depot_seen AS SELECT id FROM depot_item", "DROP VIEW depot_seen")},
}


@pytest.mark.parametrize(
    ("engine", "kind"),
    [
        pytest.param(engine, kind, marks=[] if engine == "sqlite" else getattr(pytest.mark, engine))
        for engine, kinds in NO_TABLES.items()
        for kind in kinds
    ],
)
def test_what_is_no_table_is_found(engine, app, kind):
    make, away = NO_TABLES[engine][kind]
    seen = (
        "class Seen(models.Model):\n    id = models.BigIntegerField(primary_key=True)\n"
        "    class Meta:\n        managed = False\n"
    )
    app(ITEM + seen, CREATE_ITEM)
    assert codes() == {"table-missing"}
    execute(make)
    try:
        assert codes() == {"no-table"}
        assert f"depot_seen is a {kind}" in finding("no-table").what
    finally:
        execute(away)


@on("postgresql")
def test_a_table_that_a_crash_would_empty_is_found(app):
    app()
    execute("ALTER TABLE depot_item SET UNLOGGED")
    assert codes() == {"unlogged"}
    execute(finding("unlogged").mend)
    assert codes() == set()


@on("postgresql")
def test_partitions_and_heirs_are_found_however_deep(app):
    app()
    execute("CREATE TABLE depot_heir () INHERITS (depot_item)")
    execute("CREATE TABLE depot_grandchild () INHERITS (depot_heir)")
    assert codes() == {"child-table"}
    assert finding("child-table").severity == "note"
    assert "public.depot_grandchild, public.depot_heir instead of depot_item" in finding("child-table").what
    assert run()[0] == 0


@on("postgresql")
def test_of_many_partitions_a_few_are_named(app):
    own = ITEM + "    class Meta:\n        managed = False\n"
    app(own, CREATE_ITEM.replace('"Item"', '"Other"'))
    execute("CREATE TABLE depot_item (id bigint PRIMARY KEY, value int) PARTITION BY RANGE (id)")
    for number in range(7):
        values = f"FROM ({number}) TO ({number + 1})"
        execute(f"CREATE TABLE depot_{number} PARTITION OF depot_item FOR VALUES {values}")
    call_command("migrate", verbosity=0)
    assert codes() == {"child-table"}
    assert "public.depot_4 and 2 more" in finding("child-table").what


# What the database does behind its own triggers


CHILD = (
    ITEM + "class Part(models.Model):\n    id = models.BigIntegerField(primary_key=True)\n"
    "    item = models.ForeignKey(Item, models.{})\n"
)
CREATE_CHILD = CREATE_ITEM + (
    'migrations.CreateModel("Part", [("id", models.BigIntegerField(primary_key=True)),'
    '("item", models.ForeignKey("depot.Item", models.{}))]),'
)


@on_every_engine
@pytest.mark.parametrize("rule", ["ON DELETE CASCADE", "ON UPDATE CASCADE"])
def test_rows_that_the_database_changes_without_triggers_are_found(engine, app, rule):
    app(CHILD.format("CASCADE"), CREATE_CHILD.format("CASCADE"))
    assert codes() == set()
    if engine != "sqlite":
        execute(
            "ALTER TABLE depot_part ADD CONSTRAINT ruled "
            f"FOREIGN KEY (item_id) REFERENCES depot_item (id) {rule}"
        )
        # On PostgreSQL what is asked of a trigger depends on it.
        call_command("migrate", verbosity=0)
    assert codes() == ({"cascade"} if engine == "mariadb" else set())
    if engine == "mariadb":
        assert f"ruled of depot_part has {rule}" in finding("cascade").what


@on_every_engine
@pytest.mark.parametrize("rule", ["DB_CASCADE", "DB_SET_NULL"])
@pytest.mark.skipif(not hasattr(models, "DB_CASCADE"), reason="before Django had models.DB_CASCADE")
def test_what_django_leaves_to_the_database_is_found(engine, app, rule):
    nullable = f"{rule}, null=True"
    app(CHILD.format(nullable), CREATE_CHILD.format(nullable))
    assert codes() == ({"cascade"} if engine == "mariadb" else set())


@on_every_engine
def test_truncate_is_found_where_it_calls_no_trigger(engine, app):
    app()
    assert ("truncate" in {one.code for one in findings()}) == (engine == "mariadb")


@on_every_engine
def test_what_replace_may_delete_unseen_is_found(engine, app):
    app(
        ITEM + "    code = models.CharField(max_length=9, unique=True)\n",
        CREATE_ITEM.replace("]),", '("code", models.CharField(max_length=9, unique=True)), ]),'),
    )
    found = {one.code: one for one in findings()}
    assert ("replace" in found) == (engine == "sqlite")
    if engine != "sqlite":
        return
    assert "depot_item (code)" in found["replace"].what
    # As it says: the row is not seen to go.
    execute("INSERT INTO depot_item (id, value, code) VALUES (1, 1, 'a')")
    execute("REPLACE INTO depot_item (id, value, code) VALUES (2, 2, 'a')")
    assert list(Outbox.objects.values_list("op", flat=True)) == ["SAVE", "SAVE"]
    # As its mend says.
    execute("PRAGMA recursive_triggers = ON")
    execute("REPLACE INTO depot_item (id, value, code) VALUES (3, 3, 'a')")
    assert list(Outbox.objects.values_list("op", flat=True))[2:] == ["DELETE", "SAVE"]


@on("sqlite")
@pytest.mark.parametrize(
    ("index", "told"),
    [
        ("(value, id)", ""),  # who has the same of these has the same key
        ("(value) WHERE value > 3", "(value)"),
        ("(abs(value))", "(depot_index)"),
    ],
)
def test_only_what_is_unique_beside_the_key_lets_replace_delete_unseen(app, index, told):
    app()
    execute(f"CREATE UNIQUE INDEX depot_index ON depot_item {index}")
    found = [one.what for one in findings() if one.code == "replace"]
    assert bool(found) == bool(told)
    assert all(told in what for what in found)


# What was captured


@on_every_engine
def test_changes_that_wait_for_long_are_found(app, settings):
    source = app()
    execute("INSERT INTO depot_item (id, value) VALUES (1, 1)")
    soon, later = timezone.now() + timedelta(seconds=50), timezone.now() + timedelta(seconds=70)
    assert codes(soon) == set()
    assert codes(later) == {"outbox-waits"}
    source.news()
    assert codes(later) == set()


@on_every_engine
def test_changes_that_wait_for_nobody_are_found(app, settings):
    app()
    execute("INSERT INTO depot_item (id, value) VALUES (1, 1)")
    settings.MIRROR = {"MODELS": ["depot.*"], "CAPTURE": None}
    call_command("migrate", verbosity=0)
    assert codes() == {"outbox-left"}
    Outbox.objects.all().delete()
    assert codes() == set()


@pytest.fixture
def log(app):
    """Return a function that records a change; give back its stream."""

    def record(number: int) -> Stream:
        execute(f"INSERT INTO depot_item (id, value) VALUES ({number}, 1)")
        source.news()
        return Stream.objects.get(local=True)

    source = app()
    return record


@on_every_engine
def test_an_oplog_whose_end_was_cut_off_is_found(log):
    log(1)
    head = log(2).head
    assert codes() == set()
    Oplog.objects.filter(ts=head).delete()
    assert codes() == {"oplog-cut"}
    assert finding("oplog-cut").severity == "error"


@on_every_engine
def test_an_oplog_that_reaches_back_less_than_a_day_is_found(log):
    log(1)
    stream = log(2)
    assert codes() == set()
    oplog.prune(stream, upto=stream.head, limit=100)
    assert codes() == {"oplog-short"}
    assert finding("oplog-short").severity == "note"
    assert codes(timezone.now() + timedelta(hours=25)) == set()


@on_every_engine
def test_rows_that_were_there_before_their_capture_are_found(app, settings):
    app()
    assert codes() == set()
    settings.MIRROR = {"MODELS": []}
    call_command("migrate", verbosity=0)
    execute("INSERT INTO depot_item (id, value) VALUES (1, 1)")
    settings.MIRROR = {"MODELS": ["depot.*"]}
    call_command("migrate", verbosity=0)
    assert codes() == {"untold"}
    assert finding("untold").severity == "note"
    assert "depot.item" in finding("untold").what
    assert run()[0] == 0


# What was mirrored


@on_every_engine
def test_rows_that_differ_from_those_of_a_source_are_found(app, settings):
    app()
    settings.MIRROR = {"MODELS": ["depot.*"], "CAPTURE": None}
    call_command("migrate", verbosity=0)
    source = Source.objects.create(name="paris", url="ws://x", token="t")
    Verification.objects.create(source=source, model="depot.item", state="done", missing=2, extra=1)
    assert codes() == {"rows-differ"}
    found = finding("rows-differ")
    assert (found.severity, found.mend.split(",")[0]) == (
        "warning",
        "manage.py mirrorverify paris --list names them",
    )
    assert "3 rows here" in found.what
    Verification.objects.update(repair=True)
    assert codes() == set()
    source.delete()


# Holes of CAPTURE "signals"


@pytest.fixture
def signals(app, settings):
    """Return a function that installs an application whose changes signals tell of."""

    def install(*sources: str) -> None:
        app(*sources)
        settings.MIRROR = {"MODELS": ["depot.*"], "CAPTURE": "signals"}
        call_command("migrate", verbosity=0)
        holes._tallies.clear()

    yield install
    Hole.objects.all().delete()


@on_every_engine
def test_raw_sql_that_signals_did_not_see_is_found(signals):
    signals()
    assert codes() == set()
    execute("INSERT INTO depot_item (id, value) VALUES (1, 1)")
    assert codes() == {"hole-statement"}
    assert "depot.item" in finding("hole-statement").what


@on_every_engine
def test_rows_of_a_migration_that_signals_cannot_tell_apart_are_found(signals):
    signals()
    state = ProjectState()
    state.add_model(ModelState("depot", "Item", [("value", models.IntegerField(primary_key=True))]))
    state.apps.get_model("depot", "Item").objects.update(value=1)
    assert "depot.item" in finding("hole-keys").what


@on_every_engine
@pytest.mark.skipif(not hasattr(models, "DB_CASCADE"), reason="before Django had models.DB_CASCADE")
def test_cascades_that_signals_do_not_see_are_found(signals):
    signals(CHILD.format("DB_CASCADE"), CREATE_CHILD.format("DB_CASCADE"))
    assert codes() == {"hole-cascade"}


# Maintenance of a server that is read-only


@on_every_engine
def test_what_was_written_in_maintenance_is_found(app, settings):
    app()
    settings.MIRROR = {"MODELS": ["depot.*"], "CAPTURE": None, "READ_ONLY": True}
    holes._tallies.clear()
    assert "hole-maintenance" not in codes()
    with mirror.maintenance("a repair"):
        execute("INSERT INTO depot_item (id, value) VALUES (1, 1)")
    assert "a repair" in finding("hole-maintenance").what
    Hole.objects.all().delete()


# The command


@on_every_engine
def test_json_is_one_object_with_the_findings_worst_first(app):
    app()
    drop(one_trigger())
    Oplog.objects.all().delete()
    execute("INSERT INTO depot_item (id, value) VALUES (1, 1)")
    Outbox.objects.update(captured_at=0)
    code, out = run("--json")
    report = json.loads(out)
    assert code == 1
    assert report.keys() == {"version", "ok", "findings"}
    assert (report["version"], report["ok"]) == (1, False)
    assert all(one.keys() == {"code", "severity", "what", "mend"} for one in report["findings"])
    severities = [one["severity"] for one in report["findings"]]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert {"trigger-missing"} <= {one["code"] for one in report["findings"]}


@on_every_engine
def test_json_of_nothing_is_an_object_too(app):
    app()
    code, out = run("--json")
    assert code == 0
    assert json.loads(out)["ok"] is True


@on_every_engine
def test_a_finding_is_a_line_with_severity_code_and_mend(app):
    app()
    drop(one_trigger())
    code, out = run()
    (line,) = [line for line in out.splitlines() if "trigger-missing" in line]
    assert code == 1
    assert re.fullmatch(r"error    trigger-missing: .+ Mend: manage.py migrate", line)
    assert "Nothing is wrong" not in out


@on_every_engine
def test_triggers_can_be_removed_and_come_back_with_migrate(app):
    app()
    there = set(leave_behind())
    assert there
    code, out = run("--remove-triggers")
    assert code == 0
    assert "removed livemirror_depot_item" in out
    assert leave_behind() == []
    assert run("--remove-triggers") == (0, "There were none.\n")
    call_command("migrate", verbosity=0)
    assert set(leave_behind()) == there


def refused(*arguments: str) -> str:
    with pytest.raises(CommandError) as refusal:
        call_command("mirrordoctor", *arguments)
    assert refusal.value.returncode == 2
    return str(refusal.value)


AWAY = {
    "sqlite": sqlite(Path("/nowhere/database.sqlite3")),
    "postgresql": {**server("postgresql", "x"), "PORT": "1"},
    "mariadb": {**server("mariadb", "x"), "PORT": "1"},
}


@on_every_engine
@pytest.mark.usefixtures("_mysqldb")
@pytest.mark.parametrize("arguments", [[], ["--json"], ["--remove-triggers"]])
def test_a_database_that_is_away_is_no_finding(engine, arguments, django_db_blocker):
    with django_db_blocker.unblock(), attached("default", AWAY[engine]):
        assert refused(*arguments).startswith("The database cannot be asked: ")


def test_triggers_of_an_unknown_alias_cannot_be_removed():
    assert "'nowhere' is not in DATABASES. Configured: default" in refused(
        "--remove-triggers", "--database", "nowhere"
    )


def test_a_database_is_named_only_to_remove_its_triggers():
    assert "--remove-triggers" in refused("--database", "default")


@on("sqlite")
def test_with_a_broken_mirror_triggers_can_be_removed_from_a_named_database(app, settings):
    app()
    settings.MIRROR = {"MODEL": []}
    assert "--database ALIAS" in refused("--remove-triggers")
    assert leave_behind()
    assert run("--remove-triggers", "--database", "default")[0] == 0
    assert leave_behind() == []


# The page


def codes_of_the_code() -> set[str]:
    examination = (ROOT / "mirror/doctor/examination.py").read_text()
    kinds = re.search(r'#: "statement".*', (ROOT / "mirror/capture/holes.py").read_text())
    assert kinds
    return {
        *re.findall(r'_(?:error|warning|note)\(\s*"([a-z-]+)"', examination),
        *(f"hole-{kind}" for kind in re.findall(r'"(\w+)"', kinds[0])),
    }


def checks_of_the_code() -> set[str]:
    checks = (ROOT / "mirror/checks.py").read_text()
    ids = {*re.findall(r'_error\(\s*"(E\d+)"', checks), *re.findall(r'id="mirror\.(W\d+)"', checks)}
    return {f"mirror.{one}" for one in ids}


def headings() -> list[str]:
    return re.findall(r"^### `([\w.-]+)`", (ROOT / "docs/doctor.md").read_text(), re.MULTILINE)


def test_every_finding_has_its_place_in_the_page():
    assert len(codes_of_the_code()) > 20
    assert len(checks_of_the_code()) > 8
    assert sorted(headings()) == sorted(codes_of_the_code() | checks_of_the_code())


def test_every_finding_has_a_test_here():
    text = Path(__file__).read_text()
    assert [code for code in codes_of_the_code() if f'"{code}"' not in text] == []

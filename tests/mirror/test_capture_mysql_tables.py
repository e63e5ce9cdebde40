"""Which triggers there are on a MariaDB server, and tables of unusual shape and place."""

from __future__ import annotations

import hashlib
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pymysql
import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connection, connections, migrations, models
from django.db.models import F
from django.db.utils import IntegrityError

from mirror import capture
from mirror.models import UUIDModel
from mirror.registry import mirrored_models
from tests.mirror.mysql_support import installed, plain, recorded, says
from tests.mirror.server_support import DELETE, SAVE, at_once, execute, fetch, names, seen
from tests.mirror.test_capture import Migrating, insert_brand, sql
from tests.project.shop.models import Brand, Counter

pytestmark = pytest.mark.mariadb

EVENTS = ("insert", "update", "delete")


@pytest.fixture
def source(mariadb_source, django_db_blocker):
    with django_db_blocker.unblock(), recorded(mariadb_source) as source:
        yield source


@pytest.fixture
def migrating(source):
    """What a test migrates there, it migrates back."""
    return Migrating()


@pytest.fixture
def model(source):
    """Models that exist for one test, with tables as a migration would make them, or as it is told to."""
    made: list[type[models.Model]] = []

    def make(name: str, table: str, base=UUIDModel, create: str | None = None, **fields):
        meta = type("Meta", (), {"app_label": "shop", "db_table": table, "managed": create is None})
        made.append(type(name, (base,), {"__module__": Brand.__module__, "Meta": meta, **fields}))
        mirrored_models.cache_clear()
        if create is None:
            with connection.schema_editor() as editor:
                editor.create_model(made[-1])
        else:
            execute(create)
        capture.sync(connection)
        return made[-1]

    yield make
    for model in reversed(made):
        execute(f"DROP TABLE {connection.ops.quote_name(model._meta.db_table)}")
        del apps.all_models["shop"][model._meta.model_name]
    apps.clear_cache()
    mirrored_models.cache_clear()
    capture.sync(connection)


@pytest.fixture
def annex(source):
    """Another database on the same server."""
    name = f"Annex_{connection.settings_dict['NAME']}"
    execute(f"CREATE DATABASE `{name}`")
    yield name
    execute(f"DROP DATABASE `{name}`")


def triggers_of(table: str, database: str | None = None) -> list[str]:
    rows = fetch(
        "SELECT trigger_name FROM information_schema.triggers "
        "WHERE event_object_table = %s AND trigger_schema = %s",
        [table, database or connection.settings_dict["NAME"]],
    )
    return sorted(name for (name,) in rows)


# Installing and removing


def test_migrate_installs_three_triggers_for_each_mirrored_table(source):
    tables = [mirrored.table for mirrored in mirrored_models().values()]
    owners = [table for table, _sql in installed().values()]
    assert sorted(owners) == sorted(tables * 3)
    assert {name.split("_")[-2] for name in installed()} == set(EVENTS)
    assert capture.sync(connection) == []


@pytest.mark.parametrize("event", EVENTS)
def test_a_trigger_that_is_gone_comes_back(source, event):
    before = installed()
    (name,) = (
        name for name, (table, _sql) in before.items() if table == "shop_brand" and f"_{event}_" in name
    )
    execute(f"DROP TRIGGER {name}")
    assert capture.sync(connection) == [f"installed {name}"]
    assert installed() == before


@pytest.mark.parametrize(
    ("variable", "value"),
    [("sql_mode", "ANSI_QUOTES"), ("collation_connection", "latin1_swedish_ci")],
)
def test_a_trigger_that_was_made_again_under_other_settings_is_mended(source, variable, value):
    before = installed()
    name = next(name for name, (table, _sql) in before.items() if table == "shop_brand")
    execute(f"SET {variable} = '{value}'")
    execute(before[name][1].replace("CREATE TRIGGER", "CREATE OR REPLACE TRIGGER"))
    execute(f"SET {variable} = DEFAULT")
    assert capture.sync(connection) == [f"removed {name}", f"installed {name}"]
    assert installed() == before


def test_a_null_where_none_was_is_refused_until_the_triggers_know_of_it(source):
    execute("ALTER TABLE shop_counter MODIFY value int NULL")
    try:
        with pytest.raises(IntegrityError, match="payload"):
            execute("INSERT INTO shop_counter (id, value) VALUES (1, NULL)")
        capture.sync(connection)
        execute("INSERT INTO shop_counter (id, value) VALUES (2, NULL)")
        assert [(change.pk, change.fields["value"]) for change in source.news()] == [(2, None)]
    finally:
        execute("DELETE FROM shop_counter")
        execute("ALTER TABLE shop_counter MODIFY value int NOT NULL")
        capture.sync(connection)


def test_what_is_no_longer_listed_leaves_nothing_behind(source, settings):
    settings.MIRROR = {"MODELS": ["shop.Brand"]}
    call_command("migrate", verbosity=0)
    assert {table for table, _sql in installed().values()} == {"shop_brand"}
    settings.MIRROR = {"MODELS": ["shop.*"], "CAPTURE": None}
    call_command("migrate", verbosity=0)
    assert installed() == {}


def test_triggers_of_others_are_left_alone(source, settings):
    execute("CREATE TRIGGER theirs AFTER INSERT ON shop_counter FOR EACH ROW SET @theirs = NEW.id")
    try:
        settings.MIRROR = {"MODELS": ["shop.*"], "CAPTURE": None}
        capture.sync(connection)
        assert triggers_of("shop_counter") == ["theirs"]
    finally:
        execute("DROP TRIGGER theirs")


def test_two_processes_install_at_the_same_time(source, settings):
    settings.MIRROR = {"MODELS": ["shop.*"], "CAPTURE": None}
    capture.sync(connection)
    settings.MIRROR = {"MODELS": ["shop.*"]}
    start, done = threading.Barrier(4), []

    def install() -> None:
        from django.db import connection

        connection.ensure_connection()
        start.wait()
        done.extend(capture.sync(connection))

    at_once(*[install] * 4)
    assert sorted(done) == sorted(f"installed {name}" for name in installed())
    assert capture.sync(connection) == []


def test_installing_leaves_the_session_and_its_lock_as_they_were(source, settings):
    asked = "SELECT @@sql_mode, @@collation_connection, @@autocommit"
    before = fetch(asked)
    settings.MIRROR = {"MODELS": ["shop.*"], "CAPTURE": None}
    assert capture.sync(connection)
    assert fetch(asked) == before
    digest = hashlib.blake2b(connection.settings_dict["NAME"].encode(), digest_size=8).hexdigest()
    assert fetch("SELECT IS_USED_LOCK(%s)", [f"livemirror_{digest}"]) == [(None,)]


# Tables that change


def test_columns_are_captured_as_they_come_change_and_go(migrating, source):
    before = installed()
    migrating.run(
        migrations.AddField("brand", "note", models.IntegerField(default=1)),
        insert_brand(1, "name", "note"),
        migrations.AlterField("brand", "note", models.TextField(null=True)),
        migrations.RenameField("brand", "note", "remark"),
        insert_brand(2, "name", "remark"),
        migrations.RemoveField("brand", "remark"),
        insert_brand(3, "name"),
        migrations.RemoveField("counter", "value"),
        sql("INSERT INTO shop_counter (id) VALUES (1)"),
        migrations.AddField("counter", "value", models.IntegerField(default=0)),
        sql("INSERT INTO shop_counter (id, value) VALUES (2, 5)"),
    )
    assert installed() == before
    assert [(change.op, change.fields["name"]) for change in source.news() if "name" in change.fields] == [
        (SAVE, "1"),
        (SAVE, "2"),
        (SAVE, "3"),
    ]


def test_a_table_that_is_renamed_there_and_back_is_captured_once(migrating, source):
    migrating.run(
        migrations.AlterModelTable("brand", "shop_label"),
        migrations.AlterModelTable("brand", "shop_brand"),
        insert_brand(1, "name"),
    )
    assert names(source.news()) == [(SAVE, "1")]
    assert capture.sync(connection) == []


@contextmanager
def writing_around_each_change(statement: str) -> Iterator[list[str]]:
    """Another program, which writes before and after whatever changes a table or its triggers."""
    written: list[str] = []

    def write() -> None:
        says(other, statement)
        written.append(statement)

    def around(execute, sql, params, many, context):
        if not re.match("(CREATE|DROP) TRIGGER|ALTER TABLE", sql):
            return execute(sql, params, many, context)
        write()
        result = execute(sql, params, many, context)
        write()
        return result

    with closing(plain(autocommit=True)) as other, connection.execute_wrapper(around):
        yield written


def test_no_write_fails_or_slips_through_while_columns_come_and_go(migrating, source):
    insert = "INSERT IGNORE INTO shop_counter () VALUES ()"
    with writing_around_each_change(insert) as written:
        migrating.run(
            migrations.RemoveField("counter", "value"),
            migrations.AddField("counter", "value", models.IntegerField(default=0)),
        )
    told = {change.pk for change in source.changes() if change.model == "shop.counter"}
    assert told == set(Counter.objects.values_list("pk", flat=True))
    assert len(told) == len(written) > 20


# Names and places


def test_names_may_hold_quotes_spaces_capitals_and_signs(model, source):
    odd = model(
        "Odd",
        'We\'ird "Ta.ble"; -- $x$',
        said=models.TextField(db_column='what\'s "said" > É\\n'),
        owner=models.ForeignKey("shop.Brand", models.CASCADE, db_column="ow'ner >", db_constraint=False),
    )
    brand = Brand.objects.create(name="a")
    row = odd.objects.create(said="x", owner=brand)
    odd.objects.update(said="y")
    odd.objects.all().delete()
    assert [(change.op, change.fields) for change in source.news()[1:]] == [
        (op, {"id": str(row.id), "said": said, "owner": str(brand.id)})
        for op, said in [(SAVE, "x"), (SAVE, "y"), (DELETE, "y")]
    ]


def test_tables_that_differ_only_at_the_end_of_long_names_have_triggers_of_their_own(model, source):
    first = model("First", "é" * 58 + "aaaaaa", value=models.IntegerField())
    second = model("Second", "é" * 58 + "aaaaab", value=models.IntegerField())
    first.objects.create(value=1)
    second.objects.create(value=2)
    assert [(change.model, change.fields["value"]) for change in source.news()] == [
        ("shop.first", 1),
        ("shop.second", 2),
    ]
    assert all(len(name) <= 64 for name in installed())


def test_tables_that_differ_only_in_capitals_are_two(model, source):
    if fetch("SELECT @@lower_case_table_names") != [(0,)]:
        pytest.skip("they are one on this server")
    small = model("Small", "shop_case", base=models.Model, value=models.IntegerField())
    large = model("Large", "SHOP_CASE", base=models.Model, value=models.IntegerField())
    small.objects.create(value=1)
    large.objects.create(value=2)
    assert seen(source.news()) == [(SAVE, "small"), (SAVE, "large")]


def test_a_table_in_another_database_of_the_server_is_captured(annex, model, source, settings):
    there = model(
        "There",
        f"{annex}`.`there",
        base=models.Model,
        value=models.IntegerField(),
        create=f"CREATE TABLE `{annex}`.there (id bigint AUTO_INCREMENT PRIMARY KEY, value int)",
    )
    assert capture.sync(connection) == []
    there.objects.create(value=1)
    with closing(plain(database=annex)) as other:
        says(other, "UPDATE there SET value = 2")
        says(other, "DELETE FROM there")
        other.commit()
    assert [(change.op, change.fields) for change in source.news()] == [
        (SAVE, {"value": 1}),
        (SAVE, {"value": 2}),
        (DELETE, {"value": 2}),
    ]
    settings.MIRROR = {"MODELS": ["shop.Brand"]}
    capture.sync(connection)
    assert triggers_of("there", annex) == []


def test_a_copy_of_the_database_on_the_same_server_does_not_write_into_this_one(annex, source):
    # What a dump that is restored under another name does: the triggers come as they were made.
    brand = {name: script for name, (table, script) in installed().items() if table == "shop_brand"}
    own = connection.settings_dict["NAME"]
    for table in ("shop_brand", "mirror_outbox"):
        execute(f"CREATE TABLE `{annex}`.{table} LIKE {table}")
    for script in brand.values():
        execute(script.replace(f"`{own}`", f"`{annex}`", 1).replace(f"ON `{own}`", f"ON `{annex}`"))
    execute(f"INSERT INTO `{annex}`.shop_brand (id, name) VALUES (uuid(), 'copy')")
    assert source.news() == []
    assert fetch(f"SELECT op, model FROM `{annex}`.mirror_outbox") == [("SAVE", "shop.brand")]
    assert capture.sync(connection) == []


def test_a_table_of_many_columns_is_captured_whole(model, source):
    fields = {f"column_{number}": models.IntegerField() for number in range(400)}
    wide = model("Wide", "shop_wide", **fields)
    row = wide.objects.create(**{name: place for place, name in enumerate(fields)})
    (change,) = source.news()
    assert change.fields == {"id": str(row.id), **{name: place for place, name in enumerate(fields)}}


def test_columns_named_like_the_triggers_own_words_are_read_as_columns(model, source):
    words = ("payload", "p", "op", "model", "captured_at", "new", "old", "begin", "signal")
    odd = model("Words", "shop_words", **{word: models.IntegerField() for word in words})
    odd.objects.create(**dict.fromkeys(words, 1))
    odd.objects.update(payload=2)
    assert [change.fields["payload"] for change in source.news()] == [1, 2]


def test_a_generated_column_is_left_to_each_database(model, source):
    area = models.GeneratedField(
        expression=F("side") * F("side"), output_field=models.IntegerField(), db_persist=True
    )
    squared = model("Squared", "shop_squared", base=models.Model, side=models.IntegerField(), area=area)
    squared.objects.create(side=3)
    assert source.news()[0].fields == {"side": 3}


def test_a_partitioned_and_a_versioned_table_are_captured(model, source):
    for name, how in [("Parts", "PARTITION BY HASH (id) PARTITIONS 3"), ("Past", "WITH SYSTEM VERSIONING")]:
        kind = model(
            name,
            f"shop_{name.lower()}",
            base=models.Model,
            value=models.IntegerField(),
            create=f"CREATE TABLE shop_{name.lower()} "
            f"(id bigint AUTO_INCREMENT PRIMARY KEY, value int) {how}",
        )
        kind.objects.bulk_create([kind(id=1, value=1), kind(id=2, value=2)])
        kind.objects.filter(id=1).update(id=12, value=3)
        told = [(change.op, change.pk, change.fields["value"]) for change in source.news()]
        assert told == [(SAVE, 1, 1), (SAVE, 2, 2), (DELETE, 1, 1), (SAVE, 12, 3)]


def test_a_view_is_left_alone(source):
    execute("CREATE VIEW shop_overview AS SELECT * FROM shop_counter")
    try:
        assert capture.WRITERS["mysql"].tables(connection, ["shop_overview", "shop_missing"]) == {}
    finally:
        execute("DROP VIEW shop_overview")


# Keys


@pytest.fixture
def words(model):
    """A key that its collation compares without capitals, accents and spaces at the end."""
    return model(
        "Word",
        "shop_word",
        base=models.Model,
        key=models.CharField(max_length=20, primary_key=True),
        value=models.IntegerField(default=0),
    )


@pytest.mark.parametrize("other", ["A", "á", "a ", "b"])
def test_a_key_that_changes_at_all_is_another_row(words, source, other):
    words.objects.create(key="a")
    words.objects.filter(key="a").update(key=other)
    words.objects.update(value=1)
    assert [(change.op, change.pk) for change in source.news()] == [
        (SAVE, "a"),
        (DELETE, "a"),
        (SAVE, other),
        (SAVE, other),
    ]


@pytest.mark.parametrize("vendor", ["mariadb", "sqlite"], indirect=True)
def test_a_row_that_moves_to_a_key_that_its_collation_takes_for_the_same_arrives(words, source, centre):
    with connections["centre"].schema_editor() as editor:
        editor.create_model(words)
    try:
        words.objects.create(key="a")
        words.objects.create(key="z")
        words.objects.filter(key="a").update(key="A", value=1)
        centre.follow(source)
        words.objects.filter(key="A").update(key="á", value=2)
        centre.follow(source)
        assert sorted(centre.rows("shop_word", "key", "value")) == [("z", 0), ("á", 2)]
    finally:
        with connections["centre"].schema_editor() as editor:
            editor.delete_model(words)


@pytest.mark.parametrize("verb", ["REPLACE", "INSERT IGNORE"])
def test_a_row_that_gives_way_to_another_is_told(source, verb):
    execute(f"INSERT INTO shop_brand (pkid, id, name) VALUES (1, '{uuid.UUID(int=1)}', 'a')")
    execute(f"{verb} INTO shop_brand (pkid, id, name) VALUES (2, '{uuid.UUID(int=2)}', 'a')")
    told = [(change.op, change.fields["id"][-1]) for change in source.news()]
    assert told == ([(SAVE, "1"), (DELETE, "1"), (SAVE, "2")] if verb == "REPLACE" else [(SAVE, "1")])


def test_who_may_not_make_triggers_is_told_so(source, settings):
    settings.MIRROR = {"MODELS": ["shop.*"], "CAPTURE": None}
    capture.sync(connection)
    name = f"livemirror_{uuid.uuid4().hex[:8]}"
    execute(f"CREATE USER '{name}'@'%' IDENTIFIED BY 'x'")
    execute(f"GRANT SELECT, INSERT, ALTER ON {connection.settings_dict['NAME']}.* TO '{name}'@'%'")
    script = capture.WRITERS["mysql"].triggers  # what migrate would run
    tables = capture.WRITERS["mysql"].tables(connection, ["mirror_outbox", "shop_counter"])
    (statement, *_rest) = script(connection, mirrored_models()["shop.counter"], tables).values()
    try:
        with (
            closing(plain(user=name, password="x")) as clerk,
            pytest.raises(pymysql.OperationalError, match="TRIGGER command denied"),
        ):
            says(clerk, statement)
    finally:
        execute(f"DROP USER '{name}'@'%'")

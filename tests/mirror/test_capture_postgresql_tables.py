"""Which triggers there are on a PostgreSQL server, and tables of unusual shape and place."""

from __future__ import annotations

import threading
import uuid

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connection, migrations, models
from django.db.models import F

from mirror import capture
from mirror.models import UUIDModel
from mirror.registry import mirrored_models
from tests.mirror.postgresql_support import (
    DELETE,
    SAVE,
    at_once,
    execute,
    fetch,
    installed,
    names,
    plain,
    recorded,
    seen,
)
from tests.mirror.test_capture import Migrating, insert_brand, sql
from tests.project.shop.models import Brand

pytestmark = pytest.mark.postgresql


@pytest.fixture
def source(postgresql_source, django_db_blocker):
    with django_db_blocker.unblock(), recorded(postgresql_source) as source:
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
        meta = type("Meta", (), {"app_label": "shop", "db_table": table})
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
        execute(f"DROP TABLE {connection.ops.quote_name(model._meta.db_table)} CASCADE")
        del apps.all_models["shop"][model._meta.model_name]
    apps.clear_cache()
    mirrored_models.cache_clear()
    capture.sync(connection)


def left_behind() -> list[tuple]:
    return fetch("SELECT proname FROM pg_proc WHERE proname LIKE 'livemirror%'") + fetch(
        "SELECT tgname FROM pg_trigger WHERE tgname LIKE 'livemirror%'"
    )


# Installing and removing


def test_migrate_installs_a_function_and_four_triggers_for_each_mirrored_table(source):
    tables = {mirrored.table for mirrored in mirrored_models().values()}
    assert {name: table for name, (table, _sql) in installed().items()} == {
        f"livemirror_{table}": table for table in tables
    }
    assert len(left_behind()) == 5 * len(tables)
    assert capture.sync(connection) == []


@pytest.mark.parametrize(
    "damage",
    [
        "ALTER TABLE shop_brand DISABLE TRIGGER livemirror_update",
        "ALTER TABLE shop_brand ENABLE ALWAYS TRIGGER livemirror_update",
        "DROP TRIGGER livemirror_truncate ON shop_brand",
        "ALTER FUNCTION livemirror_shop_brand RESET search_path",
        "ALTER FUNCTION livemirror_shop_brand SET DateStyle TO German",
        "ALTER FUNCTION livemirror_shop_brand SECURITY INVOKER",
        "DROP FUNCTION livemirror_shop_brand CASCADE",
        "CREATE OR REPLACE FUNCTION livemirror_shop_brand() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
    ],
)
def test_what_was_damaged_is_mended(source, damage):
    before = installed()
    execute(damage)
    assert capture.sync(connection) == ["installed livemirror_shop_brand"]
    assert installed() == before
    Brand.objects.create(name="a")
    assert names(source.news()) == [(SAVE, "a")]


def test_what_is_no_longer_listed_leaves_nothing_behind(source, settings):
    settings.MIRROR = {"MODELS": ["shop.Brand"]}
    call_command("migrate", verbosity=0)
    assert len(left_behind()) == 5
    settings.MIRROR = {"MODELS": ["shop.*"], "CAPTURE": None}
    call_command("migrate", verbosity=0)
    assert left_behind() == []


def test_without_the_outbox_no_write_is_stopped(source):
    # "migrate mirror zero" drops it; triggers that stay would refuse every write of the project.
    capture.before_migrate(connection)
    try:
        execute("ALTER TABLE mirror_outbox RENAME TO elsewhere")
        assert left_behind() == []
        Brand.objects.create(name="a")
        execute("ALTER TABLE elsewhere RENAME TO mirror_outbox")
    finally:
        capture.after_migrate(connection)
    Brand.objects.create(name="b")
    assert names(source.news()) == [(SAVE, "b")]


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
        sql("SET CONSTRAINTS ALL IMMEDIATE"),
        migrations.RemoveField("counter", "value"),
        sql("INSERT INTO shop_counter (id) VALUES (1)"),
        migrations.AddField("counter", "value", models.IntegerField(default=0)),
        sql("INSERT INTO shop_counter (id, value) VALUES (2, 5)"),
    )
    assert installed() == before
    changes = source.news()
    assert names(changes[:3]) == [(SAVE, "1"), (SAVE, "2"), (SAVE, "3")]
    assert [(change.pk, change.fields) for change in changes[3:]] == [(1, {}), (2, {"value": 5})]


def test_a_table_that_is_renamed_there_and_back_is_captured_once(migrating, source):
    migrating.run(
        migrations.AlterModelTable("brand", "shop_label"),
        migrations.AlterModelTable("brand", "shop_brand"),
        insert_brand(1, "name"),
    )
    assert names(source.news()) == [(SAVE, "1")]
    assert capture.sync(connection) == []


def test_a_table_that_is_renamed_by_the_models_changes_its_function(model, source):
    wide = model("Wide", "shop_wide", base=models.Model, value=models.IntegerField())
    wide._meta.db_table = "shop_wider"
    mirrored_models.cache_clear()
    execute("ALTER TABLE shop_wide RENAME TO shop_wider")
    assert capture.sync(connection) == ["removed livemirror_shop_wide", "installed livemirror_shop_wider"]
    wide.objects.create(value=1)
    assert seen(source.news()) == [(SAVE, "wide")]


def test_rows_that_wait_for_their_constraints_do_not_stop_a_migration(migrating, source):
    parent = migrations.RunSQL(
        "INSERT INTO shop_product (id, name, second_brand_id, stock, price, on_sale, details) "
        f"VALUES ('{uuid.uuid4()}', 'p', 7, 0, 0, false, '{{}}')"
    )
    migrating.run(
        parent,
        migrations.AddField("brand", "note", models.TextField(default="")),
        sql(f"INSERT INTO shop_brand (pkid, id, name, note) VALUES (7, '{uuid.uuid4()}', 'b', '')"),
        sql("SET CONSTRAINTS ALL IMMEDIATE"),
        migrations.RemoveField("brand", "note"),
    )
    product, brand = source.news()
    assert product.fields["second_brand"] == brand.fields["id"]


# Names and places


def test_names_may_hold_quotes_spaces_capitals_and_signs(model, source):
    odd = model(
        "Odd",
        'We\'ird "" Ta.ble; -- $x$',
        said=models.TextField(db_column='what\'s ""said"" > É'),
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


def test_names_that_differ_only_at_their_end_have_functions_of_their_own(model, source):
    first = model("First", "é" * 28 + "aaaaaa", value=models.IntegerField())
    second = model("Second", "é" * 28 + "aaaaab", value=models.IntegerField())
    first.objects.create(value=1)
    second.objects.create(value=2)
    assert [(change.model, change.fields["value"]) for change in source.news()] == [
        ("shop.first", 1),
        ("shop.second", 2),
    ]
    assert all(len(name.encode()) <= 63 for name in installed())


def test_a_table_in_another_schema_is_captured(model, source):
    execute('CREATE SCHEMA IF NOT EXISTS "Annex"')
    there = model("There", 'Annex"."there', base=models.Model, value=models.IntegerField())
    there.objects.create(value=1)
    there.objects.update(value=2)
    with plain() as other:
        other.execute("SET search_path = pg_temp")
        other.execute('DELETE FROM "Annex".there')
    other.close()
    assert [(change.op, change.fields) for change in source.news()] == [
        (SAVE, {"value": 1}),
        (SAVE, {"value": 2}),
        (DELETE, {"value": 2}),
    ]


def test_a_table_of_many_columns_is_captured_whole(model, source):
    fields = {f"column_{number}": models.IntegerField() for number in range(130)}
    wide = model("Wide", "shop_wide", **fields)
    row = wide.objects.create(**{name: place for place, name in enumerate(fields)})
    (change,) = source.news()
    assert change.fields == {"id": str(row.id), **{name: place for place, name in enumerate(fields)}}


def test_columns_named_like_the_functions_own_words_are_read_as_columns(model, source):
    words = ("this", "nested", "moment", "n", "new_rows", "payload", "op", "model")
    odd = model("Words", "shop_words", **{word: models.IntegerField() for word in words})
    odd.objects.create(**dict.fromkeys(words, 1))
    odd.objects.update(this=2)
    assert [change.fields["this"] for change in source.news()] == [1, 2]


def test_a_generated_column_is_left_to_each_database(model, source):
    area = models.GeneratedField(
        expression=F("side") * F("side"), output_field=models.IntegerField(), db_persist=True
    )
    squared = model("Squared", "shop_squared", base=models.Model, side=models.IntegerField(), area=area)
    squared.objects.create(side=3)
    assert source.news()[0].fields == {"side": 3}


def test_rows_of_a_partitioned_table_are_captured_also_when_they_move(model, source):
    parts = model(
        "Parts",
        "shop_parts",
        base=models.Model,
        value=models.IntegerField(),
        create="CREATE TABLE shop_parts (id bigint PRIMARY KEY, value int) PARTITION BY RANGE (id); "
        "CREATE TABLE shop_parts_low PARTITION OF shop_parts FOR VALUES FROM (0) TO (10); "
        "CREATE TABLE shop_parts_high PARTITION OF shop_parts FOR VALUES FROM (10) TO (20)",
    )
    parts.objects.bulk_create([parts(id=1, value=1), parts(id=11, value=11)])
    execute("UPDATE shop_parts SET id = 12, value = 2 WHERE id = 1")
    execute("TRUNCATE shop_parts")
    told = [(change.op, change.pk, change.fields["value"]) for change in source.news()]
    assert told[:4] == [(SAVE, 1, 1), (SAVE, 11, 11), (DELETE, 1, 1), (SAVE, 12, 2)]
    assert sorted(told[4:]) == [(DELETE, 11, 11), (DELETE, 12, 2)]


def test_a_view_is_left_alone(source):
    execute("CREATE VIEW shop_overview AS SELECT * FROM shop_counter")
    assert capture.WRITERS["postgresql"].tables(connection, ["shop_overview", "shop_missing"]) == {}
    execute("DROP VIEW shop_overview")

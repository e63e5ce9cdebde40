from __future__ import annotations

import json
import sqlite3
import textwrap
import uuid
from contextlib import suppress
from typing import Any

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import IntegrityError, connection, migrations, models, transaction
from django.db.migrations.state import ProjectState
from django.db.models import F

from mirror import capture
from mirror.capture import MigrationGuard
from mirror.changes import Op
from mirror.models import Outbox, Stream, UUIDModel
from mirror.registry import mirrored_models
from tests.project.shop.models import Brand, Bundle, Counter, Product, Reading, Seat, Sink, Tag, Ticket

SAVE, DELETE = Op.SAVE, Op.DELETE


def seen(changes) -> list[tuple[Op, str]]:
    return [(change.op, change.model.removeprefix("shop.")) for change in changes]


def names(changes) -> list[tuple[Op, str]]:
    return [(change.op, change.fields["name"]) for change in changes]


def installed() -> dict[str, str]:
    return {name: sql for name, (_table, sql) in capture.WRITERS["sqlite"].installed(connection).items()}


def execute(sql: str, parameters: object = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)


# Every way to write


def test_a_created_row_is_one_change_with_all_its_fields(source):
    brand = Brand.objects.create(name="Ébène")
    (change,) = source.news()
    assert (change.op, change.model, change.pk) == (SAVE, "shop.brand", brand.pkid)
    assert change.fields == {"id": str(brand.id), "name": "Ébène"}


def test_saving_again_is_a_change_again(source):
    brand = Brand.objects.create(name="a")
    brand.name = "b"
    brand.save()
    brand.save(update_fields=["name"])
    assert names(source.news()) == [(SAVE, "a"), (SAVE, "b"), (SAVE, "b")]


def test_update_or_create_does_both(source):
    Counter.objects.update_or_create(id=7, defaults={"value": 1})
    Counter.objects.update_or_create(id=7, defaults={"value": 2})
    assert [(change.op, change.pk, change.fields) for change in source.news()] == [
        (SAVE, 7, {"value": 1}),
        (SAVE, 7, {"value": 2}),
    ]


def test_bulk_create_is_a_change_for_each_row_in_order(source):
    Brand.objects.bulk_create([Brand(name=str(number)) for number in range(50)])
    assert names(source.news()) == [(SAVE, str(number)) for number in range(50)]


def test_bulk_create_with_conflicts_says_what_became_of_each_row(source):
    kept = Brand.objects.create(name="a")
    source.news()
    Brand.objects.bulk_create(
        [Brand(id=kept.id, name="a2"), Brand(name="b")],
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=["name"],
    )
    assert names(source.news()) == [(SAVE, "a2"), (SAVE, "b")]
    Brand.objects.bulk_create([Brand(name="b"), Brand(name="c")], ignore_conflicts=True)
    assert names(source.news()) == [(SAVE, "c")]


def test_bulk_update_is_a_change_for_each_row(source):
    brands = [Brand.objects.create(name=name) for name in "ab"]
    source.news()
    for brand in brands:
        brand.name *= 2
    Brand.objects.bulk_update(brands, ["name"])
    assert names(source.news()) == [(SAVE, "aa"), (SAVE, "bb")]


def test_an_update_by_expression_carries_the_computed_value(source):
    Counter.objects.create(value=1)
    Counter.objects.create(value=10)
    source.news()
    Counter.objects.update(value=F("value") * 2 + 1)
    assert [change.fields["value"] for change in source.news()] == [3, 21]


def test_a_deleted_row_is_told_as_it_last_was(source):
    brand = Brand.objects.create(name="a")
    identity = str(brand.id)
    source.news()
    brand.delete()
    (change,) = source.news()
    assert (change.op, change.fields) == (DELETE, {"id": identity, "name": "a"})


def test_a_fast_delete_of_many_rows_tells_each(source):
    Ticket.objects.bulk_create([Ticket(text=str(number)) for number in range(5)])
    source.news()
    Ticket.objects.all().delete()
    assert seen(source.news()) == [(DELETE, "ticket")] * 5


def test_a_cascade_tells_every_row(source):
    brand, other = Brand.objects.create(name="a"), Brand.objects.create(name="b")
    product = Product.objects.create(name="p", brand=brand)
    product.tags.add(Tag.objects.create(label="t"))
    kept = Product.objects.create(name="k", second_brand=brand, brand=other)
    source.news()
    brand.delete()
    changes = source.news()
    assert sorted(seen(changes)) == sorted(
        [(DELETE, "product_tags"), (SAVE, "product"), (DELETE, "product"), (DELETE, "brand")]
    )
    (orphan,) = [change for change in changes if change.op is SAVE]
    assert (orphan.fields["id"], orphan.fields["second_brand"]) == (str(kept.id), None)


def test_rows_of_a_many_to_many_are_changes_of_their_own(source):
    product = Product.objects.create(name="p")
    red, blue = Tag.objects.create(label="red"), Tag.objects.create(label="blue")
    source.news()

    def told():
        return [(change.op, change.fields["tag"]) for change in source.news()]

    product.tags.add(red, blue)
    assert sorted(told()) == sorted([(SAVE, str(red.id)), (SAVE, str(blue.id))])
    product.tags.add(red)
    assert told() == []
    product.tags.remove(red)
    assert told() == [(DELETE, str(red.id))]
    product.tags.set([red])
    assert told() == [(DELETE, str(blue.id)), (SAVE, str(red.id))]
    product.tags.clear()
    assert told() == [(DELETE, str(red.id))]


def test_a_multi_table_row_is_a_change_of_each_table(source):
    bundle = Bundle.objects.create(name="b", discount=5)
    product, child = source.news()
    assert (product.model, product.fields["name"]) == ("shop.product", "b")
    assert (child.model, child.fields) == ("shop.bundle", {"product_ptr": str(bundle.id), "discount": 5})
    bundle.delete()
    assert seen(source.news()) == [(DELETE, "bundle"), (DELETE, "product")]


def test_references_to_local_keys_travel_as_uuids(source):
    brand = Brand.objects.create(name="a")
    parent = Product.objects.create(name="parent", brand=brand, second_brand=brand)
    Product.objects.create(name="child", parent=parent)
    _, one, two = source.news()
    assert (one.fields["brand"], one.fields["second_brand"]) == (str(brand.id), str(brand.id))
    assert (two.fields["parent"], two.fields["brand"]) == (str(parent.id), None)


def test_a_row_of_two_keys_travels_with_both(source):
    Seat.objects.create(row="A", number=3, guest="Ada")
    Seat.objects.filter(row="A").update(number=4)
    assert [(change.op, change.pk, change.fields) for change in source.news()] == [
        (SAVE, ["A", 3], {"guest": "Ada"}),
        (DELETE, ["A", 3], {"guest": "Ada"}),
        (SAVE, ["A", 4], {"guest": "Ada"}),
    ]


def test_raw_sql_is_captured(source):
    execute("INSERT INTO shop_counter (id, value) VALUES (1, 5), (2, 6)")
    execute("UPDATE shop_counter SET value = value + 1 WHERE id = %s", [2])
    execute("DELETE FROM shop_counter")
    assert [(change.op, change.pk, change.fields["value"]) for change in source.news()] == [
        (SAVE, 1, 5),
        (SAVE, 2, 6),
        (SAVE, 2, 7),
        (DELETE, 1, 5),
        (DELETE, 2, 7),
    ]


def test_loaddata_is_captured(source, tmp_path):
    fixture = tmp_path / "brands.json"
    row = {"model": "shop.brand", "pk": 4, "fields": {"id": str(uuid.uuid4()), "name": "loaded"}}
    fixture.write_text(json.dumps([row]))
    call_command("loaddata", str(fixture), verbosity=0)
    assert names(source.news()) == [(SAVE, "loaded")]


def test_another_process_is_captured(source, source_path):
    # A connection that knows nothing of Django stands for it.
    other = sqlite3.connect(source_path)
    with other:
        other.execute("INSERT INTO shop_counter (id, value) VALUES (9, 1)")
    other.close()
    assert [(change.pk, change.fields) for change in source.news()] == [(9, {"value": 1})]


def test_a_changed_primary_key_is_another_row(source):
    Counter.objects.create(id=1, value=5)
    Counter.objects.filter(id=1).update(id=2)
    assert [(change.op, change.pk) for change in source.news()] == [(SAVE, 1), (DELETE, 1), (SAVE, 2)]


def test_a_changed_local_key_is_the_same_row(source):
    brand = Brand.objects.create(name="a")
    Brand.objects.filter(id=brand.id).update(pkid=99)
    assert [(change.op, change.pk, change.fields["id"]) for change in source.news()] == [
        (SAVE, brand.pkid, str(brand.id)),
        (SAVE, 99, str(brand.id)),
    ]


def test_a_changed_uuid_is_another_row(source):
    brand = Brand.objects.create(name="a")
    other = uuid.uuid4()
    Brand.objects.update(id=other)
    assert [(change.op, change.fields["id"]) for change in source.news()] == [
        (SAVE, str(brand.id)),
        (DELETE, str(brand.id)),
        (SAVE, str(other)),
    ]


def test_a_key_that_is_used_again_keeps_its_order(source):
    for value in (1, 2):
        Counter.objects.create(id=5, value=value)
        Counter.objects.filter(id=5).delete()
    assert [(change.op, change.fields["value"]) for change in source.news()] == [
        (SAVE, 1),
        (DELETE, 1),
        (SAVE, 2),
        (DELETE, 2),
    ]


def test_a_savepoint_that_is_rolled_back_leaves_nothing(source):
    with transaction.atomic():
        Brand.objects.create(name="before")
        with suppress(IntegrityError), transaction.atomic():
            Brand.objects.create(name="within")
            Brand.objects.create(name="before")
        Brand.objects.create(name="after")
    assert names(source.news()) == [(SAVE, "before"), (SAVE, "after")]


def test_a_transaction_that_is_rolled_back_leaves_nothing(source):
    with suppress(ZeroDivisionError), transaction.atomic():
        Brand.objects.create(name="a")
        raise ZeroDivisionError
    assert source.news() == []
    assert not Outbox.objects.exists()


def test_a_statement_that_fails_leaves_nothing(source):
    Brand.objects.create(name="a")
    source.news()
    with pytest.raises(IntegrityError):
        execute("INSERT INTO shop_brand (id, name) VALUES ('x', 'b'), ('y', 'a')")
    assert source.news() == []


def test_a_time_of_capture_is_now_in_microseconds(source):
    Counter.objects.create()
    with connection.cursor() as cursor:
        cursor.execute("SELECT unixepoch()")
        (now,) = cursor.fetchone()
    assert abs(Outbox.objects.get().captured_at - now * 1_000_000) < 60_000_000


def test_a_row_whose_parent_comes_later_in_the_transaction_names_it(source):
    with transaction.atomic():
        brand = uuid.uuid4()
        execute(
            "INSERT INTO shop_product (id, name, second_brand_id, stock, price, on_sale, details) "
            "VALUES (%s, 'p', 77, 0, 0, 0, '{}')",
            [uuid.uuid4().hex],
        )
        Brand.objects.create(pkid=77, id=brand, name="late")
    product, _ = source.news()
    assert product.fields["second_brand"] == str(brand)


def test_a_row_whose_parent_was_deleted_before_it_names_it(source):
    brand = Brand.objects.create(name="a")
    product = Product.objects.create(name="p", second_brand=brand)
    source.news()
    with transaction.atomic():
        execute("DELETE FROM shop_brand")
        execute("DELETE FROM shop_product")
    gone, child = source.news()
    assert (gone.model, child.model) == ("shop.brand", "shop.product")
    assert (child.fields["id"], child.fields["second_brand"]) == (str(product.id), str(brand.id))


def test_a_row_that_was_here_between_two_lives_of_its_parent_names_it(source):
    # Insert both, delete both, before the sequencer looks: nothing is left to look up but the log.
    brand = Brand.objects.create(pkid=5, name="a")
    with transaction.atomic():
        execute("DELETE FROM shop_brand")
        execute(
            "INSERT INTO shop_product (id, name, second_brand_id, stock, price, on_sale, details) "
            "VALUES (%s, 'p', 5, 0, 0, 0, '{}')",
            [uuid.uuid4().hex],
        )
        execute("DELETE FROM shop_product")
    assert [change.fields.get("second_brand") for change in source.news()][2:] == [str(brand.id)] * 2


# What is not captured


def test_models_that_are_not_listed_are_not_captured(source, settings):
    settings.MIRROR = {"MODELS": ["shop.Brand"]}
    capture.sync(connection)
    Counter.objects.create()
    Brand.objects.create(name="a")
    assert [entry.model for entry in Outbox.objects.all()] == ["shop.brand"]


def test_excluded_fields_do_not_even_reach_the_outbox(source, settings):
    settings.MIRROR = {"MODELS": ["shop.*"], "EXCLUDE_FIELDS": ["shop.Ticket.secret"]}
    capture.sync(connection)
    Ticket.objects.create(text="seen", secret="hidden")
    Ticket.objects.update(secret="hidden too")
    assert "hidden" not in "".join(entry.payload for entry in Outbox.objects.all())
    assert all(change.fields == {"text": "seen"} for change in source.news())


# Which triggers there are


def test_migrate_installs_three_triggers_for_each_mirrored_table(source):
    tables = {mirrored.table for mirrored in mirrored_models().values()}
    assert "shop_product_tags" in tables
    assert set(installed()) == {
        f"livemirror_{table}_{event}" for table in tables for event in ("insert", "update", "delete")
    }
    assert Stream.objects.filter(local=True).count() == 1


def test_installing_again_changes_nothing(source):
    assert capture.sync(connection) == []
    call_command("migrate", verbosity=0)
    assert capture.sync(connection) == []


def test_a_model_that_is_unlisted_loses_its_triggers(source, settings):
    settings.MIRROR = {"MODELS": ["shop.Brand"]}
    call_command("migrate", verbosity=0)
    assert sorted(installed()) == [
        f"livemirror_shop_brand_{event}" for event in ("delete", "insert", "update")
    ]


def test_without_capture_there_are_no_triggers(source, settings):
    settings.MIRROR = {"MODELS": ["shop.*"], "CAPTURE": None, "READ_ONLY": False}
    call_command("migrate", verbosity=0)
    assert installed() == {}
    Brand.objects.create(name="a")
    assert not Outbox.objects.exists()


def test_triggers_of_others_are_left_alone(source):
    execute("CREATE TRIGGER theirs AFTER INSERT ON shop_brand BEGIN SELECT 1; END")
    call_command("migrate", verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'theirs'")
        assert cursor.fetchone() == (1,)


def test_a_database_that_is_not_recorded_gets_no_triggers(source, tmp_path):
    from tests.mirror.conftest import attached, sqlite

    with attached("elsewhere", sqlite(tmp_path / "elsewhere.sqlite3")) as elsewhere:
        call_command("migrate", database="elsewhere", verbosity=0)
        assert capture.WRITERS["sqlite"].installed(elsewhere) == {}


def test_the_guard_goes_with_the_migration(source):
    call_command("migrate", verbosity=0)
    assert not any(isinstance(wrapper, MigrationGuard) for wrapper in connection.execute_wrappers)


# Tables that change


class Migrating:
    """Runs migration operations as ``migrate`` does, with the guard, and rows written in between."""

    def __init__(self) -> None:
        self.state = ProjectState.from_apps(apps)

    def run(self, *operations: migrations.operations.base.Operation) -> None:
        capture.before_migrate(connection)
        try:
            with connection.schema_editor(atomic=True) as editor:
                for operation in operations:
                    after = self.state.clone()
                    operation.state_forwards("shop", after)
                    operation.database_forwards("shop", editor, self.state, after)
                    self.state = after
        finally:
            capture.after_migrate(connection)


@pytest.fixture
def migrating(source) -> Migrating:
    return Migrating()


def sql(statement: str) -> migrations.RunSQL:
    return migrations.RunSQL(statement)


def insert_brand(number: int, *columns: str) -> migrations.RunSQL:
    names = ", ".join(["id", *columns])
    values = ", ".join([f"'{number:032x}'", *(f"'{number}'" for _ in columns)])
    return sql(f"INSERT INTO shop_brand ({names}) VALUES ({values})")


def test_a_table_that_is_rebuilt_keeps_its_triggers_between_the_operations(migrating, source):
    wider = migrations.AlterField("brand", "name", models.CharField(max_length=200, unique=True))
    migrating.run(insert_brand(1, "name"), wider, insert_brand(2, "name"))
    assert names(source.news()) == [(SAVE, "1"), (SAVE, "2")]
    assert capture.sync(connection) == []


def test_rebuilding_a_table_is_no_change_of_its_rows(migrating, source):
    brand = Brand.objects.create(name="a")
    Product.objects.create(name="p", brand=brand, second_brand=brand)
    source.news()
    migrating.run(migrations.AlterField("brand", "name", models.CharField(max_length=200, unique=True)))
    assert source.news() == []


def test_a_parent_that_is_rebuilt_is_still_looked_up(migrating, source):
    migrating.run(migrations.AlterField("brand", "name", models.CharField(max_length=200, unique=True)))
    brand = Brand.objects.create(name="a")
    Product.objects.create(name="p", second_brand=brand)
    assert source.news()[1].fields["second_brand"] == str(brand.id)


def test_a_column_that_is_dropped_is_no_longer_captured(migrating, source):
    migrating.run(migrations.RemoveField("product", "stock"), insert_brand(1, "name"))
    execute(
        "INSERT INTO shop_product (id, name, price, on_sale, details) VALUES (%s, 'p', 0, 0, '{}')",
        [uuid.uuid4().hex],
    )
    _, product = source.news()
    assert "stock" not in product.fields
    assert product.fields["name"] == "p"


def test_a_column_that_is_added_is_captured_at_once(migrating, source):
    migrating.run(migrations.RemoveField("counter", "value"))
    execute("INSERT INTO shop_counter (id) VALUES (1)")
    migrating.run(
        migrations.AddField("counter", "value", models.IntegerField(default=0)),
        sql("INSERT INTO shop_counter (id, value) VALUES (2, 5)"),
    )
    assert [(change.pk, change.fields) for change in source.news()] == [(1, {}), (2, {"value": 5})]


def test_a_column_that_is_renamed_is_captured_under_its_name(migrating, source):
    migrating.run(
        migrations.RenameField("counter", "value", "amount"),
        sql("INSERT INTO shop_counter (id, amount) VALUES (1, 5)"),
        migrations.RenameField("counter", "amount", "value"),
        sql("INSERT INTO shop_counter (id, value) VALUES (2, 6)"),
    )
    assert [(change.pk, change.fields) for change in source.news()] == [(1, {}), (2, {"value": 6})]
    assert capture.sync(connection) == []


def test_a_table_that_is_renamed_there_and_back_is_captured(migrating, source):
    migrating.run(
        migrations.AlterModelTable("brand", "shop_label"),
        migrations.AlterModelTable("brand", "shop_brand"),
        insert_brand(1, "name"),
    )
    assert names(source.news()) == [(SAVE, "1")]
    assert capture.sync(connection) == []


def test_a_table_that_is_dropped_and_made_again_is_captured(migrating, source):
    made = migrations.CreateModel(
        "Reading",
        [
            ("id", models.BigAutoField(primary_key=True)),
            ("counter", models.ForeignKey("shop.Counter", models.CASCADE)),
            ("taken_at", models.DateTimeField(auto_now=True)),
        ],
    )
    migrating.run(migrations.DeleteModel("Reading"))
    assert "livemirror_shop_reading_insert" not in installed()
    migrating.run(made)
    Reading.objects.create(counter=Counter.objects.create())
    assert seen(source.news()) == [(SAVE, "counter"), (SAVE, "reading")]


def test_every_kind_of_operation_leaves_the_right_triggers(migrating, source):
    before = installed()
    migrating.run(
        migrations.AddField("brand", "note", models.TextField(default="")),
        migrations.AlterField("brand", "note", models.TextField(null=True)),
        migrations.AddIndex("brand", models.Index(fields=["note"], name="brand_note")),
        migrations.AddConstraint(
            "brand", models.CheckConstraint(condition=~models.Q(name=""), name="brand_named")
        ),
        migrations.RemoveConstraint("brand", "brand_named"),
        migrations.RemoveIndex("brand", "brand_note"),
        migrations.RenameField("brand", "note", "remark"),
        migrations.RemoveField("brand", "remark"),
        migrations.AddField("product", "brands", models.ManyToManyField("shop.Brand", related_name="+")),
        migrations.RemoveField("product", "brands"),
        migrations.AlterField("product", "tags", models.ManyToManyField("shop.Tag", related_name="+")),
        insert_brand(1, "name"),
    )
    assert installed() == before
    assert names(source.news()) == [(SAVE, "1")]


LATE = """
    from django.db import migrations, models

    def write(apps, schema_editor):
        apps.get_model("shop", "Brand").objects.create(name=f"{len(schema_editor.deferred_sql)}")

    class Migration(migrations.Migration):
        dependencies = [("shop", "0001_initial")]
        operations = [
            migrations.RunPython(write),
            migrations.AlterField("brand", "name", models.CharField(max_length=150, unique=True)),
            migrations.AddField("brand", "note", models.TextField(default="n")),
            migrations.RunPython(lambda apps, _: apps.get_model("shop", "Brand").objects.update(name="x")),
            migrations.RemoveField("brand", "note"),
            migrations.AlterField("brand", "name", models.CharField(max_length=100, unique=True)),
            migrations.RunPython(lambda apps, _: apps.get_model("shop", "Brand").objects.all().delete()),
        ]
"""


def test_a_migration_with_data_is_captured_as_migrate_runs_it(source, settings, tmp_path, monkeypatch):
    package = tmp_path / "late_migrations"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "0001_initial.py").write_text("from tests.project.shop.migrations import *\n")
    first = (settings.BASE_DIR / "shop" / "migrations" / "0001_initial.py").read_text()
    (package / "0001_initial.py").write_text(first)
    (package / "0002_late.py").write_text(textwrap.dedent(LATE))
    monkeypatch.syspath_prepend(tmp_path)
    settings.MIGRATION_MODULES = {"shop": "late_migrations"}
    call_command("migrate", "shop", verbosity=0)
    assert names(source.news()) == [(SAVE, "0"), (SAVE, "x"), (DELETE, "x")]
    assert capture.sync(connection) == []


# Tables of unusual shape


@pytest.fixture
def model(source):
    """Models that exist for one test; their tables are made as a migration would."""
    made = []

    def make(name: str, base: type[models.Model] = UUIDModel, meta: dict | None = None, **fields):
        options = type("Meta", (), {"app_label": "shop", **(meta or {})})
        model: Any = type(name, (base,), {"__module__": Brand.__module__, "Meta": options, **fields})
        made.append(model)
        mirrored_models.cache_clear()
        with connection.schema_editor() as editor:
            editor.create_model(model)
        capture.sync(connection)
        return model

    yield make
    for model in made:
        del apps.all_models["shop"][model._meta.model_name]
    apps.clear_cache()
    mirrored_models.cache_clear()


def test_a_table_of_many_columns_is_captured_whole(model, source):
    fields = {f"column_{number}": models.IntegerField() for number in range(130)}
    wide = model("Wide", **fields)
    row = wide.objects.create(**{name: place for place, name in enumerate(fields)})
    (change,) = source.news()
    assert change.fields == {"id": str(row.id), **{name: place for place, name in enumerate(fields)}}


def test_names_may_hold_quotes_spaces_and_signs(model, source):
    # A double quote is what Django itself cannot create on SQLite.
    odd = model(
        "Odd",
        meta={"db_table": "we'ird ta.ble; --"},
        said=models.TextField(db_column='what\'s "said" > é'.replace('"', "`")),
        owner=models.ForeignKey("shop.Brand", models.CASCADE, db_column="ow'ner >"),
    )
    brand = Brand.objects.create(name="a")
    row = odd.objects.create(said="x", owner=brand)
    odd.objects.update(said="y")
    odd.objects.all().delete()
    assert [(change.op, change.fields) for change in source.news()[1:]] == [
        (op, {"id": str(row.id), "said": said, "owner": str(brand.id)})
        for op, said in [(SAVE, "x"), (SAVE, "y"), (DELETE, "y")]
    ]


@pytest.mark.skipif(not hasattr(models, "DB_CASCADE"), reason="before Django 6.1 Django cascades itself")
def test_a_cascade_of_the_database_tells_every_row(model, source):
    counted = model("Counted", owner=models.ForeignKey("shop.Brand", models.DB_CASCADE))
    noted = model("Noted", owner=models.ForeignKey("shop.Brand", models.DB_SET_NULL, null=True))
    brand = Brand.objects.create(name="a")
    counted.objects.create(owner=brand)
    noted.objects.create(owner=brand)
    source.news()
    brand.delete()
    told = {change.model: (change.op, change.fields.get("owner")) for change in source.news()}
    assert told == {
        "shop.brand": (DELETE, None),
        "shop.counted": (DELETE, str(brand.id)),
        "shop.noted": (SAVE, None),
    }


def test_a_generated_column_is_left_to_each_database(model, source):
    squared = model(
        "Squared",
        base=models.Model,
        side=models.IntegerField(),
        area=models.GeneratedField(
            expression=F("side") * F("side"), output_field=models.IntegerField(), db_persist=True
        ),
    )
    squared.objects.create(side=3)
    assert source.news()[0].fields == {"side": 3}


def test_a_flush_leaves_a_stream_to_go_on_in(source):
    Brand.objects.create(name="a")
    call_command("flush", interactive=False, verbosity=0)
    assert Stream.objects.filter(local=True).count() == 1


def test_a_sink_of_every_kind_is_captured(source):
    Sink.objects.create(text="x")
    assert seen(source.news()) == [(SAVE, "sink")]

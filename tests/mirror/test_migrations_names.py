"""What is renamed, moved, added and dropped while rows are written before, within and after the migration."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.db import DatabaseError, connection
from django.db.models.signals import pre_migrate

from mirror import capture
from tests.mirror.conftest import attached
from tests.mirror.depot import ENGINES, databases, depot, execute, fetch

ITEM = """
migrations.CreateModel("Item", [
    ("id", models.BigIntegerField(primary_key=True)),
    ("value", models.IntegerField(null=True)),
]),
"""


@pytest.fixture(
    params=[
        pytest.param(engine, marks=[] if engine == "sqlite" else getattr(pytest.mark, engine))
        for engine in ENGINES
    ],
    scope="module",
)
def database(request, tmp_path_factory, django_db_blocker):
    name = f"livemirror_names_{tmp_path_factory.getbasetemp().parent.name.replace('-', '_')}_{id(request)}"
    with django_db_blocker.unblock(), databases(request.param, tmp_path_factory.mktemp("names"), name) as one:
        yield one


@pytest.fixture
def app(database, tmp_path, django_db_blocker):
    """Return a function that installs an application for the test: its models, and its migrations."""
    with django_db_blocker.unblock():
        entered = []

        def install(models: str, *migrations: str):
            entered.append(depot(database, tmp_path, models, *migrations))
            return entered[-1].__enter__()

        yield install
        for one in entered:
            one.__exit__(None, None, None)


def entries() -> list[str]:
    return [model for (model,) in fetch("SELECT model FROM mirror_outbox ORDER BY id")]


def sql(statement: str) -> str:
    return f"migrations.RunSQL({statement!r}, migrations.RunSQL.noop),"


def test_what_waits_is_told_under_the_new_name_of_its_column(app):
    source = app(
        """
        class Item(models.Model):
            id = models.BigIntegerField(primary_key=True)
            amount = models.IntegerField(null=True)
        """,
        ITEM,
        'migrations.RenameField("item", "value", "amount"),',
    )
    source.migrate("0001")
    source.old_code("0001_step")
    execute("INSERT INTO depot_item (id, value) VALUES (1, 5)")
    source.migrate()
    execute("INSERT INTO depot_item (id, amount) VALUES (2, 6)")
    assert source.told() == [("SAVE", "item", 1, {"amount": 5}), ("SAVE", "item", 2, {"amount": 6})]


def test_rows_of_a_migration_are_told_whole_whatever_their_columns_are_called_then(app):
    source = app(
        """
        class Item(models.Model):
            id = models.BigIntegerField(primary_key=True)
            amount = models.IntegerField(null=True)
            note = models.CharField(max_length=9, null=True)
        """,
        ITEM,
        'migrations.AddField("item", "note", models.CharField(max_length=9, null=True)),'
        + sql("INSERT INTO depot_item (id, value) VALUES (1, 5)")
        + 'migrations.RenameField("item", "value", "betwixt"),'
        + sql("INSERT INTO depot_item (id, betwixt) VALUES (2, 6)")
        + 'migrations.RenameField("item", "betwixt", "amount"),'
        + sql("INSERT INTO depot_item (id, amount, note) VALUES (3, 7, 'n')"),
    )
    source.migrate("0001")
    source.old_code("0001_step")
    source.migrate()
    assert source.told() == [
        ("SAVE", "item", 1, {"amount": 5, "note": None}),
        ("SAVE", "item", 2, {"amount": 6, "note": None}),
        ("SAVE", "item", 3, {"amount": 7, "note": "n"}),
    ]
    assert capture.sync(connection) == []


def test_rows_of_a_model_that_is_renamed_are_told_under_its_new_name(app):
    source = app(
        """
        class Thing(models.Model):
            id = models.BigIntegerField(primary_key=True)
            value = models.IntegerField(null=True)
            note = models.IntegerField(null=True)
        """,
        ITEM,
        'migrations.AddField("item", "note", models.IntegerField(null=True)),'
        + sql("UPDATE depot_item SET value = 6")
        + 'migrations.RenameModel("Item", "Thing"),'
        + sql("UPDATE depot_thing SET note = 7"),
    )
    source.migrate("0001")
    source.old_code("0001_step")
    execute("INSERT INTO depot_item (id, value) VALUES (1, 5)")
    source.migrate()
    execute("DELETE FROM depot_thing")
    assert [(op, model, fields["value"], fields.get("note")) for op, model, _, fields in source.told()] == [
        ("SAVE", "thing", 5, None),
        ("SAVE", "thing", 6, None),
        ("SAVE", "thing", 6, 7),
        ("DELETE", "thing", 6, 7),
    ]


def test_a_model_that_is_renamed_without_its_table_is_told_under_its_new_name(app):
    source = app(
        """
        class Thing(models.Model):
            id = models.BigIntegerField(primary_key=True)
            value = models.IntegerField(null=True)
            class Meta:
                db_table = "depot_kept"
        """,
        ITEM.replace("]),", '], {"db_table": "depot_kept"}),'),
        'migrations.RenameModel("Item", "Thing"),',
    )
    source.migrate("0001")
    source.old_code("0001_step")
    execute("INSERT INTO depot_kept (id, value) VALUES (1, 5)")
    source.migrate()
    execute("UPDATE depot_kept SET value = 6")
    assert source.told() == [("SAVE", "thing", 1, {"value": 5}), ("SAVE", "thing", 1, {"value": 6})]


def test_a_model_that_moves_to_another_table_is_captured_all_the_way(app):
    source = app(
        """
        class Item(models.Model):
            id = models.BigIntegerField(primary_key=True)
            value = models.IntegerField(null=True)
            class Meta:
                db_table = "Depot of things"
        """,
        ITEM,
        'migrations.CreateModel("Other", [("id", models.BigIntegerField(primary_key=True))]),'
        + sql("INSERT INTO depot_item (id, value) VALUES (1, 5)")
        + 'migrations.AlterModelTable("item", "depot_betwixt"),'
        + sql("UPDATE depot_betwixt SET value = 6")
        + 'migrations.AlterModelTable("item", "Depot of things"),'
        + 'migrations.DeleteModel("Other"),',
    )
    source.migrate("0001")
    source.old_code("0001_step")
    source.migrate()
    execute('UPDATE "Depot of things" SET value = 7')
    assert source.told() == [("SAVE", "item", 1, {"value": value}) for value in (5, 6, 7)]
    assert capture.sync(connection) == []


def test_a_reference_that_is_renamed_is_told_under_its_new_name(app):
    # SQLite makes such a table anew: no statement says that a column is renamed.
    source = app(
        """
        class Owner(models.Model):
            pkid = models.BigAutoField(primary_key=True)
            id = models.UUIDField(unique=True)
        class Item(models.Model):
            id = models.BigIntegerField(primary_key=True)
            keeper = models.ForeignKey(Owner, models.CASCADE, null=True)
        """,
        """
        migrations.CreateModel("Owner", [
            ("pkid", models.BigAutoField(primary_key=True)),
            ("id", models.UUIDField(unique=True)),
        ]),
        migrations.CreateModel("Item", [
            ("id", models.BigIntegerField(primary_key=True)),
            ("owner", models.ForeignKey("depot.Owner", models.CASCADE, null=True)),
        ]),
        """,
        'migrations.RenameField("item", "owner", "keeper"),',
    )
    source.migrate("0001")
    source.old_code("0001_step")
    identity = "00000000-0000-0000-0000-000000000001"
    stored = identity if connection.features.has_native_uuid_field else identity.replace("-", "")
    execute(f"INSERT INTO depot_owner (pkid, id) VALUES (1, '{stored}')")
    execute("INSERT INTO depot_item (id, owner_id) VALUES (1, 1)")
    source.migrate()
    execute("INSERT INTO depot_item (id, keeper_id) VALUES (2, 1)")
    assert [(pk, fields) for _, model, pk, fields in source.told() if model == "item"] == [
        (1, {"keeper": identity}),
        (2, {"keeper": identity}),
    ]


def test_columns_and_tables_that_come_and_go_leave_the_right_triggers(app):
    source = app(
        """
        class Item(models.Model):
            id = models.BigIntegerField(primary_key=True)
            value = models.CharField(max_length=20)
        """,
        ITEM,
        """
        migrations.CreateModel("Label", [("id", models.BigIntegerField(primary_key=True))]),
        migrations.AddField("item", "labels", models.ManyToManyField("depot.Label")),
        migrations.AddField("item", "extra", models.IntegerField(default=3)),
        """,
        """
        migrations.AlterField("item", "value", models.CharField(max_length=20, default="")),
        migrations.RemoveField("item", "labels"),
        migrations.RemoveField("item", "extra"),
        migrations.DeleteModel("Label"),
        """,
    )
    source.migrate("0001")
    source.migrate("0002")
    source.old_code("0002_step")
    execute("INSERT INTO depot_item (id, value, extra) VALUES (1, 5, 4)")
    execute("INSERT INTO depot_label (id) VALUES (1)")
    execute("INSERT INTO depot_item_labels (item_id, label_id) VALUES (1, 1)")
    assert entries() == ["depot.item", "depot.label", "depot.item_labels"]
    source.migrate()
    execute("UPDATE depot_item SET value = 'x'")
    assert [(model, pk) for _, model, pk, _ in source.told()] == [("item", 1), ("item", 1)]
    writer = capture.WRITERS[connection.vendor]
    assert {table for table, _ in writer.installed(connection).values()} == {"depot_item"}


def test_an_application_that_is_taken_back_leaves_nothing(app):
    source = app(
        """
        class Item(models.Model):
            id = models.BigIntegerField(primary_key=True)
            value = models.IntegerField(null=True)
        """,
        ITEM,
    )
    source.migrate()
    execute("INSERT INTO depot_item (id, value) VALUES (1, 5)")
    assert source.triggers()
    source.migrate("zero")
    assert source.triggers() == set()
    source.migrate()
    execute("INSERT INTO depot_item (id, value) VALUES (2, 6)")
    assert [pk for _, _, pk, _ in source.told()] == [1, 2]


def test_a_field_that_is_excluded_under_its_new_name_is_not_told_under_the_old_one(app, settings):
    source = app(
        """
        class Item(models.Model):
            id = models.BigIntegerField(primary_key=True)
            hidden = models.IntegerField(null=True)
        """,
        ITEM,
        'migrations.CreateModel("Other", [("id", models.BigIntegerField(primary_key=True))]),'
        + sql("INSERT INTO depot_item (id, value) VALUES (1, 5)")
        + 'migrations.RenameField("item", "value", "hidden"),'
        + sql("INSERT INTO depot_item (id, hidden) VALUES (2, 5)")
        + 'migrations.DeleteModel("Other"),',
    )
    settings.MIRROR = {"MODELS": ["depot.*"], "EXCLUDE_FIELDS": ["depot.Item.hidden"]}
    source.migrate("0001")
    source.migrate()
    assert "5" not in "".join(payload for (payload,) in fetch("SELECT payload FROM mirror_outbox"))
    assert source.told() == [("SAVE", "item", 1, {}), ("SAVE", "item", 2, {})]


def test_a_statement_that_fails_leaves_its_table_captured(app):
    source = app(
        """
        class Item(models.Model):
            id = models.BigIntegerField(primary_key=True)
            value = models.IntegerField(null=True)
        """,
        ITEM,
        sql("ALTER TABLE depot_item RENAME COLUMN value TO id"),
    )
    source.migrate("0001")
    with pytest.raises(DatabaseError):
        source.migrate()
    execute("INSERT INTO depot_item (id, value) VALUES (1, 5)")
    assert source.told() == [("SAVE", "item", 1, {"value": 5})]


@pytest.mark.parametrize("database", [pytest.param("mariadb", marks=pytest.mark.mariadb)], indirect=True)
@pytest.mark.parametrize(
    "operation",
    ['migrations.RenameField("item", "value", "amount"),', 'migrations.RemoveField("item", "value"),'],
)
def test_no_write_of_others_fails_or_is_lost_between_a_statement_and_its_triggers(app, database, operation):
    """MySQL has no transaction around the two, and would look for the column that the trigger names."""
    amount = "    amount = models.IntegerField(null=True)\n" if "amount" in operation else ""
    source = app(
        f"class Item(models.Model):\n    id = models.BigIntegerField(primary_key=True)\n{amount}",
        ITEM,
        operation,
    )
    source.migrate("0001")
    execute("INSERT INTO depot_item (id, value) VALUES (1, 5)")
    source.told()
    source.old_code("0001_step")

    def write(execute, sql, params, many, context):
        if "ALTER TABLE `depot_item`" not in sql:
            return execute(sql, params, many, context)
        with attached("other", database) as other, other.cursor() as cursor:
            cursor.execute("UPDATE depot_item SET value = 6 WHERE id = 1")
            result = execute(sql, params, many, context)
            cursor.execute("INSERT INTO depot_item (id) VALUES (2)")
        return result

    def begin(**kwargs):
        connection.execute_wrappers.append(write)

    # Within the guard, which begins when the application before this one is told.
    pre_migrate.connect(begin, sender=apps.get_app_config("depot"))
    try:
        source.migrate()
    finally:
        pre_migrate.disconnect(begin, sender=apps.get_app_config("depot"))
        connection.execute_wrappers.remove(write)
    last = {pk: fields for _op, _model, pk, fields in source.told()}
    assert last == ({1: {"amount": 6}, 2: {"amount": None}} if amount else {1: {}, 2: {}})


@pytest.mark.parametrize("name", ["DEPOT_ITEM", '"depot_item"', "{schema}.depot_item"])
def test_a_table_is_known_by_whatever_name_a_statement_calls_it(app, database, name):
    engine = database["ENGINE"].rpartition(".")[2]
    if engine == "mysql" and name.isupper():
        pytest.skip("MariaDB on Linux has another table of that name")
    schema = {"sqlite3": "main", "postgresql": "public"}.get(engine, database["NAME"])
    quoted = name.format(schema=schema).replace('"', "`" if engine == "mysql" else '"')
    source = app(
        """
        class Item(models.Model):
            id = models.BigIntegerField(primary_key=True)
            value = models.IntegerField(null=True)
            note = models.IntegerField(null=True)
        """,
        ITEM,
        f"migrations.RunSQL({f'ALTER TABLE {quoted} ADD COLUMN note int'!r}, state_operations=["
        'migrations.AddField("item", "note", models.IntegerField(null=True))]),'
        + sql("INSERT INTO depot_item (id, note) VALUES (1, 5)"),
    )
    source.migrate()
    assert source.told() == [("SAVE", "item", 1, {"value": None, "note": 5})]

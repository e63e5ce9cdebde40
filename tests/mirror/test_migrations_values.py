"""Values that a migration makes up for rows that are there: told, where a centre would make up others."""

from __future__ import annotations

import pytest

from tests.mirror.depot import execute, fetch
from tests.mirror.test_migrations_names import ITEM, app, database

__all__ = ["app", "database"]

MODEL = """
class Item(models.Model):
    id = models.BigIntegerField(primary_key=True)
    value = models.IntegerField(null=True)
    code = {field}
"""


def migrated(app, field: str, operation: str):
    """An application with two rows that were told, migrated since."""
    source = app(MODEL.format(field=field), ITEM, operation)
    source.migrate("0001")
    execute("INSERT INTO depot_item (id, value) VALUES (1, 5), (2, 6)")
    assert len(source.told()) == 2
    source.migrate()
    return source


@pytest.mark.parametrize(
    ("field", "operation"),
    [
        (
            "models.UUIDField(default=uuid.uuid4)",
            'migrations.AddField("item", "code", models.UUIDField(default=uuid.uuid4)),',
        ),
        (
            "models.FloatField()",
            "migrations.AddField('item', 'code', models.FloatField(default=__import__('time').time), preserve_default=False),",  # noqa: E501
        ),
        (
            "models.DateTimeField(auto_now_add=True)",
            'migrations.AddField("item", "code", models.DateTimeField(auto_now_add=True)),',
        ),
        (
            "models.DateTimeField(db_default=functions.Now())",
            'migrations.AddField("item", "code", models.DateTimeField(db_default=functions.Now())),',
        ),
        (
            "models.FloatField(default=1)",
            (
                "migrations.AddField('item', 'code', models.FloatField(null=True)),"
                "migrations.AlterField('item', 'code', models.FloatField(default=__import__('time').time)),"
                "migrations.AlterField('item', 'code', models.FloatField(default=1)),"
            ),
        ),
        (
            "models.IntegerField()",
            (
                "migrations.SeparateDatabaseAndState([migrations.AddField('item', 'code', "
                "models.IntegerField(default=__import__('os').getpid))], "
                "[migrations.AddField('item', 'code', models.IntegerField())]),"
            ),
        ),
    ],
)
def test_what_is_called_for_a_value_is_told_row_by_row(app, field, operation):
    source = migrated(app, field, operation)
    told = source.told()
    assert [(op, pk, fields["value"]) for op, _, pk, fields in told] == [("SAVE", 1, 5), ("SAVE", 2, 6)]
    execute("UPDATE depot_item SET value = value")
    assert [fields["code"] for *_, fields in told] == [fields["code"] for *_, fields in source.told()]


@pytest.mark.parametrize(
    ("field", "operation"),
    [
        (
            "models.IntegerField(default=7)",
            'migrations.AddField("item", "code", models.IntegerField(default=7)),',
        ),
        (
            "models.JSONField(default=dict)",
            'migrations.AddField("item", "code", models.JSONField(default=dict)),',
        ),
        (
            "models.IntegerField(null=True)",
            'migrations.AddField("item", "code", models.IntegerField(null=True)),',
        ),
        (
            "models.IntegerField(db_default=7)",
            'migrations.AddField("item", "code", models.IntegerField(db_default=7)),',
        ),
    ],
)
def test_what_is_the_same_everywhere_is_not_told(app, field, operation):
    source = migrated(app, field, operation)
    assert source.told() == []
    execute("UPDATE depot_item SET value = 1 WHERE id = 1")
    assert len(source.told()) == 1


def test_a_field_that_comes_back_is_told(app):
    source = app(
        "class Item(models.Model):\n    id = models.BigIntegerField(primary_key=True)\n"
        "    value = models.IntegerField(default=__import__('os').getpid)\n",
        ITEM.replace("null=True", "default=__import__('os').getpid"),
        'migrations.RemoveField("item", "value"),',
    )
    source.migrate()
    execute("INSERT INTO depot_item (id) VALUES (1)")
    source.told()
    source.migrate("0001")
    ((value,),) = fetch("SELECT value FROM depot_item")
    assert source.told() == [("SAVE", "item", 1, {"value": value})]

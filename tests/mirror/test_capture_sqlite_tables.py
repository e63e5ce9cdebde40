"""What the writer for SQLite sees of a database."""

from __future__ import annotations

from django.db import connection

from mirror.capture.sqlite import Sqlite


def test_it_sees_the_tables_and_columns_that_django_sees(source):
    with connection.cursor() as cursor:
        names = connection.introspection.table_names(cursor)
        expected = {
            name: [column.name for column in connection.introspection.get_table_description(cursor, name)]
            for name in names
        }
    found = Sqlite().tables(connection, [*names, "no_such_table"])
    assert {name: list(table.columns) for name, table in found.items()} == expected


def test_views_and_virtual_tables_are_left_out_for_they_can_have_no_triggers(source):
    with connection.cursor() as cursor:
        cursor.execute("CREATE VIEW shop_seen AS SELECT * FROM shop_brand")
        cursor.execute("CREATE VIRTUAL TABLE shop_search USING fts5(words)")
        names = ["shop_brand", "shop_seen", "shop_search"]
    assert Sqlite().tables(connection, names).keys() == {"shop_brand"}


def test_only_another_name_of_the_rowid_is_trusted_to_hold_integers(source):
    tables = {
        "plain": "(id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "lower": "(id integer, PRIMARY KEY (id))",
        "descending": "(id INTEGER PRIMARY KEY DESC)",
        "int": "(id INT PRIMARY KEY)",
        "two": "(id INTEGER, more, PRIMARY KEY (id, more))",
        "without": "(id INTEGER PRIMARY KEY) WITHOUT ROWID",
    }
    with connection.cursor() as cursor:
        for name, columns in tables.items():
            cursor.execute(f"CREATE TABLE of_{name} {columns}")
    found = Sqlite().tables(connection, [f"of_{name}" for name in tables])
    told = {name: found[f"of_{name}"].columns["id"] for name in tables}
    assert told == {"plain": "rowid", "lower": "rowid", "descending": "", "int": "", "two": "", "without": ""}

"""What is read from the text of a statement, without a database."""

from __future__ import annotations

import pytest

from mirror.capture.ddl import Ddl, read
from mirror.capture.migrating import rename_column


@pytest.mark.parametrize(
    ("sql", "renamed"),
    [
        ('ALTER TABLE "a b" RENAME TO "c"', ("a b", "c")),
        ("RENAME TABLE `a` TO `b`", ("a", "b")),
        ('ALTER TABLE "Annex"."a" RENAME TO "b"', ('Annex"."a', "b")),
        ("alter table if exists only a rename to b", ("a", "b")),
    ],
)
def test_a_table_that_is_renamed_is_read(sql, renamed):
    assert read(sql).renamed_tables == (renamed,)


@pytest.mark.parametrize(
    ("sql", "renamed"),
    [
        ('ALTER TABLE "t" RENAME COLUMN "a" TO "b c"', ("t", "a", "b c")),
        ("ALTER TABLE `t` CHANGE `a` `b` integer NOT NULL", ("t", "a", "b")),
        ("-- by hand\nALTER TABLE t ADD COLUMN x int; ALTER TABLE t RENAME COLUMN a TO b;", ("t", "a", "b")),
    ],
)
def test_a_column_that_is_renamed_is_read_and_gone(sql, renamed):
    ddl = read(sql)
    assert ddl.renamed_columns == (renamed,)
    assert ddl.gone_columns == {renamed[:2]}


def test_a_column_that_is_changed_in_place_stays():
    ddl = read("ALTER TABLE `t` CHANGE `a` `a` bigint")
    assert (ddl.renamed_columns, ddl.gone_columns) == ((), frozenset())


@pytest.mark.parametrize(
    "sql", ['ALTER TABLE "t" DROP COLUMN "a" CASCADE', "ALTER TABLE t DROP COLUMN IF EXISTS a"]
)
def test_a_column_that_is_dropped_is_gone(sql):
    assert read(sql).gone_columns == {("t", "a")}


def test_tables_that_are_dropped_are_read():
    assert read('DROP TABLE IF EXISTS a, "b c" CASCADE').dropped_tables == {"a", "b c"}


@pytest.mark.parametrize(
    ("values", "renamed"),
    [
        ('"id", "b"', ()),
        ('"id", "a"', (("t", "a", "b"),)),
        ('"id", coalesce("a", \'x,(y\')', (("t", "a", "b"),)),
        ("\"id\", 'a'", ()),
        ("\"id\", 'it''s \"a\"'", ()),
    ],
)
def test_where_a_table_is_made_anew_the_copy_says_what_is_renamed(values, renamed):
    copy = f'INSERT INTO "new__t" ("id", "b") SELECT {values} FROM "t"'
    assert read(copy) == Ddl(renamed_columns=renamed, copies=True)


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ('CREATE TABLE IF NOT EXISTS "a" (id int)', {"a"}),
        ("CREATE UNLOGGED TABLE a (id int); DROP TABLE b, c", {"a", "b", "c"}),
        ('ALTER TABLE "a" RENAME TO "b"', {"a", "b"}),
        ("RENAME TABLE `a` TO `b`", {"a", "b"}),
        # In the search path, or in Django's way with a schema: who could tell.
        ('ALTER TABLE "public"."a" ADD COLUMN x int', None),
        ("ALTER TABLE public.a ADD COLUMN x int", None),
        ("DO $$ BEGIN EXECUTE format('ALTER TABLE %I ADD COLUMN x int', 'a'); END $$", None),
    ],
)
def test_the_tables_that_a_statement_names_are_read_or_not_known(sql, tables):
    assert read(sql).tables == tables


@pytest.mark.parametrize(
    "sql",
    ["SELECT 1", "UPDATE tables SET a = 1", 'CREATE INDEX i ON "t" ("a")', "SET CONSTRAINTS ALL IMMEDIATE"],
)
def test_other_statements_are_left_alone(sql):
    assert read(sql) is None


@pytest.mark.parametrize(
    ("payload", "renamed"),
    [
        ('{"a":1,"b":{"r":"0.10000000000000000555"}}', '{"c":1,"b":{"r":"0.10000000000000000555"}}'),
        ('[{"a":18446744073709551616},{"b":1.0}]', '[{"c":18446744073709551616},{"b":1.0}]'),
        ('{"b":"a","a>":"x"}', '{"b":"a","c>":"x"}'),
        ('{ "b" : 1.50 }', '{ "b" : 1.50 }'),
    ],
)
def test_a_renamed_column_of_a_payload_keeps_every_value_as_it_is_written(payload, renamed):
    assert rename_column(payload, "a", "c") == renamed

"""What a statement writes to, told from its text, in every form that the engines know."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirror.statements import Write, bare_name, writes

VENDORS = ("sqlite", "postgresql", "mysql")


def written(sql: str, vendor: str = "sqlite") -> list[tuple[str, str]]:
    return [(write.operation, write.table) for write in writes(sql, vendor)]


EVERYWHERE = [
    ("INSERT INTO t (a) VALUES (1)", "INSERT"),
    ("insert into t select * from other", "INSERT"),
    ("UPDATE t SET a = 1", "UPDATE"),
    ("DELETE FROM t", "DELETE"),
    ("DELETE FROM t WHERE a = %s", "DELETE"),
    ("\n  -- why\n /* so */ DELETE FROM t", "DELETE"),
    ("WITH d AS (SELECT 1) DELETE FROM t", "DELETE"),
    ("WITH d AS (SELECT 1) UPDATE t SET a = 1", "UPDATE"),
    ("WITH d AS (SELECT 1) INSERT INTO t SELECT * FROM d", "INSERT"),
    ("SELECT 1; DELETE FROM t", "DELETE"),
    ("SELECT ';' ; DELETE FROM t;", "DELETE"),
    ("DELETE FROM main.t", "DELETE"),
    ("DELETE FROM T", "DELETE"),
    ("DROP TABLE t", "DROP TABLE"),
    ("DROP TABLE IF EXISTS t", "DROP TABLE"),
    ("ALTER TABLE t ADD COLUMN b integer", "ALTER TABLE"),
]

OWN = [
    ("sqlite", 'INSERT OR REPLACE INTO "t" (a) VALUES (1)', ["INSERT"]),
    ("sqlite", "REPLACE INTO [t] (a) VALUES (1)", ["REPLACE"]),
    ("sqlite", "DELETE FROM 't'", ["DELETE"]),
    ("sqlite", "DELETE FROM `t`", ["DELETE"]),
    ("sqlite", 'UPDATE OR IGNORE "main"."t" SET a = 1', ["UPDATE"]),
    ("sqlite", "UPDATE t INDEXED BY i SET a = 1", ["UPDATE"]),
    ("sqlite", "UPDATE t SET a = o.a FROM other o WHERE o.id = t.id", ["UPDATE"]),
    ("postgresql", 'UPDATE ONLY "public"."t" AS x SET a = 1 FROM other', ["UPDATE"]),
    ("postgresql", "DELETE FROM ONLY t USING other WHERE true", ["DELETE"]),
    ("postgresql", "WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d", ["DELETE"]),
    (
        "postgresql",
        "WITH d AS (UPDATE t SET a = 1 RETURNING *) INSERT INTO other SELECT * FROM d",
        ["UPDATE"],
    ),
    ("postgresql", "(WITH d AS (DELETE FROM t RETURNING *) SELECT * FROM d)", ["DELETE"]),
    ("postgresql", "INSERT INTO other WITH d AS (DELETE FROM t RETURNING a) SELECT a FROM d", ["DELETE"]),
    ("postgresql", "/* a /* nested */ comment */ DELETE FROM t", ["DELETE"]),
    ("postgresql", r"SELECT '\'; DELETE FROM t WHERE a = 'x'", ["DELETE"]),
    ("postgresql", "SELECT $x$ ; $x$; TRUNCATE t", ["TRUNCATE"]),
    ("postgresql", "TRUNCATE other, ONLY t RESTART IDENTITY CASCADE", ["TRUNCATE"]),
    ("postgresql", "MERGE INTO t USING other o ON true WHEN MATCHED THEN UPDATE SET a = 1", ["MERGE"]),
    ("postgresql", "COPY t (a, b) FROM '/tmp/t.csv'", ["COPY"]),
    ("postgresql", "COPY (DELETE FROM t RETURNING *) TO '/tmp/t.csv'", ["DELETE"]),
    ("postgresql", "EXPLAIN (ANALYZE, COSTS OFF) DELETE FROM t", ["DELETE"]),
    ("postgresql", "PREPARE p (int) AS DELETE FROM t WHERE a = $1", ["DELETE"]),
    ("postgresql", "ALTER TABLE ONLY public.t DISABLE TRIGGER ALL", ["ALTER TABLE"]),
    ("mysql", "INSERT IGNORE INTO `t` (a) VALUES (1)", ["INSERT"]),
    ("mysql", "INSERT t VALUES (1) ON DUPLICATE KEY UPDATE a = 1", ["INSERT"]),
    ("mysql", "REPLACE LOW_PRIORITY t VALUES (1)", ["REPLACE"]),
    ("mysql", "UPDATE `app`.`t`, other SET t.a = other.a", ["UPDATE"]),
    ("mysql", "UPDATE other o JOIN t x ON x.a = o.a SET x.a = 1", ["UPDATE"]),
    ("mysql", "DELETE t FROM t JOIN other o ON o.a = t.a", ["DELETE"]),
    ("mysql", "DELETE o, x.* FROM other o JOIN t AS x ON o.a = x.a", ["DELETE"]),
    ("mysql", "DELETE FROM x USING other o JOIN t AS x ON o.a = x.a WHERE o.a = 1", ["DELETE"]),
    ("mysql", "# why\nDELETE FROM t", ["DELETE"]),
    ("mysql", "/*!50000 DELETE FROM t */", ["DELETE"]),
    ("mysql", r"SELECT 'it\'s'; TRUNCATE TABLE t", ["TRUNCATE"]),
    ("mysql", "LOAD DATA LOCAL INFILE 'x' REPLACE INTO TABLE t", ["LOAD DATA"]),
    ("mysql", "RENAME TABLE other TO third, t TO fourth", ["RENAME TABLE"]),
    ("mysql", "ANALYZE UPDATE t SET a = 1", ["UPDATE"]),
]


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize(("sql", "operation"), EVERYWHERE)
def test_a_write_is_known_on_every_engine(vendor, sql, operation):
    assert written(sql, vendor) == [(operation, "t")]


@pytest.mark.parametrize(("vendor", "sql", "operations"), OWN)
def test_a_write_is_known_in_the_words_of_its_engine(vendor, sql, operations):
    assert [operation for operation, table in written(sql, vendor) if table == "t"] == operations


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize(
    "sql",
    [
        "",
        "SELECT * FROM t",
        "SELECT * FROM t FOR UPDATE OF t",
        "WITH x AS (SELECT * FROM t FOR UPDATE) SELECT replace(a, 'b', 'c') FROM x",
        "SELECT 'DELETE FROM t'; SELECT 'UPDATE t SET a = 1'",
        "-- DELETE FROM t\nSELECT 1;",
        "/* ; DELETE FROM t */ SELECT 1;",
        "INSERT INTO other SELECT * FROM t",
        "INSERT INTO other (t) VALUES (1) ON CONFLICT (t) DO UPDATE SET t = 1",
        "INSERT INTO other (t) VALUES (1) ON DUPLICATE KEY UPDATE t = 1",
        "UPDATE other SET a = (SELECT max(a) FROM t)",
        "UPDATE other o JOIN t x ON x.a = o.a SET o.a = x.a",
        "DELETE FROM other WHERE a IN (SELECT a FROM t)",
        "DELETE FROM other USING t WHERE t.a = other.a",
        "DELETE o FROM other o JOIN t ON t.a = o.a",
        "DELETE FROM t_archive",
        "EXPLAIN DELETE FROM t",
        "COPY t TO STDOUT",
        "CREATE INDEX i ON t (a)",
        "CREATE TRIGGER g AFTER INSERT ON other BEGIN SELECT 1; DELETE FROM t; END",
        "GRANT UPDATE ON t TO somebody",
        "LOCK TABLE t",
        "SAVEPOINT t",
        "BEGIN",
    ],
)
def test_who_only_names_a_table_does_not_write_to_it(vendor, sql):
    assert "t" not in [table for _operation, table in written(sql, vendor)]


@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        ('UPDATE "t" SET "a" = %s WHERE "t"."id" = %s', {"a"}),
        ("UPDATE t SET a = 1, B = f(b, c), c = 'x, d = 1' WHERE d = 1", {"a", "b", "c"}),
        ("UPDATE t SET a = x IS DISTINCT FROM y, b = 1", {"a", "b"}),
        ("WITH d AS (UPDATE t SET a = 1) SELECT b = 1", {"a"}),
        ("UPDATE t x SET x.a = 1, x.b = 2", {"a", "b"}),
        ("UPDATE t SET (a, b) = (1, 2)", None),
        ("UPDATE t, other SET a = 1", None),
    ],
)
def test_the_columns_that_are_set_are_known_or_said_not_to_be(sql, columns):
    found = next(write for write in writes(sql, "postgresql") if write.table == "t")
    assert found == Write("UPDATE", "t", None if columns is None else frozenset(columns))


@pytest.mark.parametrize("table", ["t", "T", 'app"."t', "`app`.`t`", '"app"."t"'])
def test_a_table_of_django_has_the_name_that_statements_have(table):
    assert bare_name(table) == "t"


TEXT = st.text(alphabet=st.sampled_from(list("tT ;'\"`[]()-/*#\\$%s,.=\n")) | st.characters(), max_size=30)
WRITE = "; DELETE FROM t; UPDATE t SET a = 1"


def quoted(text: str, vendor: str) -> str:
    text = text.replace("\\", "\\\\") if vendor == "mysql" else text
    return "'" + text.replace("'", "''") + "'"


@given(text=TEXT, vendor=st.sampled_from(VENDORS))
@example(text="\\", vendor="postgresql")
@example(text="'", vendor="mysql")
def test_no_select_is_taken_for_a_write_whatever_it_looks_for(text, vendor):
    value, name = quoted(text + WRITE, vendor), '"' + (text + WRITE).replace('"', '""') + '"'
    name = name.replace('"', "`").replace("``", "` `") if vendor == "mysql" else name
    comment = (
        f"/* {re.sub(r'[*/!]', '', text)} {WRITE} */ -- {text.splitlines() and text.splitlines()[0]}{WRITE}\n"
    )
    for sql in (
        f"SELECT {value}",
        f"{comment}SELECT {value};",
        f"SELECT 1; SELECT a FROM t WHERE b = {value} FOR UPDATE;",
        f"WITH x AS (SELECT {value}) SELECT * FROM x, t;",
    ):
        assert written(sql, vendor) == []
    if vendor != "mysql":
        assert written(f"SELECT {name} FROM t; SELECT {name}.a", vendor) == []


@given(text=TEXT, other=TEXT, vendor=st.sampled_from(VENDORS))
@example(text="\\", other="'", vendor="postgresql")
def test_no_value_hides_a_write(text, other, vendor):
    sql = f"SELECT {quoted(text, vendor)}; DELETE FROM t WHERE a = {quoted(other, vendor)}"
    assert written(sql, vendor) == [("DELETE", "t")]


@given(
    sql=st.text(alphabet=st.sampled_from(list("tT ;'\"`[]()-/*#\\$,.=\n")) | st.characters()), data=st.data()
)
def test_any_text_at_all_is_read_to_its_end(sql, data):
    words = data.draw(
        st.lists(st.sampled_from(["WITH", "UPDATE", "DELETE", "SET", "FROM", "USING", "RENAME TABLE"]))
    )
    for vendor in VENDORS:
        assert isinstance(writes(" ".join([*words, sql]), vendor), tuple)


@pytest.mark.parametrize("vendor", VENDORS)
def test_ten_thousand_rows_are_read_as_one(vendor):
    rows = ", ".join(["(%s, %s, %s)"] * 10_000)
    assert written(f"INSERT INTO t (a, b, c) VALUES {rows}", vendor) == [("INSERT", "t")]

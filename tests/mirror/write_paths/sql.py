"""Paths past the ORM: raw SQL, other programs, what the servers have of their own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pymysql

from tests.mirror.write_paths.given import all_of, objects
from tests.mirror.writing import World, path

SQL, PROGRAMS, OWN = "SQL", "Other programs", "Statements of one engine"

NO_TRUNCATE = "calls no trigger (`mirrordoctor`: truncate)"
EVICTED = "the row that makes room is not seen to go (`mirrordoctor`: replace)"

# SQL


@path("`INSERT` (also of several rows and `… SELECT`), `UPDATE`, `DELETE`", SQL)
def raw(world: World) -> None:
    world.execute("INSERT INTO library_shelf (id, name) VALUES (10, 'x'), (11, 'y')")
    world.step()
    world.execute("INSERT INTO library_shelf (id, name) SELECT id + 100, CONCAT(name, '!') FROM library_shelf"
                  if world.engine != "sqlite" else
                  "INSERT INTO library_shelf (id, name) SELECT id + 100, name || '!' FROM library_shelf")  # fmt: skip  # noqa: E501
    world.step()
    world.execute("UPDATE library_book SET copies = copies + 1, home_id = %s WHERE copies > %s", [11, 1])
    world.step()
    world.execute("DELETE FROM library_slot WHERE place > 1")
    world.execute("DELETE FROM library_shelf WHERE name LIKE '%!'")


@path("`INSERT … ON CONFLICT DO UPDATE` and `DO NOTHING`", SQL, engines=("sqlite", "postgresql"))
def on_conflict(world: World) -> None:
    upsert = "INSERT INTO library_shelf (id, name) VALUES {} ON CONFLICT (name) DO {}"
    world.execute(upsert.format("(10, 'a'), (11, 'z')", "UPDATE SET name = 'a, again'"))
    world.step()
    world.execute(upsert.format("(12, 'b'), (13, 'y')", "NOTHING"))
    world.step()
    # The row that is found moves to the key that was offered.
    world.execute(
        "INSERT INTO library_slot (corridor, place, note) VALUES ('A', 1, 'new'), ('D', 1, 'new') "
        "ON CONFLICT (corridor, place) DO UPDATE SET place = 10, note = excluded.note"
    )
    world.step()
    world.execute(upsert.format("(14, 'c'), (15, 'x')", "UPDATE SET name = 'c' WHERE library_shelf.id > 100"))


@path("`INSERT … ON DUPLICATE KEY UPDATE`, `INSERT IGNORE`", SQL, engines=("mariadb",))
def on_duplicate_key(world: World) -> None:
    world.execute(
        "INSERT INTO library_shelf (id, name) VALUES (10, 'a'), (11, 'z') "
        "ON DUPLICATE KEY UPDATE name = CONCAT(name, '!')"
    )
    world.step()
    world.execute(
        "INSERT INTO library_slot (corridor, place, note) VALUES ('A', 1, 'new'), ('D', 1, 'new') "
        "ON DUPLICATE KEY UPDATE place = 10, note = VALUES(note)"
    )
    world.step()
    world.execute("INSERT IGNORE INTO library_shelf (id, name) VALUES (10, 'b'), (12, 'y'), (1, 'c')")


@path("`REPLACE INTO` a row of the same primary key", SQL, engines=("sqlite", "mariadb"))
def replaces(world: World) -> None:
    world.execute("REPLACE INTO library_slot (corridor, place, note) VALUES ('A', 1, 'r'), ('E', 1, 'r')")
    world.step()
    world.execute("REPLACE INTO library_rank (id, name, place) VALUES (1, 'r', 1)")


@path(
    "`REPLACE INTO`, `INSERT OR REPLACE` over a row with another primary key but the same unique value",
    SQL,
    {"sqlite": EVICTED},
    engines=("sqlite", "mariadb"),
)
def replaces_another(world: World) -> None:
    world.execute("DELETE FROM library_tagging")
    world.execute("REPLACE INTO library_keyword (word) VALUES ('sea')")
    world.execute("REPLACE INTO library_shelf (id, name) VALUES (40, 'd')")
    world.step()
    world.execute("INSERT INTO library_shelf (id, name) VALUES (41, 'e'), (42, 'f')")
    world.execute("REPLACE INTO library_shelf (id, name) VALUES (41, 'f')")


@path(
    "`REPLACE`, `UPDATE OR REPLACE` over another row, after `PRAGMA recursive_triggers = ON`",
    SQL,
    engines=("sqlite",),
)
def replaces_recursively(world: World) -> None:
    world.execute("PRAGMA recursive_triggers = ON")
    replaces_another(world)
    world.step()
    world.execute("DELETE FROM library_shelf WHERE id > 40")
    updates_or_replaces(world)


@path(
    "`UPDATE OR REPLACE` onto the key or unique value of another row",
    SQL,
    {"sqlite": EVICTED},
    engines=("sqlite",),
)
def updates_or_replaces(world: World) -> None:
    world.execute("INSERT INTO library_shelf (id, name) VALUES (41, 'e'), (42, 'f')")
    world.execute("UPDATE OR REPLACE library_shelf SET name = 'f' WHERE id = 41")
    world.step()
    world.execute("UPDATE OR REPLACE library_slot SET place = 2 WHERE place = 1")


@path("`UPDATE … FROM`, an update with a join", SQL)
def updates_from(world: World) -> None:
    if world.engine == "mariadb":
        world.execute(
            "UPDATE library_book b JOIN library_shelf s ON s.id = b.shelf_id SET b.copies = s.id * 10, "
            "s.name = CONCAT(s.name, '+') WHERE s.id < 3"
        )
    else:
        world.execute(
            "UPDATE library_book SET copies = s.id * 10 FROM library_shelf s WHERE s.id = library_book.shelf_id"  # noqa: E501
        )


@path("`DELETE … USING`, a delete of several tables", SQL, engines=("postgresql", "mariadb"))
def deletes_using(world: World) -> None:
    if world.engine == "mariadb":
        world.execute("UPDATE library_tagging SET book_id = 2")
        world.execute("DELETE s, b FROM library_slot s JOIN library_book b ON b.title = 'Moby'")
    else:
        world.execute(
            "DELETE FROM library_tagging USING library_book b WHERE b.id = book_id AND b.title = 'Moby'"
        )


@path("a unique value or key that moves through the rows of one statement", SQL)
def shifts(world: World) -> None:
    if world.engine == "mariadb":
        world.execute("UPDATE library_slot SET place = place + 1 ORDER BY place DESC")
        world.execute("UPDATE library_shelf SET name = CHAR(ASCII(name) + 1) ORDER BY name DESC")
    elif world.engine == "sqlite":
        world.execute("DELETE FROM library_slot")
        world.execute(
            "INSERT INTO library_slot (corridor, place, note) VALUES ('A', 3, 3), ('A', 2, 2), ('A', 1, 1)"
        )
        world.execute("UPDATE library_slot SET place = place + 1")
    else:
        world.execute("UPDATE library_rank SET place = place + 1")
        world.step()
        world.execute("UPDATE library_rank SET place = 6 - place")
        world.step()
        world.execute("DELETE FROM library_slot")
        world.execute(
            "INSERT INTO library_slot (corridor, place, note) VALUES ('A', 3, 3), ('A', 2, 2), ('A', 1, 1)"
        )
        world.execute("UPDATE library_slot SET place = place + 1")
        world.step()
        world.execute("INSERT INTO library_shelf (id, name) VALUES (903, 'n'), (902, 'm'), (901, 'l')")
        world.execute("UPDATE library_shelf SET id = id + 1 WHERE id + 0 > 900")


@path("rows that refer to rows which come later in the transaction", SQL)
def promises(world: World) -> None:
    if world.engine == "mariadb":
        world.execute("SET foreign_key_checks = 0")
    world.execute(
        "INSERT INTO library_book (id, title, copies, home_id, shelf_id) VALUES (50, 'early', 1, 60, 60)"
    )
    world.execute("INSERT INTO library_shelf (id, name) VALUES (60, 'late')")
    world.execute("UPDATE library_book SET sequel_of_id = 51 WHERE id = 50")
    world.execute(
        "INSERT INTO library_book (id, title, copies, home_id, sequel_of_id) VALUES (51, 'circle', 1, 1, 50)"
    )
    # The whole row, and all that refers to it, in the wrong order.
    world.execute("DELETE FROM library_shelf WHERE id = 2")
    world.execute("UPDATE library_book SET shelf_id = 1, display_id = 1, home_id = 1 WHERE shelf_id = 2")
    if world.engine == "mariadb":
        world.execute("SET foreign_key_checks = 1")


@path("savepoints by hand", SQL)
def savepoints(world: World) -> None:
    world.execute("SAVEPOINT outside")
    world.execute("UPDATE library_book SET copies = 50")
    world.execute("SAVEPOINT within")
    world.execute("DELETE FROM library_slot")
    world.execute("UPDATE library_book SET copies = 60")
    world.step()
    world.execute("ROLLBACK TO SAVEPOINT within")
    world.execute("INSERT INTO library_shelf (id, name) VALUES (90, 's')")
    world.step()
    world.execute("RELEASE SAVEPOINT outside")


# Other programs


def _plain(world: World) -> Any:
    """A connection that knows nothing of Django."""
    name = world.database["NAME"]
    if world.engine == "sqlite":
        return sqlite3.connect(name, timeout=20)
    if world.engine == "postgresql":
        return psycopg.connect(host="127.0.0.1", user="postgres", dbname=name)
    return pymysql.connect(host="127.0.0.1", user="root", database=name)


@contextmanager
def _transaction(world: World) -> Iterator[Any]:
    with closing(_plain(world)) as own, closing(own.cursor()) as cursor:
        yield cursor
        own.commit()


@path("a program with a driver of its own (`sqlite3`, `psycopg`, `pymysql`)", PROGRAMS, commits=True)
def other_program(world: World) -> None:
    with _transaction(world) as cursor:
        cursor.execute("INSERT INTO library_shelf (id, name) VALUES (70, 'theirs')")
        cursor.execute("UPDATE library_book SET copies = 9 WHERE id = 1")
        cursor.execute("DELETE FROM library_slot WHERE place = 2")
    world.step()
    with closing(_plain(world)) as own, closing(own.cursor()) as cursor:
        cursor.execute("UPDATE library_book SET copies = 1000")
        own.rollback()
    world.step()
    with _transaction(world) as cursor:
        cursor.execute("UPDATE library_book SET copies = copies + 1")
        cursor.execute("UPDATE library_book SET copies = copies + 1 WHERE id = 1")


@path("two programs that write the same rows in turn", PROGRAMS, commits=True)
def in_turn(world: World) -> None:
    for number in range(3):
        with _transaction(world) as cursor:
            cursor.execute("UPDATE library_book SET copies = copies + 1")
        world.execute("UPDATE library_book SET copies = copies * 2")
        with _transaction(world) as cursor:
            cursor.execute("DELETE FROM library_slot WHERE place = 1")
        world.execute(f"INSERT INTO library_slot (corridor, place, note) VALUES ('A', 1, '{number}')")
    world.step()


@path("`ATTACH`ed from another database", PROGRAMS, engines=("sqlite",), commits=True)
def attached(world: World) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as own:
        own.execute("ATTACH ? AS library", [world.database["NAME"]])
        own.execute("CREATE TABLE shelves AS SELECT 80 AS id, 'attached' AS name")
        own.execute("INSERT INTO library.library_shelf (id, name) SELECT id, name FROM shelves")
        own.execute("UPDATE library.library_book SET copies = 4")


# Statements of one engine


@path("data-modifying `WITH … RETURNING`", OWN, engines=("postgresql",))
def writes_within_a_query(world: World) -> None:
    world.execute(
        "WITH gone AS (DELETE FROM library_slot RETURNING *) "
        "INSERT INTO library_slot (corridor, place, note) SELECT corridor, place + 10, note || '!' FROM gone"
    )
    world.step()
    world.execute(
        "WITH gone AS (DELETE FROM library_slot RETURNING *), made AS ("
        "INSERT INTO library_slot (corridor, place, note) SELECT corridor, place + 9, note FROM gone RETURNING *)"  # noqa: E501
        " INSERT INTO library_shelf (id, name) SELECT place + 200, 'shelf ' || place FROM made"
    )
    world.step()
    world.execute(
        "WITH one AS (UPDATE library_book SET copies = 100 WHERE id = 1 RETURNING *), "
        "two AS (UPDATE library_book SET title = title || '!' WHERE id IN (2, 3) RETURNING *), "
        "three AS (DELETE FROM library_tagging) "
        "INSERT INTO library_book (id, title, copies, home_id) SELECT id + 50, title || '?', copies, home_id "
        "FROM (SELECT * FROM one UNION ALL SELECT * FROM two) AS changed"
    )


@path("`MERGE`", OWN, engines=("postgresql",))
def merges(world: World) -> None:
    world.execute(
        "MERGE INTO library_slot s USING (VALUES (1, 'one'), (2, ''), (9, 'nine')) AS v (place, note) "
        "ON s.place = v.place WHEN MATCHED AND v.note = '' THEN DELETE "
        "WHEN MATCHED THEN UPDATE SET note = v.note "
        "WHEN NOT MATCHED THEN INSERT (corridor, place, note) VALUES ('A', v.place, v.note)"
    )


@path("`MERGE` that deletes a row and inserts or moves another to its key", OWN, engines=("postgresql",))
def merges_onto_a_key(world: World) -> None:
    world.execute(
        "MERGE INTO library_slot s USING (VALUES (1, 0, 'gone'), (7, 1, 'again'), (2, 0, 'gone'), (3, 2, 'moved')) "  # noqa: E501
        "AS v (place, target, note) ON s.place = v.place "
        "WHEN MATCHED AND v.note = 'gone' THEN DELETE "
        "WHEN MATCHED THEN UPDATE SET place = v.target, note = v.note "
        "WHEN NOT MATCHED THEN INSERT (corridor, place, note) VALUES ('A', v.target, v.note)"
    )


@path("`MERGE` that gives a deleted row's unique value to another", OWN, engines=("postgresql",))
def merges_a_unique_value(world: World) -> None:
    world.execute("INSERT INTO library_shelf (id, name) VALUES (20, 'k'), (21, 'l')")
    world.step()
    world.execute(
        "MERGE INTO library_shelf s USING (VALUES (20, ''), (22, 'k'), (21, 'm'), (23, 'l')) AS v (id, name) "
        "ON s.id = v.id WHEN MATCHED AND v.name = '' THEN DELETE "
        "WHEN MATCHED THEN UPDATE SET name = v.name "
        "WHEN NOT MATCHED THEN INSERT (id, name) VALUES (v.id, v.name)"
    )


@path("`COPY … FROM`", OWN, engines=("postgresql",), commits=True)
def copies(world: World) -> None:
    with _transaction(world) as cursor:
        with cursor.copy("COPY library_shelf (id, name) FROM STDIN") as copy:
            copy.write("300\tcopied\n301\tas well\n")
        cursor.execute("UPDATE library_shelf SET name = 'later' WHERE id = 300")


@path("`LOAD DATA LOCAL INFILE`, also with `REPLACE`", OWN, engines=("mariadb",), commits=True)
def loads_data(world: World) -> None:
    file = world.directory / "rows.txt"
    file.write_text("300\tloaded\n301\tas well\n")
    again = world.directory / "again.txt"
    again.write_text("301\tloaded\n")
    with closing(
        pymysql.connect(
            host="127.0.0.1", user="root", database=world.database["NAME"], local_infile=True, autocommit=True
        )
    ) as own, closing(own.cursor()) as cursor:  # fmt: skip
        load = "LOAD DATA LOCAL INFILE '{}' {} INTO TABLE library_shelf (id, name)"
        cursor.execute(load.format(file, ""))
        cursor.execute(load.format(again, "REPLACE"))


@path("`TRUNCATE`", OWN, {"mariadb": NO_TRUNCATE}, engines=("postgresql", "mariadb"), commits=True)
def truncates(world: World) -> None:
    if world.engine == "postgresql":
        world.execute("TRUNCATE library_work, library_slot CASCADE")
        world.step()
    else:
        world.execute("TRUNCATE library_slot")


@path("a `DELETE` without `WHERE`", SQL)
def deletes_everything(world: World) -> None:
    for table in ("slot", "tagging", "edition"):
        world.execute(f"DELETE FROM library_{table}")


PROCEDURE = {
    "postgresql": (
        (
            "CREATE PROCEDURE library_restock(amount int) LANGUAGE plpgsql AS $$ BEGIN "
            "UPDATE library_book SET copies = copies + amount; "
            "INSERT INTO library_shelf (id, name) VALUES (500 + amount, 'restocked'); "
            "DELETE FROM library_slot WHERE place = amount; END $$;"
            "CREATE FUNCTION library_file(title text) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN "
            "INSERT INTO library_shelf (id, name) SELECT coalesce(max(id), 0) + 1, title FROM library_shelf; "
            "RETURN (SELECT max(id) FROM library_shelf); END $$"
        ),
        "DROP PROCEDURE library_restock; DROP FUNCTION library_file",
    ),
    "mariadb": (
        (
            "CREATE PROCEDURE library_restock(amount int) BEGIN "
            "UPDATE library_book SET copies = copies + amount; "
            "INSERT INTO library_shelf (id, name) VALUES (500 + amount, 'restocked'); "
            "DELETE FROM library_slot WHERE place = amount; END"
        ),
        "DROP PROCEDURE library_restock",
        (
            "CREATE FUNCTION library_file(title varchar(50)) RETURNS bigint MODIFIES SQL DATA BEGIN "
            "INSERT INTO library_shelf (id, name) SELECT COALESCE(MAX(id), 0) + 1, title FROM library_shelf; "
            "RETURN (SELECT MAX(id) FROM library_shelf); END"
        ),
        "DROP FUNCTION library_file",
    ),
}


@path("stored procedures and functions", OWN, engines=("postgresql", "mariadb"), given=objects(PROCEDURE))
def procedures(world: World) -> None:
    world.execute("CALL library_restock(2)")
    world.step()
    world.execute("SELECT library_file('by a function')")
    world.step()
    world.execute("UPDATE library_book SET home_id = library_file(title)")


VIEW = {
    "sqlite": (
        "CREATE VIEW library_signs AS SELECT id, name FROM library_shelf",
        "DROP VIEW library_signs",
        (
            "CREATE TRIGGER library_signs_update INSTEAD OF UPDATE ON library_signs BEGIN "
            "UPDATE library_shelf SET name = NEW.name WHERE id = OLD.id; END"
        ),
        "",
        (
            "CREATE TRIGGER library_signs_insert INSTEAD OF INSERT ON library_signs BEGIN "
            "INSERT INTO library_shelf (id, name) VALUES (NEW.id, NEW.name); END"
        ),
        "",
    ),
    "postgresql": (
        "CREATE VIEW library_signs AS SELECT id, name FROM library_shelf",
        "DROP VIEW library_signs",
    ),
    "mariadb": ("CREATE VIEW library_signs AS SELECT id, name FROM library_shelf", "DROP VIEW library_signs"),
}


@path("writes through a view", SQL, given=objects(VIEW))
def through_a_view(world: World) -> None:
    world.execute("INSERT INTO library_signs (id, name) VALUES (600, 'seen')")
    world.step()
    world.execute("UPDATE library_signs SET name = 'a sign' WHERE id = 600")


RULE = {
    "postgresql": (
        (
            "CREATE RULE library_moved AS ON INSERT TO library_keyword DO ALSO "
            "UPDATE library_book SET copies = copies + 1"
        ),
        "DROP RULE library_moved ON library_keyword",
    )
}


@path("rewrite rules", OWN, engines=("postgresql",), given=all_of(objects(RULE)))
def rules(world: World) -> None:
    world.execute("INSERT INTO library_keyword (word) VALUES ('rule')")

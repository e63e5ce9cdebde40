"""Paths through triggers of the application's own, made before and after those that capture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.mirror.write_paths.given import all_of, before_ours, objects, trigger
from tests.mirror.writing import Given, World, Write, path

GROUP = "Triggers of the application"
ROW_BACK = ("sqlite", "postgresql")


def with_triggers(name: str, given: Given, **more: Any) -> Callable[[Write], Write]:
    """A path that is tried with its triggers made before ours, and after."""

    def listed(write: Write) -> Write:
        path(name, GROUP, given=given, **more)(write)
        return path(name, GROUP, given=before_ours(given), **more)(write)

    return listed


INTO_OTHERS = all_of(
    trigger(
        "AFTER INSERT",
        "library_shelf",
        "INSERT INTO library_book (title, copies, home_id, shelf_id) VALUES (NEW.name, 1, NEW.id, NEW.id);",
    ),
    trigger(
        "AFTER UPDATE",
        "library_shelf",
        "UPDATE library_book SET copies = copies + 1 WHERE shelf_id = NEW.id;",
    ),
    trigger("AFTER DELETE", "library_tagging", "DELETE FROM library_slot WHERE place = OLD.weight;"),
)


@with_triggers("`AFTER` triggers that write other mirrored tables", INTO_OTHERS)
def into_others(world: World) -> None:
    world.execute("INSERT INTO library_shelf (id, name) VALUES (700, 'p'), (701, 'q')")
    world.step()
    world.execute("UPDATE library_shelf SET name = id WHERE name IN ('p', 'b')")
    world.execute("DELETE FROM library_tagging")


INTO_OTHERS_FIRST = all_of(
    trigger(
        "BEFORE INSERT",
        "library_book",
        "INSERT INTO library_shelf (id, name) VALUES (NEW.home_id, NEW.title);",
    ),
    trigger("BEFORE DELETE", "library_keyword", "DELETE FROM library_tagging WHERE keyword_id = OLD.word;"),
)


@with_triggers("`BEFORE` triggers that write other mirrored tables", INTO_OTHERS_FIRST)
def into_others_first(world: World) -> None:
    world.execute(
        "INSERT INTO library_book (id, title, copies, home_id) VALUES (90, 'x', 1, 800), (91, 'y', 1, 801)"
    )
    world.step()
    world.execute("DELETE FROM library_keyword")


BEFORE = {
    "postgresql": (
        (
            "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF TG_OP = 'DELETE' THEN IF OLD.place = 2 THEN RETURN NULL; END IF; RETURN OLD; END IF; "
            "IF NEW.note = 'ignored' THEN RETURN NULL; END IF; "
            "NEW.note := NEW.note || '!'; NEW.place := NEW.place + 100; RETURN NEW; END $$;"
            "CREATE TRIGGER theirs BEFORE INSERT OR UPDATE OR DELETE ON library_slot "
            "FOR EACH ROW EXECUTE FUNCTION theirs()"
        ),
        "DROP FUNCTION theirs CASCADE",
    ),
    "mariadb": (
        (
            "CREATE TRIGGER theirs_insert BEFORE INSERT ON library_slot FOR EACH ROW "
            "SET NEW.note = CONCAT(NEW.note, '!'), NEW.place = NEW.place + 100"
        ),
        "DROP TRIGGER theirs_insert",
        (
            "CREATE TRIGGER theirs_update BEFORE UPDATE ON library_slot FOR EACH ROW "
            "SET NEW.note = CONCAT(NEW.note, '!'), NEW.place = NEW.place + 100"
        ),
        "DROP TRIGGER theirs_update",
    ),
    "sqlite": (
        (
            "CREATE TRIGGER theirs_insert BEFORE INSERT ON library_slot WHEN NEW.note = 'ignored' "
            "BEGIN SELECT RAISE(IGNORE); END"
        ),
        "DROP TRIGGER theirs_insert",
        (
            "CREATE TRIGGER theirs_delete BEFORE DELETE ON library_slot WHEN OLD.place = 2 "
            "BEGIN SELECT RAISE(IGNORE); END"
        ),
        "DROP TRIGGER theirs_delete",
    ),
}


@with_triggers("`BEFORE` triggers that change or refuse the row", objects(BEFORE))
def changes_the_row(world: World) -> None:
    world.execute(
        "INSERT INTO library_slot (corridor, place, note) VALUES ('X', 1, 'new'), ('X', 2, 'ignored')"
    )
    world.step()
    world.execute("UPDATE library_slot SET note = 'changed' WHERE corridor = 'A' AND place IN (1, 2)")
    world.step()
    world.execute("DELETE FROM library_slot WHERE corridor = 'A'")


SAME_ROW = all_of(
    trigger(
        "AFTER INSERT",
        "library_shelf",
        "UPDATE library_shelf SET name = NEW.name || '+' WHERE id = NEW.id;",
        depth=1,
    ),
    trigger(
        "AFTER UPDATE",
        "library_book",
        "UPDATE library_book SET copies = NEW.copies + 100 WHERE id = NEW.id;",
        depth=1,
    ),
)


@with_triggers("`AFTER` triggers that change the row once more", SAME_ROW, engines=ROW_BACK)
def changes_once_more(world: World) -> None:
    world.execute("INSERT INTO library_shelf (id, name) VALUES (700, 'p'), (701, 'q')")
    world.step()
    world.execute("UPDATE library_book SET copies = 1 WHERE id IN (1, 2)")
    world.step()
    world.execute("UPDATE library_book SET copies = 2, title = title || '.'")


ANOTHER_KEY = all_of(
    trigger("AFTER INSERT", "library_slot", "UPDATE library_slot SET place = NEW.place + 50 "
            "WHERE corridor = NEW.corridor AND place = NEW.place AND NEW.corridor = 'M';", depth=1),
    trigger("AFTER UPDATE", "library_slot", "UPDATE library_slot SET place = NEW.place + 7 "
            "WHERE corridor = NEW.corridor AND place = NEW.place AND NEW.note = 'on';", depth=1),
)  # fmt: skip


@with_triggers("`AFTER` triggers that move the row to another key", ANOTHER_KEY, engines=ROW_BACK)
def moves_once_more(world: World) -> None:
    world.execute("INSERT INTO library_slot (corridor, place, note) VALUES ('M', 1, ''), ('M', 2, '')")
    world.step()
    world.execute("UPDATE library_slot SET place = place + 300, note = 'on' WHERE corridor = 'A'")


BACK = all_of(
    trigger("AFTER DELETE", "library_slot", "INSERT INTO library_slot (corridor, place, note) "
            "VALUES (OLD.corridor, OLD.place, 'back');", depth=1),
    trigger("AFTER INSERT", "library_keyword", "DELETE FROM library_keyword WHERE word = NEW.word;", depth=1),
    trigger("AFTER UPDATE", "library_rank", "DELETE FROM library_rank WHERE id = NEW.id AND NEW.name = 'out';", depth=1),  # noqa: E501
)  # fmt: skip


@with_triggers("`AFTER` triggers that delete the row, or bring it back", BACK, engines=ROW_BACK)
def brings_back(world: World) -> None:
    world.execute("DELETE FROM library_slot WHERE place < 3")
    world.step()
    world.execute("INSERT INTO library_keyword (word) VALUES ('never'), ('nor this')")
    world.step()
    world.execute("UPDATE library_rank SET name = 'out' WHERE id < 3")


CIRCLE = all_of(
    trigger("AFTER UPDATE", "library_shelf", "UPDATE library_book SET copies = copies + 1 WHERE shelf_id = NEW.id;", depth=3),  # noqa: E501
    trigger(
        "AFTER UPDATE", "library_book",
        "UPDATE library_shelf SET name = name || '~' WHERE id = NEW.shelf_id AND length(name) < 4;", depth=3
    ),
)  # fmt: skip


@with_triggers("triggers of two tables that set each other off", CIRCLE, engines=ROW_BACK)
def in_a_circle(world: World) -> None:
    world.execute("UPDATE library_shelf SET name = name || '!'")
    world.step()
    world.execute("UPDATE library_book SET copies = copies * 2")


def _statement(name: str) -> tuple[str, str]:
    return (
        (
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF pg_trigger_depth() > 1 THEN RETURN NULL; END IF; "
            "UPDATE library_book SET copies = copies + 1000 WHERE copies < 1000; "
            "DELETE FROM library_book WHERE title = 'Odyssey'; RETURN NULL; END $$;"
            f"CREATE TRIGGER {name} AFTER INSERT OR UPDATE ON library_book FOR EACH STATEMENT EXECUTE FUNCTION {name}()"  # noqa: E501
        ),
        f"DROP FUNCTION {name} CASCADE",
    )


@path("triggers for each statement that write the same table", GROUP, engines=("postgresql",),
      given=objects({"postgresql": _statement("a_theirs")}))  # fmt: skip
@path("triggers for each statement that write the same table", GROUP, engines=("postgresql",),
      given=objects({"postgresql": _statement("z_theirs")}))  # fmt: skip
def for_each_statement(world: World) -> None:
    world.execute(
        "INSERT INTO library_book (id, title, copies, home_id) VALUES (90, 'x', 1, 1), (91, 'y', 2, 1)"
    )
    world.step()
    world.execute("UPDATE library_book SET copies = 7 WHERE id IN (1, 90)")


@path("constraint triggers that are put off to the end of the transaction", GROUP, engines=("postgresql",),
      given=trigger("AFTER UPDATE", "library_book", "UPDATE library_shelf SET name = NEW.title || NEW.copies "
                    "WHERE id = NEW.home_id; UPDATE library_book SET copies = copies + 100 WHERE id = NEW.id AND copies < 100;",  # noqa: E501
                    depth=1, deferred=True))  # fmt: skip
def put_off(world: World) -> None:
    world.execute("UPDATE library_book SET copies = 50 WHERE id IN (1, 3)")
    world.step()
    world.execute("UPDATE library_book SET copies = 60 WHERE id = 3")
    world.step()
    world.execute("DELETE FROM library_slot")


MEDDLING = {
    "postgresql": (
        (
            "CREATE FUNCTION meddle(one bigint) RETURNS int LANGUAGE plpgsql AS $$ BEGIN "
            "UPDATE library_book SET copies = copies + 5000 WHERE id = one - 1; RETURN 1; END $$"
        ),
        "DROP FUNCTION meddle",
    )
}


@path(
    "a statement that calls a function which writes once more what the statement has just written",
    GROUP,
    engines=("postgresql",),
    given=objects(MEDDLING),
)
def meddles(world: World) -> None:
    world.execute("UPDATE library_book SET copies = 1 WHERE id = 2 RETURNING meddle(3)")
    world.step()
    world.execute(
        "INSERT INTO library_book (id, title, copies, home_id) VALUES (92, 'z', 1, 1) RETURNING meddle(93)"
    )
    world.step()
    world.execute("UPDATE library_book SET copies = copies + 1")

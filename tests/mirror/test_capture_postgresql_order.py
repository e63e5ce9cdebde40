"""The order of what is captured on a PostgreSQL server, whoever else writes, and what is not captured."""

from __future__ import annotations

import threading
import uuid

import pytest
from django.db import IntegrityError, connection, transaction

from mirror import capture
from tests.mirror.postgresql_support import (
    SAVE,
    at_once,
    execute,
    fetch,
    names,
    plain,
    recorded,
    rolled_back,
)
from tests.project.shop.models import Brand, Counter

pytestmark = pytest.mark.postgresql


@pytest.fixture
def source(postgresql_source, django_db_blocker):
    with django_db_blocker.unblock(), recorded(postgresql_source) as source:
        yield source


def values(changes) -> list[tuple]:
    return [(change.op, change.pk, change.fields.get("value")) for change in changes]


def new_brand(pkid: int, name: str) -> str:
    return f"INSERT INTO shop_brand (pkid, id, name) VALUES ({pkid}, '{uuid.UUID(int=pkid)}', '{name}')"


# Triggers of others


@pytest.fixture
def trigger(source):
    """A trigger of the project's own, on shop_counter."""

    def make(event: str, statements: str) -> None:
        execute(
            "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql "
            f"AS $$BEGIN {statements}; RETURN NULL; END$$;"
            f"CREATE TRIGGER theirs AFTER {event} ON shop_counter FOR EACH ROW "
            "WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION theirs()"
        )

    yield make
    execute("DROP FUNCTION theirs CASCADE")


def folded(changes) -> dict:
    rows: dict = {}
    for change in changes:
        rows.pop(change.pk, None)
        if change.op is SAVE:
            rows[change.pk] = change.fields["value"]
    return rows


@pytest.mark.parametrize(
    ("event", "statements"),
    [
        ("INSERT", "UPDATE shop_counter SET value = value + 100 WHERE id = NEW.id"),
        ("UPDATE", "UPDATE shop_counter SET value = value + 100"),
        ("UPDATE", "DELETE FROM shop_counter WHERE id = NEW.id"),
        ("UPDATE", "UPDATE shop_counter SET id = id + 50 WHERE id = NEW.id"),
        ("DELETE", "INSERT INTO shop_counter (id, value) VALUES (OLD.id, 1000)"),
        ("INSERT", "DELETE FROM shop_counter WHERE id = NEW.id"),
    ],
)
def test_a_trigger_that_writes_the_same_table_does_not_bring_the_order_about(
    source, trigger, event, statements
):
    execute("INSERT INTO shop_counter (id, value) VALUES (1, 1), (2, 2)")
    trigger(event, statements)
    with transaction.atomic():
        execute("INSERT INTO shop_counter (id, value) VALUES (3, 3), (4, 4)")
        execute("UPDATE shop_counter SET value = value * 10 WHERE id IN (1, 3)")
        execute("DELETE FROM shop_counter WHERE id = 2")
    assert folded(source.changes()) == dict(fetch("SELECT id, value FROM shop_counter"))


# Several transactions at once


def test_a_transaction_that_commits_late_is_neither_lost_nor_in_the_way(source):
    with plain() as late:
        late.execute(new_brand(1, "late"))
        for number in range(2, 12):
            Brand.objects.create(pkid=number, name=str(number))
            assert names(source.news()) == [(SAVE, str(number))]
    late.close()
    Brand.objects.create(pkid=12, name="12")
    assert names(source.news()) == [(SAVE, "late"), (SAVE, "12")]


def test_two_transactions_that_overlap_keep_the_order_of_each_row(source):
    execute("INSERT INTO shop_counter (id, value) VALUES (1, 0), (2, 0)")
    first, second = plain(), plain()
    first.execute("UPDATE shop_counter SET value = 1 WHERE id = 1")
    second.execute("UPDATE shop_counter SET value = 2 WHERE id = 2")
    second.commit()
    source.step()
    first.execute("UPDATE shop_counter SET value = 3 WHERE id = 2")
    first.commit()
    first.close()
    second.close()
    assert folded(source.changes()) == {1: 1, 2: 3}


def test_eight_writers_on_five_rows_leave_each_row_as_it_was_written_last(source):
    Counter.objects.bulk_create([Counter(id=number, value=0) for number in range(5)])
    start, stop = threading.Barrier(9), threading.Event()

    def write(writer: int) -> None:
        with plain() as own:
            start.wait()
            for turn in range(40):
                # In the order of the ids, so that two writers never wait for each other.
                for number in sorted({(writer + turn) % 5, (writer * turn) % 5}):
                    own.execute("UPDATE shop_counter SET value = value + 1 WHERE id = %s", [number])
                (own.rollback if (writer + turn) % 4 == 0 else own.commit)()
        own.close()

    def write_and_say(writer: int) -> None:
        try:
            write(writer)
        finally:
            ended.release()

    ended = threading.Semaphore(0)

    def sequence() -> None:
        start.wait()
        while not stop.is_set():
            source.step()

    def end() -> None:
        for _ in range(8):
            ended.acquire()
        stop.set()

    at_once(end, sequence, *(lambda writer=writer: write_and_say(writer) for writer in range(8)))
    told: dict[int, list[int]] = {number: [] for number in range(5)}
    for change in source.changes():
        told[change.pk].append(change.fields["value"])
    current = dict(fetch("SELECT id, value FROM shop_counter"))
    # Every committed step of each row, each once, in the order in which they were made.
    assert told == {number: list(range(value + 1)) for number, value in current.items()}


# What is not captured


def test_what_is_applied_does_not_echo_and_what_follows_is_captured(source):
    with transaction.atomic():
        Brand.objects.create(name="mine")
        with capture.silenced(connection):
            Brand.objects.create(name="applied")
            execute("TRUNCATE shop_product CASCADE")
        Brand.objects.create(name="also mine")
    with rolled_back(), capture.silenced(connection):
        Brand.objects.create(name="never")
    with transaction.atomic():
        with pytest.raises(IntegrityError), transaction.atomic(), capture.silenced(connection):
            Brand.objects.create(name="mine")
        with pytest.raises(ZeroDivisionError), capture.silenced(connection):
            raise ZeroDivisionError
        Brand.objects.create(name="after")
    assert names(source.news()) == [(SAVE, "mine"), (SAVE, "also mine"), (SAVE, "after")]


def test_a_forgotten_setting_silences_no_other_transaction(source):
    execute("SELECT set_config('livemirror.applying', pg_current_xact_id()::text, false)")
    Brand.objects.create(name="a")
    assert names(source.news()) == [(SAVE, "a")]


def test_a_replica_session_is_not_captured(source):
    with plain() as other:
        other.execute("SET session_replication_role = replica")
        other.execute(new_brand(1, "a"))
    other.close()
    assert source.news() == []


def test_a_role_without_rights_on_the_outbox_is_captured_and_cannot_borrow_the_function(source):
    role = f"livemirror_clerk_{uuid.uuid4().hex[:8]}"
    execute(
        f"CREATE ROLE {role}; GRANT INSERT ON shop_counter TO {role}; GRANT CREATE ON SCHEMA public TO {role}"
    )
    try:
        with plain() as other:
            other.execute(f"SET ROLE {role}")
            other.execute("INSERT INTO shop_counter (id, value) VALUES (1, 5)")
            other.execute("CREATE TABLE theirs (id bigint, value int)")
            with pytest.raises(Exception, match="permission denied for function"):
                other.execute(
                    "CREATE TRIGGER theirs AFTER INSERT ON theirs REFERENCING NEW TABLE AS new_rows "
                    "FOR EACH STATEMENT EXECUTE FUNCTION livemirror_shop_counter()"
                )
            other.rollback()
            other.execute(f"SET ROLE {role}")
            other.execute("INSERT INTO shop_counter (id, value) VALUES (1, 5)")
        other.close()
    finally:
        execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert values(source.news()) == [(SAVE, 1, 5)]

"""The order of what is captured on a MariaDB server, whoever else writes, and what is not captured."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pymysql
import pytest
from django.db import IntegrityError, OperationalError, connection, transaction

from mirror import capture, sequencer
from mirror.models import Outbox
from tests.mirror.mysql_support import plain, recorded, says
from tests.mirror.server_support import SAVE, at_once, execute, fetch, names, rolled_back
from tests.project.shop.models import Brand, Counter, Product

pytestmark = pytest.mark.mariadb

LEVELS = ["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
EVERY_LEVEL = pytest.mark.parametrize("level", LEVELS)

#: An error instead of a wait: nothing here may wait for a transaction that stays open.
AT_ONCE = "SET innodb_lock_wait_timeout = 0"


@pytest.fixture
def source(mariadb_source, django_db_blocker):
    with django_db_blocker.unblock(), recorded(mariadb_source) as source:
        yield source


def values(changes) -> list[tuple]:
    return [(change.op, change.pk, change.fields.get("value")) for change in changes]


@contextmanager
def transaction_of(level: str) -> Iterator[pymysql.Connection]:
    with closing(plain()) as client:
        says(client, f"SET SESSION TRANSACTION ISOLATION LEVEL {level}")
        says(client, AT_ONCE)
        yield client


def at_level(level: str) -> None:
    """The project's own isolation level, as its sequencer would have it too."""
    execute(f"SET SESSION TRANSACTION ISOLATION LEVEL {level}")
    execute(AT_ONCE)


# Several transactions at once


@EVERY_LEVEL
def test_a_transaction_that_commits_late_is_neither_lost_nor_in_the_way(source, level):
    at_level(level)
    with transaction_of(level) as late:
        says(late, "INSERT INTO shop_counter (id, value) VALUES (1, 0)")
        for number in range(2, 12):
            Counter.objects.create(id=number)
            says(late, "UPDATE shop_counter SET value = %s WHERE id = 1", [number])
            assert values(source.news()) == [(SAVE, number, 0)]
        Counter.objects.bulk_create([Counter(id=12), Counter(id=13)])
        says(late, "UPDATE shop_counter SET value = 12 WHERE id = 1")
        assert values(source.news()) == [(SAVE, 12, 0), (SAVE, 13, 0)]
        late.commit()
    Counter.objects.create(id=14)
    told = [(SAVE, 1, value) for value in (0, *range(2, 13))]
    assert values(source.news()) == [*told, (SAVE, 14, 0)]


@EVERY_LEVEL
def test_what_is_rolled_back_late_was_never_there(source, level):
    at_level(level)
    with transaction_of(level) as late:
        says(late, "INSERT INTO shop_counter (id, value) VALUES (1, 0)")
        Counter.objects.create(id=2)
        assert values(source.news()) == [(SAVE, 2, 0)]
        late.rollback()
    assert source.news() == []


@EVERY_LEVEL
def test_a_pass_that_is_not_committed_yet_holds_up_nobody(source, level, monkeypatch):
    at_level(level)
    Counter.objects.bulk_create([Counter(id=number, value=number) for number in range(1, 6)])
    written = []

    def pass_and_write(desk) -> int:
        done = original(desk)
        with transaction_of(level) as other:
            says(other, "INSERT INTO shop_counter (id, value) VALUES (6, 6)")
            says(other, "UPDATE shop_counter SET value = 10 WHERE id = 1")
            other.commit()
            written.append(True)
        return done

    original = source.sequencer._pass
    monkeypatch.setattr(source.sequencer, "_pass", pass_and_write)
    assert len(source.news()) == 5
    monkeypatch.undo()
    assert written
    assert values(source.news()) == [(SAVE, 6, 6), (SAVE, 1, 10)]


def test_a_transaction_that_commits_between_two_pages_is_not_torn(source, monkeypatch):
    monkeypatch.setattr(sequencer, "_PAGE", 2)
    with transaction_of("READ COMMITTED") as late:
        says(late, "INSERT INTO shop_counter (id, value) VALUES (1, 0)")
        Counter.objects.bulk_create([Counter(id=number, value=0) for number in range(2, 6)])
        says(late, "UPDATE shop_counter SET value = 1 WHERE id = 1")

        def change_and_commit(*arguments):
            if late.open:
                late.commit()
                late.close()
            return original(*arguments)

        original = source.sequencer._change
        monkeypatch.setattr(source.sequencer, "_change", change_and_commit)
        assert [change.pk for change in source.news()] == [2, 3, 4, 5]
        assert values(source.news()) == [(SAVE, 1, 0), (SAVE, 1, 1)]
        late.connect()


def test_two_transactions_that_overlap_keep_the_order_of_each_row(source):
    execute("INSERT INTO shop_counter (id, value) VALUES (1, 0), (2, 0)")
    with closing(plain()) as first, closing(plain()) as second:
        says(first, "UPDATE shop_counter SET value = 1 WHERE id = 1")
        says(second, "UPDATE shop_counter SET value = 2 WHERE id = 2")
        second.commit()
        source.step()
        says(first, "UPDATE shop_counter SET value = 3 WHERE id = 2")
        first.commit()
    assert {change.pk: change.fields["value"] for change in source.changes()} == {1: 1, 2: 3}


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
def test_eight_writers_on_five_rows_leave_each_row_as_it_was_written_last(source, level):
    Counter.objects.bulk_create([Counter(id=number, value=0) for number in range(1, 6)])
    start, ended, stop = threading.Barrier(9), threading.Semaphore(0), threading.Event()

    def write(writer: int) -> None:
        with closing(plain()) as own:
            says(own, f"SET SESSION TRANSACTION ISOLATION LEVEL {level}")
            start.wait()
            for turn in range(40):
                # In the order of the ids, so that two writers never wait for each other.
                for number in sorted({(writer + turn) % 5 + 1, (writer * turn) % 5 + 1}):
                    says(own, "UPDATE shop_counter SET value = value + 1 WHERE id = %s", [number])
                (own.rollback if (writer + turn) % 4 == 0 else own.commit)()

    def write_and_say(writer: int) -> None:
        try:
            write(writer)
        finally:
            ended.release()

    def sequence() -> None:
        start.wait()
        while not stop.is_set():
            source.step()

    def end() -> None:
        for _ in range(8):
            ended.acquire()
        stop.set()

    at_once(end, sequence, *(lambda writer=writer: write_and_say(writer) for writer in range(8)))
    told: dict[int, list[int]] = {number: [] for number in range(1, 6)}
    for change in source.changes():
        told[change.pk].append(change.fields["value"])
    current = dict(fetch("SELECT id, value FROM shop_counter"))
    # Every committed step of each row, each once, in the order in which they were made.
    assert told == {number: list(range(value + 1)) for number, value in current.items()}


@EVERY_LEVEL
def test_a_change_of_a_child_does_not_wait_for_who_changes_its_parent(source, level):
    parent = Product.objects.create(name="parent")
    child = Product.objects.create(name="child", parent=parent)
    source.news()
    with transaction_of("READ COMMITTED") as other, transaction_of(level) as own:
        says(other, "UPDATE shop_product SET stock = 1 WHERE pkid = %s", [parent.pkid])
        says(own, "UPDATE shop_product SET stock = 2 WHERE pkid = %s", [child.pkid])
        own.commit()
        (change,) = source.news()
        other.commit()
    assert (change.fields["name"], change.fields["parent"]) == ("child", str(parent.id))


@EVERY_LEVEL
def test_a_child_names_its_parent_that_is_deleted_in_the_same_transaction(source, level):
    with transaction_of(level) as client:
        brand, product = uuid.uuid4(), uuid.uuid4()
        says(client, f"INSERT INTO shop_brand (pkid, id, name) VALUES (1, '{brand}', 'a')")
        says(
            client,
            "INSERT INTO shop_product (pkid, id, name, second_brand_id, stock, price, on_sale, details) "
            f"VALUES (1, '{product}', 'p', 1, 0, 0, 0, '{{}}')",
        )
        says(client, "DELETE FROM shop_product")
        says(client, "DELETE FROM shop_brand")
        client.commit()
    told = [change.fields["second_brand"] for change in source.news() if "product" in change.model]
    assert told == [str(brand)] * 2


# What is not captured


def test_what_is_applied_does_not_echo_and_what_follows_is_captured(source):
    with transaction.atomic():
        Brand.objects.create(name="mine")
        with capture.silenced(connection):
            Brand.objects.create(name="applied")
            Brand.objects.filter(name="applied").update(name="changed")
            Brand.objects.filter(name="changed").delete()
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
    assert not Outbox.objects.exists()


def test_a_pooled_connection_that_forgot_silences_nobody(source):
    # What a process that is killed within ``silenced`` leaves behind a pooler: the variable, and no row.
    with closing(plain()) as pooled:
        says(pooled, "BEGIN")
        says(pooled, "INSERT INTO mirror_outbox (op, model, captured_at, payload) VALUES ('', '', 0, '')")
        says(pooled, "SET @livemirror_applying = LAST_INSERT_ID()")
        says(pooled, "INSERT INTO shop_counter (id, value) VALUES (1, 1)")
        pooled.rollback()
        says(pooled, "INSERT INTO shop_counter (id, value) VALUES (2, 2)")
        pooled.commit()
    assert values(source.news()) == [(SAVE, 2, 2)]


def test_a_deadlock_within_what_is_applied_does_not_silence_what_follows(source):
    Counter.objects.bulk_create([Counter(id=number, value=0) for number in (1, 2, 3, 4, 5)])
    source.news()
    with closing(plain()) as other:
        # Heavier than ours, so that ours is the one that is given up.
        for number in (2, 3, 4, 5):
            says(other, "UPDATE shop_counter SET value = 9 WHERE id = %s", [number])
        with (  # noqa: PT012
            pytest.raises(OperationalError, match="1213"),
            transaction.atomic(),
            capture.silenced(connection),
        ):
            execute("UPDATE shop_counter SET value = 1 WHERE id = 1")
            waiting = threading.Thread(
                target=says, args=(other, "UPDATE shop_counter SET value = 9 WHERE id = 1")
            )
            waiting.start()
            while not fetch(
                "SELECT 1 FROM information_schema.processlist WHERE state = 'Updating' AND info LIKE %s",
                ["UPDATE shop_counter SET value = 9 WHERE id = 1%"],
            ):
                pass
            execute("UPDATE shop_counter SET value = 1 WHERE id = 2")
        waiting.join()
        other.rollback()
    Counter.objects.filter(id=1).update(value=5)
    assert values(source.news()) == [(SAVE, 1, 5)]
    assert not Outbox.objects.exists()


def test_an_account_without_rights_on_the_outbox_is_captured(source):
    name = f"livemirror_{uuid.uuid4().hex[:8]}"
    execute(f"CREATE USER '{name}'@'%' IDENTIFIED BY 'x'")
    try:
        execute(f"GRANT SELECT, INSERT, UPDATE ON shop_counter TO '{name}'@'%'")
        execute(f"GRANT UPDATE (stock) ON shop_product TO '{name}'@'%'")
        Product.objects.create(name="p", second_brand=Brand.objects.create(name="a"))
        source.news()
        with closing(plain(user=name, password="x")) as clerk:
            says(clerk, "INSERT INTO shop_counter (id, value) VALUES (1, 5)")
            says(clerk, "UPDATE shop_product SET stock = 3")
            with pytest.raises(pymysql.OperationalError, match="denied"):
                says(clerk, "SELECT * FROM mirror_outbox")
            clerk.commit()
    finally:
        execute(f"DROP USER '{name}'@'%'")
    counter, product = source.news()
    assert (counter.pk, counter.fields) == (1, {"value": 5})
    assert (product.fields["stock"], product.fields["name"]) == (3, "p")


def test_the_number_that_an_insert_made_is_that_of_its_own_table(source):
    execute("INSERT INTO shop_counter (value) VALUES (1)")
    execute("ALTER TABLE shop_counter AUTO_INCREMENT = 5000")
    with closing(plain()) as client, client.cursor() as cursor:
        assert cursor.execute("INSERT INTO shop_counter (value) VALUES (1)") == 1
        assert cursor.lastrowid == 5000
        assert cursor.execute("UPDATE shop_counter SET value = value + 1") == 2
        assert says(client, "SELECT LAST_INSERT_ID()") == ((5000,),)
        client.rollback()

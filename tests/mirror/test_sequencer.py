from __future__ import annotations

import json
import logging
import threading
import tracemalloc
from itertools import pairwise
from uuid import UUID, uuid4

import pytest
from django.db import connection, connections, transaction
from django.db.utils import OperationalError

from mirror import capture, oplogger, sequencer
from mirror.capture.sqlite import Sqlite
from mirror.changes import decode_change
from mirror.models import Oplog, Outbox, Stream
from mirror.sequencer import Sequencer, guarded_step, run
from tests.fakes import Recorded
from tests.mirror.conftest import VENDORS
from tests.project.shop.models import Brand, Counter, Ticket

NOON = 1_767_225_600_000_000


def capture_counter(value: int, *, pk: int = 1, at: int = NOON, using: str = "default", op="SAVE") -> None:
    """What a trigger writes."""
    payload = json.dumps({"id": pk, "value": value})
    Outbox.objects.using(using).create(op=op, model="shop.counter", captured_at=at, payload=payload)


def order(stamped) -> list[int]:
    return [change.fields["value"] for change in stamped]


# On every database: the outbox is filled by hand


class Payloads(Sqlite):
    """What SQLite's triggers write, where there are none."""

    def installed(self, connection) -> dict[str, tuple[str, str]]:
        return {}


@pytest.fixture
def recorded(centre, vendor, settings, monkeypatch) -> Recorded:
    """A source on any vendor."""
    settings.MIRROR = {"MODELS": ["shop.*"], "DATABASE": "centre"}
    monkeypatch.setitem(capture.WRITERS, connections["centre"].vendor, Payloads())
    Stream.objects.using("centre").all().delete()
    Stream.objects.using("centre").create(local=True)
    return Recorded("centre")


everywhere = pytest.mark.parametrize("vendor", VENDORS, indirect=True)


@everywhere
def test_each_change_gets_its_place_in_the_order_of_capture(recorded):
    for value in range(5):
        capture_counter(value, at=NOON + value, using="centre")
    changes = recorded.changes()
    assert order(changes) == [0, 1, 2, 3, 4]
    assert [change.ts for change in changes] == [NOON + value for value in range(5)]
    assert not Outbox.objects.using("centre").exists()
    assert (recorded.stream.head, recorded.stream.position) == (NOON + 4, 5)
    assert [entry.position for entry in recorded.entries()] == [1, 2, 3, 4, 5]


@everywhere
def test_a_clock_that_is_set_back_changes_no_order(recorded):
    for value, at in enumerate([NOON, NOON - 3600_000_000, 0, NOON - 1, NOON + 1, NOON + 1]):
        capture_counter(value, at=at, using="centre")
        if value % 2:
            recorded.step()
    changes = recorded.changes()
    assert order(changes) == [0, 1, 2, 3, 4, 5]
    assert all(before.ts < after.ts for before, after in pairwise(changes))


@everywhere
def test_a_time_that_has_not_come_yet_is_none(recorded):
    mine = Sequencer("centre", now=lambda: NOON)
    for value, at in enumerate([NOON - 5, NOON + 3600_000_000, NOON]):
        capture_counter(value, at=at, using="centre")
    mine.step()
    assert [change.ts for change in recorded.changes()] == [NOON - 5, NOON, NOON + 1]


@everywhere
def test_a_pass_is_one_group_that_ends_with_its_last_change(recorded):
    for value in range(3):
        capture_counter(value, using="centre")
    recorded.step()
    capture_counter(3, using="centre")
    recorded.step()
    assert [entry.ends_group for entry in recorded.entries()] == [False, False, True, True]


@everywhere
def test_a_pass_with_nothing_to_do_does_nothing(recorded):
    assert recorded.step() == 0
    assert recorded.stream.head == 0


@everywhere
def test_the_oplog_holds_what_travels(recorded):
    capture_counter(7, pk=3, using="centre")
    recorded.step()
    entry = Oplog.objects.using("centre").get()
    assert (entry.op, entry.model, entry.key) == ("SAVE", "shop.counter", "3")
    assert entry.body == (f'{{"ts":{NOON},"op":"SAVE","model":"shop.counter","pk":3,"fields":{{"value":7}}}}')


@everywhere
def test_changes_of_models_that_are_no_longer_listed_are_dropped_with_a_warning(recorded, caplog):
    for _ in range(2):
        Outbox.objects.using("centre").create(
            op="SAVE", model="shop.gone", captured_at=NOON, payload='{"id":1}'
        )
    capture_counter(1, using="centre")
    with caplog.at_level(logging.WARNING, "mirror.sequencer"):
        assert order(recorded.changes()) == [1]
    assert [record.args for record in caplog.records if record.name == "mirror.sequencer"] == [("shop.gone",)]
    assert not Outbox.objects.using("centre").exists()
    assert recorded.entries()[-1].ends_group


@everywhere
def test_a_pass_that_fails_midway_changes_nothing(recorded, monkeypatch):
    monkeypatch.setattr(sequencer, "_PAGE", 2)
    for value in range(5):
        capture_counter(value, using="centre")
    Outbox.objects.using("centre").create(op="SAVE", model="shop.counter", captured_at=NOON, payload="{")
    with pytest.raises(ValueError, match="truncated"):
        recorded.step()
    assert Outbox.objects.using("centre").count() == 6
    assert not recorded.entries()
    assert recorded.stream.head == 0
    Outbox.objects.using("centre").filter(payload="{").delete()
    assert order(recorded.changes()) == [0, 1, 2, 3, 4]


@everywhere
def test_outbox_rows_that_were_not_read_are_not_forgotten(recorded, monkeypatch):
    # On a server a lower id may be committed after the pass has looked.
    for value in (1, 2, 3):
        capture_counter(value, using="centre")
    late = Outbox.objects.using("centre").order_by("id")[1]
    Outbox.objects.using("centre").filter(id=late.id).delete()
    change = Sequencer._change

    def and_meanwhile(self, *args):
        late.save(using="centre")
        return change(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Sequencer, "_change", and_meanwhile)
        assert recorded.step() == 2
    assert list(Outbox.objects.using("centre").values_list("id", flat=True)) == [late.id]
    assert order(recorded.changes()) == [1, 3, 2]


@everywhere
def test_without_a_stream_nothing_is_moved(recorded):
    Stream.objects.using("centre").all().delete()
    capture_counter(1, using="centre")
    assert recorded.step() == 0
    assert Outbox.objects.using("centre").count() == 1


@everywhere
def test_a_key_longer_than_its_column_is_kept_in_short(recorded):
    for name in ("x" * 300, "x" * 299 + "y"):
        payload = json.dumps({"row": name, "number": 1, "guest": ""})
        Outbox.objects.using("centre").create(op="SAVE", model="shop.seat", captured_at=NOON, payload=payload)
    changes = recorded.changes()
    assert [change.pk[0][-1] for change in changes] == ["x", "y"]
    keys = set(Oplog.objects.using("centre").values_list("key", flat=True))
    assert [len(key) for key in keys] == [200, 200]


def in_threads(*functions) -> None:
    problems = []

    def guarded(function):
        try:
            function()
        except Exception as error:  # noqa: BLE001 - told below, in the test's own thread
            problems.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=guarded, args=[function]) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not problems


@everywhere
def test_one_sequencer_at_a_time_wherever_they_run(recorded):
    for value in range(150):
        capture_counter(value, using="centre")
    start = threading.Barrier(3)

    def sequence():
        mine = Sequencer("centre")
        start.wait(timeout=30)
        while mine.step():
            pass

    def write():
        start.wait(timeout=30)
        for value in range(150, 200):
            capture_counter(value, using="centre")

    in_threads(sequence, sequence, write)
    assert order(recorded.changes()) == list(range(200))
    assert [entry.position for entry in recorded.entries()] == list(range(1, 201))


# Parents that the trigger could not see


@everywhere
def test_a_parent_that_came_later_is_looked_up(recorded):
    brand = Brand.objects.using("centre").create(name="late")
    capture_product(second_brand_id=brand.pkid)
    (change,) = recorded.changes()
    assert change.fields["second_brand"] == str(brand.id)


@everywhere
def test_a_parent_that_was_deleted_before_or_after_is_found_in_the_outbox(recorded):
    first, second = uuid4(), uuid4()
    capture_product(second_brand_id=8)
    gone_brand(7, first)
    capture_product(second_brand_id=7)
    gone_brand(8, second)
    products = [change for change in recorded.changes() if change.model == "shop.product"]
    assert [change.fields["second_brand"] for change in products] == [str(second), str(first)]


@everywhere
def test_what_was_deleted_in_one_pass_says_nothing_of_the_next(recorded):
    gone_brand(7, uuid4())
    recorded.step()
    brand = Brand.objects.using("centre").create(pkid=7, name="another")
    capture_product(second_brand_id=7)
    assert recorded.news()[0].fields["second_brand"] == str(brand.id)


@everywhere
@pytest.mark.parametrize("page", [1, 2, 1000])
def test_a_parent_is_told_by_the_uuid_that_it_had_at_that_place(recorded, monkeypatch, page):
    monkeypatch.setattr(sequencer, "_PAGE", page)
    last = Brand.objects.using("centre").create(pkid=7, name="b").id
    first, second = uuid4(), uuid4()
    capture_product(second_brand_id=7)
    for old, new in ((first, second), (second, last)):
        gone_brand(7, old)
        saved_brand(7, new)
        capture_product(second_brand_id=7)
    capture_product(second_brand_id=7)
    products = [change for change in recorded.changes() if change.model == "shop.product"]
    assert [change.fields["second_brand"] for change in products] == [
        str(uuid) for uuid in (first, second, last, last)
    ]


def capture_product(**columns) -> None:
    payload = {"id": str(uuid4()), "name": "p", **columns}
    Outbox.objects.using("centre").create(
        op="SAVE", model="shop.product", captured_at=NOON, payload=json.dumps(payload)
    )


def gone_brand(pkid: int, uuid: UUID) -> None:
    capture_brand("DELETE", pkid, uuid)


def saved_brand(pkid: int, uuid: UUID) -> None:
    capture_brand("SAVE", pkid, uuid)


def capture_brand(op: str, pkid: int, uuid: UUID) -> None:
    payload = {"pkid": pkid, "id": str(uuid), "name": "b"}
    Outbox.objects.using("centre").create(
        op=op, model="shop.brand", captured_at=NOON, payload=json.dumps(payload)
    )


# With triggers


def test_a_transaction_is_never_cut(source, monkeypatch):
    monkeypatch.setattr(sequencer, "_PAGE", 3)
    with transaction.atomic():
        Counter.objects.bulk_create([Counter(value=value) for value in range(20)])
        assert Outbox.objects.count() == 20
    source.step()
    entries = source.entries()
    assert [entry.ends_group for entry in entries] == [False] * 19 + [True]


def test_a_large_pass_is_not_held_in_memory(source, monkeypatch):
    monkeypatch.setattr(sequencer, "_PAGE", 100)
    Ticket.objects.bulk_create([Ticket(text="x" * 4000) for _ in range(5000)])
    tracemalloc.start()
    try:
        assert source.step() == 5000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # They are 20 MB, a page of them 0.4.
    assert peak < 5_000_000


def test_two_sequencers_and_two_writers_lose_and_double_nothing(source):
    finished = threading.Event()
    written = 60

    def write(offset):
        for value in range(written):
            Counter.objects.create(value=offset + value)

    def sequence():
        mine = Sequencer()
        while not finished.is_set():
            mine.step()
        mine.step()

    sequencers = threading.Thread(target=in_threads, args=[sequence, sequence])
    sequencers.start()
    in_threads(lambda: write(0), lambda: write(1000))
    finished.set()
    sequencers.join(timeout=60)
    changes = source.changes()
    values = order(changes)
    assert sorted(values) == [*range(written), *range(1000, 1000 + written)]
    for offset in (0, 1000):  # each writer's own order is kept
        own = [value for value in values if offset <= value < offset + 1000]
        assert own == sorted(own)
    assert all(before.ts < after.ts for before, after in pairwise(changes))
    assert [entry.position for entry in source.entries()] == list(range(1, 2 * written + 1))


def test_a_busy_database_is_tried_again_later(source, caplog, monkeypatch):
    Counter.objects.create(value=1)
    mine = Sequencer()

    def busy():
        raise OperationalError("database is locked")

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, "mirror.sequencer"):
        patched.setattr(mine, "step", busy)
        assert guarded_step(mine) == 0
    assert "database is locked" in caplog.text
    assert guarded_step(mine) == 1


def turns(count: int) -> list[float]:
    """So many turns of the loop; returns what it slept."""
    slept: list[float] = []
    run(Sequencer(), stopped=lambda: len(slept) >= count, sleep=slept.append)
    return slept


def test_the_loop_moves_what_was_committed_and_pauses_shortly(source, settings):
    settings.MIRROR = {"MODELS": ["shop.*"], "SEQUENCER_PAUSE": 0.001, "POLL_INTERVAL": 0.002}
    Counter.objects.create(value=1)
    assert turns(3) == [0.001, 0.002, 0.002]
    assert len(source.entries()) == 1


def test_the_loop_survives_a_database_that_is_busy(source, monkeypatch):
    Counter.objects.create(value=1)

    def busy(using):
        raise OperationalError("database is locked")

    with monkeypatch.context() as patched:
        patched.setattr(oplogger, "tell", busy)
        assert len(turns(3)) == 3
    assert len(source.entries()) == 1


def test_changes_are_read_back_as_they_were_written(source):
    brand = Brand.objects.create(name="Ébène \U0001f600 \"'\\")
    source.step()
    (entry,) = source.entries()
    assert decode_change(entry.body).fields["name"] == brand.name
    assert connection.alias == "default"

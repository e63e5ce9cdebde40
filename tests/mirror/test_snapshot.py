"""Rows as they are at the head: what a snapshot reads is what the oplog says, up to there and no further."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import connection, connections, transaction
from django.db.utils import OperationalError
from django.test import override_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror import capture, oplogger, snapshot
from mirror.capture import ordered
from mirror.changes import Change, Op, decode_change, encode_change
from mirror.errors import CODES, Busy, Malformed, UnknownModel, UnknownStream
from mirror.models import Outbox, Stream
from mirror.registry import mirrored_models
from mirror.snapshot import Rows
from mirror.trips import fetch_last
from tests.fakes import Recorded
from tests.mirror.conftest import attached
from tests.mirror.server_support import execute
from tests.mirror.signals_support import engines, signalled
from tests.mirror.test_fields import EDGES, write
from tests.mirror.test_fields_keys import KEYS
from tests.zoo import models as zoo
from tests.zoo.fields import Hand
from tests.zoo.pairs import empty
from tests.zoo.pairs import zoo as zoo_installed

LIMITS = (1, 2, 3, 7, 1000)


@contextmanager
def recorded(database: dict[str, Any]) -> Iterator[Recorded]:
    """A source with the zoo's tables, which "reader" is another connection to."""
    with zoo_installed(), attached("default", database), attached("reader", database):
        oplogger.forget()
        empty(connection)
        Stream.objects.create(local=True)
        ContentType.objects.clear_cache()
        yield Recorded("default")
    ContentType.objects.clear_cache()


@pytest.fixture
def animals(engine, zoo_databases, django_db_blocker) -> Iterator[Recorded]:
    with django_db_blocker.unblock(), recorded(zoo_databases(engine, "source")) as source:
        yield source


def read(label: str, using: str = "reader", **asked: Any) -> Rows:
    return snapshot.read(using, label, **{"limit": 2000, "max_bytes": 10**9, **asked})


def pages(label: str, **asked: Any) -> Iterator[Rows]:
    after = None
    while True:
        page = read(label, after=after, **asked)
        yield page
        if page.next is None:
            return
        after = json.loads(json.dumps(page.next))


def test_what_is_too_much_for_one_answer_is_asked_for_again():
    bodies = [encode_change(Change(ts=1, op=Op.SAVE, model="a.b", pk=pk, fields={})) for pk in (1, 2, 3)]
    rows = Rows(at=1, rows=bodies, pending=[7])
    assert rows.within(1000) == rows
    assert rows.within(len(bodies[0]) + 1) == Rows(at=1, rows=bodies[:1], pending=[7, 2, 3])
    assert rows.within(1) == Rows(at=1, rows=bodies[:1], pending=[7, 2, 3]), "one at least"


def untimed(body: str) -> str:
    """Everything of a change but its time, to the byte."""
    return body.partition(",")[2]


def by_key(bodies: list[str]) -> dict[str, str]:
    return {json.dumps(json.loads(body)["pk"]): untimed(body) for body in bodies}


def logged(source: Recorded, label: str, upto: int | None = None) -> dict[str, str]:
    """Each row as the oplog has it last, by its key."""
    found: dict[str, str] = {}
    for entry in source.entries():
        change = decode_change(entry.body)
        if change.model == label and (upto is None or entry.ts <= upto):
            found.pop(json.dumps(change.pk), None)
            if change.op == Op.SAVE:
                found[json.dumps(change.pk)] = untimed(entry.body)
    return found


def assert_as_logged(source: Recorded) -> None:
    for label in mirrored_models():
        expected = logged(source, label)
        assert expected, f"no row of {label} was written"
        answer = read(label)
        assert by_key(answer.rows) == expected
        assert len(answer.rows) == len(expected) == answer.total
        assert {decode_change(body).ts for body in answer.rows} == {answer.at} == {source.stream.head}
        assert (answer.pending, answer.next) == ([], None)


# What is written


def write_all() -> None:
    """Rows of every model, with every value that is hard for some database."""
    for model, fields in EDGES.items():
        for field, values in fields.items():
            for value in values:
                write(model, {field: value})
    for model, keys in KEYS.items():
        if model is not zoo.Place:
            for number, key in enumerate(keys):
                model.objects.create(pk=key, value=number)
    for secret in ("", "é😀"):
        zoo.Custom.objects.create(secret=secret, hand=Hand(("a", "b")), cents="1.25", wrapped=[secret, None])
    zoo.Computed.objects.create(side=3)
    write_composites()
    write_references()


def write_composites() -> None:
    for code in ("a", "b"):
        owner, _new = zoo.TextKeyed.objects.get_or_create(code=code)
        for day in (date(2026, 1, 2), date(1, 1, 1)):
            for number in (3, 2**40, -1):
                zoo.CompositeKeyed.objects.create(owner=owner, day=day, number=number)


def write_references() -> None:
    bird = zoo.Bird.objects.create(name="bird")
    animal = zoo.Animal.objects.create(name="animal", parent=bird)
    keeper = zoo.Keeper.objects.create(name="keeper", favourite=animal)
    zoo.Animal.objects.filter(pk=bird.pk).update(favourite=keeper, parent=bird)
    zoo.Shift.objects.create(animal=bird, keeper=keeper, hours=Decimal("1.5"))
    bird.friends.add(animal)
    places = [zoo.Place.objects.create(name="place"), zoo.Cafe.objects.create(name="cafe", seats=4)]
    places[0].near.add(*places)
    day = zoo.DayKeyed.objects.create(day=date(2000, 1, 1))
    for about in (animal, bird, keeper, places[1]):
        zoo.Note.objects.create(about=about)
    for about in (animal, day, places[0]):
        zoo.Label.objects.create(about=about)
    zoo.Label.objects.create()
    kind = ContentType.objects.get_for_model(zoo.Animal)
    zoo.Note.objects.create(kind=kind, object_id=999)
    zoo.Label.objects.create(kind=kind, object_id="nothing")


@engines()
def test_every_row_is_read_as_its_last_change_says(animals):
    write_all()
    animals.step()
    assert_as_logged(animals)


@engines()
def test_what_signals_told_is_read_as_they_told_it(engine, zoo_databases, django_db_blocker):
    database = zoo_databases(engine, "source")
    with django_db_blocker.unblock(), signalled(database) as source, attached("reader", database):
        write_all()
        Outbox.objects.exclude(payload__startswith='{"$told":').delete()
        source.step()
        assert_as_logged(source)


@engines("sqlite")
def test_a_field_that_never_leaves_is_not_read(animals):
    zoo.Numbers.objects.create(money=1, whole=2)
    animals.step()
    with override_settings(MIRROR={"MODELS": ["zoo.*"], "EXCLUDE_FIELDS": ["zoo.Numbers.money"]}):
        (body,) = read("zoo.numbers").rows
    assert "whole" in body
    assert "money" not in body


def test_content_types_and_permissions_are_read_by_name(source, source_path):
    mirrored = {"MODELS": ["auth.*", "contenttypes.*"]}
    with override_settings(MIRROR=mirrored), attached("reader", connection.settings_dict):
        capture.sync(connection)
        execute("UPDATE django_content_type SET model = model")
        execute("UPDATE auth_permission SET name = name")
        source.step()
        for label in ("auth.permission", "contenttypes.contenttype"):
            expected = logged(source, label)
            assert by_key(read(label).rows) == expected != {}
        # Until it has its place, a content type is called what it was.
        execute("UPDATE django_content_type SET model = 'chair' WHERE model = 'seat'")
        ContentType.objects.clear_cache()
        expected = logged(source, "auth.permission")
        assert any('"seat"' in body for body in expected.values())
        assert by_key(read("auth.permission").rows) == expected
        assert ["shop", "seat"] not in [
            decode_change(row).pk for row in read("contenttypes.contenttype").rows
        ]
        ContentType.objects.clear_cache()


# Pages


def write_keyed() -> dict[str, int]:
    """Rows of every kind of key; how many there are by label."""
    for model, keys in KEYS.items():
        if model is not zoo.Place:
            model.objects.bulk_create([model(pk=key, value=0) for key in keys])
    write_composites()
    for number in range(9):
        zoo.Cafe.objects.create(name="cafe", seats=number)
        zoo.Animal.objects.create(name="animal")
        zoo.Bird.objects.create(name="bird")
    zoo.Animal.objects.first().friends.add(*zoo.Animal.objects.all())
    return {
        label: mirrored.model._base_manager.count()
        for label, mirrored in mirrored_models().items()
        if mirrored.model._base_manager.exists()
    }


@engines()
def test_pages_of_any_size_give_each_row_once_in_the_order_of_its_key(animals):
    counts = write_keyed()
    assert {"zoo.compositekeyed", "zoo.bird", "zoo.cafe", "zoo.animal_friends", "zoo.spankeyed"} <= set(
        counts
    )
    animals.step()
    for label, count in counts.items():
        model = mirrored_models()[label].model
        keys = list(model._base_manager.order_by("pk").values_list("pk", flat=True))
        whole = read(label)
        assert len(whole.rows) == whole.total == count
        told = [decode_change(body).pk for body in whole.rows]
        assert read(label, keys=told[::-1]).rows == whole.rows
        for limit in LIMITS:
            got = list(pages(label, limit=limit))
            assert [row for page in got for row in page.rows] == whole.rows
            assert [page.total for page in got] == [count] + [None] * (len(got) - 1)
            assert len(got) == -(-count // limit)
            assert all(page.next == decode_change(page.rows[-1]).pk for page in got[:-1])
        if told[0] == keys[0]:
            assert told == keys


@engines()
def test_the_database_orders_keys_and_nobody_else(animals):
    codes = ["a", "B", "é", "c", "A1", "10", "9", " ", "_", "%", "'", "\\", '"', "é😀", "z"]
    zoo.TextKeyed.objects.bulk_create([zoo.TextKeyed(code=code) for code in codes])
    animals.step()
    ordered = list(zoo.TextKeyed.objects.order_by("code").values_list("code", flat=True))
    for limit in LIMITS:
        rows = [row for page in pages("zoo.textkeyed", limit=limit) for row in page.rows]
        assert [decode_change(row).pk for row in rows] == ordered


@engines()
def test_a_page_ends_once_enough_bytes_are_read_and_has_one_row_at_least(animals):
    sizes = [10, 5000, 3, 0, 40000, 1, 2000] * 40
    zoo.Texts.objects.bulk_create([zoo.Texts(body="é" * size) for size in sizes])
    animals.step()
    rows = []
    for page in pages("zoo.texts", max_bytes=9000):
        assert page.rows
        assert sum(len(row.encode()) for row in page.rows[:-1]) < 9000
        assert page.next is None or sum(len(row.encode()) for row in page.rows) >= 9000
        rows += page.rows
    assert [len(decode_change(row).fields["body"]) for row in rows] == sizes
    assert read("zoo.texts", keys=[decode_change(row).pk for row in rows], max_bytes=1).rows == rows


@engines()
def test_a_page_goes_on_behind_a_row_that_is_gone(animals):
    write_keyed()
    animals.step()
    for label in ("zoo.compositekeyed", "zoo.textkeyed", "zoo.daykeyed"):
        model = mirrored_models()[label].model
        whole = read(label).rows
        first = read(label, limit=2)
        assert len(first.rows) == 2
        model._base_manager.filter(pk=model._base_manager.order_by("pk")[1].pk).delete()
        animals.step()
        rest = read(label, after=first.next)
        assert [untimed(row) for row in rest.rows] == [untimed(row) for row in whole[2:]]


@engines()
def test_of_the_keys_that_are_asked_for_those_that_exist_are_read(animals):
    write_keyed()
    animals.step()
    assert [decode_change(row).pk for row in read("zoo.textkeyed", keys=["b", "x", "a"]).rows] == ["a", "b"]
    asked = [["a", "2026-01-02", 3], ["c", "2026-01-02", 3], ["b", "0001-01-01", 2**40]]
    answer = read("zoo.compositekeyed", keys=asked, limit=1)
    assert [decode_change(row).pk for row in answer.rows] == [asked[0], asked[2]]
    assert (answer.next, answer.total) == (None, None)
    assert read("zoo.uuidkeyed", keys=[]).rows == []


@engines()
def test_a_key_of_references_goes_by_their_uuids_and_pages_by_their_numbers(animals):
    """So has a project that leaves out the number of an automatic many-to-many row."""
    with override_settings(MIRROR={"MODELS": ["zoo.*"], "EXCLUDE_FIELDS": ["zoo.Animal_friends.id"]}):
        write_keyed()
        animals.step()
        whole = read("zoo.animal_friends")
        told = [decode_change(body).pk for body in whole.rows]
        assert by_key(whole.rows) == logged(animals, "zoo.animal_friends")
        assert read("zoo.animal_friends", keys=[*told, [str(uuid4())] * 2]).rows == whole.rows
        for limit in LIMITS:
            got = list(pages("zoo.animal_friends", limit=limit))
            assert [row for page in got for row in page.rows] == whole.rows
        assert read("zoo.animal_friends", after=told[3]).rows == whole.rows[4:]
        first = read("zoo.animal_friends", limit=4)
        for key in (["x", "y"], [str(uuid4())] * 2):
            with pytest.raises(Malformed):
                read("zoo.animal_friends", after=key)
        assert first.next != told[3]
        zoo.Animal.objects.filter(id=told[3][1]).update(id=uuid4())
        assert read("zoo.animal_friends", after=first.next).rows == whole.rows[4:]
        zoo.Animal.friends.through.objects.filter(to_animal__name="bird").delete()
        answer = read("zoo.animal_friends")
        waiting = {json.dumps(key) for key in answer.pending}
        assert waiting
        assert by_key(answer.rows).keys() == by_key(whole.rows).keys() - waiting


@engines()
def test_a_model_without_rows_has_none(animals):
    assert read("zoo.bird") == Rows(at=0, rows=[], pending=[], next=None, total=0)
    assert read("zoo.bird", after=5).rows == []


def test_values_that_sqlite_holds_in_another_form_do_not_stop_the_pages(engine_free, source):
    """Two keys that travel as one, a moment as another program writes it, and a text that is none."""
    amounts = (3.891, 3.892, 3.8, 0.1 + 0.2, 5)
    with recorded(engine_free("sqlite", "source")) as animals:
        for amount in amounts:
            execute("INSERT INTO zoo_amountkeyed (amount, value) VALUES (%s, 0)", [amount])
        for moment in ("2026-01-01T00:00:00", "2026-01-01 00:00:00", "2026-01-01 10:00:00.5"):
            execute("INSERT INTO zoo_momentkeyed (moment, value) VALUES (%s, 0)", [moment])
        execute("INSERT INTO zoo_texts (id, title) VALUES (%s, CAST(x'61ff62' AS TEXT))", [uuid4().hex])
        animals.step()
        for label, count in {"zoo.amountkeyed": 5, "zoo.momentkeyed": 3, "zoo.texts": 1}.items():
            for limit in (1, 2):
                read_one_by_one = [row for page in pages(label, limit=limit) for row in page.rows]
                assert len(read_one_by_one) == count
                assert set(map(untimed, read_one_by_one)) >= set(logged(animals, label).values())
        assert decode_change(read("zoo.texts").rows[0]).fields["title"] == "a\N{REPLACEMENT CHARACTER}b"


@pytest.fixture
def engine_free(zoo_databases, django_db_blocker):
    with django_db_blocker.unblock():
        yield zoo_databases


# What waits


@engines()
def test_a_row_whose_change_waits_is_pending_and_not_read(animals):
    write_keyed()
    animals.step()
    before = animals.stream.head
    zoo.TextKeyed.objects.filter(code="a").update(value=7)
    zoo.TextKeyed.objects.filter(code="null").update(code="moved")
    zoo.TextKeyed.objects.filter(code="1").delete()
    zoo.TextKeyed.objects.create(code="new")
    answer = read("zoo.textkeyed")
    assert answer.at == before
    assert sorted(answer.pending) == ["1", "a", "moved", "new", "null"]
    assert by_key(answer.rows) == {
        key: body
        for key, body in logged(animals, "zoo.textkeyed").items()
        if json.loads(key) not in answer.pending
    }
    zoo.CompositeKeyed.objects.filter(number=3).update(value=1)
    zoo.Bird.objects.update(wings=3)
    assert len(read("zoo.compositekeyed").pending) == 4
    assert read("zoo.compositekeyed", keys=[["a", "2026-01-02", 3], ["a", "2026-01-02", -1]]).pending
    assert len(read("zoo.bird").pending) == 9
    assert read("zoo.bird").rows == []
    assert read("zoo.animal").pending == []
    animals.step()
    assert read("zoo.bird").pending == read("zoo.textkeyed").pending == []
    assert by_key(read("zoo.textkeyed").rows) == logged(animals, "zoo.textkeyed")


@engines()
def test_rows_that_wait_are_passed_over_and_counted(animals):
    zoo.Place.objects.bulk_create([zoo.Place(name=str(number)) for number in range(10)])
    animals.step()
    first, *_ = zoo.Place.objects.order_by("pk").values_list("pk", flat=True)
    zoo.Place.objects.filter(pk__lt=first + 4).update(name="changed")
    got = list(pages("zoo.place", limit=3))
    assert [len(page.rows) for page in got] == [0, 2, 3, 1]
    assert got[0].next == first + 2


@engines()
def test_what_signals_told_waits_as_well(engine, zoo_databases, django_db_blocker):
    database = zoo_databases(engine, "source")
    with django_db_blocker.unblock(), signalled(database) as source, attached("reader", database):
        write_keyed()
        source.step()
        zoo.TextKeyed.objects.filter(code="a").update(value=7)
        zoo.CompositeKeyed.objects.filter(number=3).delete()
        zoo.Bird.objects.first().delete()
        Outbox.objects.exclude(payload__startswith='{"$told":').delete()
        assert read("zoo.textkeyed").pending == ["a"]
        assert len(read("zoo.compositekeyed").pending) == 4
        for label in ("zoo.textkeyed", "zoo.compositekeyed", "zoo.bird", "zoo.animal", "zoo.animal_friends"):
            answer = read(label)
            assert answer.pending
            waiting = {json.dumps(key) for key in answer.pending}
            assert by_key(answer.rows) == {
                key: body for key, body in logged(source, label).items() if key not in waiting
            }


@engines()
def test_a_reference_is_told_by_the_uuid_that_its_row_has_at_the_head(animals):
    """The row has another one already, or is gone; the mirror will hear of that later."""
    parent, other = (zoo.Animal.objects.create(name=name) for name in ("parent", "other"))
    zoo.Keeper.objects.create(name="keeper", favourite=parent)
    zoo.Note.objects.create(about=parent)
    zoo.Note.objects.create(about=other)
    animals.step()
    expected = {label: logged(animals, label) for label in ("zoo.keeper", "zoo.note")}
    zoo.Animal.objects.filter(pk=parent.pk).update(id=UUID(int=1 << 64 | 4 << 76 | 8 << 60))
    zoo.Animal.objects.filter(pk=parent.pk).update(id=UUID(int=2 << 64 | 4 << 76 | 8 << 60))
    zoo.Animal.objects.filter(pk=other.pk)._raw_delete("default")
    for label, bodies in expected.items():
        assert by_key(read(label).rows) == bodies


# In the midst of writing


CODES_OF_ROWS = ["a", "b", "c", "d"]
STEPS = st.one_of(
    st.tuples(st.just("save"), st.sampled_from(CODES_OF_ROWS), st.integers(0, 9)),
    st.tuples(st.just("delete"), st.sampled_from(CODES_OF_ROWS), st.just(0)),
    st.tuples(st.just("move"), st.sampled_from(CODES_OF_ROWS), st.integers(0, 3)),
    st.tuples(st.just("prefer"), st.just(""), st.integers(0, 3)),
    st.tuples(st.sampled_from(["begin", "commit", "rollback"]), st.just(""), st.just(0)),
    st.tuples(st.just("sequence"), st.just(""), st.just(0)),
    st.tuples(st.just("read"), st.sampled_from(["", *CODES_OF_ROWS]), st.sampled_from(LIMITS)),
)


class Interleaved:
    """A writer, with or without an open transaction, a sequencer and a reader, each with its connection."""

    def __init__(self, source: Recorded) -> None:
        self.source = source
        self.rows = zoo.TextKeyed.objects.using("writer")
        self.keeper = zoo.Keeper.objects.create(name="keeper")
        self.liked = [zoo.Animal.objects.create(name=str(number)) for number in range(4)]
        self.waiting: set[tuple[str, Any]] = set()
        self.uncommitted: set[tuple[str, Any]] = set()
        self.atomic: Any = None
        self.source.step()

    def do(self, step: str, code: str, number: int) -> None:
        getattr(self, step)(code, number)
        if self.atomic is None:
            self.waiting |= self.uncommitted
            self.uncommitted = set()

    def changed(self, label: str, *keys: Any) -> None:
        self.uncommitted |= {(label, key) for key in keys}

    def save(self, code: str, number: int) -> None:
        self.rows.update_or_create(code=code, defaults={"value": number})
        self.changed("zoo.textkeyed", code)

    def delete(self, code: str, number: int) -> None:
        if self.rows.filter(code=code)._raw_delete("writer"):
            self.changed("zoo.textkeyed", code)

    def move(self, code: str, number: int) -> None:
        other = CODES_OF_ROWS[number]
        if not self.rows.filter(code=other).exists() and self.rows.filter(code=code).update(code=other):
            self.changed("zoo.textkeyed", code, other)

    def prefer(self, code: str, number: int) -> None:
        keepers = zoo.Keeper.objects.using("writer").filter(pk=self.keeper.pk)
        keepers.update(favourite_id=self.liked[number].pk)
        self.changed("zoo.keeper", self.keeper.pk)

    def begin(self, code: str, number: int) -> None:
        if self.atomic is None:
            self.atomic = transaction.atomic(using="writer")
            self.atomic.__enter__()

    def commit(self, code: str, number: int) -> None:
        if self.atomic is not None:
            self.atomic.__exit__(None, None, None)
            self.atomic = None

    def rollback(self, code: str, number: int) -> None:
        if self.atomic is not None:
            transaction.set_rollback(True, using="writer")
            self.uncommitted = set()
            self.commit(code, number)

    def sequence(self, code: str, number: int) -> None:
        if connection.vendor != "sqlite" or self.atomic is None:  # there is one writer at a time
            self.source.step()
            self.waiting = set()

    def read(self, code: str, limit: int) -> None:
        for label in ("zoo.textkeyed", "zoo.keeper"):
            expected = logged(self.source, label)
            waiting = {key for of, key in self.waiting if of == label}
            known = {key: body for key, body in expected.items() if json.loads(key) not in waiting}
            after = code if code and label == "zoo.textkeyed" else None
            part, whole = read(label, after=after, limit=limit), read(label, keys=[*self.keys(label)])
            for answer in (part, whole):
                assert answer.at == self.source.stream.head
                assert set(answer.pending) == waiting
                assert by_key(answer.rows).items() <= known.items()
            assert by_key(whole.rows) == known
            behind = [key for key in map(json.loads, known) if after is None or key > after]
            if part.next is None:
                assert len(part.rows) == len(behind)

    def keys(self, label: str) -> list[Any]:
        return CODES_OF_ROWS if label == "zoo.textkeyed" else [self.keeper.pk]


@engines()
def test_whatever_is_written_meanwhile_a_row_is_read_as_at_the_head_or_is_pending(animals):
    with attached("writer", connection.settings_dict):

        @settings(max_examples=25, suppress_health_check=list(HealthCheck))
        @given(st.lists(STEPS, max_size=25))
        def any_order(steps):
            zoo.TextKeyed.objects.all().delete()
            zoo.Keeper.objects.all().delete()
            world = Interleaved(animals)
            try:
                for step in steps:
                    world.do(*step)
                world.do("read", "", 1000)
            finally:
                world.do("rollback", "", 0)

        any_order()


@contextmanager
def between_statements(work: Any) -> Iterator[list[str]]:
    """Have something happen after each statement of the reader; give those that it ran."""
    ran: list[str] = []

    def meddle(execute: Any, sql: str, *given: Any) -> Any:
        result = execute(sql, *given)
        ran.append(sql)
        work()
        return result

    with connections["reader"].execute_wrapper(meddle):
        yield ran


@engines()
def test_what_happens_while_it_reads_waits_for_nothing_and_is_not_seen(animals):
    write_keyed()
    animals.step()
    if connection.vendor == "mysql":
        execute("SET innodb_lock_wait_timeout = 1")
    elif connection.vendor == "postgresql":
        execute("SET lock_timeout = '1s'")
    texts = zoo.TextKeyed.objects

    def write_and_sequence() -> None:
        texts.filter(code="a").update(value=len(ran))
        texts.filter(code="b").delete() if len(ran) % 2 else texts.create(code="b")
        texts.create(code=str(uuid4()))
        if len(ran) % 2:
            animals.step()

    zoo.CompositeKeyed.objects.filter(owner="b").delete()
    animals.step()
    with between_statements(write_and_sequence) as ran:
        answer = read("zoo.textkeyed", limit=1000)
    assert len(ran) > 3
    assert answer.at < animals.stream.head
    waiting = {json.dumps(key) for key in answer.pending}
    assert by_key(answer.rows) == {
        key: body
        for key, body in logged(animals, "zoo.textkeyed", upto=answer.at).items()
        if key not in waiting
    }


@engines("postgresql")
def test_a_table_that_is_being_read_cannot_be_emptied_behind_the_snapshot(animals):
    zoo.DayKeyed.objects.create(day=date(2026, 1, 1))
    animals.step()
    execute("SET lock_timeout = '50ms'")
    refused = []

    def truncate() -> None:
        try:
            execute("TRUNCATE zoo_daykeyed")
        except OperationalError:
            refused.append(1)

    with between_statements(lambda: truncate() if connections["reader"].in_atomic_block else None) as ran:
        answer = read("zoo.daykeyed")
    assert len(answer.rows) == 1
    assert len(refused) > 2
    assert len(refused) >= len(ran) - 2
    truncate()
    assert read("zoo.daykeyed").rows == []


# What is left behind


def state(using: str) -> Any:
    database: Any = connections[using]
    with database.cursor() as cursor:
        if database.vendor == "postgresql":
            names = (
                "transaction_isolation",
                "transaction_read_only",
                "enable_seqscan",
                "search_path",
                "TimeZone",
            )
            settings = []
            for name in names:
                cursor.execute(f"SHOW {name}")
                settings.append(cursor.fetchone())
            left: Any = (settings, database.connection.info.transaction_status.name)
        elif database.vendor == "mysql":
            cursor.execute("SELECT @@tx_isolation, @@tx_read_only, @@autocommit, @@in_transaction")
            left = cursor.fetchone()
        else:
            held = database.connection
            left = (database.transaction_mode, held.text_factory, held.in_transaction)
    return left, database.in_atomic_block, database.get_autocommit()


@engines()
def test_the_connection_is_as_it_was_whatever_the_outcome(animals, monkeypatch):
    write_keyed()
    animals.step()
    before = state("reader")
    read("zoo.textkeyed")
    assert state("reader") == before
    malformed: list[dict[str, Any]] = [{"after": 5}, {"keys": [{"$postgresql": "x"}]}]
    for wrong in malformed:
        with pytest.raises(Malformed):
            read(
                "zoo.bird" if "keys" in wrong and connection.vendor == "postgresql" else "zoo.textkeyed",
                **wrong,
            )
        assert state("reader") == before
    zoo.TextKeyed.objects.create(code="waits")
    monkeypatch.setattr(snapshot, "_MOST_WAITING", 0)
    with pytest.raises(Busy):
        read("zoo.textkeyed")
    assert state("reader") == before
    zoo.TextKeyed.objects.using("reader").create(code="written by the reader")


# What is refused


@engines()
def test_what_is_no_key_of_the_model_is_malformed(animals):
    write_keyed()
    wrong: dict[str, list[Any]] = {
        "zoo.bird": ["a", 1.5, True, [1], {}, None, {"$missing": 1}, 2**80, -(2**80)],
        "zoo.textkeyed": [1, ["a"], {"a": 1}],
        "zoo.uuidkeyed": ["a", 1, "", {"$other": 1}],
        "zoo.daykeyed": ["2026", "2026-02-30", 1],
        "zoo.momentkeyed": ["2026-01-01", "2026-01-01T00:00:00"],
        "zoo.spankeyed": ["x", 5],
        "zoo.amountkeyed": ["x", "NaN", 1.5],
        "zoo.compositekeyed": ["a", ["a"], ["a", "2026-01-01"], ["a", "2026-01-01", None], ["a", 1, 1]],
    }
    for label, keys in wrong.items():
        for key in keys:
            with pytest.raises(Malformed):
                read(label, keys=[key])
            if key is not None:
                with pytest.raises(Malformed):
                    read(label, after=key)
    with pytest.raises(Malformed):
        read("zoo.bird", keys=list(range(1001)))


@engines("postgresql")
def test_a_key_that_the_server_cannot_read_is_malformed(animals):
    for key in ("x", 1.5, 10**30, "\0", {"b": "00"}):
        for label in ("zoo.bird", "zoo.uuidkeyed", "zoo.daykeyed"):
            asked = {"$postgresql": key}
            if (label, key) == ("zoo.bird", 10**30):
                continue  # it is a number
            with pytest.raises(Malformed):
                read(label, after=asked)


@engines("sqlite")
def test_only_what_is_mirrored_is_read(animals):
    for label in ("auth.user", "zoo.Bird", "mirror.token", "nothing", ""):
        with pytest.raises(UnknownModel) as caught:
            read(label)
        assert caught.value.code == "unknown_model"


@engines("sqlite")
def test_where_nothing_is_recorded_there_is_nothing_to_read(animals):
    with override_settings(MIRROR={"MODELS": ["zoo.*"], "CAPTURE": None}), pytest.raises(UnknownStream):
        read("zoo.bird")
    Stream.objects.all().delete()
    with pytest.raises(UnknownStream):
        read("zoo.bird")


@engines("sqlite")
def test_with_too_much_waiting_the_sequencer_goes_first(animals):
    execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10001) "
        "INSERT INTO zoo_daykeyed (day, value) SELECT date('2000-01-01', i || ' days'), 0 FROM n"
    )
    with pytest.raises(Busy) as caught:
        read("zoo.daykeyed")
    assert (caught.value.code, caught.value.retryable, CODES["busy"]) == ("busy", True, Busy)
    animals.step()
    assert read("zoo.daykeyed").total == 10001
    zoo.DayKeyed.objects.filter(value=0).exclude(day=date(2000, 1, 2)).update(value=1)
    assert len(read("zoo.daykeyed", limit=3).pending) == 10000


@engines("sqlite")
def test_a_snapshot_is_read_in_a_transaction_of_its_own(animals):
    with transaction.atomic(), pytest.raises(RuntimeError):
        read("zoo.bird", using="default")


@engines("postgresql")
def test_of_many_rows_with_keys_of_several_columns_only_those_that_are_asked_for_are_read(
    animals, monkeypatch
):
    owners = [zoo.TextKeyed.objects.create(code=code) for code in "abc"]
    zoo.CompositeKeyed.objects.bulk_create(
        zoo.CompositeKeyed(owner=owners[number % 3], day=date(2026, 1, 1 + number % 28), number=number)
        for number in range(3000)
    )
    while animals.step():
        pass
    asked: list[str] = []

    def explained(connection, statements, after=()):
        *before, sql = statements
        plan = fetch_last(connection, [*before, f"EXPLAIN (ANALYZE, TIMING OFF) {sql}"], after)
        asked.append("\n".join(line for (line,) in plan))
        return fetch_last(connection, statements, after)

    monkeypatch.setattr(ordered, "fetch_last", explained)
    keys = [["abc"[number % 3], f"2026-01-{1 + number % 28:02}", number] for number in range(0, 3000, 50)]
    assert len(read("zoo.compositekeyed", keys=keys).rows) == 60
    (plan,) = asked
    assert "Bitmap Index Scan" in plan
    assert "Rows Removed by Filter" not in plan

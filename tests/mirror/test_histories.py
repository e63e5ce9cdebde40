"""Any history of several clients, a sequencer and a mirror keeps the promises I1 to I4.

A history is a list of steps; each is one client's, the sequencer's or the mirror's. After it, and at every
commit of the mirror on the way, what the mirror has is compared with what the source had at that cursor.
``MIRROR_HISTORIES=200`` runs that many per server, instead of what fits into every test run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from itertools import count, pairwise
from typing import Any
from uuid import UUID

import msgspec
import pytest
from django.db import connections
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror import sequencer
from mirror.changes import Op, decode_change
from mirror.models import Source
from mirror.sequencer import Sequencer
from mirror.wire import Batch, Entry
from tests.fakes import Centre, Recorded
from tests.mirror import mysql_support, postgresql_support
from tests.mirror.histories import LEVELS, GivenUp, History, Statements
from tests.mirror.server_support import execute

COUNTERS = (1, 2, 3, 4)
SUM = 400

_numbers = count(1)


# What clients do. A row of brand, product or tag is "the one in this place"; a place is filled again.


class Shop:
    """The keys of what was put into each place, whoever put it there and whether it was committed or not."""

    def __init__(self) -> None:
        self.brands: dict[int, tuple[int, UUID]] = {}
        self.products: dict[int, tuple[int, UUID]] = {}
        self.tags: dict[int, tuple[int, UUID]] = {}


def transfer(shop: Shop, a: int, b: int, ran: Statements) -> None:
    """The sum of all counters stays what it is, in every transaction."""
    if ran.run("UPDATE shop_counter SET value = value - 1 WHERE id = %s", a) and not ran.run(
        "UPDATE shop_counter SET value = value + 1 WHERE id = %s", b
    ):
        raise GivenUp


def merge(shop: Shop, a: int, b: int, ran: Statements) -> None:
    value = ran.value("DELETE FROM shop_counter WHERE id = %s RETURNING value", a)
    # Not b itself: what went is not there to take it.
    if value and not ran.run("UPDATE shop_counter SET value = value + %s WHERE id = %s", value, b):
        raise GivenUp


def rename_key(shop: Shop, a: int, b: int, ran: Statements) -> None:
    ran.run("UPDATE shop_counter SET id = %s WHERE id = %s", b, a)


def new_counter(shop: Shop, a: int, b: int, ran: Statements) -> None:
    ran.run("INSERT INTO shop_counter (id, value) VALUES (%s, 0)", a)


def swap_everything(shop: Shop, a: int, b: int, ran: Statements) -> None:
    if ran.run("UPDATE shop_counter SET value = %s - value", 2 * SUM // len(COUNTERS)) != len(COUNTERS):
        raise GivenUp


def new_reading(shop: Shop, a: int, b: int, ran: Statements) -> None:
    ran.run("INSERT INTO shop_reading (counter_id, taken_at) VALUES (%s, '2026-01-01')", a)


def drop_readings(shop: Shop, a: int, b: int, ran: Statements) -> None:
    ran.run("DELETE FROM shop_reading WHERE counter_id = %s", a)


def new_brand(shop: Shop, a: int, b: int, ran: Statements) -> None:
    pkid, row = shop.brands[a] = _key()
    name = f"brand {next(_numbers)}"
    ran.named(row, name, "INSERT INTO shop_brand (pkid, id, name) VALUES (%s, %s, %s)", pkid, str(row), name)


def rename_brand(shop: Shop, a: int, b: int, ran: Statements) -> None:
    if a in shop.brands:
        pkid, row = shop.brands[a]
        name = f"brand {next(_numbers)}"
        ran.named(row, name, "UPDATE shop_brand SET name = %s WHERE pkid = %s", name, pkid)


def drop_brand(shop: Shop, a: int, b: int, ran: Statements) -> None:
    if a in shop.brands:
        ran.run("DELETE FROM shop_brand WHERE pkid = %s", shop.brands[a][0])


def new_product(shop: Shop, a: int, b: int, ran: Statements) -> None:
    brand = shop.brands.get(b)
    pkid, row = shop.products[a] = _key()
    name = f"product {next(_numbers)}"
    ran.named(
        row,
        name,
        "INSERT INTO shop_product (pkid, id, name, brand_id, second_brand_id, stock, price, on_sale, details) "  # noqa: E501
        "VALUES (%s, %s, %s, %s, %s, 0, 0, false, '{}')",
        pkid,
        str(row),
        name,
        brand and str(brand[1]),
        brand and brand[0],
    )


def move_product(shop: Shop, a: int, b: int, ran: Statements) -> None:
    if a in shop.products:
        pkid, row = shop.products[a]
        brand = shop.brands.get(b)
        name = f"product {next(_numbers)}"
        update = "UPDATE shop_product SET name = %s, second_brand_id = %s WHERE pkid = %s"
        ran.named(row, name, update, name, brand and brand[0], pkid)


def drop_product(shop: Shop, a: int, b: int, ran: Statements) -> None:
    if a in shop.products:
        pkid, _row = shop.products[a]
        ran.run("DELETE FROM shop_product_tags WHERE product_id = %s", pkid)
        ran.run("DELETE FROM shop_product WHERE pkid = %s", pkid)


def new_tag(shop: Shop, a: int, b: int, ran: Statements) -> None:
    pkid, row = shop.tags[a] = _key()
    name = f"tag {next(_numbers)}"
    ran.run("INSERT INTO shop_tag (pkid, id, label) VALUES (%s, %s, %s)", pkid, str(row), name)


def add_tag(shop: Shop, a: int, b: int, ran: Statements) -> None:
    if a in shop.products and b in shop.tags:
        pair = shop.products[a][0], shop.tags[b][0]
        ran.run("INSERT INTO shop_product_tags (product_id, tag_id) VALUES (%s, %s)", *pair)


def clear_tags(shop: Shop, a: int, b: int, ran: Statements) -> None:
    if a in shop.products:
        ran.run("DELETE FROM shop_product_tags WHERE product_id = %s", shop.products[a][0])


def _key() -> tuple[int, UUID]:
    number = next(_numbers)
    return number, UUID(int=number)


WORKS = (
    *(transfer, transfer, merge, rename_key, new_counter, swap_everything, new_reading, drop_readings),
    *(new_brand, rename_brand, rename_brand, drop_brand, new_product, move_product, drop_product),
    *(new_tag, add_tag, clear_tags),
)


# The source and the mirror


class Observed(Sequencer):
    """Keeps what the source was when a pass looked: read in the same snapshot."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[int, Any] = {}

    def _pass(self, desk: Any) -> int:
        moved = super()._pass(desk)
        self.states[desk.head] = state("default")
        return moved


QUERIES = (
    "SELECT id, value FROM shop_counter",
    "SELECT id, counter_id FROM shop_reading",
    "SELECT id, name FROM shop_brand",
    "SELECT id, label FROM shop_tag",
    (
        "SELECT p.id, p.name, p.brand_id, b.id FROM shop_product p "
        "LEFT JOIN shop_brand b ON b.pkid = p.second_brand_id"
    ),
    (
        "SELECT p.id, t.id FROM shop_product_tags x "
        "JOIN shop_product p ON p.pkid = x.product_id JOIN shop_tag t ON t.pkid = x.tag_id"
    ),
)


def state(using: str) -> list[list[tuple[str, ...]]]:
    """Every row, by plain SQL; a UUID is the same text everywhere."""
    with connections[using].cursor() as cursor:
        return [[*_rows(cursor, query)] for query in QUERIES]


def _rows(cursor: Any, query: str) -> list[tuple[str, ...]]:
    cursor.execute(query)
    return sorted(tuple(_text(value) for value in row) for row in cursor.fetchall())


def _text(value: Any) -> str:
    text = str(value)
    return str(UUID(text)) if len(text) in {32, 36} else text


class Scene:
    """A source and its mirror, each as the last history left it."""

    def __init__(self, source: Recorded, centre: Centre) -> None:
        self.source, self.centre = source, centre
        self.observed = source.sequencer = Observed()

    def begin(self, history: History, shop: Shop) -> None:
        """Rows to begin with, the oplog going on, and a mirror that is level with it."""
        for using in ("default", "centre"):
            with connections[using].cursor() as cursor:
                for table in ("product_tags", "product", "brand", "tag", "reading", "counter"):
                    cursor.execute(f"DELETE FROM shop_{table}")
        self.observed.step()
        stream = self.source.stream
        self.emptied = self.centre.cursor = stream.head
        self.centre.position = stream.position
        Source.objects.using("centre").update(cursor=stream.head, position=stream.position)
        first = history.clients[0]
        rows = ", ".join(f"({number}, {SUM // len(COUNTERS)})" for number in COUNTERS)
        execute(f"INSERT INTO shop_counter (id, value) VALUES {rows}")
        for number in COUNTERS:
            for work in (new_brand, new_product, new_tag):
                history.do(first, partial(work, shop, number, number))
        history.commit(first)
        self.observed.step()
        self.follow()

    def follow(self) -> None:
        """Apply what was sequenced, each group in a transaction of its own, and look after every commit."""
        group: list[Entry] = []
        for entry in self.source.entries(self.centre.cursor):
            group.append(entry)
            if entry.ends_group:
                self.centre.take(_batch(self.centre.cursor, group))
                group = []
                self.look()
        assert not group

    def look(self) -> None:
        there = state("centre")
        assert sum(int(value) for _id, value in there[0]) == SUM
        assert there == self.observed.states[self.centre.cursor]


def _batch(prev: int, group: list[Entry]) -> Batch:
    last = group[-1]
    return Batch(
        prev=prev,
        last=last.ts,
        position=last.position,
        head=last.ts,
        head_position=last.position,
        ends=[last.ts],
        changes=[msgspec.Raw(entry.body.encode()) for entry in group],
    )


@pytest.fixture(scope="module")
def _pass() -> Iterator[None]:
    """Small pages; and on PostgreSQL a snapshot, so that the source can be read as the pass saw it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequencer, "_PAGE", 5)
        patch.setitem(sequencer._LEVELS, "postgresql", "REPEATABLE READ")
        yield


@pytest.fixture
def scene(request, vendor, centre, django_db_blocker) -> Iterator[Scene]:
    support = {"postgresql": postgresql_support, "mariadb": mysql_support}[request.param]
    database = request.getfixturevalue(f"{request.param}_source")
    with django_db_blocker.unblock(), support.recorded(database) as source:
        # The sequencer waits for nobody who writes: here it could wait forever.
        execute(
            "SET lock_timeout = '2s'"
            if request.param == "postgresql"
            else "SET innodb_lock_wait_timeout = 2, time_zone = '+00:00'"
        )
        yield Scene(source, centre)


# Histories

clients = st.integers(0, 2)
places = st.integers(1, 4)

steps = st.one_of(
    st.tuples(st.just("do"), clients, st.sampled_from(WORKS), places, places),
    st.tuples(st.just("do"), clients, st.sampled_from(WORKS), places, places),
    st.tuples(st.just("do"), clients, st.sampled_from(WORKS), places, places),
    st.tuples(st.just("commit"), clients),
    st.tuples(st.just("commit"), clients),
    st.tuples(st.just("sequence")),
    st.tuples(st.just("sequence")),
    st.tuples(st.just("follow")),
    st.tuples(st.sampled_from(["savepoint", "back", "die"]), clients),
)
levels = st.tuples(*[st.sampled_from(LEVELS)] * 3)


def examples(fewest: int) -> int:
    return int(os.environ.get("MIRROR_HISTORIES", fewest))


def check(scene: Scene, levels: tuple[str, ...], steps: list[tuple[Any, ...]]) -> None:
    history, shop = History(len(levels)), Shop()
    try:
        scene.begin(history, shop)
        for client, level in zip(history, levels, strict=True):
            client.level = level
        for step in steps:
            take(step, scene, history, shop)
        history.end()
    finally:
        history.close()
    scene.observed.step()
    scene.follow()
    assert state("centre") == state("default")
    scene.observed.states.clear()
    verify(history, scene.source.entries(scene.emptied))


def take(step: tuple[Any, ...], scene: Scene, history: History, shop: Shop) -> None:
    kind, *arguments = step
    if kind == "sequence":
        scene.observed.step()
    elif kind == "follow":
        scene.follow()
    elif kind == "do":
        number, work, a, b = arguments
        history.do(history.clients[number], partial(work, shop, a, b))
    else:
        getattr(history, kind)(history.clients[arguments[0]])


def verify(history: History, entries: list[Entry]) -> None:
    """Each committed effect once, whole transactions, each row in the order of its commits, nothing else."""
    assert all(before.ts < after.ts for before, after in pairwise(entries))
    rows: dict[UUID, list[str]] = {}
    groups: dict[str, int] = {}
    group = 0
    for entry in entries:
        change = decode_change(entry.body)
        if change.op is Op.SAVE and change.model in {"shop.brand", "shop.product"}:
            rows.setdefault(UUID(change.fields["id"]), []).append(change.fields["name"])
            groups[change.fields["name"]] = group
        group += entry.ends_group
    assert rows == history.committed.rows
    for effects in history.committed.transactions:
        assert len({groups[name] for _row, name in effects}) <= 1


@pytest.mark.postgresql
@pytest.mark.usefixtures("_pass")
@pytest.mark.parametrize("scene", ["postgresql"], indirect=True)
@settings(max_examples=examples(25))
@given(levels=levels, steps=st.lists(steps, min_size=30, max_size=60))
def test_every_history_on_postgresql_is_mirrored_whole_and_in_order(scene, levels, steps):
    check(scene, levels, steps)


@pytest.mark.mariadb
@pytest.mark.usefixtures("_pass")
@pytest.mark.parametrize("scene", ["mariadb"], indirect=True)
@settings(max_examples=examples(15))
@given(levels=levels, steps=st.lists(steps, min_size=30, max_size=60))
def test_every_history_on_mariadb_is_mirrored_whole_and_in_order(scene, levels, steps):
    check(scene, levels, steps)

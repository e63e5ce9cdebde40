"""What the hub answers a mirror that asks for rows, and the way through the log to where they belong."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from mirror.changes import decode_change
from mirror.errors import Malformed, Pruned
from mirror.models import Oplog, Outbox, Stream
from mirror.sequencer import Sequencer
from mirror.wire import Fetch, Segment
from streamer import hub as hub_module
from streamer.hub import Hub, Tail
from tests.project.shop.models import Counter, Seat, Tag, Ticket
from tests.streamer.test_hub import _grow_in_thread, _step_in_thread, grow, prune_in_thread

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub("default", sequencer=None)
    yield made
    made.stop()


@pytest.fixture
def stream() -> Stream:
    return Stream.objects.get_or_create(local=True)[0]


# Up to a change


def timestamps(segments: list[Segment]) -> list[int]:
    return [segment.last for segment in segments]


@pytest.mark.parametrize("ring_bytes", [4096, 8_000_000])
def test_a_page_goes_up_to_a_change_and_never_beyond(
    stream: Stream, hub: Hub, settings: Any, ring_bytes: int
) -> None:
    settings.MIRROR = {**settings.MIRROR, "RING_BYTES": ring_bytes}
    for _ in range(12):
        grow(stream, 1)

    async def subscribe() -> None:
        with hub.listen(stream) as (tail, _grown):
            await asyncio.to_thread(_grow_in_thread, stream, 3, 1000)
            await asyncio.to_thread(_step_in_thread, hub)
            for upto in range(1, 13):
                for cursor in range(upto):
                    found = await hub.page(tail, cursor, cursor, upto=upto)
                    assert (found[0].prev, found[-1].last, found[-1].position) == (cursor, upto, upto)
            found = await hub.page(tail, 12, 12, upto=15)
            assert found[-1].last == 15

    asyncio.run(subscribe())


def test_a_page_up_to_a_change_needs_nothing_of_the_ring(stream: Stream, hub: Hub) -> None:
    """The tail may not know yet what the rows were read with."""
    tail = Tail(stream.pk, 0, 0, 1)
    grow(stream, 2)
    grow(stream, 2)
    assert timestamps(asyncio.run(hub.page(tail, 0, 0, upto=4))) == [4]
    assert timestamps(asyncio.run(hub.page(tail, 2, 2, upto=4))) == [4]


def test_a_page_up_to_where_one_is_already_is_empty(stream: Stream, hub: Hub) -> None:
    tail = Tail(stream.pk, 0, 0, 1)
    grow(stream, 4)
    assert asyncio.run(hub.page(tail, 4, 4, upto=4)) == []


def test_pages_go_on_to_a_change_that_is_far(
    stream: Stream, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "_PAGE", 3)
    for _ in range(10):
        grow(stream, 1)
    tail = Tail(stream.pk, 0, 0, 1)
    cursor, seen = 0, []
    while cursor < 8:
        found = asyncio.run(hub.page(tail, cursor, cursor, upto=8))
        cursor = found[-1].last
        seen.append(cursor)
    assert seen == [3, 6, 8]


def test_a_page_up_to_a_change_is_refused_where_its_beginning_was_pruned(stream: Stream, hub: Hub) -> None:
    for _ in range(10):
        grow(stream, 1)
    prune_in_thread(stream, 5)
    with pytest.raises(Pruned):
        asyncio.run(hub.page(Tail(stream.pk, 0, 0, 1), 3, 3, upto=8))


# Rows


@pytest.fixture
def tail(stream: Stream) -> Tail:
    return Tail(stream.pk, stream.head, stream.position, 1)


def sequence() -> int:
    Sequencer("default").step()
    return Stream.objects.get(local=True).head


def told(rows: list[str]) -> dict[Any, dict[str, Any]]:
    return {json.dumps(change.pk): change.fields for change in map(decode_change, rows)}


def test_rows_are_told_as_of_the_head_with_their_number(tail: Tail, hub: Hub) -> None:
    counters = [Counter.objects.create(value=number) for number in range(3)]
    head = sequence()
    answer = hub.rows(tail, Fetch(number=1, model="shop.counter"))
    assert (answer.at, answer.total, answer.next, answer.pending, answer.refused) == (head, 3, None, [], "")
    assert told(answer.rows) == {str(one.pk): {"value": one.value} for one in counters}
    assert {decode_change(row).ts for row in answer.rows} == {head}


def test_rows_go_on_after_the_last(tail: Tail, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "_PAGE", 2)
    keys = [Counter.objects.create().pk for _ in range(5)]
    sequence()
    seen, after = [], None
    while True:
        answer = hub.rows(tail, Fetch(number=1, model="shop.counter", after=after))
        assert answer.total == (5 if after is None else None)
        seen.append([int(key) for key in told(answer.rows)])
        after = answer.next
        if after is None:
            break
    assert seen == [keys[:2], keys[2:4], keys[4:]]


def test_rows_are_told_in_parts_of_their_size(tail: Tail, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "_PAGE_BYTES", 1000)
    Ticket.objects.bulk_create(Ticket(text="x" * 600) for _ in range(4))
    sequence()
    answer = hub.rows(tail, Fetch(number=1, model="shop.ticket"))
    assert len(answer.rows) == 2
    assert answer.next is not None


def test_rows_of_keys_are_those_that_exist(tail: Tail, hub: Hub) -> None:
    first, second = Tag.objects.create(label="a"), Tag.objects.create(label="b")
    Seat.objects.create(row="A", number=1)
    sequence()
    gone = second.pk + 1
    answer = hub.rows(tail, Fetch(number=1, model="shop.tag", keys=[gone, second.pk]))
    assert (list(told(answer.rows)), answer.next, answer.total) == ([str(second.pk)], None, None)
    assert first.pk != second.pk
    answer = hub.rows(tail, Fetch(number=2, model="shop.seat", keys=[["A", 1], ["B", 1]]))
    assert list(told(answer.rows)) == ['["A", 1]']
    answer = hub.rows(tail, Fetch(number=3, model="shop.ticket", keys=[str(uuid.UUID(int=5))]))
    assert (answer.rows, answer.refused) == ([], "")


def test_rows_whose_changes_have_no_place_yet_are_left_out_and_named(tail: Tail, hub: Hub) -> None:
    one, other = Counter.objects.create(), Counter.objects.create()
    head = sequence()
    Counter.objects.filter(pk=other.pk).update(value=5)
    assert Outbox.objects.exists()
    answer = hub.rows(tail, Fetch(number=1, model="shop.counter"))
    assert (answer.at, list(told(answer.rows)), answer.pending) == (head, [str(one.pk)], [other.pk])


@pytest.mark.parametrize(
    "model", ["shop.nothing", "auth.user", "mirror.token", "", "shop.Counter", "é" * 200]
)
@pytest.mark.parametrize("asked", [{}, {"after": 1}, {"keys": [1]}])
def test_rows_of_what_is_not_listed_are_refused_by_a_code(
    stream: Stream, tail: Tail, hub: Hub, model: str, asked: dict[str, Any]
) -> None:
    grow(stream, 2)
    answer = hub.rows(tail, Fetch(number=1, model=model, **asked))
    assert (answer.refused, answer.rows, answer.at) == ("unknown_model", [], stream.head)


def test_rows_of_a_copied_stream_are_refused(stream: Stream, hub: Hub) -> None:
    """What is here is what was made of the copies, and belongs to a time of this server's."""
    Counter.objects.create()
    sequence()
    copy = Stream.objects.create(head=77, position=5)
    answer = hub.rows(Tail(copy.pk, 0, 0, 1), Fetch(number=1, model="shop.counter"))
    assert (answer.refused, answer.rows, answer.at) == ("unknown_stream", [], 77)


def test_rows_are_refused_where_nothing_is_captured(tail: Tail, hub: Hub, settings: Any) -> None:
    settings.MIRROR = {**settings.MIRROR, "CAPTURE": None}
    answer = hub.rows(tail, Fetch(number=1, model="shop.counter"))
    assert (answer.refused, answer.rows) == ("unknown_stream", [])


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("shop.counter", "one"),
        ("shop.counter", [1]),
        ("shop.counter", {"a": 1}),
        ("shop.counter", 10**30),
        ("shop.counter", 1.5),
        ("shop.seat", "A"),
        ("shop.seat", ["A"]),
        ("shop.seat", ["A", None]),
        ("shop.seat", ["A", 1, 2]),
        ("shop.ticket", "no uuid"),
        ("shop.ticket", "\x00"),
        ("shop.ticket", "9" * 10_000),
        ("shop.tag", []),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_what_is_no_key_of_the_model_is_malformed(tail: Tail, hub: Hub, model: str, key: Any) -> None:
    for asked in ({"after": key}, {"keys": [key]}):
        with pytest.raises(Malformed):
            hub.rows(tail, Fetch(number=1, model=model, **asked))
    assert not Oplog.objects.exists()

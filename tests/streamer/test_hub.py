"""The hub without its thread: ``step`` is called by hand."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator

import msgspec
import pytest
from django.db import connection

from mirror import oplog
from mirror.changes import Change, Op, encode_change
from mirror.errors import Pruned
from mirror.models import Oplog, Stream
from mirror.wire import Batch, Fragment, decode, deflate, inflate
from streamer.hub import Hub, Tail

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def stream() -> Stream:
    return Stream.objects.get_or_create(local=True)[0]


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub("default", sequencer=None)
    yield made
    made.stop()


def grow(stream: Stream, count: int, *, size: int = 10) -> None:
    """One group of ``count`` changes."""
    for place in range(count):
        stream.head += 1
        stream.position += 1
        body = encode_change(
            Change(ts=stream.head, op=Op.SAVE, model="shop.counter", pk=1, fields={"value": "v" * size})
        )
        Oplog.objects.create(
            stream=stream,
            ts=stream.head,
            position=stream.position,
            op="SAVE",
            model="shop.counter",
            key="1",
            ends_group=place == count - 1,
            body=body,
        )
    stream.save()


def ts_of(raw: msgspec.Raw) -> int:
    return int(msgspec.json.decode(bytes(raw))["ts"])


async def read_all(hub: Hub, tail: Tail, cursor: int) -> list[int]:
    """What a subscriber would be sent after ``cursor``, as the timestamps of the changes."""
    seen: list[int] = []
    position = cursor
    while True:
        segment = tail.after(cursor)
        found = [segment] if segment else await hub.page(tail, cursor, position)
        if not found:
            return seen
        for segment in found:
            assert segment.prev == cursor
            for frame in segment.frames:
                message = decode(frame.text)
                if isinstance(message, Batch):
                    seen += [ts_of(raw) for raw in message.changes]
                elif isinstance(message, Fragment) and message.last:
                    seen.append(message.ts)
            cursor, position = segment.last, segment.position


@pytest.mark.parametrize("ring_bytes", [4096, 20_000, 8_000_000])
@pytest.mark.parametrize("seed", range(5))
def test_pages_join_the_ring_without_a_gap_or_a_repeat(
    stream: Stream, hub: Hub, seed: int, ring_bytes: int, settings: object
) -> None:
    dice = random.Random(seed)
    settings.MIRROR = {**settings.MIRROR, "RING_BYTES": ring_bytes, "FRAME_BYTES": 4096}  # type: ignore[attr-defined]
    grow(stream, dice.randrange(1, 40))

    async def subscribe() -> None:
        with hub.listen(stream) as (tail, _grown):
            for _ in range(12):
                await asyncio.to_thread(
                    _grow_in_thread, stream, dice.randrange(0, 30), dice.choice([5, 900, 9000])
                )
                if dice.random() < 0.7:
                    await asyncio.to_thread(_step_in_thread, hub)
                cursor = dice.randrange(0, stream.head + 1)
                assert await read_all(hub, tail, cursor) == list(range(cursor + 1, stream.head + 1))

    asyncio.run(subscribe())


def _grow_in_thread(stream: Stream, count: int, size: int) -> None:
    grow(stream, count, size=size)
    connection.close()


def _step_in_thread(hub: Hub) -> None:
    hub.step()
    connection.close()


def test_a_listener_is_woken_when_the_stream_grew_and_only_then(stream: Stream, hub: Hub) -> None:
    async def listen() -> None:
        with hub.listen(stream) as (tail, grown):
            await asyncio.to_thread(_step_in_thread, hub)
            assert not grown.is_set()
            await asyncio.to_thread(_grow_in_thread, stream, 3, 5)
            await asyncio.to_thread(_step_in_thread, hub)
            async with asyncio.timeout(5):
                await grown.wait()
            assert (tail.head, tail.head_position) == (stream.head, stream.position)

    asyncio.run(listen())


class Ringing:
    interval = 0.0

    def rang(self) -> bool:
        return True

    def close(self) -> None:
        pass


def test_what_comes_while_subscribers_are_served_goes_to_them_as_one(stream: Stream, hub: Hub) -> None:
    def grow_and_turn() -> None:
        _grow_in_thread(stream, 1, 5)
        hub._turn(Ringing())
        connection.close()

    def meanwhile() -> None:
        """While the loop is busy: it cannot serve anybody."""
        thread = threading.Thread(target=grow_and_turn)
        thread.start()
        thread.join()

    async def listen() -> None:
        with hub.listen(stream) as (tail, grown):
            begin = tail.head
            meanwhile()
            served = tail.head
            assert served == begin + 1
            meanwhile()
            meanwhile()
            assert tail.head == served
            await grown.wait()
            await asyncio.sleep(0)
            await asyncio.to_thread(grow_and_turn)
            segment = tail.after(served)
            assert segment is not None
            assert segment.last == tail.head == stream.head == begin + 4

    asyncio.run(listen())


def test_the_ring_keeps_within_its_bytes(stream: Stream, hub: Hub, settings: object) -> None:
    settings.MIRROR = {**settings.MIRROR, "RING_BYTES": 20_000, "FRAME_BYTES": 4096}  # type: ignore[attr-defined]

    async def listen() -> int:
        with hub.listen(stream) as (tail, _grown):
            await asyncio.to_thread(_grow_in_thread, stream, 200, 500)
            await asyncio.to_thread(_step_in_thread, hub)
            kept = 0
            cursor = tail.joins_after(0)
            while cursor is not None and (segment := tail.after(cursor)):
                kept += segment.size
                cursor = segment.last
            return kept

    assert 0 < asyncio.run(listen()) <= 20_000


@pytest.mark.parametrize("size", [2000, 60_000])
def test_a_frame_is_compressed_once_however_many_subscribers_want_it(
    stream: Stream, hub: Hub, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[str] = []

    def counted(text: str) -> str | bytes:
        packed.append(threading.current_thread().name)
        return deflate(text)

    monkeypatch.setattr("mirror.wire.deflate", counted)

    async def subscribe() -> None:
        with hub.listen(stream) as (tail, _grown):
            before = tail.head
            await asyncio.to_thread(_grow_in_thread, stream, 1, size)
            await asyncio.to_thread(_step_in_thread, hub)
            segment = tail.after(before)
            assert segment is not None
            (frame,) = segment.frames
            await asyncio.gather(*(hub.pack(frame) for _ in range(20)))
            await hub.pack(frame)
            assert isinstance(frame.packed, bytes)
            assert inflate(frame.packed, 100_000).decode() == frame.text

    asyncio.run(subscribe())
    assert len(packed) == 1
    # What takes long is kept off the loop that every subscriber shares.
    assert packed[0].startswith("mirror-packer") == (size > 50_000)


def test_the_last_listener_takes_the_tail_with_it(stream: Stream, hub: Hub) -> None:
    async def listen() -> None:
        with hub.listen(stream) as (first, _), hub.listen(stream) as (second, _):
            assert first is second
        with hub.listen(stream) as (third, _):
            assert third is not first

    asyncio.run(listen())


# Pruning meanwhile (F35)


def prune_in_thread(stream: Stream, upto: int) -> None:
    assert oplog.prune(Stream.objects.get(pk=stream.pk), upto=upto, limit=1000)
    connection.close()


def test_a_page_whose_beginning_was_pruned_is_refused_and_never_cut_short(stream: Stream, hub: Hub) -> None:
    for _ in range(20):
        grow(stream, 1)

    async def subscribe() -> None:
        with hub.listen(stream) as (tail, _grown):
            assert await read_all(hub, tail, 3) == list(range(4, 21))
            await asyncio.to_thread(prune_in_thread, stream, 8)
            for cursor in range(8):
                with pytest.raises(Pruned):
                    await hub.page(tail, cursor, cursor)
            assert await read_all(hub, tail, 8) == list(range(9, 21))

    asyncio.run(subscribe())


def test_a_tail_that_was_overtaken_by_pruning_goes_on_without_a_hole(stream: Stream, hub: Hub) -> None:
    grow(stream, 1)

    async def subscribe() -> None:
        with hub.listen(stream) as (tail, grown):
            for _ in range(10):
                await asyncio.to_thread(_grow_in_thread, stream, 2, 5)
            await asyncio.to_thread(prune_in_thread, stream, 15)
            await asyncio.to_thread(_step_in_thread, hub)
            async with asyncio.timeout(5):
                await grown.wait()
            assert tail.head == stream.head == 21
            for cursor in range(15):
                with pytest.raises(Pruned):
                    await read_all(hub, tail, cursor)
            for cursor in range(15, 22):
                assert await read_all(hub, tail, cursor) == list(range(cursor + 1, 22))

    asyncio.run(subscribe())

from __future__ import annotations

import asyncio
import random
import threading
import uuid
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from client.follower import Follower
from mirror.changes import Op
from mirror.errors import Superseded
from mirror.models import Oplog, Source, SourceState, Verification, VerificationState
from tests.client.memory import MemorySource, settings, world
from tests.project.shop.models import Counter, Ticket

pytestmark = pytest.mark.django_db(transaction=True)


def ticket(text: str = "", key: uuid.UUID | None = None, op: Op = Op.SAVE) -> Any:
    return op, "shop.ticket", str(key or uuid.uuid4()), {"text": text, "secret": ""}


@pytest.fixture
def source() -> MemorySource:
    return MemorySource()


@pytest.fixture
def row() -> Source:
    return Source.objects.create(name="shop", url="ws://shop.example/mirror/stream/", token="t")


Follow = Callable[..., Follower]


@pytest.fixture
async def follow(source: MemorySource, row: Source) -> AsyncIterator[Follow]:
    running: list[tuple[Follower, asyncio.Task[None]]] = []

    def start(**changes: object) -> Follower:
        conf = settings(**{"heartbeat": 0.05, "deadline": 5.0, **changes})
        follower = Follower(row.pk, row.name, conf, world(source))
        running.append((follower, asyncio.create_task(follower.run())))
        return follower

    yield start
    for follower, task in running:
        follower.stop()
        await asyncio.wait([task])
        if not task.cancelled() and not isinstance(task.exception(), Superseded):
            task.result()


@sync_to_async
def texts() -> list[str]:
    return sorted(Ticket.objects.values_list("text", flat=True))


@sync_to_async
def reread(row: Source) -> Source:
    return Source.objects.select_related("stream").get(pk=row.pk)


async def until(condition: Callable[[], Any]) -> Any:
    """Wait for what the follower does on its own thread; the limit is for a defect only."""
    async with asyncio.timeout(20):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)


async def level(row: Source, source: MemorySource) -> Source:
    async def reached() -> Source | None:
        now = await reread(row)
        return now if now.cursor == source.head and now.state == SourceState.LIVE else None

    found = await until(reached)
    assert isinstance(found, Source)
    return found


async def test_what_the_source_has_and_what_it_gets_is_applied_and_acknowledged(
    source: MemorySource, row: Source, follow: Follow
) -> None:
    source.add(ticket("first"), ticket("second"))
    follow()
    await level(row, source)
    source.add(ticket("third"))
    now = await level(row, source)
    assert await texts() == ["first", "second", "third"]
    assert now.position == 3
    assert str(now.stream.uuid) == source.stream
    await until(lambda: source.acks and source.acks[-1].cursor == source.head)


async def test_it_goes_on_exactly_where_it_was_whenever_the_line_breaks(
    source: MemorySource, row: Source, follow: Follow
) -> None:
    for number in range(200):
        source.add(ticket(f"{number:03}" + "x" * 500), ticket(f"{number:03}" + "y" * 500))
    source.frames_until_cut = [random.Random(number).randrange(12) for number in range(60)]
    follow()
    now = await level(row, source)
    assert len(await texts()) == 400
    assert now.position == 400
    assert source.connections > 20
    copied = await sync_to_async(lambda: list(Oplog.objects.order_by("ts").values_list("ts", "body")))()
    assert copied == [(entry.ts, entry.body) for entry in source.entries]


async def test_a_group_larger_than_the_window_flows_and_is_applied_whole(
    source: MemorySource, row: Source, follow: Follow
) -> None:
    source.window = 10_000
    source.add(*[ticket("z" * 400) for _ in range(300)])
    source.add(ticket("after"))
    follow()
    await level(row, source)
    assert len(await texts()) == 301
    assert source.most_outstanding < 10_000 + source.frame_bytes


async def test_the_last_frame_of_a_group_is_not_overlooked_however_it_comes(
    source: MemorySource, row: Source, follow: Follow
) -> None:
    dice = random.Random(7)
    source.hesitation = lambda: dice.randrange(8)
    follow()
    for number in range(60):
        source.add(*[ticket(f"{number}" + "z" * 900) for _ in range(dice.choice([5, 6, 9]))])
        await level(row, source)


async def test_what_comes_while_the_database_is_at_work_is_taken_in_up_to_a_bound(
    source: MemorySource, row: Source, follow: Follow
) -> None:
    source.window = 20_000
    source.add(ticket("known from now on"))
    follower = follow(window_bytes=20_000, ahead_bytes=50_000, apply_changes=10)
    await level(row, source)
    working, go_on = threading.Event(), threading.Event()
    commit_now = follower._commit_now

    def at_work(batches: Any) -> Any:
        working.set()
        go_on.wait(20)
        return commit_now(batches)

    follower._commit_now = at_work  # type: ignore[method-assign]
    before = source.acks[-1].taken
    source.add(ticket("first"))
    await until(working.is_set)
    for number in range(400):
        source.add(ticket(f"{number:03}" + "x" * 500))
    await until(lambda: source.acks[-1].taken - before > 50_000 - source.frame_bytes - 20_000 / 8)
    assert source.acks[-1].taken - before <= 50_000
    assert source.acks[-1].cursor == source.entries[0].ts
    go_on.set()
    await level(row, source)
    assert len(await texts()) == 402
    copied = await sync_to_async(lambda: list(Oplog.objects.order_by("ts").values_list("ts", "body")))()
    assert copied == [(entry.ts, entry.body) for entry in source.entries]


async def test_what_came_before_something_that_cannot_be_applied_is_kept(
    source: MemorySource, row: Source, follow: Follow
) -> None:
    source.add(ticket("known from now on"))
    follower = follow(apply_changes=1)
    await level(row, source)
    working, go_on = threading.Event(), threading.Event()
    commit_now = follower._commit_now

    def at_work(batches: Any) -> Any:
        working.set()
        go_on.wait(20)
        return commit_now(batches)

    follower._commit_now = at_work  # type: ignore[method-assign]
    source.add(ticket("first"))
    await until(working.is_set)
    source.frame_bytes = 700
    source.add(ticket("second"))
    source.add((Op.SAVE, "shop.nosuch", 1, {"text": "z" * 400}))
    source.add(ticket("third"))
    await until(lambda: source.most_outstanding > 1000)
    go_on.set()

    async def halted() -> bool:
        return (await reread(row)).state == SourceState.HALTED

    await until(halted)
    assert await texts() == ["first", "known from now on", "second"]


async def test_a_change_larger_than_the_window_comes_in_fragments(
    source: MemorySource, row: Source, follow: Follow
) -> None:
    source.window = 10_000
    text = 'ünï"\\\n' * 20_000
    source.add(ticket("before"), ticket(text), ticket("with it"))
    follow()
    await level(row, source)
    assert await texts() == sorted(["before", text, "with it"])


async def test_silence_is_noticed_and_said(source: MemorySource, row: Source, follow: Follow) -> None:
    source.mute = True
    source.add(ticket("a"))
    follow(deadline=0.2)

    async def stalled() -> bool:
        now = await reread(row)
        return (now.state, now.error_code) == (SourceState.STALLED, "silent")

    await until(stalled)
    source.mute = False
    await level(row, source)
    assert (await reread(row)).error_code == ""


@pytest.mark.parametrize(("drip", "silent"), [(1024, False), (100, True)])
async def test_a_frame_that_takes_longer_than_the_deadline_is_no_silence_while_it_comes_on(
    source: MemorySource, row: Source, follow: Follow, drip: int, silent: bool
) -> None:
    source.drip, source.mute = drip, True
    source.add(ticket("a"))
    follow(deadline=1.5)
    await until(lambda: source.connections > 1 or (source.acks and source.acks[-1].cursor))
    assert (source.connections > 1, await texts()) == (silent, [] if silent else ["a"])


@pytest.mark.parametrize(
    ("code", "state"),
    [
        ("forked", SourceState.HALTED),
        ("unauthorized", SourceState.REFUSED),
        ("unknown_stream", SourceState.REFUSED),
        ("unsupported_protocol", SourceState.REFUSED),
        ("silent", SourceState.STALLED),
        ("error", SourceState.CONNECTING),
    ],
)
async def test_a_refusal_is_shown_with_its_code_and_tried_again(
    source: MemorySource, row: Source, follow: Follow, code: str, state: SourceState
) -> None:
    source.refusals = [code] * 3
    seen = []
    follower = follow(on_fork="halt")
    tell = follower.books.report

    def spy(state: SourceState, since: Any, **values: Any) -> None:
        seen.append((state, values["error_code"]))
        tell(state, since, **values)

    follower.books.report = spy  # type: ignore[method-assign]
    source.add(ticket("in the end"))
    await level(row, source)
    assert (state, code) in seen


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda text: text.replace('"batch"', '"bitch"'), "malformed"),
        (lambda text: text.replace('"prev":0', '"prev":7'), "gap"),
        (lambda text: text.replace('"position":1,', '"position":5,'), "gap"),
        (lambda text: text.replace('"ends":[1', '"ends":[2'), "gap"),
        (lambda text: text.replace('"ts":', '"ts":null,"was":'), "malformed"),
        (lambda text: text + " " * 400_000, "oversized"),
    ],
)
async def test_a_source_that_breaks_the_protocol_is_told_so_and_nothing_is_kept(
    source: MemorySource, row: Source, follow: Follow, spoil: Callable[[str], str], code: str
) -> None:
    source.add(ticket("good"))
    await spoilt(source, row, follow, spoil, code)
    assert await texts() == ["good"]


async def spoilt(
    source: MemorySource, row: Source, follow: Follow, spoil: Callable[[Any], str | bytes], code: str
) -> None:
    """It is told why, keeps nothing, and has everything once the source has come to its senses."""
    source.spoil = spoil
    follow()
    await until(lambda: source.errors)
    assert source.errors[0].code == code
    assert await texts() == []
    source.spoil = lambda payload: payload
    await level(row, source)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda packed: packed[:-1], "corrupt"),
        (lambda packed: packed + b"more", "corrupt"),
        (lambda packed: bytes(len(packed)), "corrupt"),
        (lambda packed: zlib.compress(bytes(300_000_000)), "oversized"),
        (lambda packed: zlib.compress(b"no message"), "malformed"),
    ],
    ids=["truncated", "trailing garbage", "noise", "bomb", "no message"],
)
async def test_a_source_that_compresses_wrongly_is_told_so_and_nothing_is_kept(
    source: MemorySource, row: Source, follow: Follow, spoil: Callable[[bytes], bytes], code: str
) -> None:
    source.add(ticket("good" * 500))
    await spoilt(source, row, follow, spoil, code)
    assert await texts() == ["good" * 500]
    assert source.packed >= 2


async def test_frames_come_compressed_to_who_wants_it_and_credit_is_their_plain_size(
    source: MemorySource, row: Source, follow: Follow
) -> None:
    source.window = 20_000
    for number in range(100):
        source.add(ticket(f"{number:03}" + "x" * 900))
    follow(compression=True)
    await level(row, source)
    assert source.asked[0].compression == ["deflate"]
    assert source.packed > 20
    plain = sum(len(entry.body) for entry in source.entries)
    await until(lambda: source.acks and source.acks[-1].taken > plain)
    assert source.most_outstanding < 20_000 + source.frame_bytes


async def test_who_does_not_want_it_gets_plain_frames(
    source: MemorySource, row: Source, follow: Follow
) -> None:
    source.add(ticket("x" * 3000))
    follow(compression=False)
    await level(row, source)
    assert (source.asked[0].compression, source.packed) == ([], 0)


async def test_a_source_that_knows_nothing_of_compression_is_asked_again_without_it(
    source: MemorySource, row: Source, follow: Follow
) -> None:
    source.knows_compression = False
    source.add(ticket("x" * 3000))
    source.frames_until_cut = [1, -1]
    follow()
    await level(row, source)
    source.add(ticket("y" * 3000))
    await level(row, source)
    offers = [bool(asked.compression) for asked in source.asked]
    # It may have been replaced meanwhile: each time it is away it is offered anew.
    assert offers == [True, False, True, False]
    assert (await texts(), source.packed) == (["x" * 3000, "y" * 3000], 0)


async def test_what_cannot_be_applied_halts_visibly_and_keeps_nothing_of_the_group(
    source: MemorySource, row: Source, follow: Follow
) -> None:
    source.add(ticket("before"))
    source.add(ticket("same group"), (Op.SAVE, "shop.nosuch", 1, {}))
    follow()

    async def halted() -> Source | None:
        now = await reread(row)
        return now if now.state == SourceState.HALTED else None

    now = await until(halted)
    assert now.error_code == "unknown_model"
    assert "shop.nosuch" in now.error_text
    assert await texts() in ([], ["before"])  # one transaction may have taken both groups


async def test_a_newer_process_takes_over_and_the_older_one_leaves(
    source: MemorySource, row: Source, follow: Follow
) -> None:
    source.add(ticket("a"))
    older = follow()
    await level(row, source)
    newer = Follower(row.pk, row.name, older.settings, older.world)
    task = asyncio.create_task(newer.run())
    await asyncio.wait_for(newer.level.wait(), 20)
    source.add(ticket("b"))
    await level(row, source)
    assert await texts() == ["a", "b"]
    newer.stop()
    await task


async def test_another_stream_under_the_same_name_is_never_followed(
    source: MemorySource, row: Source, follow: Follow
) -> None:
    source.add(ticket("a"))
    first = follow()
    await level(row, source)
    first.stop()

    async def stopped() -> bool:
        return (await reread(row)).state == SourceState.STOPPED

    await until(stopped)
    source.stream = str(uuid.uuid4())
    source.add(ticket("b"))

    async def halted() -> bool:
        now = await reread(row)
        return (now.state, now.error_code) == (SourceState.HALTED, "forked")

    follow(on_fork="halt")
    await until(halted)
    assert await texts() == ["a"]


@pytest.mark.parametrize("code", ["pruned", "incomplete", "forked"])
async def test_where_the_log_does_not_lead_the_rows_are_loaded(
    source: MemorySource, row: Source, follow: Follow, code: str
) -> None:
    source.refusals = [code]
    source.rows["shop.counter"] = {number: {"value": number} for number in range(1, 900)}
    source.add((Op.SAVE, "shop.counter", 1, {"value": 0}))  # the rows are of a later time
    follow()
    await level(row, source)
    assert [subscribe.seek for subscribe in source.asked] == ["start", "now"]
    found = await sync_to_async(lambda: list(Counter.objects.order_by("id").values_list("id", "value")))()
    assert found == [(number, number) for number in range(1, 900)]
    source.add((Op.SAVE, "shop.counter", 1, {"value": 7}))
    await level(row, source)
    assert (await sync_to_async(Counter.objects.get)(id=1)).value == 7


async def test_another_history_under_the_same_name_is_loaded_and_nothing_disappears_meanwhile(
    source: MemorySource, row: Source, follow: Follow
) -> None:
    source.add(ticket("a"))
    first = follow()
    await level(row, source)
    first.stop()
    await until(lambda: source.acks)
    before = (await reread(row)).stream
    source.stream = str(uuid.uuid4())
    source.refusals = ["forked"]
    source.rows["shop.counter"] = {1: {"value": 1}}
    source.add((Op.SAVE, "shop.counter", 2, {"value": 2}))
    follow()
    now = await level(row, source)
    assert str(now.stream.uuid) == source.stream
    assert before is not None
    assert await sync_to_async(Oplog.objects.filter(stream_id=before.pk).count)() == 1, "to be read still"
    assert await texts() == [], "the other history does not have it"
    assert await sync_to_async(Counter.objects.count)() == 1


@sync_to_async
def refused() -> set[str]:
    open_ones = Verification.objects.exclude(state=VerificationState.DONE)
    return set() if open_ones.exists() else set(Verification.objects.values_list("refused", flat=True))


async def test_once_level_rows_are_compared_by_themselves(
    source: MemorySource, row: Source, follow: Follow
) -> None:
    source.add(ticket("first"))
    follow()
    await level(row, source)
    assert await until(refused) == {"unknown_stream"}, "what this source says of each"
    assert {fetch.model for fetch in source.fetches} >= {"shop.ticket", "shop.brand"}
    assert all(fetch.digests for fetch in source.fetches)
    assert source.connections == 1


async def test_a_source_that_knows_nothing_of_comparing_is_not_asked_again(
    source: MemorySource, row: Source, follow: Follow
) -> None:
    source.knows_digests = False
    source.add(ticket("first"))
    follow()
    await level(row, source)
    assert await until(refused) == {"malformed"}
    source.add(ticket("second"))
    await level(row, source)
    assert await texts() == ["first", "second"]
    assert source.connections == 2


async def test_nothing_is_compared_that_nobody_asks_for_when_the_settings_say_so(
    source: MemorySource, row: Source, follow: Follow, settings: Any
) -> None:
    settings.MIRROR = {**settings.MIRROR, "VERIFY_DAYS": None}
    source.add(ticket("first"))
    follow()
    await level(row, source)
    heard = len(source.acks)
    await until(lambda: len(source.acks) > heard + 5)
    assert source.fetches == []


async def test_stopping_says_so(source: MemorySource, row: Source, follow: Follow) -> None:
    source.add(ticket("a"))
    follower = follow()
    await level(row, source)
    follower.stop()

    async def stopped() -> bool:
        return (await reread(row)).state == SourceState.STOPPED

    await until(stopped)

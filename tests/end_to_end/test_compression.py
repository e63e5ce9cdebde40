"""Compressed frames through a real daphne: the same tables, less on the line, and peers of before."""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.end_to_end.conftest import Ground
from tests.end_to_end.oracle import assert_same_oplog, assert_same_shop
from tests.end_to_end.processes import Site, wait_until, wait_until_level, wait_until_state
from tests.end_to_end.talker import Talker, connect
from tests.end_to_end.throttle import Throttle

_WRITTEN = """
shop.Ticket.objects.bulk_create([shop.Ticket(text=f'ticket {n}') for n in range(5000)])
shop.Ticket.objects.create(text='ž"\\\\\\n漢🜚' * 100_000)
shop.Ticket.objects.filter(text__endswith='7').update(text='seven')
"""


@pytest.mark.parametrize(
    ("asked", "done", "compressed"),
    [
        (True, True, True),
        ("auto", True, True),
        (False, True, False),
        (True, False, False),
        (True, "auto", False),
    ],
)
def test_the_tables_are_equal_and_the_line_carries_less_where_both_sides_want_it(
    ground: Ground, asked: bool | str, done: bool | str, compressed: bool
):
    source, centre = ground.source(COMPRESSION=done), ground.centre(COMPRESSION=asked)
    source.serve()
    source.run(_WRITTEN)
    line = ground.proxy(source)
    centre.follow("source", line.url, source.token())
    centre.mirror()
    wait_until_level(source, centre)
    assert_same_shop(source, centre)
    assert_same_oplog(source, centre, captured=source.captured())
    # An ack and a heartbeat are nothing beside it.
    plain = source.one("SELECT sum(length(CAST(body AS BLOB))) FROM mirror_oplog")
    assert (line.carried < plain / 3) == compressed
    assert (line.carried >= plain) == (not compressed)


def test_what_is_left_goes_compressed_once_a_line_proves_slow(ground: Ground):
    source, centre = ground.source(), ground.centre()
    source.serve()
    source.run(
        "shop.Ticket.objects.bulk_create("
        "[shop.Ticket(text=f'{n} and much that is the same everywhere' * 3) for n in range(12_000)])"
    )
    line = ground.proxy(source)
    line.throttle(down=Throttle(bits=2e6, latency=0.01))
    centre.follow("source", line.url, source.token())
    centre.mirror()
    wait_until_level(source, centre)
    plain = source.one("SELECT sum(length(CAST(body AS BLOB))) FROM mirror_oplog")
    assert plain > 3_000_000
    assert line.carried < plain / 1.5
    assert_same_shop(source, centre)


def test_a_slow_line_that_breaks_in_the_middle_brings_everything_in_the_end(ground: Ground):
    source, centre = ground.source(), ground.centre()
    source.serve()
    line = ground.proxy(source)
    line.throttle(down=Throttle(bits=2e6, latency=0.02), up=Throttle(bits=2e5, latency=0.02))
    centre.follow("source", line.url, source.token())
    centre.mirror()
    wait_until_state(centre, "live")
    line.break_after(60_000)
    source.run(_WRITTEN)
    wait_until(lambda: line.opened >= 4, what="it broke twice")
    line.spare()
    wait_until_level(source, centre)
    assert_same_shop(source, centre)
    assert_same_oplog(source, centre, captured=source.captured())


# A mirror by hand


@pytest.fixture(scope="module")
def source(common_ground: Ground) -> Site:
    made = common_ground.source("compressing", COMPRESSION=True)
    made.serve()
    made.run("shop.Ticket.objects.bulk_create([shop.Ticket(text=f'ticket {n}') for n in range(100)])")
    return made


@contextmanager
def subscribed(source: Site, **values: Any) -> Iterator[tuple[Talker, dict[str, Any], str | bytes]]:
    """The connection, what the source answers, and the first frame."""
    token = source.token(str(uuid.uuid4()))
    with connect(
        source.url,
        additional_headers={"Authorization": f"Bearer {token}"},
        subprotocols=["livemirror.v1"],
        compression=None,
        proxy=None,
    ) as connection:
        request = {"type": "subscribe", "mirror": str(uuid.uuid4()), "window": 1_000_000, **values}
        connection.send(json.dumps(request))
        answer = json.loads(connection.recv(timeout=30))
        yield connection, answer, connection.recv(timeout=30)


def refusal(connection: Talker) -> str:
    code = ""
    with suppress(ConnectionClosed):
        while True:
            found = connection.recv(timeout=30)
            code = json.loads(found).get("code", code) if isinstance(found, str) else code
    return code


def test_a_mirror_of_before_gets_the_answer_and_the_frames_of_before(source: Site):
    with subscribed(source) as (_connection, answer, frame):
        assert set(answer) == {
            "type", "stream", "outcome", "cursor", "position", "mark", "head", "head_position", "now",
        }  # fmt: skip
        assert len(json.loads(frame)["changes"]) == 100


def test_a_mirror_of_tomorrow_is_answered_with_what_this_source_knows(source: Site):
    with subscribed(source, compression=["telepathy"]) as (_connection, answer, frame):
        assert "compression" not in answer
        assert isinstance(frame, str)
    with subscribed(source, compression=["telepathy", "deflate"]) as (_connection, answer, frame):
        assert answer["compression"] == "deflate"
        assert isinstance(frame, bytes)
        assert len(json.loads(zlib.decompress(frame))["changes"]) == 100


def test_what_is_taken_counts_plain(source: Site):
    with subscribed(source, compression=["deflate"]) as (connection, _answer, frame):
        plain = zlib.decompress(frame)
        end = json.loads(plain)["ends"][-1]
        for taken in (len(frame), len(plain), len(plain) + 1):
            connection.send(json.dumps({"type": "ack", "taken": taken, "cursor": end}))
        assert refusal(connection) == "ack_beyond_sent"


@pytest.mark.parametrize("offer", [[], ["deflate"]], ids=["not agreed", "agreed"])
@pytest.mark.parametrize("payload", [b"", b"\x00\xff", zlib.compress(bytes(50_000_000))])
def test_a_mirror_that_speaks_binary_is_refused_whatever_was_agreed(
    source: Site, offer: list[str], payload: bytes
):
    with subscribed(source, compression=offer) as (connection, _answer, _frame):
        connection.send(payload)
        assert refusal(connection) == "malformed"

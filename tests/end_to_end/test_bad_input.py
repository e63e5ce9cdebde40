"""Wrong and hostile input over the real socket: a stable code, a close, and a process that goes on."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.end_to_end.conftest import Ground
from tests.end_to_end.oracle import assert_same_shop
from tests.end_to_end.processes import Running
from tests.end_to_end.raw_socket import RawSocket
from tests.end_to_end.talker import Talker, connect

_PROTOCOL = "livemirror.v1"
_MIRROR = str(uuid.UUID(int=1))
_UNKNOWN = str(uuid.UUID(int=2))


class Server:
    """One source for all of these tests: what one of them breaks, the next one finds."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.site = ground.source(HEARTBEAT=0.5)
        self.daphne: Running = self.site.serve()
        self.token = self.site.token("good")
        self.site.run("for n in range(20): shop.Ticket.objects.create(text=str(n))")

    @contextmanager
    def connected(self, token: str | None = None, **options: Any) -> Iterator[Talker]:
        options.setdefault("subprotocols", [_PROTOCOL])
        headers = {"Authorization": f"Bearer {token or self.token}", **options.pop("headers", {})}
        with connect(
            self.site.url + options.pop("query", ""),
            additional_headers={name: value for name, value in headers.items() if value is not None},
            compression=None,
            proxy=None,
            open_timeout=30,
            close_timeout=1,
            max_size=None,
            **options,
        ) as connection:
            yield connection


@pytest.fixture(scope="module")
def server(common_ground: Ground) -> Server:
    return Server(common_ground)


@pytest.fixture(autouse=True)
def _still_healthy(server: Server) -> Iterator[None]:
    yield
    assert server.daphne.alive
    with server.connected() as connection:
        connection.send(subscribe())
        assert hear(connection)["type"] == "subscribed"
        assert hear(connection)["type"] == "batch"


def subscribe(**values: Any) -> str:
    return json.dumps({"type": "subscribe", "mirror": _MIRROR, "window": 1_000_000, **values})


def hear(connection: Talker) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(connection.recv(timeout=30))
    return message


def refusal(connection: Talker) -> tuple[str, int]:
    """The code that comes, after whatever else, and the code of the close."""
    code = ""
    with suppress(ConnectionClosed):
        while True:
            code = hear(connection).get("code", code)
    assert connection.close_code is not None
    return code, connection.close_code


# Before it is accepted


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"Authorization": None}},
        {"headers": {"Authorization": ""}},
        {"headers": {"Authorization": "Bearer"}},
        {"headers": {"Authorization": "Bearer wrong"}},
        {"headers": {"Authorization": f"Bearer {'0' * 16}.{'x' * 43}"}},
        {"headers": {"Authorization": "Basic Z29vZDpnb29k"}},
        {"headers": {"Authorization": "Bearer " + "x" * 8000}},
        {"headers": {"Authorization": "Bearer \xff\xfe"}},
        {"headers": {"Origin": "http://127.0.0.1"}},
        {"headers": {"Origin": "null"}},
    ],
    ids=[
        "none", "empty", "no secret", "no token", "wrong token", "another scheme", "huge", "no text",
        "from a page", "from a sandboxed page",
    ],
)  # fmt: skip
def test_whoever_has_no_right_is_refused_before_the_connection(server: Server, options: dict[str, Any]):
    with pytest.raises(InvalidStatus) as refused, server.connected(**options):
        pass
    assert refused.value.response.status_code == 403


def test_a_token_in_the_address_counts_for_nothing(server: Server):
    address = {"query": f"?token={server.token}&authorization=Bearer+{server.token}"}
    with (
        pytest.raises(InvalidStatus) as refused,
        server.connected(headers={"Authorization": None}, **address),
    ):
        pass
    assert refused.value.response.status_code == 403


def test_a_revoked_token_is_refused(server: Server):
    token = server.site.token("leaver")
    with server.connected(token):
        pass
    server.site.run("from mirror import tokens; tokens.revoke('leaver')")
    with pytest.raises(InvalidStatus) as refused, server.connected(token):
        pass
    assert refused.value.response.status_code == 403


def test_a_token_that_is_revoked_while_it_is_used_ends_the_stream(server: Server):
    token = server.site.token("guest")
    with server.connected(token) as connection:
        streaming(connection)
        server.site.run("from mirror import tokens; tokens.revoke('guest')")
        assert refusal(connection) == ("unauthorized", 4401)


def test_another_path_is_no_stream(server: Server):
    with pytest.raises(InvalidStatus) as refused, server.connected(query="elsewhere/"):
        pass
    assert refused.value.response.status_code == 403


def test_no_token_stands_in_the_log(server: Server):
    assert server.token.partition(".")[2] not in server.daphne.log


# Before the stream


@pytest.mark.parametrize("subprotocols", [None, ["livemirror.v0"], ["mqtt", "soap"]])
def test_a_protocol_that_is_not_spoken_is_refused(server: Server, subprotocols: list[str] | None):
    with server.connected(subprotocols=subprotocols) as connection:
        assert refusal(connection) == ("unsupported_protocol", 4406)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "malformed"),
        ("not JSON", "malformed"),
        ("{", "malformed"),
        ("[]", "malformed"),
        ("null", "malformed"),
        ("1" * 200_000, "malformed"),
        ("[" * 100_000, "malformed"),
        ('{"a":' * 40_000, "malformed"),
        ('{"type":"shutdown"}', "malformed"),
        ('{"type":"subscribe"}', "malformed"),
        ('{"type":null}', "malformed"),
        (subscribe(window="large"), "malformed"),
        (subscribe(window=1.5), "malformed"),
        (subscribe(window=None), "malformed"),
        (subscribe(window=0), "malformed"),
        (subscribe(window=-1), "malformed"),
        (subscribe(window=10**30), "malformed"),
        (subscribe(mirror=7), "malformed"),
        (subscribe(seek="end"), "malformed"),
        (subscribe(seek=[]), "malformed"),
        (subscribe(cursor="0"), "malformed"),
        (subscribe(extra=True), "malformed"),
        (subscribe(filler="x" * 300_000), "oversized"),
        (b"\x00\x01", "malformed"),
        (subscribe().encode(), "malformed"),
        (subscribe(cursor=4_000_000_000_000_000, mark="0" * 16), "forked"),
        (subscribe(cursor=1, mark=""), "forked"),
        (subscribe(cursor=2**62, mark="0" * 16), "forked"),
        (subscribe(cursor=10**18, mark="\x00"), "malformed"),
        (subscribe(cursor=0, mark="0" * 16), "forked"),
        (subscribe(stream=_UNKNOWN), "unknown_stream"),
        (subscribe(stream=_UNKNOWN, cursor=5, mark=""), "unknown_stream"),
        (subscribe(stream="not a uuid"), "malformed"),
        (subscribe(stream=""), "malformed"),
        (subscribe(stream="\x00'\"--"), "malformed"),
        ('{"type":"ack","taken":0,"cursor":0}', "unexpected"),
        ('{"type":"fetch","number":1,"model":"shop.ticket"}', "unexpected"),
        ('{"type":"heartbeat","head":1,"head_position":1,"now":1}', "unexpected"),
    ],
    ids=lambda value: ascii(value)[:40].strip("b'") if len(value) < 80 else ascii(value)[62:140],
)
def test_a_bad_request_gets_its_code_and_a_close(server: Server, text: str | bytes, code: str):
    with server.connected() as connection:
        connection.send(text)
        told, closed = refusal(connection)
    assert told == code
    assert 4400 <= closed < 4500


def test_text_that_is_no_text_is_cut_off(server: Server):
    with RawSocket(server.site.port, server.token) as raw:
        raw.send_text(b'{"type":"subscribe","mirror":"\xff\xfe\xc0"}')
        raw.read_to_end()


def test_a_message_larger_than_any_is_cut_off(server: Server):
    before = server.daphne.resident_bytes()
    with server.connected() as connection:
        with suppress(ConnectionClosed):
            connection.send("x" * 3_000_000)
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=30)
    assert server.daphne.resident_bytes() - before < 32 * 1024 * 1024


# In the stream


def streaming(connection: Talker) -> tuple[int, int]:
    """Subscribe; return how many bytes of frames came and the cursor at their end."""
    connection.send(subscribe())
    assert hear(connection)["type"] == "subscribed"
    text = connection.recv(timeout=30)
    return len(text.encode()), json.loads(text)["ends"][-1]


@pytest.mark.parametrize(
    ("taken", "cursor"),
    [(0, 1), (1, 0), (-1, 0), (0, -1), (10**15, 10**17), (2**62, 2**62)],
)
def test_an_ack_beyond_what_was_sent_is_refused(server: Server, taken: int, cursor: int):
    """It would decide what may be forgotten."""
    with server.connected() as connection:
        size, end = streaming(connection)
        connection.send(json.dumps({"type": "ack", "taken": size + taken, "cursor": end + cursor}))
        if taken <= 0 <= size + taken and cursor <= 0:
            # Less than everything is no offence; to take it back is.
            connection.send(json.dumps({"type": "ack", "taken": size, "cursor": end}))
            connection.send(json.dumps({"type": "ack", "taken": size - 1, "cursor": end}))
        assert refusal(connection) == ("ack_beyond_sent", 4400)


@pytest.mark.parametrize(
    "message",
    [
        subscribe(),
        '{"type":"heartbeat","head":1,"head_position":1,"now":1}',
        '{"type":"batch","prev":0,"last":1,"position":1,"head":1,"head_position":1,"ends":[1],"changes":[{}]}',
    ],
    ids=["a second request", "a heartbeat of the wrong side", "changes from the mirror"],
)
def test_a_message_in_the_wrong_place_is_refused(server: Server, message: str):
    with server.connected() as connection:
        streaming(connection)
        connection.send(message)
        assert refusal(connection) == ("unexpected", 4400)


@pytest.mark.parametrize("number", [-1, 2**63, 10**40, 1.5, "1", None])
def test_an_ack_that_is_no_number_is_refused(server: Server, number: object):
    with server.connected() as connection:
        streaming(connection)
        connection.send(json.dumps({"type": "ack", "taken": number, "cursor": 0}))
        assert refusal(connection) == ("malformed", 4400)


def test_garbage_in_the_stream_is_refused(server: Server):
    with server.connected() as connection:
        streaming(connection)
        connection.send("\x00" * 1000)
        assert refusal(connection) == ("malformed", 4400)


# Rows


def fetch(number: Any = 1, model: Any = "shop.ticket", **values: Any) -> str:
    return json.dumps({"type": "fetch", "number": number, "model": model, **values})


def hear_rows(connection: Talker) -> dict[str, Any]:
    """The chunk that comes, out of its pieces."""
    texts: list[str] = []
    while True:
        message = hear(connection)
        assert message["type"] in {"piece", "heartbeat"}, message
        if message["type"] == "piece":
            assert message["index"] == len(texts)
            texts.append(message["text"])
            if message["last"]:
                chunk: dict[str, Any] = json.loads("".join(texts))
                assert chunk["at"] == message["at"]
                return chunk


def test_rows_are_told_on_request(server: Server):
    with server.connected() as connection:
        streaming(connection)
        connection.send(fetch())
        chunk = hear_rows(connection)
        assert len(chunk["rows"]) == chunk["total"] >= 20
        connection.send(fetch(2, keys=[chunk["rows"][0]["pk"]]))
        again = hear_rows(connection)
        assert (again["number"], again["rows"]) == (2, chunk["rows"][:1])


@pytest.mark.parametrize(
    "model",
    [
        "shop.safe",
        "auth.user",
        "mirror.token",
        "",
        "shop.Ticket",
        "é" * 200,
        "x'; DROP TABLE shop_ticket; --",
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_rows_of_what_is_not_listed_are_refused_and_the_stream_goes_on(server: Server, model: str):
    with server.connected() as connection:
        streaming(connection)
        for number, asked in enumerate([{}, {"after": 1}, {"keys": [1, "a"]}]):
            connection.send(fetch(number, model, **asked))
            chunk = hear_rows(connection)
            assert (chunk["refused"], "rows" in chunk, chunk["number"]) == ("unknown_model", False, number)


def test_as_many_keys_as_may_be_asked_for_are_answered(server: Server):
    with server.connected() as connection:
        streaming(connection)
        connection.send(fetch(keys=[str(uuid.UUID(int=number)) for number in range(1000)]))
        assert "rows" not in hear_rows(connection)


_DEEP = "[" * 50_000 + "]" * 50_000


@pytest.mark.parametrize(
    "text",
    [
        fetch(keys=[str(uuid.UUID(int=number)) for number in range(1001)]),
        fetch(keys=[]),
        fetch(keys=7),
        fetch(keys={}),
        fetch(keys=["no uuid"]),
        fetch(keys=[None]),
        fetch(keys=[[]]),
        fetch(keys=[7.5]),
        fetch(keys=[{"a": 1}]),
        fetch(keys=[str(uuid.UUID(int=1))], after=str(uuid.UUID(int=1))),
        fetch(after="9" * 200_000),
        fetch(after=10**4000),
        fetch(after="\x00"),
        fetch(after=list(range(20_000))),
        fetch(after={"a": "b" * 100_000}),
        fetch(model="shop.counter", after=10**30),
        fetch(model="shop.counter", after=-(2**70)),
        fetch(model="shop.counter", after="one"),
        fetch(model="shop.counter", after=1e308),
        fetch(model="shop.counter", keys=[1, "' OR 1=1 --"]),
        fetch(model="shop.seat", after=["A"]),
        fetch(model="shop.seat", keys=[["A", 1], "A"]),
        fetch(model="shop.seat", keys=[["A", None]]),
        fetch(model="shop.seat", keys=[["A", 1, 2]]),
        fetch(model="m" * 201),
        fetch(model=None),
        fetch(number="1"),
        fetch(number=2**63),
        fetch(also=1),
        fetch().replace("shop.ticket", "\\ud800"),
        fetch(after=0).replace("0}", _DEEP + "}"),
        '{"type":"fetch"}',
    ],
    ids=lambda value: value[17:70],
)
def test_a_question_that_makes_no_sense_is_malformed(server: Server, text: str):
    with server.connected() as connection:
        streaming(connection)
        connection.send(text)
        assert refusal(connection) == ("malformed", 4400)


def test_two_questions_at_once_are_refused(server: Server):
    with server.connected() as connection:
        streaming(connection)
        for number in range(50):
            with suppress(ConnectionClosed):
                connection.send(fetch(number))
        assert refusal(connection) == ("malformed", 4400)


@pytest.mark.parametrize(
    "message",
    [
        '{"type":"piece","number":1,"at":1,"index":0,"last":true,"text":"{}"}',
        '{"type":"chunk","number":1,"model":"shop.ticket","at":1}',
    ],
)
def test_a_mirror_tells_no_rows(server: Server, message: str):
    with server.connected() as connection:
        streaming(connection)
        connection.send(message)
        assert refusal(connection) == ("unexpected", 4400)


def test_a_mirror_that_asks_and_leaves_is_forgotten(server: Server):
    for _ in range(20):
        with server.connected() as connection:
            streaming(connection)
            connection.send(fetch())


def test_a_mirror_that_comes_again_takes_its_own_place(server: Server):
    with server.connected() as first:
        first.send(subscribe())
        assert hear(first)["type"] == "subscribed"
        with server.connected() as second:
            second.send(subscribe())
            assert hear(second)["type"] == "subscribed"
            assert refusal(first) == ("superseded", 4412)
            assert hear(second)["type"] == "batch"


def test_hundreds_of_bad_messages_leave_the_process_as_it_was(server: Server):
    with server.connected() as connection:
        connection.send("warm up")
        refusal(connection)
    before = server.daphne.resident_bytes()
    for number in range(300):
        with server.connected() as connection:
            connection.send(json.dumps({"type": "subscribe", "number": number, "filler": "x" * 100_000}))
            assert refusal(connection) == ("malformed", 4400)
    assert server.daphne.resident_bytes() - before < 16 * 1024 * 1024


def test_a_good_mirror_still_works_on_the_same_process(server: Server):
    centre = server.ground.centre()
    centre.follow("source", server.site.url, server.site.token("late"))
    centre.manage("runmirror", "--until-caught-up", expect=0)
    assert_same_shop(server.site, centre)
    assert "Traceback" not in server.daphne.log

"""Sources that lie, each in its own way, followed by one runmirror beside a good one."""

from __future__ import annotations

import json
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from tests.end_to_end.conftest import Ground
from tests.end_to_end.oracle import assert_same_shop
from tests.end_to_end.processes import wait_until, wait_until_level

Script = Callable[["Liar", ServerConnection], None]

_TICKET = {"op": "SAVE", "model": "shop.ticket"}


class Liar:
    """One bad source: what it says to whoever connects."""

    def __init__(self, name: str, script: Script) -> None:
        self.name = name
        self.script = script
        self.stream = str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
        self.connections: list[float] = []

    def subscribed(self, **values: Any) -> str:
        answer = {
            "type": "subscribed", "stream": self.stream, "outcome": "started", "cursor": 0, "position": 0,
            "mark": "", "head": 9, "head_position": 9, "now": time.time_ns() // 1000, **values,
        }  # fmt: skip
        return json.dumps(answer)


def ticket(ts: int, **values: Any) -> dict[str, Any]:
    row = {"text": "a lie", "secret": "", **values}
    return {"ts": ts, **_TICKET, "pk": str(uuid.UUID(int=ts + 1000)), "fields": row}


def batch(*changes: Any, prev: int = 0, **values: Any) -> str:
    last = changes[-1]["ts"] if changes else 1
    message = {
        "type": "batch", "prev": prev, "last": last, "position": len(changes), "head": 9, "head_position": 9,
        "ends": [last], "changes": list(changes), **values,
    }  # fmt: skip
    return json.dumps(message)


def says(*texts: str | bytes) -> Script:
    """A script that answers with these after a proper beginning."""

    def script(liar: Liar, connection: ServerConnection) -> None:
        connection.send(liar.subscribed())
        for text in texts:
            connection.send(text)
        connection.recv(timeout=20)
        connection.recv(timeout=20)

    return script


def packs(*payloads: bytes) -> Script:
    """A script that agrees upon compression, and then sends these."""

    def script(liar: Liar, connection: ServerConnection) -> None:
        connection.send(liar.subscribed(compression="deflate"))
        for payload in payloads:
            connection.send(payload)
        connection.recv(timeout=20)
        connection.recv(timeout=20)

    return script


def begins_with(text: str | Callable[[Liar], str]) -> Script:
    def script(liar: Liar, connection: ServerConnection) -> None:
        connection.send(text if isinstance(text, str) else text(liar))
        connection.recv(timeout=20)

    return script


def nothing(liar: Liar, connection: ServerConnection) -> None:
    """Accepts, and hangs up."""


def piece(number: int = 1, at: int = 0, **chunk: Any) -> str:
    text = json.dumps({"type": "chunk", "number": number, "model": "shop.ticket", "at": at, **chunk})
    message = {"type": "piece", "number": number, "at": at, "index": 0, "last": True, "text": text}
    return json.dumps(message)


def answers(make: Callable[[dict[str, Any]], list[str]]) -> Script:
    """A script that has the centre load everything, and answers its first question like this."""

    def script(liar: Liar, connection: ServerConnection) -> None:
        if len(liar.connections) == 1:
            connection.send('{"type":"error","code":"pruned","message":"gone"}')
            return
        connection.send(liar.subscribed(head=0, head_position=0))
        while True:
            question = json.loads(connection.recv(timeout=20))
            if question["type"] == "fetch":
                break
        for text in make(question):
            connection.send(text)
        connection.recv(timeout=20)
        connection.recv(timeout=20)

    return script


#: By name: what the source says, and the code under which the centre shows it.
_LIES: dict[str, tuple[Script, set[str]]] = {
    "hangs-up": (nothing, {"line_lost"}),
    "no-json": (says("garbage"), {"malformed"}),
    "binary": (says(b"\x00\xff"), {"malformed"}),
    "a-bomb": (packs(zlib.compress(bytes(200_000_000), 9)), {"oversized"}),
    "half-a-frame": (packs(zlib.compress(batch(ticket(5)).encode())[:-4]), {"corrupt"}),
    "more-than-a-frame": (packs(zlib.compress(batch(ticket(5)).encode()) + b"\x00"), {"corrupt"}),
    "not-compressed": (packs(batch(ticket(5)).encode()), {"corrupt"}),
    "a-compressed-error": (packs(zlib.compress(b'{"type":"error","code":"a","message":"b"}')), {"malformed"}),
    "another-compression": (begins_with(lambda liar: liar.subscribed(compression="brotli")), {"malformed"}),
    "deep": (says("[" * 200_000), {"malformed"}),
    "too-large": (says(" " * 264_000), {"oversized"}),
    "far-too-large": (says(" " * 900_000), {"line_lost"}),
    "unknown-word": (says('{"type":"drop","table":"auth_user"}'), {"malformed"}),
    "begins-with-changes": (begins_with(batch(ticket(1))), {"unexpected"}),
    "begins-elsewhere": (begins_with(lambda liar: liar.subscribed(cursor=-5)), {"malformed", "forked"}),
    "no-stream": (begins_with(lambda liar: liar.subscribed(stream="x'; --")), {"malformed"}),
    "a-gap": (says(batch(ticket(5), prev=3)), {"gap"}),
    "a-gap-of-positions": (says(batch(ticket(5), position=2)), {"gap"}),
    "backwards": (says(batch(ticket(5), ticket(4), ticket(6), position=3)), {"gap", "malformed"}),
    # It comes back to a mirror that has the first of them, and begins anew: another history.
    "twice": (says(batch(ticket(5)), batch(ticket(5))), {"gap", "forked"}),
    "no-changes": (says(batch(last=7, ends=[7], position=1)), {"gap"}),
    "ends-elsewhere": (says(batch(ticket(5), ends=[4])), {"gap"}),
    "no-change": (says(batch({"ts": 5})), {"malformed"}),
    "a-change-of-nothing": (says(batch(ticket(5), changes=[7])), {"malformed"}),
    "an-unknown-operation": (says(batch({**ticket(5), "op": "TRUNCATE"})), {"malformed"}),
    "an-unknown-field": (says(batch(ticket(5, is_superuser=True))), {"unknown_field"}),
    "an-unknown-model": (says(batch({**ticket(5), "model": "shop.safe"})), {"unknown_model"}),
    "a-wrong-key": (says(batch({**ticket(5), "pk": "no uuid"})), {"wrong_value"}),
    "a-key-of-another-kind": (says(batch({**ticket(5), "pk": {"a": [1]}})), {"wrong_value"}),
    "no-key": (says(batch({**ticket(5), "pk": None})), {"wrong_value"}),
    "a-wrong-value": (says(batch(ticket(5, text=None))), {"wrong_value", "constraint_failed"}),
    "fragments-out-of-order": (
        says(
            json.dumps(
                {
                    "type": "fragment", "prev": 0, "ts": 5, "position": 1, "head": 9, "head_position": 9,
                    "index": 3, "last": True, "ends": True, "text": "{}",
                }
            )
        ),
        {"gap"},
    ),
    "rows-unasked": (says(piece()), {"gap"}),
    "a-chunk-by-itself": (says(json.loads(piece())["text"]), {"unexpected"}),
    "rows-of-another-moment": (answers(lambda asked: [piece(at=5, model=asked["model"])]), {"gap"}),
    "rows-of-another-question": (answers(lambda asked: [piece(2, model=asked["model"])]), {"gap"}),
    "rows-of-another-model": (answers(lambda asked: [piece(model="shop.nothing")]), {"malformed"}),
    "rows-of-other-models": (
        answers(lambda asked: [piece(model=asked["model"], rows=[{**ticket(0), "model": "shop.seat"}])]),
        {"malformed", "wrong_value", "unknown_field"},
    ),
    "rows-that-are-gone": (
        answers(
            lambda asked: [
                piece(model=asked["model"], rows=[{**ticket(0), "op": "DELETE", "model": asked["model"]}])
            ]
        ),
        {"malformed"},
    ),
    "rows-that-are-none": (answers(lambda asked: [piece(model=asked["model"], rows=[7])]), {"malformed"}),
    "half-a-chunk": (
        answers(lambda asked: [piece(model=asked["model"]).replace("}\"}", "\"}")]), {"malformed"}
    ),
    "the-answer-twice": (
        answers(lambda asked: [piece(model=asked["model"], next=1), piece(model=asked["model"])]), {"gap"}
    ),
    "an-error-of-its-own": (begins_with('{"type":"error","code":"lunch","message":"closed"}'), {"lunch"}),
}  # fmt: skip


@pytest.fixture
def liars() -> Iterator[tuple[Server, dict[str, Liar]]]:
    made = {name: Liar(name, script) for name, (script, _codes) in _LIES.items()}

    def handle(connection: ServerConnection) -> None:
        assert connection.request is not None
        liar = made[connection.request.path.strip("/")]
        liar.connections.append(time.monotonic())
        with suppress(ConnectionClosed, TimeoutError):
            connection.recv(timeout=20)
            liar.script(liar, connection)

    with serve(handle, "127.0.0.1", 0, subprotocols=["livemirror.v1"], compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server, made
        server.shutdown()
        thread.join()


def test_each_lie_gets_its_name_and_does_no_harm(ground: Ground, liars: tuple[Server, dict[str, Liar]]):
    server, made = liars
    source, centre = ground.pair(BACKOFF_FIRST=0.2, BACKOFF_LONGEST=2.0)
    token = source.token("for liars")
    port = server.socket.getsockname()[1]
    for name in made:
        centre.follow(name, f"ws://127.0.0.1:{port}/{name}/", token)
    mirror = centre.mirror()

    for name, (_script, codes) in _LIES.items():
        wait_until(
            lambda name=name, codes=codes: centre.source_row(name)["error_code"] in codes,
            what=f"{name} is {' or '.join(codes)}, not {centre.source_row(name)['error_code']}",
        )
    source.run("for n in range(50): shop.Ticket.objects.create(text=str(n))")
    wait_until_level(source, centre)
    wait_until(lambda: all(len(liar.connections) > 2 for liar in made.values()))
    # One lie came after a truth, which may stay.
    with centre.writing() as connection:
        connection.execute("DELETE FROM shop_ticket WHERE id = ?", [uuid.UUID(int=1005).hex])
    assert_same_shop(source, centre)
    assert centre.source_row()["state"] == "live"
    assert mirror.alive
    assert "Traceback" not in mirror.log
    for name, liar in made.items():
        assert centre.source_row(name)["position"] <= 1
        spent = liar.connections[-1] - liar.connections[0]
        assert len(liar.connections) <= 10 + 5 * spent, f"{name} is asked again and again"

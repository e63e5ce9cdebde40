"""Subscribers that throw everything away: ``python -m bench.subscriber PORT TOKEN COUNT SEEK``.

Says ``ready`` once all of them have their answer; who gets none dials again. A position on standard input
is what each of them has to reach; then a line of JSON tells how that went. Ends with its input. It looks
into frames as little as it can: what is measured is the source.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
import sys
import time
import uuid
from array import array
from typing import Any, NoReturn

import msgspec

from mirror.wire import SUBPROTOCOL, Ack, Subscribe, Subscribed, decode, encode

_WINDOW = 4 * 2**20
#: Seconds between two signs of life.
_BEAT = 2.0
_TEXT, _CLOSE = 0x1, 0x8
#: At once: as many handshakes as a site would see, not a storm.
_DIALLING = 20
#: Seconds until a subscriber that got no answer dials again, and how often all of them may together.
_REDIAL = 0.5
_PATIENCE = 500


class _Head(msgspec.Struct):
    """Of a batch, what tells where it leads."""

    last: int
    position: int
    ends: list[int]


_head = msgspec.json.Decoder(_Head)


class Subscriber(asyncio.Protocol):
    def __init__(self, port: int, token: str, seek: Any) -> None:
        self.answered = asyncio.get_running_loop().create_future()
        self.began = self.position = self.first = self.frames = self.carried = 0
        #: Milliseconds from a change's own time until it was here, one for each time that data came.
        self.delays = array("d")
        self.reached = asyncio.Event()
        self.aim: int | None = None
        self._port, self._token, self._seek = port, token, seek
        self._buffer = bytearray()
        self._upgraded = False
        self._cursor = self._acked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            (
                f"GET /mirror/stream/ HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\nAuthorization: Bearer {self._token}\r\n\r\n"
            ).encode()
        )

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._upgraded:
            if b"\r\n\r\n" not in self._buffer:
                return
            answer, _, rest = self._buffer.partition(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 101"):
                self._fail(bytes(answer[:80]).decode())
                return
            self._upgraded, self._buffer = True, rest
            request = Subscribe(mirror=str(uuid.uuid4()), window=_WINDOW, seek=self._seek)
            self._send(encode(request).encode())
        self._take_frames()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"the source hung up: {error}")

    def beat(self) -> None:
        self._acked = self.carried
        self._send(encode(Ack(taken=self.carried, cursor=self._cursor)).encode())

    def aim_at(self, position: int) -> None:
        self.aim = position
        self._look()

    def _take_frames(self) -> None:
        buffer, at, newest = self._buffer, 0, None
        while (found := _frame(buffer, at)) is not None:
            opcode, start, end = found
            at = end
            if opcode == _CLOSE:
                self._fail("the source closed")
            elif opcode == _TEXT:
                if buffer.startswith(b'{"type":"batch"', start):
                    self.carried += end - start
                    self.frames += 1
                    newest = start, end
                else:
                    self._other(bytes(buffer[start:end]))
        if newest is not None:
            self._note(_head.decode(buffer[newest[0] : newest[1]]))
        del buffer[:at]

    def _note(self, head: _Head) -> None:
        self.position = head.position
        self._cursor = head.ends[-1] if head.ends else self._cursor
        self.delays.append(time.time_ns() / 1e6 - head.last / 1e3)
        if self.carried - self._acked >= _WINDOW // 8:
            self.beat()
        self._look()

    def _other(self, text: bytes) -> None:
        message = decode(text)
        if isinstance(message, Subscribed):
            self.began = time.perf_counter_ns()
            self.first = self.position = message.position
            self._cursor = message.cursor
            self.answered.set_result(None)

    def _look(self) -> None:
        if self.aim is not None and self.position >= self.aim:
            self.reached.set()

    def _send(self, payload: bytes) -> None:
        # A mask of zeros is a mask.
        size = len(payload)
        length = struct.pack("!B", 0x80 | size) if size < 126 else struct.pack("!BH", 0xFE, size)
        self._transport.write(bytes([0x80 | _TEXT]) + length + bytes(4) + payload)

    def _fail(self, why: str) -> None:
        """Before the answer: it may dial again, as a mirror does. After it the process ends: what is measured
        is that all of them are served."""
        if not self.answered.done():
            self.answered.set_exception(ConnectionError(why))
            self._transport.abort()
        elif self.answered.exception() is None:
            _end(f"a subscriber failed at position {self.position}: {why}")


def _end(why: str) -> NoReturn:
    print(why, file=sys.stderr, flush=True)
    os._exit(1)


def _frame(buffer: bytearray, at: int) -> tuple[int, int, int] | None:
    """Opcode, start and end of the payload of the frame here, if it is whole."""
    if len(buffer) < at + 2:
        return None
    size, start = buffer[at + 1] & 0x7F, at + 2
    if size >= 126:
        width = 2 if size == 126 else 8
        if len(buffer) < start + width:
            return None
        size, start = int.from_bytes(buffer[start : start + width], "big"), start + width
    return (buffer[at] & 0x0F, start, start + size) if len(buffer) >= start + size else None


async def _main(port: int, token: str, count: int, seek: Any) -> None:
    loop = asyncio.get_running_loop()
    dialling = asyncio.Semaphore(_DIALLING)

    subscribers: list[Subscriber] = []
    redialled: list[str] = []

    async def dial() -> None:
        while True:
            _transport, found = await loop.create_connection(
                lambda: Subscriber(port, token, seek), "127.0.0.1", port
            )
            try:
                await found.answered
            except ConnectionError as error:
                redialled.append(str(error))
                if len(redialled) > _PATIENCE:
                    _end(f"{len(redialled)} dials got no answer, the last one because {error}")
            else:
                subscribers.append(found)
                return
            await asyncio.sleep(_REDIAL)

    async def dial_in_turn() -> None:
        async with dialling:
            await dial()

    # From the first on: until the last has its answer, the source would have given up the first.
    beats = asyncio.create_task(_beat(subscribers))
    await asyncio.gather(*(dial_in_turn() for _ in range(count)))
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        for subscriber in subscribers:
            subscriber.aim_at(int(line))
        await asyncio.gather(*(subscriber.reached.wait() for subscriber in subscribers))
        print(json.dumps({**_summary(subscribers), "redialled": len(redialled)}), flush=True)
    beats.cancel()


async def _beat(subscribers: list[Subscriber]) -> None:
    while True:
        await asyncio.sleep(_BEAT)
        for subscriber in subscribers:
            subscriber.beat()


def _summary(subscribers: list[Subscriber]) -> dict[str, Any]:
    now = time.perf_counter_ns()
    delays = sorted(delay for subscriber in subscribers for delay in subscriber.delays)
    return {
        "seconds": (now - min(subscriber.began for subscriber in subscribers)) / 1e9,
        "changes": sum(subscriber.position - subscriber.first for subscriber in subscribers),
        "frames": sum(subscriber.frames for subscriber in subscribers),
        "bytes": sum(subscriber.carried for subscriber in subscribers),
        "delay_ms": {
            "p50": delays[len(delays) // 2],
            "p99": delays[int(len(delays) * 0.99)],
            "max": delays[-1],
        },
    }


if __name__ == "__main__":
    _place = sys.argv[4]
    asyncio.run(
        _main(
            int(sys.argv[1]),
            sys.argv[2],
            int(sys.argv[3]),
            _place if _place in ("start", "now") else int(_place),
        )
    )

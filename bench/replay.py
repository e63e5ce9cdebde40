"""Many sources from one: ``python -m bench.replay RECORDING COUNT`` serves as many as are asked for.

RECORDING is what a real source sent to a subscriber, a frame a line. Source K, at ``/K/``, sends the same
frames with a stream and row identities of its own. So one process stands for many servers, and the figures
are those of the centre. Prints the port.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

from bench.sites import BenchSite
from client.link import connect
from mirror.session import Limits, Role, Session
from mirror.wire import SUBPROTOCOL, Ack, Batch, Heartbeat, Subscribe, Subscribed, decode, encode

_LIMITS = Limits(window=4 * 2**20, frame=256 * 1024, change=64 * 2**20)
#: Row identities are UUIDs of version 4, wherever they stand in a change.
_ROW = re.compile(r'"([0-9a-f]{8})(-[0-9a-f]{4}-4[0-9a-f]{3}-)')


async def record(source: BenchSite, token: str, position: int) -> tuple[list[str], int]:
    """The frames that a source sends up to a position, and how many changes they are."""
    session = Session(Role.MIRROR, _LIMITS)
    request = Subscribe(mirror=str(uuid.uuid4()), window=_LIMITS.window)
    frames: list[str] = []
    ended, cursor = 0, 0
    async with connect(source.url, token, frame_bytes=_LIMITS.frame, timeout=15) as link:
        await link.send(session.send(request))
        assert isinstance(session.receive(await link.receive()), Subscribed)
        while session.position < position or ended < len(frames):
            text = await link.receive()
            message = session.receive(text)
            if not isinstance(message, Batch):
                continue
            assert isinstance(text, str)
            frames.append(text)
            if message.ends:
                ended, cursor = len(frames), message.last
            await link.send(session.send(Ack(taken=session.carried, cursor=cursor)))
    return frames, session.position


@dataclass(frozen=True, slots=True)
class _Replayed:
    """One source: its stream and its frames, with where the last of them ends."""

    stream: str
    frames: list[str]
    head: int
    position: int


def _own_rows(number: int) -> Callable[[str], str]:
    """Gives the row identities of a frame to one source alone."""

    def exchange(found: re.Match[str]) -> str:
        return f'"{int(found[1], 16) ^ number:08x}{found[2]}'

    return lambda frame: _ROW.sub(exchange, frame)


def _replayed(number: int, frames: list[str]) -> _Replayed:
    last = decode(frames[-1])
    assert isinstance(last, Batch)
    own = list(map(_own_rows(number), frames))
    return _Replayed(str(uuid.uuid4()), own, last.last, last.position)


async def _serve(frames: list[str], count: int) -> None:
    sources = {f"/{number}/": _replayed(number, frames) for number in range(count)}

    async def handle(line: ServerConnection) -> None:
        assert line.request is not None
        await _stream(line, sources[line.request.path])

    async with serve(
        handle,
        "127.0.0.1",
        0,
        subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
        compression=None,
        ping_interval=None,
    ) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await server.serve_forever()


async def _stream(line: ServerConnection, source: _Replayed) -> None:
    session = Session(Role.SOURCE, _LIMITS)
    request = session.receive(await line.recv())
    assert isinstance(request, Subscribe)
    answer = Subscribed(
        stream=source.stream,
        outcome="started",
        cursor=0,
        position=0,
        mark="",
        head=source.head,
        head_position=source.position,
        now=time.time_ns() // 1000,
    )
    await line.send(session.send(answer))
    # Its credit is counted here: a recorded frame is no longer a Frame.
    sent = taken = 0
    for frame in source.frames:
        while sent - taken >= _LIMITS.window:
            taken = _taken(await line.recv())
        await line.send(frame)
        sent += len(frame.encode())
    while True:
        await line.recv()
        now = time.time_ns() // 1000
        await line.send(encode(Heartbeat(head=source.head, head_position=source.position, now=now)))


def _taken(text: Any) -> int:
    message = decode(text)
    assert isinstance(message, Ack), message
    return message.taken


def main() -> None:
    frames = Path(sys.argv[1]).read_text().splitlines()
    asyncio.run(_serve(frames, int(sys.argv[2])))


if __name__ == "__main__":
    main()

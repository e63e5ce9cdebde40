from __future__ import annotations

import asyncio
import json
import sys

import pytest

from mirror.wire import Subscribed, encode
from tests.end_to_end.processes import ROOT

ANSWER = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


def text_frame(text: str) -> bytes:
    payload = text.encode()
    return bytes([0x81, 126]) + len(payload).to_bytes(2, "big") + payload


SUBSCRIBED = text_frame(
    encode(
        Subscribed(
            stream="00000000-0000-4000-8000-000000000000",
            outcome="started",
            cursor=0,
            position=0,
            mark="",
            head=7,
            head_position=7,
            now=7,
        )
    )
)
BATCH = text_frame(
    json.dumps({"type": "batch", "last": 7, "position": 7, "ends": [7], "changes": []}, separators=(",", ":"))
)


class Source:
    """Hangs up on the first dials, then answers and sends seven changes."""

    def __init__(self, hang_up: int) -> None:
        self.hang_up = hang_up

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.hang_up -= 1
        if self.hang_up < 0:
            writer.write(ANSWER)
            await reader.read(1)
            writer.write(SUBSCRIBED + BATCH)
            await reader.read()
        writer.close()


@pytest.mark.parametrize("hang_up", [0, 2])
async def test_who_gets_no_answer_dials_again_and_that_is_counted(hang_up: int) -> None:
    server = await asyncio.start_server(Source(hang_up).serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.subscriber", str(port), "token", "3", "start"),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(b"7\n")
    server.close()
    ready, told = out.splitlines()
    assert ready == b"ready"
    assert process.returncode == 0
    assert {name: json.loads(told)[name] for name in ("redialled", "changes", "frames")} == {
        "redialled": hang_up,
        "changes": 21,
        "frames": 3,
    }

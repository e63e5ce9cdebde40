"""A WebSocket client for tests that are not coroutines.

Not websockets' own synchronous client: when the server closes at once after its last message, that one
now and then fails to answer the close and drops the message with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_async


class Talker:
    def __init__(self, runner: asyncio.Runner, connection: ClientConnection) -> None:
        self._runner = runner
        self._connection = connection

    @property
    def close_code(self) -> int | None:
        return self._connection.close_code

    def send(self, message: str | bytes) -> None:
        self._runner.run(self._connection.send(message))

    def recv(self, timeout: float) -> str | bytes:
        async def receive() -> str | bytes:
            async with asyncio.timeout(timeout):
                return await self._connection.recv()

        return self._runner.run(receive())


@contextmanager
def connect(url: str, **options: Any) -> Iterator[Talker]:
    async def dial() -> ClientConnection:
        return await connect_async(url, ping_interval=None, **options)

    with asyncio.Runner() as runner:
        connection = runner.run(dial())
        try:
            yield Talker(runner, connection)
        finally:
            runner.run(connection.close())

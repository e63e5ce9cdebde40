from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from client.link import LineLost, NotAStream, connect
from mirror.errors import Unauthorized
from mirror.wire import SUBPROTOCOL


@contextlib.asynccontextmanager
async def server(
    status: int | None = None, *, close_with: int | None = None
) -> AsyncIterator[tuple[str, list[Request]]]:
    requests: list[Request] = []

    async def handler(connection: ServerConnection) -> None:
        if close_with is not None:
            await connection.close(close_with)
        async for message in connection:
            await connection.send(message)

    def process(connection: ServerConnection, request: Request) -> Response | None:
        requests.append(request)
        return connection.respond(status, "no") if status is not None else None

    async with serve(
        handler, "127.0.0.1", 0, process_request=process, subprotocols=[SUBPROTOCOL], compression=None
    ) as running:
        port = running.sockets[0].getsockname()[1]
        yield f"ws://127.0.0.1:{port}/mirror/stream/", requests


async def test_the_token_goes_in_a_header_and_nowhere_else() -> None:
    async with server() as (url, requests), connect(url, "abc.def", frame_bytes=9999, timeout=5) as link:
        await link.send("hello")
        assert await link.receive() == "hello"
    assert requests[0].headers["Authorization"] == "Bearer abc.def"
    assert requests[0].headers["Sec-WebSocket-Protocol"] == SUBPROTOCOL
    assert "abc" not in requests[0].path
    assert "Origin" not in requests[0].headers


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, Unauthorized),  # a proxy that checks tokens
        (403, Unauthorized),  # how daphne closes before accept
        (404, NotAStream),  # another site
        (200, NotAStream),  # a page
        (429, NotAStream),
        (500, LineLost),  # a fault that may pass
        (502, LineLost),  # a proxy without its server
    ],
)
async def test_an_answer_that_is_no_stream_is_told_apart(status: int, error: type[Exception]) -> None:
    async with server(status) as (url, _requests):
        with pytest.raises(error, match=r"127\.0\.0\.1"):
            async with connect(url, "t", frame_bytes=9999, timeout=5):
                pass


async def test_nobody_there_is_a_lost_line() -> None:
    async with server() as (url, _requests):
        pass
    with pytest.raises(LineLost, match="cannot be reached"):
        async with connect(url, "t", frame_bytes=9999, timeout=5):
            pass


@contextlib.asynccontextmanager
async def plain_server(greeting: bytes) -> AsyncIterator[str]:
    """Not a WebSocket server: it says its greeting and hangs up, or says nothing at all."""
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        if greeting:
            writer.write(greeting)
            writer.write_eof()

    listener = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with listener:
        yield f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}/"
        for writer in writers:
            writer.close()
            await writer.wait_closed()


async def test_a_server_that_does_not_speak_is_a_lost_line() -> None:
    async with plain_server(b"") as url:
        with pytest.raises(LineLost):
            async with connect(url, "t", frame_bytes=9999, timeout=0.2):
                pass


async def test_something_else_than_http_is_not_a_stream() -> None:
    async with plain_server(b"220 mail.example ESMTP\r\n\r\n") as url:
        with pytest.raises(NotAStream):
            async with connect(url, "t", frame_bytes=9999, timeout=5):
                pass


async def test_what_came_of_a_message_counts_before_it_is_whole() -> None:
    async def half(connection: ServerConnection) -> None:
        async def pieces() -> AsyncIterator[str]:
            yield "x" * 5000
            await connection.recv()
            yield "y"

        await connection.send(pieces())

    async with serve(half, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL], compression=None) as running:
        url = f"ws://127.0.0.1:{running.sockets[0].getsockname()[1]}/"
        async with connect(url, "t", frame_bytes=9999, timeout=5) as link:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(link.receive(), 0.5)
            assert link.carried >= 5000
            await link.send("go on")
            assert await link.receive() == "x" * 5000 + "y"


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4400])
async def test_every_close_is_a_lost_line_that_says_its_code(code: int) -> None:
    async with (
        server(close_with=code) as (url, _requests),
        connect(url, "t", frame_bytes=9999, timeout=5) as link,
    ):
        with pytest.raises(LineLost, match=str(code)):
            await link.receive()
        with pytest.raises(LineLost):
            await link.send("too late")

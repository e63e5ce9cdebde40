"""The line to a source: a WebSocket. The only module that knows ``websockets``."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal, Protocol
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    InvalidURI,
    WebSocketException,
)

from mirror.errors import MirrorError, Unauthorized
from mirror.wire import SUBPROTOCOL

#: A little more than the protocol's own limit, so that the protocol can name the offence.
_SLACK = 4096


class LineLost(MirrorError):
    """The line is down."""

    code = "line_lost"


class NotAStream(MirrorError):
    """The URL answers, but not with a stream."""

    code = "not_a_stream"
    retryable = False


class Link(Protocol):
    @property
    def carried(self) -> int:
        """Bytes that came so far, also of a message that is not whole yet."""

    async def send(self, text: str) -> None:
        """Raises LineLost."""

    async def receive(self) -> str | bytes:
        """Raises LineLost."""


class _Connection(ClientConnection):
    """Counts what comes: a large message takes long over a slow line, and is no silence."""

    carried = 0

    def data_received(self, data: bytes) -> None:
        self.carried += len(data)
        super().data_received(data)


class WebSocketLink:
    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    @property
    def carried(self) -> int:
        return self._connection.carried

    async def send(self, text: str) -> None:
        try:
            await self._connection.send(text)
        except ConnectionClosed as error:
            raise LineLost(_closed(error)) from error

    async def receive(self) -> str | bytes:
        try:
            return await self._connection.recv()
        except ConnectionClosed as error:
            raise LineLost(_closed(error)) from error


@asynccontextmanager
async def connect(url: str, token: str, *, frame_bytes: int, timeout: float) -> AsyncIterator[Link]:  # noqa: ASYNC109
    """Raises LineLost, Unauthorized or NotAStream.

    Liveness is the protocol's own (heartbeats both ways): the transport's pings would wait behind a
    backlog and cut a slow line for being slow.
    """
    connecting = websocket_connect(
        url,
        additional_headers={"Authorization": f"Bearer {token}"},
        subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
        compression=None,
        ping_interval=None,
        open_timeout=timeout,
        close_timeout=2,
        max_size=frame_bytes + _SLACK,
        proxy=_proxy(url),
        create_connection=_Connection,
    )
    try:
        connection = await connecting.__aenter__()
    except InvalidStatus as error:
        status = error.response.status_code
        if status in {401, 403}:
            raise Unauthorized(f"{url} refuses the token (HTTP {status})") from error
        if status >= 500:
            raise LineLost(f"{url} answers HTTP {status}") from error
        raise NotAStream(f"{url} is not a stream (HTTP {status})") from error
    except (InvalidURI, InvalidHandshake, WebSocketException) as error:
        if isinstance(error.__cause__, EOFError | OSError):
            # The line broke in the middle of the handshake; what answered may well be a stream.
            raise LineLost(f"{url} hung up during the handshake") from error
        raise NotAStream(f"{url} is not a stream: {error}") from error
    except (OSError, TimeoutError, EOFError) as error:
        raise LineLost(f"{url} cannot be reached: {error or type(error).__name__}") from error
    assert isinstance(connection, _Connection)
    try:
        yield WebSocketLink(connection)
    finally:
        await connecting.__aexit__(None, None, None)


def _closed(error: ConnectionClosed) -> str:
    close = error.rcvd
    return f"the source closed the line ({close.code})" if close else "the line broke"


def _proxy(url: str) -> Literal[True] | None:
    """A proxy from the environment is for the outside; it cannot know this machine's loopback."""
    host = urlsplit(url).hostname or ""
    try:
        return None if host == "localhost" or ipaddress.ip_address(host).is_loopback else True
    except ValueError:
        return True

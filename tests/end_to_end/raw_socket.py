"""A subscriber by hand: what no proper client would do has to be done without one."""

from __future__ import annotations

import base64
import os
import socket
import struct
from contextlib import closing
from types import TracebackType

_TEXT = 0x81


class RawSocket:
    """A WebSocket connection that reads only when asked to. A context manager."""

    def __init__(self, port: int, token: str, *, receive_buffer: int | None = None) -> None:
        self._socket = socket.socket()
        if receive_buffer is not None:
            # Before connecting: it decides the window that the kernel offers.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(60)
        self._socket.connect(("127.0.0.1", port))
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            (
                "GET /mirror/stream/ HTTP/1.1\r\n"
                f"Host: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Protocol: livemirror.v1\r\nAuthorization: Bearer {token}\r\n\r\n"
            ).encode()
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            piece = self._socket.recv(4096)
            assert piece, answer
            answer += piece
        assert answer.startswith(b"HTTP/1.1 101"), answer

    def __enter__(self) -> RawSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with closing(self._socket):
            return

    def send_text(self, text: str | bytes) -> None:
        payload = text.encode() if isinstance(text, str) else text
        mask = os.urandom(4)
        if len(payload) < 126:
            length = struct.pack("!B", 0x80 | len(payload))
        elif len(payload) < 65_536:
            length = struct.pack("!BH", 0x80 | 126, len(payload))
        else:
            length = struct.pack("!BQ", 0x80 | 127, len(payload))
        masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
        self._socket.sendall(bytes([_TEXT]) + length + mask + masked)

    def read_to_end(self) -> bytes:
        """Everything until the other side closes."""
        found = b""
        while piece := self.receive():
            found += piece
        return found

    def receive(self) -> bytes:
        """What has come by now, waiting for the first of it; nothing at the end."""
        try:
            return self._socket.recv(65_536)
        except ConnectionResetError:
            return b""

"""A Redis of one test's own, which it may kill and start again: on a free port, and nothing on disk."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.processes import free_port


class RedisServer:
    def __init__(self, program: str, directory: Path) -> None:
        self.port = free_port()
        self._program = program
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def layers(self, backend: str = "core.RedisChannelLayer") -> dict[str, Any]:
        """CHANNEL_LAYERS that lead here."""
        host = {"address": f"redis://127.0.0.1:{self.port}", "socket_timeout": None}
        return {"default": {"BACKEND": f"channels_redis.{backend}", "CONFIG": {"hosts": [host]}}}

    def start(self) -> None:
        """Empty, and once it answers."""
        command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1"]
        nothing_kept = ["--save", "", "--appendonly", "no", "--dir", str(self._directory)]
        log = self._directory / "redis.log"
        self._process = subprocess.Popen([*command, *nothing_kept, "--logfile", str(log)])
        deadline = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as line:
                line.sendall(b"PING\r\n")
                return line.recv(16).startswith(b"+PONG")
        except OSError:
            return False


@contextmanager
def redis_server(directory: Path) -> Iterator[RedisServer]:
    program = shutil.which("redis-server")
    if program is None:
        reason = "redis-server is not installed"
        if os.environ.get("MIRROR_REQUIRE_SERVICES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    server = RedisServer(program, directory)
    server.start()
    try:
        yield server
    finally:
        server.kill()

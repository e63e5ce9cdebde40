"""The demo as people run it: real processes, each test with its own var directory and ports."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LOCAL = "demo.settings.local"
CENTRAL = "demo.settings.central"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The demo's two servers, as far as they are files."""

    var: Path

    def environ(self, settings: str) -> dict[str, str]:
        return {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": settings,
            "MIRROR_DEMO_VAR": str(self.var),
            "PYTHONUNBUFFERED": "1",
        }

    def manage(self, settings: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environ(settings),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, settings: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self.environ(settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(var=tmp_path_factory.mktemp("var"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(true: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        time.sleep(0.05)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module", params=[LOCAL, CENTRAL], ids=["local", "central"])
def settings_module(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def url(site: Site, settings_module: str) -> Iterator[str]:
    """Bare daphne, as the README says to start it: no supervisor, no collectstatic."""
    site.manage(settings_module, "migrate", "--verbosity", "0")
    site.manage(settings_module, "preparedemo")
    port = free_port()
    daphne = site.start(settings_module, "-m", "daphne", "-v", "0", "-p", str(port), "asgi:application")
    try:
        eventually(lambda: listens(port) or daphne.poll() is not None)
        assert daphne.poll() is None, daphne.communicate()[0]
        yield f"http://127.0.0.1:{port}"
    finally:
        daphne.send_signal(signal.SIGINT)
        daphne.communicate(timeout=30)

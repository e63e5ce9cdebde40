from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from demo.ports import is_free, taken_message
from tests.demo.conftest import ROOT, free_port


@pytest.fixture(params=["127.0.0.1", "0.0.0.0"])
def taken(request: pytest.FixtureRequest) -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((request.param, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_port_somebody_listens_on_is_not_free(taken: int) -> None:
    assert not is_free(taken)


def test_a_port_nobody_listens_on_is_free() -> None:
    assert is_free(free_port())


def test_the_message_names_the_port_and_a_line_to_paste() -> None:
    assert taken_message("LOCAL_PORT", 8001, 8011) == (
        "port 8001 is taken; use another: make demo LOCAL_PORT=8011 (or python3 -m demo --local-port 8011)"
    )


def test_a_taken_port_is_one_clear_line_before_anything_is_made(taken: int) -> None:
    command = [sys.executable, "-m", "demo", "--here", "--central-port", str(taken)]
    command += ["--local-port", str(free_port())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"demo: port {taken} is taken; use another: make demo CENTRAL_PORT=")
    assert done.stderr.count("\n") == 1

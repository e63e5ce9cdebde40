"""The browser route as a hostile or sleeping browser uses it, against a real daphne."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, ExitStack

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.browser.conftest import Board
from tests.end_to_end.processes import Running

MEBIBYTE = 1024 * 1024

LOG_IN = """
from django.contrib.auth.models import User
from django.test import Client
client = Client()
client.force_login(User.objects.get())
result = client.cookies["sessionid"].value
"""
WRITE = "shop.Tag.objects.bulk_create([shop.Tag(label='x' * 50) for _ in range(500)])"


def open_socket(
    board: Board, *, cookie: str | None = None, origin: str | None = None
) -> AbstractContextManager[ClientConnection]:
    headers = {"Cookie": f"sessionid={cookie}"} if cookie else {}
    url = board.page.replace("http", "ws") + "live/"
    own = f"http://127.0.0.1:{board.port}"
    return connect(url, additional_headers=headers, origin=origin or own, proxy=None)


@pytest.fixture(scope="module")
def cookie(board: Board) -> str:
    session: str = board.run(LOG_IN)
    return session


def daphne_of(board: Board) -> Running:
    return next(running for running in board.started if "daphne" in running.name)


def heard(socket: ClientConnection, *, seconds: float) -> list[str]:
    """Everything that comes until the line is quiet for so long."""
    messages = []
    while True:
        try:
            messages.append(str(socket.recv(timeout=seconds)))
        except TimeoutError:
            return messages


def drain(socket: ClientConnection, said: list[str]) -> None:
    while True:
        said.append(str(socket.recv(timeout=10)))


def test_a_browser_that_acknowledges_nothing_is_sent_two_updates_and_costs_no_memory(
    board: Board, cookie: str
) -> None:
    daphne = daphne_of(board)
    with open_socket(board, cookie=cookie) as socket:
        socket.recv(timeout=10)
        before = daphne.resident_bytes()
        for _ in range(40):
            board.run(WRITE)
        (second,) = heard(socket, seconds=1.0)
        assert daphne.resident_bytes() - before < 32 * MEBIBYTE
        # Once it acknowledges, it is told how much it missed: nothing is left out of the count.
        update = json.loads(second)
        told = 0
        while told < 20_000:
            told += len(update["changes"]) + update["skipped"]
            assert len(update["changes"]) <= 50
            socket.send(json.dumps({"type": "seen", "n": update["n"]}))
            update = json.loads(socket.recv(timeout=10))
        assert told == 20_000


def test_many_pages_that_are_left_open_cost_little(board: Board, cookie: str) -> None:
    daphne = daphne_of(board)
    with ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(open_socket(board, cookie=cookie)).recv(timeout=10)
        before = daphne.resident_bytes()
        for _ in range(10):
            board.run(WRITE)
        assert daphne.resident_bytes() - before < 32 * MEBIBYTE


def test_a_message_over_the_limit_ends_the_connection_and_nothing_else(board: Board, cookie: str) -> None:
    with open_socket(board, cookie=cookie) as other, open_socket(board, cookie=cookie) as socket:
        socket.recv(timeout=10)
        socket.send(json.dumps({"type": "filter", "text": "x" * 5000}))
        with pytest.raises(ConnectionClosedError):
            drain(socket, said := [])
        assert json.loads(said[-1])["code"] == "oversized"
        assert socket.close_code is not None
        assert socket.close_code >= 4000
        other.send('{"type":"filter","text":"still here"}')
        assert json.loads(other.recv(timeout=10))["type"] == "update"


@pytest.mark.parametrize("origin", ["http://evil.example", "null"])
def test_a_foreign_page_is_answered_with_403(board: Board, cookie: str, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refused, open_socket(board, cookie=cookie, origin=origin):
        pass
    assert refused.value.response.status_code == 403


def test_a_visitor_is_answered_with_403(board: Board) -> None:
    with pytest.raises(InvalidStatus) as refused, open_socket(board):
        pass
    assert refused.value.response.status_code == 403

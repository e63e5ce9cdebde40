"""The line that the other tests rely on: is it as slow, and as whole, as it says?"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.end_to_end.proxy import Proxy
from tests.end_to_end.throttle import Throttle

_MEGABIT = 1e6


# On paper


@given(
    sizes=st.lists(st.integers(1, 100_000), min_size=1, max_size=30),
    pauses=st.lists(st.floats(0, 2), min_size=30, max_size=30),
    bits=st.sampled_from([9_600, 1e6, 1e9]),
)
def test_no_stretch_of_time_carries_more_than_its_bandwidth(sizes, pauses, bits):
    throttle, now, asked, left = Throttle(bits=bits), 100.0, [], []
    for size, pause in zip(sizes, pauses, strict=False):
        now = max(now + pause, left[-1] if left else 0)
        asked.append(now)
        left.append(throttle.leaves(size, now))
    for first in range(len(sizes)):
        for last in range(first, len(sizes)):
            carried = sum(sizes[first : last + 1]) * 8
            # And the fiftieth of a second that it may make up for.
            assert carried <= (left[last] - asked[first] + 0.02) * bits * (1 + 1e-9) + 1
    assert left == sorted(left)


def test_a_busy_line_is_used_whole_although_it_is_asked_late():
    throttle, now = Throttle(bits=8000), 0.0
    for _ in range(1000):
        now = max(now, throttle.leaves(100, now)) + 0.01
    assert now == pytest.approx(100, abs=0.1)


def test_a_line_without_a_limit_takes_everything_at_once():
    assert Throttle().leaves(10**9, 5.0) == 5.0
    assert Throttle().piece(65_536) == 65_536


@pytest.mark.parametrize("bits", [0, -1])
def test_a_line_without_bandwidth_is_no_line(bits):
    with pytest.raises(ValueError, match="bandwidth"):
        Throttle(bits=bits)


def test_a_slow_line_is_fed_in_small_pieces():
    assert Throttle(bits=_MEGABIT).piece(65_536) == 625
    assert Throttle(bits=300).piece(65_536) == 256


# In truth


class Echo:
    """Says back what it hears, to everybody, until they end."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=[connection], daemon=True).start()

    @staticmethod
    def _answer(connection: socket.socket) -> None:
        with closing(connection):
            try:
                while piece := connection.recv(65_536):
                    connection.sendall(piece)
            except ConnectionError:
                return

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()


@pytest.fixture
def line() -> Iterator[Proxy]:
    echo = Echo()
    with Proxy(echo.port) as proxy:
        yield proxy
    echo.close()


def dial(line: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", line.port), timeout=30)


def there_and_back(connection: socket.socket, payload: bytes) -> float:
    """Seconds until all of it is back, as it was."""
    began = time.monotonic()
    sender = threading.Thread(target=connection.sendall, args=[payload])
    sender.start()
    found = b""
    while len(found) < len(payload) and (piece := connection.recv(65_536)):
        found += piece
    sender.join()
    assert found == payload
    return time.monotonic() - began


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_line_takes_as_long_as_its_bandwidth_says_and_changes_nothing(line: Proxy, way: str):
    payload = random.Random(1).randbytes(50_000)
    line.throttle(**{way: Throttle(bits=_MEGABIT)})
    with closing(dial(line)) as connection:
        took = there_and_back(connection, payload)
    assert 0.37 < took < 0.9  # 0.4 s; a loaded machine is late, never early


def test_latency_delays_and_does_not_slow(line: Proxy):
    line.throttle(up=Throttle(latency=0.1), down=Throttle(latency=0.05))
    with closing(dial(line)) as connection:
        assert 0.14 < there_and_back(connection, b"?") < 0.5
        # Twenty times as many pieces as there are round trips in this time.
        assert there_and_back(connection, random.Random(2).randbytes(5_000_000)) < 3


def test_two_connections_share_a_line(line: Proxy):
    line.throttle(down=Throttle(bits=_MEGABIT))
    payload = bytes(30_000)
    took: list[float] = []
    with closing(dial(line)) as one, closing(dial(line)) as other:
        both = [
            threading.Thread(target=lambda c=c: took.append(there_and_back(c, payload))) for c in (one, other)
        ]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
    assert max(took) > 0.44  # 0.48 s, 0.24 alone


def test_an_open_line_becomes_slow_and_fast_again(line: Proxy):
    with closing(dial(line)) as connection:
        there_and_back(connection, b"fast")
        line.throttle(down=Throttle(bits=_MEGABIT))
        slow = there_and_back(connection, bytes(50_000))
        line.throttle()
        fast = there_and_back(connection, bytes(50_000))
    assert slow > 0.3 > fast


def test_what_is_under_way_arrives_before_the_end():
    with closing(socket.create_server(("127.0.0.1", 0))) as server, Proxy(server.getsockname()[1]) as line:
        line.throttle(down=Throttle(latency=0.2))
        with closing(dial(line)) as connection:
            with closing(server.accept()[0]) as far:
                far.sendall(b"the last")
            assert connection.recv(100) == b"the last"
            assert connection.recv(100) == b""


def test_a_doomed_line_breaks_at_its_byte_though_it_is_slow(line: Proxy):
    line.throttle(down=Throttle(bits=_MEGABIT, latency=0.05))
    line.break_after(10_000)
    found = b""
    with closing(dial(line)) as connection:
        connection.sendall(bytes(50_000))
        try:
            while piece := connection.recv(65_536):
                found += piece
        except ConnectionResetError:
            assert len(found) <= 10_000
        else:
            raise AssertionError("it did not break")

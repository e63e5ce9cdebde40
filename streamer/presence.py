"""Who is connected to this process: the mirrors that follow a stream here, for status and dashboard."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Presence:
    """One connected mirror. Times are epoch seconds, sizes bytes."""

    token: str
    mirror: str
    stream: str
    since: float
    cursor: int = 0
    outstanding: int = 0


_present: dict[int, Presence] = {}

#: Those that left and were not asked for since. More than that would be a storm of reconnects.
_left: deque[Presence] = deque(maxlen=1000)


@contextmanager
def present(presence: Presence) -> Iterator[Presence]:
    _present[id(presence)] = presence
    try:
        yield presence
    finally:
        del _present[id(presence)]
        _left.append(presence)


def connected() -> list[Presence]:
    return list(_present.values())


def departed() -> list[Presence]:
    """Who has left since the last call."""
    gone = []
    while _left:
        gone.append(_left.popleft())
    return gone

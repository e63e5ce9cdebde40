"""How fast a line is: a token bucket that is told the time, and so can be reckoned with on paper."""

from __future__ import annotations

import math

#: Seconds of the line's bandwidth that it makes up for when it was asked late: timers are.
_DEPTH = 0.02


class Throttle:
    """One direction of a line. ``bits`` a second, ``latency`` in seconds, one way; times are monotonic.

    All connections over the line share it, and wait for each other.
    """

    def __init__(self, *, bits: float = math.inf, latency: float = 0.0) -> None:
        if bits <= 0 or latency < 0:
            raise ValueError("a line has some bandwidth, and a latency of no less than nothing")
        self.bits = bits
        self.latency = latency
        self._free = -math.inf

    def leaves(self, size: int, now: float) -> float:
        """When the last of so many bytes is on the line, which from then on takes the next."""
        self._free = max(self._free, now - _DEPTH) + size * 8 / self.bits
        return max(self._free, now)

    def piece(self, most: int) -> int:
        """Bytes to take at once, so that several of them pass within the depth."""
        return int(min(most, max(256, self.bits / 8 * _DEPTH / 4)))

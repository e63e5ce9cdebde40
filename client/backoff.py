"""How long to wait before trying again: full jitter under a growing ceiling, which only progress resets."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """``uniform(low, high)`` are the dice, so that a test can hold them. Times are seconds."""

    def __init__(self, first: float, longest: float, uniform: Callable[[float, float], float]) -> None:
        self._first = first
        self._longest = longest
        self._uniform = uniform
        self.attempts = 0

    def next_delay(self) -> float:
        # The exponent is bounded: after a week without a line 2**attempts is no float any more.
        ceiling = min(self._longest, self._first * 2.0 ** min(self.attempts, 30))
        self.attempts += 1
        return self._uniform(0, ceiling)

    def longest_delay(self) -> float:
        """For what trying sooner will not mend; still spread, so that many mirrors do not come at once."""
        self.attempts += 1
        return self._uniform(self._longest / 2, self._longest)

    def reset(self) -> None:
        self.attempts = 0

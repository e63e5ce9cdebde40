"""How fast a stream moves: changes counted in buckets of five seconds, over five minutes."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["BUCKET", "BUCKETS", "Pace"]

#: Microseconds of one bucket, and how many are kept.
BUCKET = 5_000_000
BUCKETS = 60


class Pace:
    """The recent speed of one stream. Times are epoch microseconds."""

    def __init__(self, position: int, *, known_from: int, counted: Mapping[int, int]) -> None:
        """``counted`` are changes by bucket number, complete for every bucket after ``known_from``."""
        self.position = position
        self._known_from = known_from // BUCKET
        self._counts = dict(counted)

    def observe(self, position: int, now: int) -> int:
        """Take in where the stream stands now; return how many changes came since the last time."""
        came = max(0, position - self.position)
        self.position = position
        if came:
            self._counts[now // BUCKET] = self._counts.get(now // BUCKET, 0) + came
            self._forget(now)
        return came

    def rate(self, now: int) -> float:
        """Changes per second, over the current bucket and the one before."""
        bucket = now // BUCKET
        came = self._counts.get(bucket, 0) + self._counts.get(bucket - 1, 0)
        return round(came * 1_000_000 / (BUCKET + now % BUCKET), 1)

    def spark(self, now: int) -> list[float | None]:
        """Changes per second in each finished bucket, oldest first; None where it is not known."""
        bucket = now // BUCKET
        return [
            round(self._counts.get(number, 0) * 1_000_000 / BUCKET, 1) if number >= self._known_from else None
            for number in range(bucket - BUCKETS, bucket)
        ]

    def _forget(self, now: int) -> None:
        oldest = now // BUCKET - BUCKETS
        for number in [number for number in self._counts if number < oldest]:
            del self._counts[number]

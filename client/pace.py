"""How many changes one transaction of a mirror takes: as many as half a second applies.

Fewer would collapse less and commit more often; more would hold the locks of the central database for
long, and what is read there would stand still.
"""

from __future__ import annotations

#: What a transaction should take while there is enough for it.
_SECONDS = 0.5
_LEAST, _FIRST = 500, 5000


class Pace:
    """``most`` bounds ``limit``, whatever the speed."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.limit = min(_FIRST, most)

    def took(self, changes: int, seconds: float) -> None:
        """Learn from a transaction. One of a few changes says nothing of what many would take."""
        if changes < self.limit / 2:
            return
        goal = changes * _SECONDS / seconds if seconds > 0 else self._most
        # At most by half or twice: one transaction may have waited for somebody else.
        goal = min(max(goal, self.limit / 2), self.limit * 2)
        self.limit = min(max(round(goal), _LEAST), self._most)

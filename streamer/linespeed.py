"""Whether a mirror takes in so slowly that compressing what it is sent pays.

On a fast line compressing costs more time than it saves; and a mirror that is level is sent little.
"""

from __future__ import annotations

#: Bytes a second, about 16 Mbit/s: a core compresses several times as fast.
_SLOW = 2 * 1024 * 1024
#: Bytes, plain, that are enough to tell. At 1 Mbit/s they take two seconds, uncompressed as yet.
_ENOUGH = 256 * 1024
#: Bytes under way until that is told: whatever has been sent goes uncompressed.
_UNTOLD = 512 * 1024


class LineSpeed:
    """``slow`` stays once it is true: what goes compressed tells no more how fast the line is."""

    def __init__(self) -> None:
        self.slow = False
        self.known = False
        self._began: float | None = None
        self._taken = 0

    def sends(self, *, outstanding: int, taken: int, now: float) -> None:
        """Before each frame; ``outstanding`` and ``taken`` in bytes, ``now`` in monotonic seconds."""
        if not outstanding or self._began is None:
            self._began, self._taken = now, taken

    def lets(self, *, outstanding: int) -> bool:
        """Whether another frame may go now."""
        return self.known or outstanding < _UNTOLD

    def hears(self, *, taken: int, now: float) -> None:
        """After each acknowledgement."""
        if self._began is None or taken - self._taken < _ENOUGH:
            return
        self.known = True
        self.slow = self.slow or taken - self._taken < _SLOW * (now - self._began)
        self._began, self._taken = now, taken

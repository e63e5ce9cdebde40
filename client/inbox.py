"""What one connection has brought and nothing was done with yet, and how much of it counts as taken in.

Taken in is what the source may send more for: what left the inbox, and as much of the rest as
``ahead_bytes`` says. So the inbox is bounded by the window and that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mirror.apply import Prepared
from mirror.wire import Batch, Chunk


@dataclass(slots=True)
class Arrival:
    """``size``: bytes of the frame that carried it."""

    batch: Batch | Prepared
    size: int
    early: bool = False

    @property
    def plain(self) -> Batch:
        return self.batch.portion.batch if isinstance(self.batch, Prepared) else self.batch


@dataclass(slots=True)
class Rows:
    """``size``: bytes of the last frame of it. ``before``: how many arrivals come first."""

    chunk: Chunk
    size: int
    before: int


@dataclass(slots=True)
class Inbox:
    ahead_bytes: int
    #: Bytes of frames since the connection began.
    taken: int = 0
    _early: int = 0
    _arrivals: list[Arrival] = field(default_factory=list)
    #: Rows that were asked for, in order.
    _chunks: list[Rows] = field(default_factory=list)

    def put(self, batch: Batch | Prepared, size: int, *, ahead: bool = False) -> None:
        """``ahead``: it has to wait, and may count as taken in while there is room."""
        early = ahead and self._early + size <= self.ahead_bytes
        self._arrivals.append(Arrival(batch, size, early))
        if early:
            self._early += size
            self.taken += size

    def put_chunk(self, chunk: Chunk, size: int) -> None:
        """Rows as they are after what came before, and before what comes then."""
        self._chunks.append(Rows(chunk, size, len(self._arrivals)))

    def take_chunk(self) -> Chunk | None:
        """The rows, if it is their turn."""
        if not self._chunks or self._chunks[0].before:
            return None
        rows = self._chunks.pop(0)
        self.taken += rows.size
        return rows.chunk

    def pass_by(self, size: int) -> None:
        """A frame that is taken in without coming here."""
        self.taken += size

    def take(self, most: int) -> list[Batch | Prepared]:
        """The first whole groups: those that end within ``most`` changes or soonest after."""
        ready = changes = 0
        waiting = self._arrivals[: self._chunks[0].before] if self._chunks else self._arrivals
        for place, arrival in enumerate(waiting, start=1):
            changes += len(arrival.plain.changes)
            if arrival.plain.ends:
                ready = place
                if changes >= most:
                    break
        taken = self._arrivals[:ready]
        del self._arrivals[:ready]
        for rows in self._chunks:
            rows.before -= ready
        self._leave(taken)
        return [arrival.batch for arrival in taken]

    def take_rest(self) -> list[Batch]:
        """What is not whole yet; nothing while rows wait for their turn, who come between groups."""
        if self._chunks:
            return []
        taken, self._arrivals = self._arrivals, []
        self._leave(taken)
        return [arrival.plain for arrival in taken]

    def clear(self) -> None:
        """Nothing of it will be done."""
        self._arrivals.clear()
        self._chunks.clear()

    def _leave(self, arrivals: Iterable[Arrival]) -> None:
        for arrival in arrivals:
            if arrival.early:
                self._early -= arrival.size
            else:
                self.taken += arrival.size

"""What the source keeps for its mirrors: how far each has come is written down, what none needs is pruned.

All of it in one thread of its own, which takes its time. Neither an acknowledgement nor a frame ever waits
for the database.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from django.utils import timezone

from mirror import mirrors
from mirror.chores import Chore
from mirror.conf import conf
from mirror.mirrors import Heard
from mirror.pruning import Pruner
from streamer.presence import Presence, connected, departed

#: Seconds between two notes of a mirror that gets on, and of one that has nothing new to tell.
_NOTE_EVERY = 5.0
_SEEN_EVERY = 60.0


class Keeper:
    """``step`` notes and prunes a little. ``clock`` is monotonic seconds, ``now`` the time of the server."""

    def __init__(
        self,
        pruner: Pruner,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = timezone.now,
    ) -> None:
        self._pruner = pruner
        self._clock = clock
        self._now = now
        self._prune_at = clock() + conf().prune_interval
        #: What was noted of whoever is connected, and when.
        self._noted: dict[tuple[str, str, str], tuple[int, float]] = {}

    def step(self) -> float:
        """Return the seconds until the next step."""
        self.note()
        if self._clock() >= self._prune_at:
            rest = self._pruner.step()
            self._prune_at = self._clock() + rest
        return min(_NOTE_EVERY, max(0.0, self._prune_at - self._clock()))

    def note(self) -> None:
        """Write down what the mirrors that are, or were, connected have told since the last time."""
        left = {_key(presence): presence for presence in departed()}
        here = {_key(presence): presence for presence in connected()}
        due = [one for key, one in left.items() if key not in here and self._news(one)]
        due += [one for one in here.values() if self._due(one)]
        if due:
            self._write(due)
        self._noted = {key: noted for key, noted in self._noted.items() if key in here}

    def _write(self, due: list[Presence]) -> None:
        heard = {_key(one): Heard(one.stream, one.token, one.mirror, one.cursor) for one in due}
        mirrors.note(heard.values(), self._now(), self._pruner.using)
        for key, one in heard.items():
            if key not in self._noted:
                mirrors.bound(one, self._pruner.using)
            self._noted[key] = one.cursor, self._clock()

    def _news(self, presence: Presence) -> bool:
        return self._noted.get(_key(presence), (None, 0.0))[0] != presence.cursor

    def _due(self, presence: Presence) -> bool:
        if _key(presence) not in self._noted:
            return True
        cursor, at = self._noted[_key(presence)]
        if presence.cursor < cursor:
            return True  # it came again, from a backup, and needs what it had before
        return self._clock() - at >= (_NOTE_EVERY if self._news(presence) else _SEEN_EVERY)


def _key(presence: Presence) -> tuple[str, str, str]:
    return presence.stream, presence.token, presence.mirror


def keeping(using: str) -> Chore:
    return Chore("keeper", Keeper(Pruner(using)).step, using, first=0.0)

"""Carries out what ``retention`` decides: for every oplog kept here, in small steps, by any process.

Two processes that prune at once do no harm: a step names the anchor it began with, and one of them finds
it moved. Rows go with the anchor, in one transaction, so a process that is killed leaves a shorter log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone

from mirror import mirrors, oplog, oplogger
from mirror.changes import from_datetime, to_datetime
from mirror.chores import Chore
from mirror.conf import conf
from mirror.models import Stream
from mirror.retention import DAY, Cut, Log, Reader, Rules, decide

logger = logging.getLogger("mirror.pruning")

#: Changes that one step deletes: the application's writes wait for no more than that.
STEP = 500
#: After a step its time passes so many times over, and at least so many seconds: for whoever else writes.
_SHARE = 2
_REST = 0.02
#: Seconds for which a measured average of the changes' size is believed, and by how much of itself the log
#: may have moved on meanwhile.
_BELIEVED = 120.0
_MOVED_ON = 0.1


def rules() -> Rules:
    """What the settings say."""
    setting = conf()
    return Rules(
        keep_age=_micros(setting.keep_days),
        wait=mirrors.wait_micros(),
        most_age=_micros(setting.oplog_days),
        most_bytes=setting.oplog_bytes,
    )


def _micros(days: float | None) -> int | None:
    return None if days is None else round(days * DAY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would be pruned of a stream: ``changes`` up to ``last``, the end of a group."""

    cut: Cut
    last: int
    changes: int
    kept: int
    #: Mirrors that are waited for and would have to start anew: a cap says so.
    lost: tuple[Reader, ...]


def plan(stream: Stream, rules: Rules, now: datetime, *, body_bytes: int) -> Plan:
    log = Log(
        anchor=stream.anchor,
        anchor_position=stream.anchor_position,
        head=stream.head,
        position=stream.position,
        body_bytes=body_bytes,
    )
    cut = decide(log, rules, _readers(stream), from_datetime(now))
    last, position = oplog.last_before(stream, cut)
    return Plan(
        cut=cut,
        last=last,
        changes=position - stream.anchor_position,
        kept=stream.position - position,
        lost=cut.loses(last),
    )


def _readers(stream: Stream) -> list[Reader]:
    found = mirrors.readers(stream, stream._state.db or conf().database)
    if stream.local and oplogger.is_heard() and stream.logged < stream.head:
        # What has no line in oplog.log yet. A stream may have been pruned before anybody listened.
        found.append(Reader(name="the oplogger", cursor=max(stream.logged, stream.anchor)))
    return found


class Pruner:
    """Prunes every oplog of one database as the settings say; ``step`` is one transaction.

    ``clock`` is monotonic seconds, ``now`` the time of the server.
    """

    def __init__(
        self,
        using: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = timezone.now,
    ) -> None:
        self.using = using or conf().database
        self._clock = clock
        self._now = now
        self._streams: list[int] = []
        self._deleted = 0
        #: By stream: the average size of a body; until when, and until what position, it is believed.
        self._sizes: dict[int, tuple[int, float, float]] = {}

    def step(self) -> float:
        """Delete a little where something is to be pruned; return the seconds until the next step."""
        if not self._streams:
            self._streams = list(Stream.objects.using(self.using).order_by("id").values_list("pk", flat=True))
        while self._streams:
            stream = Stream.objects.using(self.using).filter(pk=self._streams[-1]).first()
            if stream is not None:
                found = plan(stream, rules(), self._now(), body_bytes=self._body_bytes(stream))
                begun = self._clock()
                if deleted := _step(stream, found):
                    self._deleted += deleted
                    return _rest(self._clock() - begun)
                self._tell(stream)
            self._deleted = 0
            self._streams.pop()
        return conf().prune_interval

    def _tell(self, stream: Stream) -> None:
        if self._deleted:
            since = to_datetime(stream.anchor).isoformat(timespec="seconds")
            logger.info(
                "stream %s: %d old changes deleted, those after %s are kept", stream, self._deleted, since
            )
            self._sizes.pop(stream.pk, None)  # what is left may be larger than what went

    def _body_bytes(self, stream: Stream) -> int:
        if conf().oplog_bytes is None:
            return 0
        size, until, upto = self._sizes.get(stream.pk, (0, 0.0, 0.0))
        if not size or self._clock() > until or stream.position > upto:
            size = oplog.body_bytes(stream)
            upto = stream.position + _MOVED_ON * (stream.position - stream.anchor_position)
            self._sizes[stream.pk] = size, self._clock() + _BELIEVED, upto
        return size


def carry_out(
    stream: Stream,
    plan: Plan,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> int:
    """All of a plan; return how many changes went."""
    deleted = 0
    begun = clock()
    while gone := _step(stream, plan):
        deleted += gone
        sleep(_rest(clock() - begun))
        begun = clock()
    return deleted


def _rest(took: float) -> float:
    return max(_REST, _SHARE * took)


def _step(stream: Stream, plan: Plan) -> int:
    """Who is cut off by it is told in the log."""
    anchor = stream.anchor
    deleted = oplog.prune(stream, upto=plan.last, limit=STEP)
    for reader in plan.cut.loses(stream.anchor):
        if reader.cursor >= anchor:
            logger.warning(
                "%s is cut off from stream %s, whose oplog was over its limit: it has changes up to %s, kept "
                "are those after %s. A mirror has to start anew then.",
                reader.name,
                stream,
                reader.cursor,
                stream.anchor,
            )
    return deleted


def pruning() -> Chore:
    """Prunes on the side, in any process that runs for long."""
    pruner = Pruner()
    return Chore("pruner", pruner.step, pruner.using, first=conf().prune_interval)

"""What the dashboard says about each source, and about what is recorded here: one card each.

``mirror.status`` knows how they fare; a card adds what only a process that keeps looking can tell.
Times are epoch microseconds of this server's clock; cursors, heads and changes carry the source's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from mirror.changes import to_datetime
from mirror.models import SourceState
from mirror.status import LoadingStatus, SourceStatus, StreamStatus
from mirror.verifying import Summary, VerifiedState
from streamer.pace import Pace

__all__ = ["LOCAL_NAME", "Card", "Follower", "Problem", "Verified", "local_card", "micros", "source_card"]

#: No source can have this name: it is not a slug.
LOCAL_NAME = "this server"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ERROR_CHARACTERS = 300


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    text: str


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What came of comparing the rows. ``as_of``: when that was, where they are identical."""

    state: str
    words: str
    as_of: int | None = None
    cursor: int = 0


class Follower(msgspec.Struct, frozen=True, kw_only=True):
    """A mirror that is connected to this process. ``changes_behind`` is not counted to the end."""

    name: str
    since: int
    cursor: int
    changes_behind: int


class Card(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    kind: Literal["source", "local"]
    state: str
    state_words: str
    stream: str | None
    since: int | None = None
    cursor: int
    head: int
    position: int
    changes_behind: int
    seconds_behind: float | None
    heard_at: int | None = None
    last_error: Problem | None = None
    next_try_at: int | None = None
    attempts: int = 0
    skipped: int = 0
    #: None where nothing was ever compared.
    verified: Verified | None = None
    rate: float
    spark: list[float | None]
    mirrors: Sequence[Follower] = ()


def source_card(
    source: SourceStatus, *, pace: Pace | None, level_at: int | None, mirrors: Sequence[Follower], now: int
) -> Card:
    """``level_at``: when this source was last heard and level."""
    rate = pace.rate(now) if pace else 0.0
    return Card(
        name=source.name,
        kind="source",
        state=source.state,
        state_words=_words(source, rate, now),
        stream=source.stream,
        since=micros(source.since),
        cursor=source.cursor,
        head=source.head,
        position=source.position,
        changes_behind=source.changes_behind,
        seconds_behind=_seconds_behind(source.seconds_behind, level_at, now),
        heard_at=micros(source.heard_at),
        last_error=_problem(source),
        next_try_at=micros(source.next_try_at),
        attempts=source.attempts,
        skipped=source.skipped,
        verified=_verified(source.verified),
        rate=rate,
        spark=pace.spark(now) if pace else [],
        mirrors=mirrors,
    )


def local_card(
    stream: StreamStatus, *, pace: Pace, waited: int, stalled: bool, mirrors: Sequence[Follower], now: int
) -> Card:
    """Behind, here, is the oplog behind its own database: what the sequencer has not taken yet."""
    return Card(
        name=LOCAL_NAME,
        kind="local",
        state=SourceState.STALLED if stalled else "recording",
        state_words="the outbox waits: is a sequencer running?" if stalled else _connected(len(mirrors)),
        stream=stream.stream,
        cursor=stream.head,
        head=stream.head,
        position=stream.position,
        changes_behind=stream.waiting,
        seconds_behind=round(waited / 1_000_000, 1),
        rate=pace.rate(now),
        spark=pace.spark(now),
        mirrors=mirrors,
    )


def _seconds_behind(since_cursor: float | None, level_at: int | None, now: int) -> float | None:
    """At most the cursor's age, and at most the time since this source was last heard and level.

    Without the second, one new change of a source that was idle for a week would count the week.
    """
    if since_cursor is None or level_at is None:
        return since_cursor
    return round(min(since_cursor, max(0, now - level_at) / 1_000_000), 1)


def _words(source: SourceStatus, rate: float, now: int) -> str:
    match source.state:
        case SourceState.NEW:
            return "waits for runmirror to follow it"
        case SourceState.CONNECTING:
            return "opening the connection" if source.attempts < 2 else f"attempt {source.attempts:,}"
        case SourceState.CATCHING_UP:
            return _progress(source, rate)
        case SourceState.LOADING:
            return _loading(source.loading, now)
        case SourceState.LIVE:
            return "follows every change"
        case SourceState.STALLED:
            return "nothing was heard for too long"
        case SourceState.REFUSED:
            return "the source said no"
        case SourceState.HALTED:
            return "stopped by an error that needs somebody"
        case SourceState.STOPPED:
            return "runmirror was stopped"
    return ""


def _loading(loading: Sequence[LoadingStatus], now: int) -> str:
    """The model whose turn it is, how far it is, and how long that takes as it went until now."""
    if not loading:
        return "asks for the rows"
    one, rest = loading[0], len(loading) - 1
    words = f"{one.model}: {one.rows:,}" + (f" of {one.total:,}" if one.total is not None else "") + " rows"
    if one.total and one.rows and one.began_at and one.rows < one.total:
        spent = (to_datetime(now) - one.began_at).total_seconds()
        words += f", about {timedelta(seconds=round(spent * (one.total - one.rows) / one.rows))} left"
    return words + _then(rest)


def _verified(found: Summary) -> Verified | None:
    if found.state == VerifiedState.NEVER:
        return None
    identical = found.state == VerifiedState.IDENTICAL
    return Verified(
        state=found.state,
        words=_verified_words(found),
        as_of=micros(found.as_of) if identical else None,
        cursor=found.cursor if identical else 0,
    )


def _verified_words(found: Summary) -> str:
    one = found.differences == 1
    rows = "1 row" if one else f"{found.differences:,} rows"
    match found.state:
        case VerifiedState.COMPARING:
            far = "" if found.percent is None else f" {found.percent} % of"
            return f"comparing{far} {found.model}{_then(found.to_come)}"
        case VerifiedState.DIFFERENCES:
            return f"{rows} differ{'s' if one else ''}"
        case VerifiedState.REPAIRED:
            return f"{rows} differed, repaired"
        case VerifiedState.REFUSED:
            return f"{found.refused} of {len(found.models)} models could not be compared"
    if found.not_compared:
        return f"{len(found.models)} of {len(found.models) + found.not_compared} models identical"
    return "identical"


def _then(rest: int) -> str:
    return f", then {rest} more model{'s' if rest > 1 else ''}" if rest else ""


def _progress(source: SourceStatus, rate: float) -> str:
    words = f"{source.position:,} of {source.head_position:,}"
    if rate < 1:
        return words
    return f"{words}, about {timedelta(seconds=round(source.changes_behind / rate))} left"


def _connected(mirrors: int) -> str:
    if not mirrors:
        return "no mirror is connected"
    return "1 mirror is connected" if mirrors == 1 else f"{mirrors} mirrors are connected"


def _problem(source: SourceStatus) -> Problem | None:
    if not source.error_code and not source.error_text:
        return None
    return Problem(code=source.error_code, text=source.error_text[:_ERROR_CHARACTERS])


def micros(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // timedelta(microseconds=1)

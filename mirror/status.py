"""How the streams fare: computed from the tables alone, for the command, the dashboard and probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from mirror import mirrors, verifying
from mirror.conf import conf
from mirror.models import Loading, LoadingState, Outbox, Source, SourceState, Stream
from mirror.registry import mirrored_models
from mirror.verifying import Summary

#: States that need a human, or a runner that is not there.
BAD_STATES = frozenset({SourceState.STALLED, SourceState.REFUSED, SourceState.HALTED})

_SPOKEN_TO = frozenset({SourceState.LIVE, SourceState.CATCHING_UP, SourceState.LOADING})

#: More than this in the outbox is shown as this.
_MOST_WAITING = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """The stream that is recorded here."""

    stream: str
    #: Timestamp and position of the newest change.
    head: int
    position: int
    #: Committed changes that have no place in the order yet.
    waiting: int
    #: Timestamp and position of the newest change that was pruned.
    anchor: int
    anchor_position: int


class MirrorState(StrEnum):
    #: What it lacks is kept for it.
    AWAITED = "awaited"
    #: It was not seen for too long, or its token is revoked: what it lacks may go.
    GONE = "gone"
    #: What it lacks is pruned: it must start anew.
    PRUNED = "pruned"


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorStatus:
    """A mirror that follows a stream kept here. ``token`` is the name of the one it showed."""

    token: str
    mirror: str
    stream: str
    state: str
    #: What it has committed, as it last told.
    cursor: int
    position: int
    changes_behind: int
    first_seen: datetime
    last_seen: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingStatus:
    """A model whose rows are copied as they are, or wait for that."""

    model: str
    state: str
    rows: int
    #: How many rows the source had at the beginning; None until it has told.
    total: int | None
    began_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatus:
    """A source that is mirrored here. Cursors are epoch microseconds, positions count changes."""

    name: str
    state: str
    since: datetime | None
    stream: str | None
    cursor: int
    head: int
    position: int
    head_position: int
    changes_behind: int
    #: At most this much; None while it cannot be known: nothing was heard or applied yet.
    seconds_behind: float | None
    heard_at: datetime | None
    error_code: str
    error_text: str
    attempts: int
    next_try_at: datetime | None
    skipped: int
    #: What is not loaded yet, in the order of its turns; none where nothing is loaded.
    loading: tuple[LoadingStatus, ...]
    #: What came of comparing its rows with those here.
    verified: Summary

    @property
    def bad(self) -> bool:
        return self.state in BAD_STATES or self.verified.unrepaired > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    now: datetime
    #: None on a server that only mirrors.
    stream: StreamStatus | None
    mirrors: tuple[MirrorStatus, ...]
    sources: tuple[SourceStatus, ...]

    @property
    def ok(self) -> bool:
        return not any(source.bad for source in self.sources)

    def as_json(self) -> dict[str, Any]:
        """What ``mirrorstatus --json`` prints: the fields above, times as ISO 8601 in UTC.

        ``version`` changes when a field changes its meaning or goes; fields may be added without.
        """
        return {
            "version": 1,
            "now": _iso(self.now),
            "ok": self.ok,
            "stream": _object(self.stream) if self.stream else None,
            "mirrors": [_object(mirror) for mirror in self.mirrors],
            "sources": [_object(source) for source in self.sources],
        }


def collect(now: datetime, verified: Mapping[Any, Summary] | None = None) -> Status:
    """Return the state of everything as the database has it; ``now`` is ``timezone.now()``.

    ``verified``: ``verifying.summaries``, from whoever looks often and has read them lately.
    """
    using = conf().database
    sources = Source.objects.using(using).select_related("stream").order_by("name")
    loading = _loading(using)
    verified = verifying.summaries(using) if verified is None else verified
    never = verifying.summary((), mirrored_models())
    return Status(
        now=now,
        stream=_local(using),
        mirrors=tuple(_mirror_status(mirror, now) for mirror in mirrors.registered(using)),
        sources=tuple(
            _source_status(source, now, loading.get(source.pk, ()), verified.get(source.pk, never))
            for source in sources
        ),
    )


def _local(using: str) -> StreamStatus | None:
    stream = Stream.objects.using(using).filter(local=True).first()
    if stream is None:
        return None
    return StreamStatus(
        stream=str(stream.uuid),
        head=stream.head,
        position=stream.position,
        # Counted up to a limit: the dashboard asks four times a second, and the sequencer may be away.
        waiting=Outbox.objects.using(using).order_by()[:_MOST_WAITING].count(),
        anchor=stream.anchor,
        anchor_position=stream.anchor_position,
    )


def _loading(using: str) -> dict[Any, tuple[LoadingStatus, ...]]:
    """By source, as far as there is something."""
    found: dict[Any, list[LoadingStatus]] = {}
    for row in Loading.objects.using(using).exclude(state=LoadingState.DONE).order_by("began_at", "id"):
        status = LoadingStatus(
            model=row.model, state=row.state, rows=row.rows, total=row.total, began_at=row.began_at
        )
        found.setdefault(row.source_id, []).append(status)
    return {
        source: tuple(sorted(statuses, key=lambda one: one.began_at is None))
        for source, statuses in found.items()
    }


def _mirror_status(mirror: Any, now: datetime) -> MirrorStatus:
    state = MirrorState.AWAITED if mirrors.is_awaited(mirror, now) else MirrorState.GONE
    if mirror.cursor < mirror.stream.anchor:
        state = MirrorState.PRUNED
    return MirrorStatus(
        token=mirror.token,
        mirror=mirror.mirror,
        stream=str(mirror.stream.uuid),
        state=state,
        cursor=mirror.cursor,
        position=mirror.position,
        changes_behind=max(0, mirror.stream.position - mirror.position),
        first_seen=mirror.first_seen,
        last_seen=mirror.last_seen,
    )


def _source_status(
    source: Source, now: datetime, loading: tuple[LoadingStatus, ...], verified: Summary
) -> SourceStatus:
    state, since, error_text = source.state, source.state_since, source.error_text
    if _abandoned(source, now):
        # Whoever wrote that state would have written again by now: the runner died or is stuck.
        state, since = SourceState.STALLED, source.heard_at
        error_text = error_text or "nothing was heard for too long: is `manage.py runmirror` running?"
    return SourceStatus(
        name=source.name,
        state=str(state),
        since=since,
        stream=str(source.stream.uuid) if source.stream else None,
        cursor=source.cursor,
        head=source.head,
        position=source.position,
        head_position=source.head_position,
        changes_behind=source.changes_behind,
        seconds_behind=_seconds_behind(source, now),
        heard_at=source.heard_at,
        error_code=source.error_code,
        error_text=error_text,
        attempts=source.attempts,
        next_try_at=source.next_try_at,
        skipped=source.skipped,
        loading=loading,
        verified=verified,
    )


def _abandoned(source: Source, now: datetime) -> bool:
    if source.state not in _SPOKEN_TO:
        return False
    return source.heard_at is None or now - source.heard_at > timedelta(seconds=conf().deadline)


def _seconds_behind(source: Source, now: datetime) -> float | None:
    if source.heard_at is None:
        return None
    if source.changes_behind == 0 and source.cursor >= source.head:
        # Level when last heard. What has happened since nobody here can know.
        silence = (now - source.heard_at).total_seconds()
        return 0.0 if silence <= conf().deadline else silence
    if source.cursor == 0:
        return None
    source_now = round(now.timestamp() * 1_000_000) + source.clock_offset
    return max(0, source_now - source.cursor) / 1_000_000


def _object(status: StreamStatus | MirrorStatus | SourceStatus) -> dict[str, Any]:
    return dict(_plain(asdict(status)))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return _iso(value) if isinstance(value, datetime) else value


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat()

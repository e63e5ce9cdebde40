"""How far loading is: reckoned from looks at the database."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from django.utils import timezone

from mirror import status
from mirror.models import LoadingState, SourceState
from mirror.status import LoadingStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was loaded at a moment, in monotonic seconds; by the names of the sources."""

    at: float
    loading: Mapping[str, Sequence[LoadingStatus]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """How far a model is whose turn has come."""

    source: str
    model: str
    rows: int
    #: How many rows the source had at the beginning; None until it has told.
    total: int | None
    #: Rows a second of late; None after a single look.
    rate: float | None
    #: At this pace; None while it cannot be known.
    seconds_left: float | None
    #: Every row was asked for once; some are asked for again.
    settles: bool

    @property
    def percent(self) -> int | None:
        """Rows that came since the beginning do not make more than 100 of it."""
        return None if self.total is None else min(100, 100 * self.rows // self.total if self.total else 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    bars: tuple[Bar, ...] = ()
    #: Models whose turn has not come.
    to_come: int = 0

    def __bool__(self) -> bool:
        return bool(self.bars or self.to_come)


def progress(looks: Sequence[Look]) -> Progress:
    """What the last of these looks found; those before it, oldest first, say how fast it goes."""
    bars, to_come = [], 0
    for source, loading in looks[-1].loading.items():
        for one in loading:
            if one.state == LoadingState.WAITING:
                to_come += 1
            else:
                bars.append(_bar(source, one, looks))
    return Progress(bars=tuple(bars), to_come=to_come)


def _bar(source: str, one: LoadingStatus, looks: Sequence[Look]) -> Bar:
    settles = one.state != LoadingState.COPYING
    rate = None if settles else _rate(source, one, looks)
    left = None if one.total is None else max(0, one.total - one.rows)
    return Bar(
        source=source,
        model=one.model,
        rows=one.rows,
        total=one.total,
        rate=rate,
        seconds_left=left / rate if rate and left is not None else None,
        settles=settles,
    )


def _rate(source: str, one: LoadingStatus, looks: Sequence[Look]) -> float | None:
    """Rows a second since the first look of the unbroken row of looks that saw this course of the model."""
    rows, since = one.rows, looks[-1].at
    for look in reversed(looks):
        found = [before for before in look.loading.get(source, ()) if before.model == one.model]
        if not found or found[0].began_at != one.began_at:
            break
        rows, since = found[0].rows, look.at
    seconds = looks[-1].at - since
    return (one.rows - rows) / seconds if seconds else None


def look(names: Collection[str], at: float) -> Look:
    """What is loaded from these sources now, or from all of them where there are no names."""
    found = status.collect(timezone.now()).sources
    return Look(
        at=at,
        loading={
            source.name: source.loading
            for source in found
            if source.state == SourceState.LOADING and (not names or source.name in names)
        },
    )

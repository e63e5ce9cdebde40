"""What is to be compared with a source: whether the rows here are those that it has; and what came of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from django.db import transaction
from django.db.models import Count

from mirror.conf import conf
from mirror.models import Difference, LoadingState, Source, Verification, VerificationState
from mirror.registry import mirrored_models

__all__ = [
    "Result",
    "Summary",
    "VerifiedState",
    "due",
    "loads",
    "request",
    "results",
    "schedule",
    "summaries",
    "summary",
]


# Asking for it


def request(source: Source, models: Iterable[str], *, repair: bool) -> None:
    """Have these models compared from their beginning; a process that follows the source does it.

    ``repair``: what is missing or different is loaded again, and what the source does not have is deleted.
    What an earlier comparison of them found is forgotten.
    """
    using = source._state.db
    models = list(models)
    with transaction.atomic(using=using):
        _one_at_a_time(source)
        for of_source in (Difference, Verification):
            of_source.objects.using(using).filter(source=source, model__in=models).delete()
        Verification.objects.using(using).bulk_create(
            Verification(source=source, model=model, state=VerificationState.WAITING, repair=repair)
            for model in models
        )


def due(source: Source, models: Iterable[str], *, every: timedelta, now: datetime) -> list[str]:
    """Those of the models that were not compared for so long, and that nobody asked to compare."""
    return _due(_known(source), models, every, now)


def schedule(source: Source, now: datetime) -> bool:
    """Ask for what VERIFY_DAYS says; return whether something was asked for. ``now``: ``timezone.now()``.

    To be called often: one query where nothing is due, and none where nothing ever is. What somebody asked
    for ends first, and rows that are loaded are compared when they are here. A source that is followed from a
    later time alone lacks rows by intention.
    """
    if conf().verify_days is None or source.begin != "start":
        return False
    if not _due_now(source, now) or loads(source):
        return False
    with transaction.atomic(using=source._state.db):
        # Somebody may have asked meanwhile, and for more than this.
        _one_at_a_time(source)
        models = _due_now(source, now)
        if models:
            request(source, models, repair=False)
    return bool(models)


def loads(source: Source) -> bool:
    """Whether rows of this source are loaded, or wait for that."""
    loading = source.loading.using(source._state.db).exclude(state=LoadingState.DONE)
    return loading.exists()


def _due_now(source: Source, now: datetime) -> list[str]:
    """Nothing while anything of the source waits or is compared."""
    days, known = conf().verify_days, _known(source)
    if days is None or any(one.state != VerificationState.DONE for one in known.values()):
        return []
    return _due(known, mirrored_models(), timedelta(days=days), now)


def _due(
    known: Mapping[str, Verification], models: Iterable[str], every: timedelta, now: datetime
) -> list[str]:
    return [model for model in models if model not in known or _ended_by(known[model], now - every)]


def _ended_by(one: Verification, time: datetime) -> bool:
    return one.state == VerificationState.DONE and one.ended_at is not None and one.ended_at <= time


def _known(source: Source) -> dict[str, Verification]:
    return {one.model: one for one in Verification.objects.using(source._state.db).filter(source=source)}


def _one_at_a_time(source: Source) -> None:
    """Two that ask at once would both put in what each has found missing."""
    using = source._state.db
    Source.objects.using(using).select_for_update().filter(pk=source.pk).values_list("pk").first()


# What came of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The last comparison of a model, or the one under way. ``cursor`` is epoch microseconds."""

    model: str
    state: str
    #: Rows of the source that were compared, and how many it has; None until it has told.
    rows: int
    total: int | None
    missing: int
    different: int
    extra: int
    #: How many of these are loaded again or deleted.
    repaired: int
    #: The code of the error for which rows could not be compared.
    refused: str
    cursor: int
    began_at: datetime | None
    ended_at: datetime | None

    @property
    def done(self) -> bool:
        return self.state == VerificationState.DONE

    @property
    def differences(self) -> int:
        return self.missing + self.different + self.extra

    @property
    def unrepaired(self) -> int:
        return self.differences - self.repaired

    @property
    def percent(self) -> int | None:
        return min(100, 100 * self.rows // self.total) if self.total else None


class VerifiedState(StrEnum):
    NEVER = "never"
    #: Or waiting for its turn.
    COMPARING = "comparing"
    IDENTICAL = "identical"
    #: There are some that were not repaired.
    DIFFERENCES = "differences"
    REPAIRED = "repaired"
    #: Rows of at least one model could not be compared, and the others are identical.
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What is known of all of a source's rows. Counts are sums over its models."""

    state: str
    #: Of what was compared, the model that it is longest ago for: when, and at which cursor.
    as_of: datetime | None
    cursor: int
    #: The model that is compared now, or next, how far it is, and how many come after it.
    model: str | None
    rows: int
    total: int | None
    percent: int | None
    to_come: int
    missing: int
    different: int
    extra: int
    repaired: int
    #: How many models were not compared: the source refused, or nobody asked yet.
    refused: int
    not_compared: int
    models: tuple[Result, ...]

    @property
    def differences(self) -> int:
        return self.missing + self.different + self.extra

    @property
    def unrepaired(self) -> int:
        return self.differences - self.repaired


def results(using: str, source: Source | None = None) -> dict[Any, tuple[Result, ...]]:
    """By the source's primary key, as far as there are some; in the order in which they were asked for."""
    only = {} if source is None else {"source": source}
    found = list(Verification.objects.using(using).filter(**only).order_by("id"))
    left: dict[tuple[Any, str], int] = {}
    if any(one.repair and one.differences for one in found):
        stored = Difference.objects.using(using).filter(repaired=False, **only).order_by()
        counted = stored.values_list("source", "model").annotate(left=Count("id"))
        left = {(of_source, model): count for of_source, model, count in counted}
    by_source: dict[Any, list[Result]] = defaultdict(list)
    for one in found:
        by_source[one.source_id].append(_result(one, left.get((one.source_id, one.model), 0)))
    return {key: tuple(of_source) for key, of_source in by_source.items()}


def _result(one: Verification, left: int) -> Result:
    # Not all of many differences are stored: those that are not fared as the others did.
    repaired = max(0, one.differences - left) if one.repair else 0
    return Result(
        model=one.model,
        state=str(one.state),
        rows=one.rows,
        total=one.total,
        missing=one.missing,
        different=one.different,
        extra=one.extra,
        repaired=repaired,
        refused=one.refused,
        cursor=one.cursor,
        began_at=one.began_at,
        ended_at=one.ended_at,
    )


def summaries(using: str) -> dict[Any, Summary]:
    """By the primary key of a source, as far as something is known."""
    models = mirrored_models()
    return {source: summary(found, models) for source, found in results(using).items()}


def summary(results: Sequence[Result], models: Iterable[str]) -> Summary:
    """``models``: those that count. What is stored of others, which were mirrored once, does not."""
    labels = set(models)
    mine = tuple(one for one in results if one.model in labels)
    open_ = sorted((one for one in mine if not one.done), key=lambda one: one.began_at is None)
    compared = [one for one in mine if one.done and not one.refused and one.ended_at is not None]
    oldest = min(compared, key=lambda one: (one.ended_at, one.cursor), default=None)
    current = open_[0] if open_ else None
    return Summary(
        state=_state(mine),
        as_of=oldest.ended_at if oldest else None,
        cursor=oldest.cursor if oldest else 0,
        model=current.model if current else None,
        rows=current.rows if current else 0,
        total=current.total if current else None,
        percent=current.percent if current else None,
        to_come=max(0, len(open_) - 1),
        missing=sum(one.missing for one in mine),
        different=sum(one.different for one in mine),
        extra=sum(one.extra for one in mine),
        repaired=sum(one.repaired for one in mine),
        refused=sum(bool(one.refused) for one in mine),
        not_compared=len(labels) - len(mine),
        models=mine,
    )


def _state(results: Sequence[Result]) -> VerifiedState:
    if not results:
        return VerifiedState.NEVER
    if not all(one.done for one in results):
        return VerifiedState.COMPARING
    if any(one.unrepaired for one in results):
        return VerifiedState.DIFFERENCES
    if any(one.refused for one in results):
        return VerifiedState.REFUSED
    return VerifiedState.REPAIRED if any(one.differences for one in results) else VerifiedState.IDENTICAL

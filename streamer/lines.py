"""The newest changes of a stretch of oplog, as the feed lists them. Bounded in rows and in bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import msgspec
from django.db.models import Case, F, OuterRef, Q, QuerySet, Subquery, TextField, Value, When
from django.db.models.functions import Length

from mirror.changes import Change, decode_change
from mirror.models import Oplog
from mirror.oplog import of_row
from streamer.browser import Filter, Line
from streamer.diff import kind_of, summary

__all__ = ["Found", "Stretch", "count", "find", "floor", "read", "share"]

#: A change's timestamp and primary key.
Found = tuple[int, int]

#: A longer change is listed without a look into it, so that fifty of them fit into memory.
_LOOK_INTO = 64 * 1024
#: Streams in one query: SQLite takes an expression of at most a thousand terms.
_TOGETHER = 200
_SHORT_BODY = Case(When(size__lte=_LOOK_INTO, then=F("body")), default=Value(""), output_field=TextField())


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """The changes of one stream after one timestamp, up to and including another."""

    stream_id: int
    uuid: str
    name: str
    after: int
    upto: int
    changes: int


def find(stretches: Sequence[Stretch], wanted: Filter, using: str, *, limit: int) -> list[Found]:
    """Where the newest ``limit`` changes are that pass the filter, oldest first."""
    found: list[Found] = []
    for rows in _matching(stretches, wanted, using):
        found += rows.order_by("-ts").values_list("ts", "pk")[:limit]
    return sorted(found)[-limit:]


def count(stretches: Sequence[Stretch], wanted: Filter, using: str) -> int:
    return sum(rows.count() for rows in _matching(stretches, wanted, using))


def read(found: Sequence[Found], stretches: Sequence[Stretch], using: str) -> list[Line]:
    """The changes that were found, in order, each with what it did to its row."""
    if not found:
        return []
    by_stream = {stretch.stream_id: stretch for stretch in stretches}
    previous = Oplog.objects.filter(
        of_row(OuterRef("model"), OuterRef("key"), OuterRef("row")),
        stream=OuterRef("stream"),
        ts__lt=OuterRef("ts"),
    ).order_by("-ts")
    rows = (
        Oplog.objects.using(using)
        .filter(pk__in=[pk for _, pk in found])
        .annotate(
            size=Length("body"),
            text=_SHORT_BODY,
            previous_op=Subquery(previous.values("op")[:1]),
            previous_text=Subquery(
                previous.annotate(size=Length("body"), text=_SHORT_BODY).values("text")[:1]
            ),
        )
        .order_by("ts", "pk")
        .values_list("stream", "ts", "op", "model", "key", "size", "text", "previous_op", "previous_text")
    )
    return [_line(by_stream[stream], *row) for stream, *row in rows]


def floor(stream_id: int, changes: int, using: str) -> int:
    """The timestamp before a stream's newest so many changes; 0 if it has no more than that."""
    rows = Oplog.objects.using(using).filter(stream_id=stream_id).order_by("-ts")
    return rows.values_list("ts", flat=True)[changes : changes + 1].first() or 0


def share(wishes: Mapping[str, int], room: int) -> dict[str, int]:
    """Divide ``room`` fairly: small wishes are met in full, the large ones get equal parts."""
    granted: dict[str, int] = {}
    left = len(wishes)
    for who, wish in sorted(wishes.items(), key=lambda item: item[1]):
        granted[who] = min(wish, -(-room // left))
        room -= granted[who]
        left -= 1
    return granted


def _matching(stretches: Sequence[Stretch], wanted: Filter, using: str) -> Iterator[QuerySet[Oplog]]:
    for start in range(0, len(stretches), _TOGETHER):
        parts = [
            Q(stream=stretch.stream_id, ts__gt=stretch.after, ts__lte=stretch.upto)
            for stretch in stretches[start : start + _TOGETHER]
        ]
        yield _passing(Oplog.objects.using(using).filter(reduce(or_, parts)), wanted)


def _passing(rows: QuerySet[Oplog], wanted: Filter) -> QuerySet[Oplog]:
    if wanted.op:
        rows = rows.filter(op=wanted.op)
    if wanted.model:
        rows = rows.filter(model__icontains=wanted.model)
    if wanted.text:
        # The body is JSON text, where a quote is written \".
        rows = rows.filter(body__icontains=msgspec.json.encode(wanted.text).decode()[1:-1])
    return rows


def _line(
    stretch: Stretch,
    ts: int,
    op: str,
    model: str,
    key: str,
    size: int,
    text: str,
    previous_op: str | None,
    previous_text: str | None,
) -> Line:
    change = _decoded(text)
    return Line(
        stream=stretch.uuid,
        ts=ts,
        source=stretch.name,
        op=op,
        kind=kind_of(op, previous_op),
        model=model,
        key=key,
        summary=summary(change, _decoded(previous_text)) if change else f"a change of {size:,} characters",
    )


def _decoded(text: Any) -> Change | None:
    try:
        return decode_change(text) if text else None
    except msgspec.DecodeError:
        return None

"""The oplog: where a stream stands, whether a cursor still belongs to it, reading and pruning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict
from zlib import crc32

from django.db import connections, transaction
from django.db.models import Func, IntegerField, Q, QuerySet

from mirror.changes import from_datetime, mark_of
from mirror.errors import Forked, Incomplete, Pruned, UnknownStream
from mirror.models import Oplog, Stream, Untold
from mirror.registry import mirrored_models
from mirror.retention import Cut
from mirror.wire import Entry

#: Places of an oplog where changes are measured, and how many at each.
_SAMPLES = 16
_SAMPLED_AT_ONCE = 32

#: How many models an error names.
_FEW = 5

_KEY = Oplog._meta.get_field("key").max_length or 200


def fit_key(key: str) -> str:
    """A row's key as the oplog's column holds it: a longer one ends in a digest of the whole."""
    return key if len(key) <= _KEY else f"{key[: _KEY - 17]}~{mark_of(key)}"


def row_number(model: str, key: str) -> int:
    """A number to find the changes of a row by; others may share it. ``key`` as the column holds it."""
    return crc32(key.encode(), crc32(model.encode()))


def row_numbers(models: Sequence[str], keys: Sequence[str]) -> list[int]:
    begun = {model: crc32(model.encode()) for model in set(models)}
    return [crc32(key.encode(), begun[model]) for model, key in zip(models, keys, strict=True)]


def of_row(model: Any, key: Any, row: Any) -> Q:
    """The changes of one row: of given values, or of another query's."""
    return Q(row=row, model=model, key=key)


def stream_for(uuid: str | None, using: str) -> Stream:
    """The named stream, or the one recorded here. Raises UnknownStream."""
    streams = Stream.objects.using(using)
    stream = (streams.filter(local=True) if uuid is None else streams.filter(uuid=uuid)).first()
    if stream is None:
        raise UnknownStream(f"stream {uuid} is not kept here" if uuid else "nothing is recorded here")
    return stream


def resume(stream: Stream, cursor: int, mark: str) -> int:
    """The position of a cursor of this history. Raises Pruned or Forked, never guesses.

    The change at the cursor must be here and have the same content. An empty history has no change at
    its cursor 0.
    """
    if cursor == stream.anchor:
        if mark == stream.anchor_mark:
            return stream.anchor_position
        raise Forked(f"the change at {cursor} was another one here")
    if cursor < stream.anchor:
        raise Pruned(f"changes are kept after {stream.anchor}, the cursor is {cursor}")
    entry = Oplog.objects.filter(stream=stream, ts=cursor).using(stream._state.db).first()
    if entry is None:
        raise Forked(f"no change at {cursor}: the history here ends at {stream.head}")
    if mark_of(entry.body) != mark:
        raise Forked(f"the change at {cursor} is another one here")
    return entry.position


def seek(stream: Stream, place: str | int) -> tuple[int, int, str]:
    """Cursor, position and mark of "start", "now", or the last group that ended before a time.

    Raises Pruned when changes of that time are gone, Incomplete when the start lacks rows.
    """
    if place == "start" or (isinstance(place, int) and place <= stream.anchor):
        if stream.anchor:
            raise Pruned(f"the beginning is gone: changes are kept after {stream.anchor}")
        _ask_to_be_complete(stream)
        return 0, 0, ""
    ended = Oplog.objects.using(stream._state.db).filter(stream=stream, ends_group=True)
    if isinstance(place, int):
        ended = ended.filter(ts__lt=place)
    found = ended.order_by("-ts").first()
    if found is None:
        if place != "now" and not stream.anchor:
            _ask_to_be_complete(stream)  # so long ago is the start
        return stream.anchor, stream.anchor_position, stream.anchor_mark
    return found.ts, found.position, mark_of(found.body)


def untold(using: str | None) -> dict[str, int]:
    """The mirrored models of which rows were there before their capture began, and when that was."""
    marks = Untold.objects.using(using).filter(model__in=mirrored_models())
    return {mark.model: from_datetime(mark.since) for mark in marks.order_by("model")}


def _ask_to_be_complete(stream: Stream) -> None:
    missing = list(untold(stream._state.db)) if stream.local else []
    if missing:
        more = f" and {len(missing) - _FEW} more" if len(missing) > _FEW else ""
        raise Incomplete(
            f"rows of {', '.join(missing[:_FEW])}{more} were there before their capture began, and the oplog "
            "does not tell of them: load the rows first, or begin without them (mirrorsource add --from now)"
        )


def read(stream_id: int, after: int, using: str, *, limit: int, max_bytes: int) -> Sequence[Entry]:
    """Entries after a cursor, in order: at most ``limit``, and no more once ``max_bytes`` are read."""
    connection = connections[using]
    if connection.vendor != "sqlite":
        # One round trip: opening, reading and closing a cursor of the server took longer than all the rest,
        # and the driver would fetch rows that are too many.
        sql = _measured(connection.ops.quote_name, stream_id, after, limit, max_bytes)
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute(f"{_BY_INDEX}; {sql}")
                cursor.nextset()
            else:
                cursor.execute(sql)
            return [
                Entry(ts=ts, position=position, ends_group=bool(ends_group), body=body)
                for ts, position, ends_group, body in cursor.fetchall()
            ]
    changes = Oplog.objects.using(using).filter(stream_id=stream_id, ts__gt=after).order_by("ts")[:limit]
    entries: list[Entry] = []
    size = 0
    rows = changes.values_list("ts", "position", "ends_group", "body").iterator(chunk_size=50)
    for ts, position, ends_group, body in rows:
        entries.append(Entry(ts=ts, position=position, ends_group=ends_group, body=body))
        size += len(body)
        if size >= max_bytes:
            break
    return entries


#: Until PostgreSQL has looked what a table holds, it would sort all that follows for every page.
_BY_INDEX = "SELECT set_config('enable_bitmapscan', 'off', true), set_config('enable_sort', 'off', true)"


def _measured(quote: Callable[[str], str], stream_id: int, after: int, limit: int, max_bytes: int) -> str:
    columns = ", ".join(map(quote, ("ts", "position", "ends_group", "body")))
    return (
        f"SELECT {columns} FROM (SELECT {columns}, "
        f"SUM(OCTET_LENGTH(body)) OVER (ORDER BY ts) - OCTET_LENGTH(body) AS before_it "
        f"FROM (SELECT {columns} FROM {quote(Oplog._meta.db_table)} "
        f"WHERE stream_id = {stream_id:d} AND ts > {after:d} ORDER BY ts LIMIT {limit:d}) page) measured "
        f"WHERE before_it < {max_bytes:d} ORDER BY ts"
    )


def ts_at(stream: Stream, position: int) -> int:
    """The timestamp of the change at a position, or the anchor's where it is pruned.

    Positions have no index; but timestamps have one, and both ascend.
    """
    changes = _changes(stream).order_by("ts").values_list("ts", "position")
    low, low_position, high, high_position = (
        stream.anchor,
        stream.anchor_position,
        stream.head,
        stream.position,
    )
    if position <= low_position:
        return low
    halve = False
    while high - low > 1:
        # Where it would be if changes came evenly; after a bad guess in the middle, against bursts.
        guess = low + (high - low) * (position - low_position) // max(1, high_position - low_position)
        middle = (low + high) // 2 if halve else min(max(low, guess), high - 1)
        found = changes.filter(ts__gt=middle, ts__lte=high).first()
        if found is None or found[1] > position:
            high, high_position = (middle, position) if found is None else (middle, found[1])
        elif found[1] < position:
            low, low_position = found
        else:
            return found[0]
        halve = not halve
    return high


def body_bytes(stream: Stream) -> int:
    """What a change's body takes on average, by a sample evenly spread over what is kept; at least 1."""
    count = stream.position - stream.anchor_position
    total = sampled = 0
    for part in range(min(_SAMPLES, count)):
        begin = ts_at(stream, stream.anchor_position + 1 + part * count // _SAMPLES)
        sample = _changes(stream).filter(ts__gte=begin).order_by("ts").values_list(_Octets("body"))
        sizes = [size for (size,) in sample[:_SAMPLED_AT_ONCE]]
        total, sampled = total + sum(sizes), sampled + len(sizes)
    return max(1, total // max(1, sampled))


def last_before(stream: Stream, cut: Cut) -> tuple[int, int]:
    """Timestamp and position of the last group that a cut takes whole: the anchor's where it takes none."""
    capped = max(cut.capped_before - 1, ts_at(stream, cut.capped_position))
    latest = min(max(min(cut.before - 1, ts_at(stream, cut.position)), capped), stream.head - 1)
    ended = _changes(stream).filter(ts__gt=stream.anchor, ts__lte=latest, ends_group=True)
    found = ended.order_by("-ts").values_list("ts", "position").first()
    return found or (stream.anchor, stream.anchor_position)


def prune(stream: Stream, *, upto: int, limit: int) -> int:
    """Delete the oldest changes, about ``limit`` of them, none after ``upto`` (the last of a group).

    Return how many; 0 when there are none left, or when another process has pruned meanwhile. The last
    one of a pruned group stays known by its timestamp and mark, so that a cursor that is too old and a
    cursor of another history are told apart. A group that is larger than ``limit`` is pruned at once, by
    the anchor, and deleted in several steps.
    """
    stream.refresh_from_db()
    changes = _changes(stream).filter(ts__lte=min(upto, stream.head - 1))
    page = list(changes.order_by("ts").values_list("ts", "ends_group")[:limit])
    if not page:
        return 0
    first, last = page[0][0], page[-1][0]
    whole = [ts for ts, ends_group in page if ends_group]
    ended = changes.filter(ts=whole[-1]) if whole else changes.filter(ts__gt=last, ends_group=True)
    anchor = ended.order_by("ts").first()
    if anchor is not None and anchor.ts > stream.anchor:
        mark = mark_of(anchor.body)
        moved = _Anchor(anchor=anchor.ts, anchor_mark=mark, anchor_position=anchor.position)
    else:
        moved = _Anchor(
            anchor=stream.anchor, anchor_mark=stream.anchor_mark, anchor_position=stream.anchor_position
        )
    deleted = _delete(stream, first, min(last, moved["anchor"]), moved)
    if deleted:
        stream.refresh_from_db()
    return deleted


class _Anchor(TypedDict):
    anchor: int
    anchor_mark: str
    anchor_position: int


def _delete(stream: Stream, first: int, last: int, moved: _Anchor) -> int:
    using = stream._state.db
    assert using is not None
    connection = connections[using]
    alone = not connection.in_atomic_block
    with transaction.atomic(using=using):
        if alone and connection.vendor in {"postgresql", "mysql"}:
            # Locks no gaps between the rows, where another stream may be growing.
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        # First a write: a deferred SQLite transaction that began with a read would fail, not wait. The
        # stream's row comes last: while this holds it the sequencer has to wait.
        doomed = _changes(stream).filter(ts__gte=first, ts__lte=last)
        gone: int = doomed._raw_delete(using)
        if Stream.objects.using(using).filter(pk=stream.pk, anchor=stream.anchor).update(**moved):
            return gone
        transaction.set_rollback(True, using=using)
    return 0


def _changes(stream: Stream) -> QuerySet[Oplog]:
    """To be limited by one time on a side: SQLite looks up the first limit, and reads on to the second."""
    return Oplog.objects.using(stream._state.db).filter(stream=stream)


class _Octets(Func):
    """The bytes of a text, which are more than its characters."""

    function = "OCTET_LENGTH"
    output_field = IntegerField()

    def as_sqlite(self, compiler: Any, connection: Any, **options: Any) -> Any:
        # Its own octet_length is younger than some of the versions that Django supports.
        return self.as_sql(compiler, connection, template="LENGTH(CAST(%(expressions)s AS BLOB))", **options)

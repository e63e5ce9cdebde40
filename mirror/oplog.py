"""The oplog: where a stream stands, whether a cursor still belongs to it, reading and pruning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

from django.db import connections, transaction
from django.db.models import F, Max, Q

from mirror.changes import mark_of
from mirror.errors import Forked, Pruned, UnknownStream
from mirror.models import Oplog, Stream
from mirror.wire import Entry

_KEY = Oplog._meta.get_field("key").max_length or 200


def fit_key(key: str) -> str:
    """A row's key as the oplog's column holds it: a longer one ends in a digest of the whole."""
    return key if len(key) <= _KEY else f"{key[: _KEY - 17]}~{mark_of(key)}"


def row_number(model: str, key: str) -> int:
    """A number to find the changes of a row by; others may share it. ``key`` as the column holds it."""
    return crc32(key.encode(), crc32(model.encode()))


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

    Raises Pruned when changes of that time are gone.
    """
    if place == "start" or (isinstance(place, int) and place <= stream.anchor):
        if stream.anchor:
            raise Pruned(f"the beginning is gone: changes are kept after {stream.anchor}")
        return 0, 0, ""
    ended = Oplog.objects.using(stream._state.db).filter(stream=stream, ends_group=True)
    if isinstance(place, int):
        ended = ended.filter(ts__lt=place)
    found = ended.order_by("-ts").first()
    if found is None:
        return stream.anchor, stream.anchor_position, stream.anchor_mark
    return found.ts, found.position, mark_of(found.body)


def read(stream_id: int, after: int, using: str, *, limit: int, max_bytes: int) -> Sequence[Entry]:
    """Entries after a cursor, in order: at most ``limit``, and no more once ``max_bytes`` are read."""
    connection = connections[using]
    if connection.vendor != "sqlite":
        # One round trip: opening, reading and closing a cursor of the server took longer than all the rest,
        # and the driver would fetch rows that are too many.
        with connection.cursor() as cursor:
            cursor.execute(_measured(connection.ops.quote_name), [stream_id, after, limit, max_bytes])
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


def _measured(quote: Callable[[str], str]) -> str:
    columns = ", ".join(map(quote, ("ts", "position", "ends_group", "body")))
    return (
        f"SELECT {columns} FROM (SELECT {columns}, "
        f"SUM(OCTET_LENGTH(body)) OVER (ORDER BY ts) - OCTET_LENGTH(body) AS before_it "
        f"FROM (SELECT {columns} FROM {quote(Oplog._meta.db_table)} "
        f"WHERE stream_id = %s AND ts > %s ORDER BY ts LIMIT %s) page) measured "
        f"WHERE before_it < %s ORDER BY ts"
    )


def prune(stream: Stream, *, before: int) -> int:
    """Delete the whole groups that ended before a time, never the newest change; return how many changes.

    The last one deleted stays known by its timestamp and mark, so that a cursor that is too old and a
    cursor of another history are told apart.
    """
    using = stream._state.db
    with transaction.atomic(using=using):
        # First a write: see Sequencer._lock.
        Stream.objects.using(using).filter(pk=stream.pk).update(anchor=F("anchor"))
        kept = Stream.objects.using(using).get(pk=stream.pk)
        changes = Oplog.objects.using(using).filter(stream=kept)
        ended = changes.filter(ts__lt=before, ends_group=True).exclude(ts=kept.head)
        last = ended.aggregate(last=Max("ts"))["last"]
        if last is None:
            return 0
        anchor = changes.get(ts=last)
        kept.anchor, kept.anchor_mark, kept.anchor_position = anchor.ts, mark_of(anchor.body), anchor.position
        kept.save(using=using, update_fields=["anchor", "anchor_mark", "anchor_position"])
        return changes.filter(ts__lte=last)._raw_delete(using)

"""The books of one source at the centre: fence, cursor and oplog copy, in plain statements.

They are part of every transaction, also of one that carries a single change; building them through the
ORM each time took as long as everything else together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import attrgetter
from typing import Any

import msgspec
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model
from django.utils import timezone

from mirror.apply import postgresql
from mirror.apply.runs import Portion
from mirror.errors import Malformed, Superseded
from mirror.models import Oplog, Source, Stream
from mirror.oplog import fit_key, row_numbers
from mirror.trips import in_one_trip

#: Rows of the oplog copy: values, or lines of a COPY.
Entries = Sequence[Any]

_ts, _op = attrgetter("ts"), attrgetter("op")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where the source's mirror is, as its row says."""

    stream_id: int
    cursor: int
    position: int
    mark: str
    head: int
    head_position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """Where the mirror is after a commit."""

    cursor: int
    position: int
    mark: str
    changes: int
    skipped: int
    #: Where the source stood when it sent the last of them.
    head: int
    head_position: int


class Ledger:
    """``unchecked``: on PostgreSQL, whether what is written may pass by the triggers of foreign keys."""

    def __init__(
        self, connection: BaseDatabaseWrapper, source_id: int, fence: int, *, unchecked: bool = False
    ) -> None:
        self._connection = connection
        self._source_id = source_id
        self._fence = fence
        source, stream, oplog = (_table(connection, model) for model in (Source, Stream, Oplog))
        self._lock = f"UPDATE {source} SET fence = fence WHERE id = %s AND fence = %s"
        standing = f"stream_id, {_names(connection, 'cursor', 'position', 'mark', 'head')}, head_position"
        self._read: str | None = f"SELECT {standing} FROM {source} WHERE id = %s"
        if connection.vendor == "postgresql":
            # Like a subscription of PostgreSQL's own it does not wait for the disk: after a loss of power
            # rows and cursor are both as they were a moment before, and what is missing comes again.
            self._lock += f" RETURNING {standing}, set_config('synchronous_commit', 'off', true)"
            if unchecked:
                self._lock += f", {postgresql.REPLICATE}"
            self._read = None
        self._move_source = (
            f"UPDATE {source} SET {_assignments(connection, 'cursor', 'position', 'mark', 'head')}, "
            "head_position = %s, heard_at = %s, skipped = skipped + %s "
            f"WHERE id = %s AND {_names(connection, 'cursor')} = %s"
        )
        self._move_stream = (
            f"UPDATE {stream} SET {_assignments(connection, 'head', 'position')} WHERE id = %s"
        )
        columns = ("stream_id", "ts", "position", "op", "model", "key", "row", "ends_group", "body")
        self._insert = f"INSERT INTO {oplog} ({_names(connection, *columns)}) VALUES (%s{', %s' * 8})"
        self._copy = f"COPY {oplog} ({_names(connection, *columns)}) FROM STDIN"

    def lock(self) -> Standing:
        """Take the source's row for this transaction. Raises Superseded."""
        with self._connection.cursor() as cursor:
            # First a write: a deferred SQLite transaction that began with a read would fail, not wait.
            cursor.execute(self._lock, [self._source_id, self._fence])
            if not cursor.rowcount:  # rows found, also on MySQL, where Django asks for that count
                raise Superseded("another process follows this source now, or it was removed")
            if self._read is not None:
                cursor.execute(self._read, [self._source_id])
            stream_id, at, position, mark, head, head_position = cursor.fetchone()[:6]
        if stream_id is None:
            raise Superseded("the source was reset")
        return Standing(
            stream_id=stream_id,
            cursor=at,
            position=position,
            mark=mark,
            head=head,
            head_position=head_position,
        )

    def close(self, standing: Standing, applied: Applied, entries: Entries) -> None:
        """Copy the last entries, and compare and swap the cursor. Raises Superseded."""
        heard_at = self._connection.ops.adapt_datetimefield_value(timezone.now())
        few = len(entries) < postgresql.MANY and str not in set(map(type, entries))
        if not few:
            self.copy(entries)
        with self._connection.cursor() as cursor:
            with in_one_trip(self._connection):
                if few:
                    self.copy(entries)
                cursor.execute(
                    self._move_source,
                    [
                        applied.cursor,
                        applied.position,
                        applied.mark,
                        applied.head,
                        applied.head_position,
                        heard_at,
                        applied.skipped,
                        self._source_id,
                        standing.cursor,
                    ],
                )
                with self._connection.cursor() as another:
                    another.execute(self._move_stream, [applied.cursor, applied.position, standing.stream_id])
            if not cursor.rowcount:
                raise Superseded("the cursor moved under this process")

    def entries(self, stream_id: int, position: int, portion: Portion) -> Entries:
        """What ``copy`` takes of changes from this position on. Asks the database nothing."""
        batch, count = portion.batch, len(portion.changes)
        ends = set(batch.ends)
        times = list(map(_ts, portion.changes))
        keys = list(map(fit_key, portion.keys))
        return list(
            zip(
                repeat(stream_id, count),
                times,
                range(position, position + count),
                map(str, map(_op, portion.changes)),
                portion.labels,
                keys,
                row_numbers(portion.labels, keys),
                map(ends.__contains__, times),
                map(text_of, batch.changes),
                strict=True,
            )
        )

    def lines(self, entries: Entries) -> Entries:
        """The same in the form that many are copied in, if there is one."""
        if self._connection.vendor != "postgresql":
            return entries
        stream, times, positions, ops, models, keys, rows, ends, bodies = zip(*entries, strict=True)
        return postgresql.copy_lines(
            [
                list(map(str, stream)),
                list(map(str, times)),
                list(map(str, positions)),
                ops,
                models,
                keys,
                list(map(str, rows)),
                ["t" if end else "f" for end in ends],
                bodies,
            ]
        )

    def copy(self, entries: Entries) -> None:
        plain = [entry for entry in entries if type(entry) is tuple]
        lines = [entry for entry in entries if type(entry) is str] if len(plain) < len(entries) else []
        if self._connection.vendor == "postgresql" and len(plain) >= postgresql.MANY:
            lines, plain = [*self.lines(plain), *lines], []
        with self._connection.cursor() as cursor:
            if lines:
                with cursor.copy(self._copy) as copy:
                    copy.write("\n".join(lines))
            if plain:
                cursor.executemany(self._insert, plain)


def text_of(raw: msgspec.Raw) -> str:
    """Raises Malformed."""
    try:
        return str(raw, "utf-8")
    except UnicodeError as error:
        raise Malformed(f"not a change: {error}") from error


def _table(connection: BaseDatabaseWrapper, model: type[Model]) -> str:
    return connection.ops.quote_name(model._meta.db_table)


def _names(connection: BaseDatabaseWrapper, *columns: str) -> str:
    return ", ".join(map(connection.ops.quote_name, columns))


def _assignments(connection: BaseDatabaseWrapper, *columns: str) -> str:
    return ", ".join(f"{connection.ops.quote_name(column)} = %s" for column in columns)

"""The books of one source at the centre: fence, cursor and oplog copy, in plain statements.

They are part of every transaction, also of one that carries a single change; building them through the
ORM each time took as long as everything else together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model
from django.utils import timezone

from mirror.apply import postgresql
from mirror.errors import Superseded
from mirror.models import Oplog, Source, Stream
from mirror.oplog import row_number


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
    def __init__(self, connection: BaseDatabaseWrapper, source_id: int, fence: int) -> None:
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

    def move(self, standing: Standing, applied: Applied) -> None:
        """Compare and swap the cursor. Raises Superseded."""
        heard_at = self._connection.ops.adapt_datetimefield_value(timezone.now())
        with self._connection.cursor() as cursor:
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
            if not cursor.rowcount:
                raise Superseded("the cursor moved under this process")
            cursor.execute(self._move_stream, [applied.cursor, applied.position, standing.stream_id])

    def copy(
        self,
        stream_id: int,
        position: int,
        *,
        times: Sequence[int],
        ops: Sequence[str],
        models: Sequence[str],
        keys: Sequence[str],
        ends: Sequence[bool],
        bodies: Sequence[str],
    ) -> None:
        """Changes from this position on, a place for each in every sequence."""
        count = len(times)
        positions = range(position, position + count)
        rows = list(map(row_number, models, keys))
        with self._connection.cursor() as cursor:
            if self._connection.vendor == "postgresql" and count >= postgresql.MANY:
                text = postgresql.copy_text(
                    [
                        [str(stream_id)] * count,
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
                with cursor.copy(self._copy) as copy:
                    copy.write(text)
                return
            cursor.executemany(
                self._insert,
                list(
                    zip(
                        repeat(stream_id, count),
                        times,
                        positions,
                        ops,
                        models,
                        keys,
                        rows,
                        ends,
                        bodies,
                        strict=True,
                    )
                ),
            )


def _table(connection: BaseDatabaseWrapper, model: type[Model]) -> str:
    return connection.ops.quote_name(model._meta.db_table)


def _names(connection: BaseDatabaseWrapper, *columns: str) -> str:
    return ", ".join(map(connection.ops.quote_name, columns))


def _assignments(connection: BaseDatabaseWrapper, *columns: str) -> str:
    return ", ".join(f"{connection.ops.quote_name(column)} = %s" for column in columns)

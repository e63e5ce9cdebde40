"""The books of one source at the centre: fence, cursor and oplog copy, in plain statements.

They are part of every transaction, also of one that carries a single change; building them through the
ORM each time took as long as everything else together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model
from django.utils import timezone

from mirror.errors import Superseded
from mirror.models import Oplog, Source, Stream


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
        self._read = (
            f"SELECT stream_id, {_names(connection, 'cursor', 'position', 'mark', 'head')}, head_position "
            f"FROM {source} WHERE id = %s"
        )
        self._move_source = (
            f"UPDATE {source} SET {_assignments(connection, 'cursor', 'position', 'mark', 'head')}, "
            "head_position = %s, heard_at = %s, skipped = skipped + %s "
            f"WHERE id = %s AND {_names(connection, 'cursor')} = %s"
        )
        self._move_stream = (
            f"UPDATE {stream} SET {_assignments(connection, 'head', 'position')} WHERE id = %s"
        )
        columns = ("stream_id", "ts", "position", "op", "model", "key", "ends_group", "body")
        self._insert = f"INSERT INTO {oplog} ({_names(connection, *columns)}) VALUES (%s{', %s' * 7})"

    def lock(self) -> Standing:
        """Take the source's row for this transaction. Raises Superseded."""
        with self._connection.cursor() as cursor:
            # First a write: a deferred SQLite transaction that began with a read would fail, not wait.
            cursor.execute(self._lock, [self._source_id, self._fence])
            if not cursor.rowcount:  # rows found, also on MySQL, where Django asks for that count
                raise Superseded("another process follows this source now, or it was removed")
            cursor.execute(self._read, [self._source_id])
            stream_id, at, position, mark, head, head_position = cursor.fetchone()
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

    def copy(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """(stream id, ts, position, op, model, key, ends_group, body) of each change."""
        with self._connection.cursor() as cursor:
            cursor.executemany(self._insert, list(rows))


def _table(connection: BaseDatabaseWrapper, model: type[Model]) -> str:
    return connection.ops.quote_name(model._meta.db_table)


def _names(connection: BaseDatabaseWrapper, *columns: str) -> str:
    return ", ".join(map(connection.ops.quote_name, columns))


def _assignments(connection: BaseDatabaseWrapper, *columns: str) -> str:
    return ", ".join(f"{connection.ops.quote_name(column)} = %s" for column in columns)

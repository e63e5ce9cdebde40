"""The sequencer: gives each committed change its place, one pass at a time, after commit.

Ids and times taken inside a writing transaction are not in commit order; a reader at "everything
after X" would lose rows. A pass therefore reads what is committed in one statement, stamps it in the
order of capture, and moves it into the oplog, in one transaction that holds the stream's row: there is
one sequencer at a time, and any process may be the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec
from django.db import connections, transaction
from django.db.utils import InterfaceError, OperationalError

from mirror import oplog, oplogger
from mirror.capture import WRITERS
from mirror.changes import Change, Op, encode_change, stamp
from mirror.conf import conf
from mirror.doorbell import doorbell_for
from mirror.models import Oplog, Outbox, Stream
from mirror.registry import Reference, mirrored_models
from mirror.rows import RowReader, merge_payload

logger = logging.getLogger("mirror.sequencer")

_PAGE = 1000
#: The column of an oplog row that says whether its change ends a group.
_ENDS_GROUP = 6


class Sequencer:
    """Moves the outbox of one database into its oplog; ``step`` is one pass."""

    def __init__(self, using: str | None = None) -> None:
        self.using = using or conf().database
        self._sql = _Statements(connections[self.using].ops.quote_name)
        self._readers: dict[str, RowReader] = {}
        self._gone: dict[tuple[str, Any], Any] = {}
        self._unlisted: set[str] = set()

    def step(self) -> int:
        """Give every committed change its place; return how many there were."""
        with connections[self.using].cursor() as cursor:
            cursor.execute(self._sql.waiting)
            if cursor.fetchone() is None:
                return 0
        try:
            return self._locked_pass()
        except OperationalError as error:
            if "decode to UTF-8" not in str(error):
                raise
        # SQLite keeps whatever bytes a program calls text. One such row must not stop the stream.
        logger.error("a captured text is not UTF-8: what cannot be read becomes U+FFFD")
        connections[self.using].connection.text_factory = _readable
        return self._locked_pass()

    def _locked_pass(self) -> int:
        with transaction.atomic(using=self.using):
            desk = self._lock()
            return self._pass(desk) if desk is not None else 0

    def _lock(self) -> _Desk | None:
        # A write is the portable lock: it takes the row on servers, and on SQLite the database, at once;
        # reading first would make a deferred SQLite transaction fail instead of wait.
        with connections[self.using].cursor() as cursor:
            cursor.execute(self._sql.lock, [True])
            cursor.execute(self._sql.stream, [True])
            row = cursor.fetchone()
        return _Desk(*row) if row else None

    def _pass(self, desk: _Desk) -> int:
        taken = _Runs()
        self._gone.clear()
        first = desk.position
        entries = _mark_last(self._entries(desk, taken))
        with connections[self.using].cursor() as cursor:
            while page := list(islice(entries, _PAGE)):
                cursor.executemany(self._sql.insert, page)
            # Only ids that were read: on a server a lower id may be committed after this pass looked.
            cursor.executemany(self._sql.forget, taken.runs)
            logged = desk.logged if oplogger.is_heard() else desk.head
            cursor.execute(self._sql.move, [desk.head, desk.position, logged, desk.stream_id])
        return desk.position - first

    def _entries(self, desk: _Desk, taken: _Runs) -> Iterator[list[Any]]:
        """Rows for the oplog, in the order of their columns."""
        with connections[self.using].chunked_cursor() as cursor:
            cursor.execute(self._sql.outbox)
            while page := cursor.fetchmany(_PAGE):
                for number, op, label, captured_at, payload in page:
                    taken.add(number)
                    change, key = self._change(op, label, payload, stamp(desk.head, captured_at))
                    if change is None:
                        continue
                    desk.head = change.ts
                    desk.position += 1
                    body = encode_change(change)
                    yield [
                        desk.stream_id,
                        change.ts,
                        desk.position,
                        op,
                        label,
                        oplog.fit_key(key),
                        False,
                        body,
                    ]

    def _change(self, op: str, label: str, payload: str, ts: int) -> tuple[Change | None, str]:
        reader = self._reader(label)
        if reader is None:
            if label not in self._unlisted:
                logger.warning("%s is not in MIRROR['MODELS'] any more: dropped", label)
                self._unlisted.add(label)
            return None, ""
        columns = merge_payload(msgspec.json.decode(payload))
        if op == Op.DELETE:
            self._remember(label, columns)
        row = reader.read(columns)
        return Change(ts=ts, op=Op(op), model=label, pk=row.pk, fields=row.fields), row.key

    def _reader(self, label: str) -> RowReader | None:
        if label not in self._readers:
            mirrored = mirrored_models().get(label)
            if mirrored is None:
                return None
            connection = connections[self.using]
            decoders = WRITERS[connection.vendor].decoders(connection, mirrored)
            self._readers[label] = RowReader(mirrored, connection, decoders, self._resolve)
        return self._readers[label]

    # References whose parent the trigger could not see

    def _remember(self, label: str, columns: dict[str, Any]) -> None:
        mirrored = mirrored_models()[label]
        if mirrored.pk is not None and mirrored.local_pk and not mirrored.pk.reference:
            self._gone[label, columns.get(mirrored.pk.column)] = columns.get(mirrored.key[0].column)

    def _resolve(self, reference: Reference, pk: Any) -> Any:
        """The parent came after its child in the same transaction, or was deleted before it."""
        if (reference.label, pk) in self._gone:
            return self._gone[reference.label, pk]
        connection = connections[self.using]
        quote = connection.ops.quote_name
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {quote(reference.uuid_column)} FROM {quote(reference.table)} "
                f"WHERE {quote(reference.pk_column)} = %s",
                [pk],
            )
            found = cursor.fetchone()
        return found[0] if found else self._deleted_later(reference, pk)

    def _deleted_later(self, reference: Reference, pk: Any) -> Any:
        deletes = Outbox.objects.using(self.using).filter(op=Op.DELETE, model=reference.label).order_by("id")
        for payload in deletes.values_list("payload", flat=True).iterator(_PAGE):
            self._remember(reference.label, merge_payload(msgspec.json.decode(payload)))
        return self._gone.get((reference.label, pk))


def _readable(text: bytes) -> str:
    return text.decode(errors="replace")


class _Statements:
    """A pass in plain SQL: built through the ORM each time, a pass of one change took twice as long."""

    def __init__(self, quote: Callable[[str], str]) -> None:
        stream, outbox, log = (quote(model._meta.db_table) for model in (Stream, Outbox, Oplog))
        local, position = quote("local"), quote("position")
        columns = ("stream_id", "ts", "position", "op", "model", "key", "ends_group", "body")
        self.waiting = f"SELECT 1 FROM {outbox} LIMIT 1"
        self.lock = f"UPDATE {stream} SET head = head WHERE {local} = %s"
        self.stream = f"SELECT id, head, {position}, logged FROM {stream} WHERE {local} = %s"
        self.outbox = f"SELECT id, op, model, captured_at, payload FROM {outbox} ORDER BY id"
        self.insert = f"INSERT INTO {log} ({', '.join(map(quote, columns))}) VALUES (%s{', %s' * 7})"
        self.forget = f"DELETE FROM {outbox} WHERE id BETWEEN %s AND %s"
        self.move = f"UPDATE {stream} SET head = %s, {position} = %s, logged = %s WHERE id = %s"


@dataclass(slots=True)
class _Desk:
    """The local stream's row while a pass holds it."""

    stream_id: int
    head: int
    position: int
    logged: int


def run(sequencer: Sequencer, *, stopped: Callable[[], bool], sleep: Callable[[float], object]) -> None:
    """Passes until ``stopped``: what ``runsequencer`` does, and a serving process on the side."""
    doorbell = doorbell_for(connections[sequencer.using])
    while not stopped():
        moved = guarded_step(sequencer) if doorbell.rang() else 0
        _guarded(sequencer.using, lambda: oplogger.tell(sequencer.using))
        sleep(conf().sequencer_pause if moved else doorbell.interval)
    doorbell.close()


def guarded_step(sequencer: Sequencer) -> int:
    """One pass; a database that is busy or away is tried again by the caller."""
    return _guarded(sequencer.using, sequencer.step)


def _guarded(using: str, work: Callable[[], int]) -> int:
    try:
        return work()
    except (OperationalError, InterfaceError) as error:
        logger.warning("the database is not available to the sequencer: %s", error)
        connections[using].close()
        return 0


def _mark_last(entries: Iterator[list[Any]]) -> Iterator[list[Any]]:
    """What one pass saw is one group: whole transactions, however many."""
    held: list[Any] | None = None
    for entry in entries:
        if held is not None:
            yield held
        held = entry
    if held is not None:
        held[_ENDS_GROUP] = True
        yield held


class _Runs:
    """Ascending ids as unbroken runs: a pass over a million rows keeps a handful of pairs."""

    def __init__(self) -> None:
        self.runs: list[list[int]] = []

    def add(self, value: int) -> None:
        if self.runs and self.runs[-1][1] + 1 == value:
            self.runs[-1][1] = value
        else:
            self.runs.append([value, value])

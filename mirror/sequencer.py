"""The sequencer: gives each committed change its place, one pass at a time, after commit.

Ids and times taken inside a writing transaction are not in commit order; a reader at "everything
after X" would lose rows. A pass therefore reads what is committed in one statement, stamps it in the
order of capture, and moves it into the oplog, in one transaction that holds the stream's row: there is
one sequencer at a time, and any process may be the next.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec
from django.apps import apps
from django.db import connections, transaction
from django.db.utils import InterfaceError, OperationalError

from mirror import oplog, oplogger
from mirror.capture import WRITERS, parents, told
from mirror.capture.triggers import foreign
from mirror.changes import Change, Op, encode_change, stamp
from mirror.conf import conf
from mirror.doorbell import Patience, doorbell_for
from mirror.models import Oplog, Outbox, Stream
from mirror.registry import CONTENT_TYPE, MirroredModel, Reference, mirrored_models
from mirror.rows import Row, RowReader, merge_payload
from mirror.rows.names import ContentTypeNames
from mirror.trips import in_one_trip

logger = logging.getLogger("mirror.sequencer")

_PAGE = 1000
#: Seconds until a process that runs other code than the last ``migrate`` looks again.
_REST = 5.0
#: The isolation level of a pass, whatever the project has chosen for its own transactions. On PostgreSQL a
#: SERIALIZABLE pass that read the outbox would make transactions of the application fail, and one with an old
#: snapshot would fail itself when another sequencer was first. MySQL has no cursor that keeps its snapshot
#: from one page to the next.
_LEVELS = {"postgresql": "READ COMMITTED", "mysql": "REPEATABLE READ"}
#: The column of an oplog row that says whether its change ends a group.
_ENDS_GROUP = 7


class Sequencer:
    """Moves the outbox of one database into its oplog; ``step`` is one pass.

    ``clock`` is monotonic seconds, ``now`` epoch microseconds.
    """

    def __init__(
        self,
        using: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self.using = using or conf().database
        self._clock = clock
        self._now = now
        self._latest = 0
        self._rests_until = 0.0
        self._sql = _Statements(connections[self.using].ops.quote_name)
        self._readers: dict[str, RowReader] = {}
        #: The UUIDs of rows that this pass told to be deleted, or saved again after that, by model and key.
        self._told: dict[tuple[str, Any], Any] = {}
        #: Those of rows whose deletion this pass may still tell, by model; made where somebody asks.
        self._deletions: dict[str, dict[Any, Any]] = {}
        #: The beginning of the outbox, and the whole of it, where it is no more than a page.
        self._first: Sequence[tuple[Any, ...]] = ()
        self._whole: Sequence[tuple[Any, ...]] | None = None
        self._unlisted: set[str] = set()
        self._known: dict[str, set[str]] = {}
        self._names = ContentTypeNames(self.using)

    def step(self) -> int:
        """Give every committed change its place; return how many there were."""
        if self._clock() < self._rests_until:
            return 0
        try:
            return self._locked_pass() if self._waits() else 0
        except _OtherCode as what:
            # The log would lack what this process does not know. Whoever knows it must come to the outbox.
            logger.error("%s: run migrate, and restart this process. Until then changes wait.", what)
            self._rests_until = self._clock() + _REST
            return 0
        except OperationalError as error:
            if "decode to UTF-8" not in str(error):
                raise
        # SQLite keeps whatever bytes a program calls text. One such row must not stop the stream.
        logger.error("a captured text is not UTF-8: what cannot be read becomes U+FFFD")
        connections[self.using].connection.text_factory = _readable
        return self._locked_pass()

    def _waits(self) -> bool:
        if connections[self.using].vendor == "postgresql":
            return True  # the lock asks: what is read outside a pass has the isolation level of the project
        with connections[self.using].cursor() as cursor:
            cursor.execute(self._sql.waiting)
            return cursor.fetchone() is not None

    def _locked_pass(self) -> int:
        alone = not connections[self.using].in_atomic_block
        with transaction.atomic(using=self.using):
            desk = self._lock(alone=alone)
            return self._pass(desk) if desk is not None else 0

    def _lock(self, *, alone: bool) -> _Desk | None:
        """Be the one sequencer until the end of the transaction. None without a stream, or without work."""
        connection = connections[self.using]
        statements = list(self._sql.lock.get(connection.vendor, self._sql.lock_row))
        if alone and connection.vendor in _LEVELS:
            statements.insert(0, f"SET TRANSACTION ISOLATION LEVEL {_LEVELS[connection.vendor]}")
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                # In one trip. At this level what is read after the row is not older than the lock on it.
                cursor.execute("; ".join([*statements, self._sql.first_page]))
                if alone:
                    cursor.nextset()
                row = cursor.fetchone()
                cursor.nextset()
                self._first = cursor.fetchall()
            else:
                for statement in statements:
                    cursor.execute(statement)
                row = cursor.fetchone()
        if row and connection.vendor != "postgresql":
            self._first = self._page(after=0)
        return _Desk(*row) if row else None

    def _pass(self, desk: _Desk) -> int:
        taken = _Runs()
        self._told.clear()
        self._deletions.clear()
        self._whole = None
        self._names.forget()
        first = desk.position
        entries = _mark_last(self._entries(desk, taken))
        whole = len(self._first) < _PAGE
        page = list(islice(entries, _PAGE))
        connection = connections[self.using]
        together = in_one_trip(connection) if whole else nullcontext()
        with together, connection.cursor() as cursor:
            while page:
                cursor.executemany(self._sql.insert, page)
                page = list(islice(entries, _PAGE))
            # Only ids that were read: on a server a lower id may be committed after this pass looked.
            # A run without its last, and then the last: MySQL waits for whoever holds the row that a range
            # ends at, and the row after the last one may belong to a transaction that takes its time.
            cursor.executemany(self._sql.forget_range, [run for run in taken.runs if run[0] < run[1]])
            cursor.executemany(self._sql.forget, [run[1:] for run in taken.runs])
            logged = desk.logged if oplogger.is_heard() else desk.head
            cursor.execute(self._sql.move, [desk.head, desk.position, logged, desk.stream_id])
        self._tell_coerced()
        return desk.position - first

    def _tell_coerced(self) -> None:
        for label, reader in self._readers.items():
            for name, count in sorted(reader.coerced.items()):
                logger.warning(
                    "coerced: %d of %s.%s in a form of %s's own, which mirrors elsewhere do not keep",
                    count,
                    label,
                    name,
                    connections[self.using].display_name,
                )
            reader.coerced.clear()

    def _entries(self, desk: _Desk, taken: _Runs) -> Iterator[list[Any]]:
        """Rows for the oplog, in the order of their columns."""
        for number, op, label, captured_at, payload in self._captured():
            taken.add(number)
            change, key = self._change(op, label, payload, stamp(desk.head, self._possible(captured_at)))
            if change is None:
                continue
            desk.head = change.ts
            desk.position += 1
            body = encode_change(change)
            fitted = oplog.fit_key(key)
            row = oplog.row_number(label, fitted)
            yield [desk.stream_id, change.ts, desk.position, op, label, fitted, row, False, body]

    def _possible(self, captured_at: int) -> int:
        """Not later than now: what a session says of the time must not move the stream into the future."""
        if captured_at > self._latest:
            self._latest = self._now()
        return min(captured_at, self._latest)

    def _captured(self) -> Iterator[tuple[Any, ...]]:
        """The outbox as of one moment, a page at a time in memory."""
        page, self._first = self._first, ()
        if len(page) < _PAGE:
            # Opening, reading and closing a cursor of the server would take longer than the rest of the pass.
            self._whole = page
            yield from page
            self._whole = None
        elif connections[self.using].vendor == "mysql":
            # Its driver would fetch the whole result at once; the pages are of the snapshot of the pass.
            while page:
                yield from page
                page = self._page(after=page[-1][0])
        else:
            with connections[self.using].chunked_cursor() as cursor:
                cursor.execute(self._sql.outbox)
                while page := cursor.fetchmany(_PAGE):
                    yield from page

    def _page(self, *, after: int) -> Sequence[tuple[Any, ...]]:
        with connections[self.using].cursor() as cursor:
            cursor.execute(self._sql.page, [after, _PAGE])
            page: Sequence[tuple[Any, ...]] = cursor.fetchall()
        return page

    def _change(self, op: str, label: str, payload: str, ts: int) -> tuple[Change | None, str]:
        reader = self._reader(label)
        if reader is None:
            if label not in self._unlisted:
                self._be_of_the_same_code(label, known=_is_installed(label))
                logger.warning("%s is not in MIRROR['MODELS'] any more: dropped", label)
                self._unlisted.add(label)
            return None, ""
        row = told.decode(payload, reader.mirrored)
        if row is None:
            columns = merge_payload(msgspec.json.decode(payload))
            self._note(op, reader.mirrored, columns)
            known = self._known[label]
            if not columns.keys() <= known:
                self._be_of_the_same_code(f"{label}: {', '.join(columns.keys() - known)}", known=False)
                known |= columns.keys()
            if label == CONTENT_TYPE:
                self._names.note(columns)
            row = reader.read(columns)
        else:
            self._note(op, reader.mirrored, row)
            row = told.complete(row, reader.mirrored, self._resolved)
        return Change(ts=ts, op=Op(op), model=label, pk=row.pk, fields=row.fields), row.key

    def _reader(self, label: str) -> RowReader | None:
        if label not in self._readers:
            mirrored = mirrored_models().get(label)
            if mirrored is None:
                return None
            connection = connections[self.using]
            writer = WRITERS.get(connection.vendor)
            decoders = writer.decoders(connection, mirrored) if writer is not None else {}
            self._readers[label] = RowReader(mirrored, connection, decoders, self._resolve, self._names.of)
            names = [str(field.column) for field in mirrored.model._meta.local_concrete_fields]
            self._known[label] = {*names, *(f"{name}>" for name in names)}
        return self._readers[label]

    def _be_of_the_same_code(self, what: str, *, known: bool) -> None:
        """Raise _OtherCode where what was captured is unknown here, but not to whoever made the triggers."""
        if not known and foreign(connections[self.using]):
            raise _OtherCode(f"{what} was captured by triggers that this code would not make")

    # References whose parent the trigger could not see

    def _note(self, op: str, mirrored: MirroredModel, row: Row | dict[str, Any]) -> None:
        # Of a row that is not deleted the table knows as much.
        if (op == Op.DELETE or self._told) and _is_referred_to_by_pk(mirrored):
            pk, uuid = parents.identity(mirrored, row)
            if op == Op.DELETE or (mirrored.label, pk) in self._told:
                self._told[mirrored.label, pk] = uuid

    def _resolved(self, reference: Reference, pk: Any) -> str | None:
        """The same as it travels."""
        return parents.as_told(self._resolve(reference, pk))

    def _resolve(self, reference: Reference, pk: Any) -> Any:
        """The UUID that the parent has at this place of the order; it may have another one by now.

        The parent came after its child in the same transaction, was deleted before it, or is of any table.
        """
        label = reference.label
        if (label, pk) in self._told:
            return self._told[label, pk]
        deletions = self._coming(label)
        if pk in deletions:
            return deletions[pk]
        found = parents.uuid_of(connections[self.using], reference, pk)
        if found is not None:
            return found
        return parents.deleted(label, parents.waiting_deletions(label, self.using)).get(pk)

    def _coming(self, label: str) -> dict[Any, Any]:
        if label not in self._deletions:
            if self._whole is None:
                payloads = parents.waiting_deletions(label, self.using)
            else:
                payloads = (row[4] for row in self._whole if (row[1], row[2]) == (Op.DELETE, label))
            self._deletions[label] = parents.deleted(label, payloads)
        return self._deletions[label]


def _is_referred_to_by_pk(mirrored: MirroredModel) -> bool:
    return mirrored.pk is not None and mirrored.local_pk and not mirrored.pk.reference


def _readable(text: bytes) -> str:
    return text.decode(errors="replace")


class _OtherCode(Exception):
    """The code of this process is older than the triggers, or a migration is not done yet."""


def _is_installed(label: str) -> bool:
    return any(model._meta.label_lower == label for model in apps.get_models(include_auto_created=True))


class _Statements:
    """A pass in plain SQL: built through the ORM each time, a pass of one change took twice as long."""

    def __init__(self, quote: Callable[[str], str]) -> None:
        stream, outbox, log = (quote(model._meta.db_table) for model in (Stream, Outbox, Oplog))
        local, position = quote("local"), quote("position")
        columns = ("stream_id", "ts", "position", "op", "model", "key", "row", "ends_group", "body")
        self.waiting = f"SELECT 1 FROM {outbox} LIMIT 1"
        desk = f"SELECT id, head, {position}, logged FROM {stream} WHERE {local} = TRUE"
        # On SQLite a write takes the database at once; reading first would make a deferred transaction fail
        # instead of wait. On a server it would leave a dead row for every pass. MySQL would take its snapshot
        # for a subquery, before it waits for the row.
        self.lock_row = (f"{desk} FOR UPDATE",)
        self.lock = {
            "sqlite": (f"UPDATE {stream} SET head = head WHERE {local} = TRUE", desk),
            "postgresql": (f"{desk} AND EXISTS (SELECT 1 FROM {outbox}) FOR UPDATE",),
        }
        captured = f"SELECT id, op, model, captured_at, payload FROM {outbox}"
        self.outbox = f"{captured} ORDER BY id"
        self.page = f"{captured} WHERE id > %s ORDER BY id LIMIT %s"
        self.first_page = f"{captured} ORDER BY id LIMIT {_PAGE}"
        self.insert = f"INSERT INTO {log} ({', '.join(map(quote, columns))}) VALUES (%s{', %s' * 8})"
        self.forget_range = f"DELETE FROM {outbox} WHERE id >= %s AND id < %s"
        self.forget = f"DELETE FROM {outbox} WHERE id = %s"
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
    doorbell, patience = doorbell_for(connections[sequencer.using]), Patience()
    while not stopped():
        moved = guarded_step(sequencer) if doorbell.rang() else 0
        _guarded(sequencer.using, lambda: oplogger.tell(sequencer.using))
        if moved:
            patience.stir()
        sleep(conf().sequencer_pause if moved else patience.pause(doorbell.interval))
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

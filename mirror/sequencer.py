"""The sequencer: gives each committed change its place, one pass at a time, after commit.

Ids and times taken inside a writing transaction are not in commit order; a reader at "everything
after X" would lose rows. A pass therefore reads what is committed in one statement, stamps it in the
order of capture, and moves it into the oplog, in one transaction that holds the stream's row: there is
one sequencer at a time, and any process may be the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import msgspec
from django.db import connections, transaction
from django.db.models import F
from django.db.utils import OperationalError

from mirror import oplogger
from mirror.capture import WRITERS
from mirror.changes import Change, Op, encode_change, stamp
from mirror.conf import conf
from mirror.doorbell import doorbell_for
from mirror.models import Oplog, Outbox, Stream
from mirror.registry import Reference, mirrored_models
from mirror.rows import RowReader, merge_payload

logger = logging.getLogger("mirror.sequencer")

_PAGE = 1000


class Sequencer:
    """Moves the outbox of one database into its oplog; ``step`` is one pass."""

    def __init__(self, using: str | None = None) -> None:
        self.using = using or conf().database
        self._readers: dict[str, RowReader] = {}
        self._gone: dict[tuple[str, Any], Any] = {}
        self._unlisted: set[str] = set()

    def step(self) -> int:
        """Give every committed change its place; return how many there were."""
        if not Outbox.objects.using(self.using).exists():
            return 0
        with transaction.atomic(using=self.using):
            stream = self._lock()
            return self._pass(stream) if stream is not None else 0

    def _lock(self) -> Stream | None:
        # A write is the portable lock: it takes the row on servers, and on SQLite the database, at once;
        # reading first would make a deferred SQLite transaction fail instead of wait.
        streams = Stream.objects.using(self.using).filter(local=True)
        streams.update(head=F("head"))
        return streams.first()

    def _pass(self, stream: Stream) -> int:
        taken = _Runs()
        self._gone.clear()
        entries = _mark_last(self._entries(stream, taken))
        count = 0
        while page := list(islice(entries, _PAGE)):
            Oplog.objects.using(self.using).bulk_create(page)
            count += len(page)
        self._forget(taken)
        if not oplogger.is_heard():
            stream.logged = stream.head
        stream.save(using=self.using, update_fields=["head", "position", "logged"])
        return count

    def _entries(self, stream: Stream, taken: _Runs) -> Iterator[Oplog]:
        for outbox in Outbox.objects.using(self.using).order_by("id").iterator(_PAGE):
            taken.add(outbox.id)
            change, key = self._change(outbox, stamp(stream.head, outbox.captured_at))
            if change is None:
                continue
            stream.head = change.ts
            stream.position += 1
            yield Oplog(
                stream=stream,
                ts=change.ts,
                position=stream.position,
                op=change.op,
                model=change.model,
                key=key,
                ends_group=False,
                body=encode_change(change),
            )

    def _change(self, outbox: Outbox, ts: int) -> tuple[Change | None, str]:
        reader = self._reader(outbox.model)
        if reader is None:
            if outbox.model not in self._unlisted:
                logger.warning(
                    "%s is not in MIRROR['MODELS'] any more: its changes are dropped", outbox.model
                )
                self._unlisted.add(outbox.model)
            return None, ""
        columns = merge_payload(msgspec.json.decode(outbox.payload))
        if outbox.op == Op.DELETE:
            self._remember(outbox.model, columns)
        row = reader.read(columns)
        change = Change(ts=ts, op=Op(outbox.op), model=outbox.model, pk=row.pk, fields=row.fields)
        return change, row.key

    def _reader(self, label: str) -> RowReader | None:
        if label not in self._readers:
            mirrored = mirrored_models().get(label)
            if mirrored is None:
                return None
            connection = connections[self.using]
            writer = WRITERS[connection.vendor]
            self._readers[label] = RowReader(mirrored, connection, writer.value, self._resolve)
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

    def _forget(self, taken: _Runs) -> None:
        # Only ids that were read: on a server a lower id may be committed after this pass looked.
        for first, last in taken.runs:
            outbox = Outbox.objects.using(self.using).filter(id__gte=first, id__lte=last)
            # Not delete(): a project's receiver for every model's deletions would load each row.
            outbox._raw_delete(self.using)


def run(sequencer: Sequencer, *, stopped: Callable[[], bool], sleep: Callable[[float], object]) -> None:
    """Passes until ``stopped``: what ``runsequencer`` does, and a serving process on the side."""
    doorbell = doorbell_for(connections[sequencer.using])
    while not stopped():
        moved = guarded_step(sequencer) if doorbell.rang() else 0
        oplogger.tell(sequencer.using)
        sleep(conf().sequencer_pause if moved else doorbell.interval)
    doorbell.close()


def guarded_step(sequencer: Sequencer) -> int:
    """One pass; a database that is busy or away is tried again by the caller."""
    try:
        return sequencer.step()
    except OperationalError as error:
        logger.warning("the database is not available to the sequencer: %s", error)
        connections[sequencer.using].close()
        return 0


def _mark_last(entries: Iterator[Oplog]) -> Iterator[Oplog]:
    """What one pass saw is one group: whole transactions, however many."""
    held: Oplog | None = None
    for entry in entries:
        if held is not None:
            yield held
        held = entry
    if held is not None:
        held.ends_group = True
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

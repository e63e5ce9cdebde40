"""Apply: groups of changes into rows, in one transaction with the cursor and the oplog copy.

The transaction begins by taking the source's row under the old cursor and this process's fence: whoever
else follows the same source, or followed it before, cannot commit any more. A change that comes again is
therefore harmless, and a crash at any moment leaves cursor and rows as they were together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from django.db import IntegrityError, connections, transaction
from django.db.models import F
from django.utils import timezone

from mirror import capture
from mirror.apply.plans import ModelPlan, key_text
from mirror.apply.writer import BatchWriter, parents_first
from mirror.changes import Change, decode_change, mark_of
from mirror.conf import conf
from mirror.errors import ConstraintFailed, Gap, Malformed, ModelOwned, Superseded, UnknownModel
from mirror.models import ModelOwner, Oplog, Source, Stream
from mirror.registry import MirroredModel, matches, mirrored_models
from mirror.wire import Batch

__all__ = ["Applied", "Applier", "Taken"]

#: Changes held and collapsed at a time, whatever the size of the transaction.
_FLUSH = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A change as received: ``body`` is its exact text."""

    change: Change
    body: str
    position: int
    ends_group: bool


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


@dataclass(slots=True, kw_only=True)
class _Progress:
    """How far one transaction has come."""

    cursor: int
    position: int
    mark: str
    skipped: int = 0
    head: int = 0
    head_position: int = 0


class Applier:
    """Applies one source's changes; used from one thread."""

    def __init__(self, source_id: int, *, fence: int, using: str | None = None) -> None:
        self.source_id = source_id
        self.fence = fence
        self.using = using or conf().database
        self.connection = connections[self.using]
        self._plans: dict[str, ModelPlan | None] = {}
        self._owned: set[str] = set()
        self._order = parents_first()

    def apply(self, batches: Iterable[Batch]) -> Applied:
        """Commit batches that together end with a group; they may be asked for twice.

        Raises Superseded when the fence or the cursor is no longer ours, Gap or Malformed for changes
        that do not follow, an ApplyError for what cannot be applied, and the database's OperationalError.
        In every case nothing of it is kept.
        """
        return self._transact(batches, explain=False)

    def _transact(self, batches: Iterable[Batch], *, explain: bool) -> Applied:
        writer = BatchWriter(self.connection, self._plan, self._order)
        owned = self._owned.copy()
        try:
            with transaction.atomic(using=self.using):
                source = self._lock()
                with capture.silenced(self.connection):
                    applied = self._write(source, batches, writer)
                self._move(source, applied)
                writer.finish(explain=explain)
        except IntegrityError as error:
            self._owned = owned
            if not explain:
                # A deferred constraint speaks at commit and names nothing; a second try looks closer.
                return self._transact(batches, explain=True)
            raise ConstraintFailed(f"the database refused the rows: {error}") from error
        except Exception:
            self._owned = owned
            raise
        return applied

    def _lock(self) -> Source:
        # First a write: see Sequencer._lock.
        mine = Source.objects.using(self.using).filter(pk=self.source_id, fence=self.fence)
        if not mine.update(fence=F("fence")):
            raise Superseded("another process follows this source now, or it was removed")
        source = mine.select_related("stream").get()
        if source.stream is None:
            raise Superseded("the source was reset")
        return source

    def _write(self, source: Source, batches: Iterable[Batch], writer: BatchWriter) -> Applied:
        progress = _Progress(cursor=source.cursor, position=source.position, mark=source.mark)
        held: list[Taken] = []
        for taken in _unpack(batches, progress):
            held.append(taken)
            if len(held) >= _FLUSH:
                self._flush(source, held, writer, progress)
                held = []
        if held:
            self._flush(source, held, writer, progress)
        return Applied(
            cursor=progress.cursor,
            position=progress.position,
            mark=progress.mark,
            changes=progress.position - source.position,
            skipped=progress.skipped,
            head=max(progress.head, source.head),
            head_position=max(progress.head_position, source.head_position),
        )

    def _flush(self, source: Source, held: list[Taken], writer: BatchWriter, progress: _Progress) -> None:
        rows = []
        for taken in held:
            plan = self._plan(taken.change.model)
            if plan is None:
                progress.skipped += 1
                continue
            self._own(source, plan.mirrored)
            rows.append(taken.change)
        writer.write(rows)
        self._copy(source, held)
        progress.mark = mark_of(held[-1].body)

    def _plan(self, label: str) -> ModelPlan | None:
        """None for a model that is not listed here. Raises UnknownModel for one that is, but missing."""
        if label not in self._plans:
            mirrored = mirrored_models().get(label)
            if mirrored is None and matches(label, conf().models):
                raise UnknownModel(f"{label} is not installed here: migrate the centre, or unlist it")
            self._plans[label] = ModelPlan(mirrored, self.connection) if mirrored else None
        return self._plans[label]

    def _own(self, source: Source, mirrored: MirroredModel) -> None:
        if mirrored.merges or mirrored.label in self._owned:
            return
        owner, _ = ModelOwner.objects.using(self.using).get_or_create(
            model=mirrored.label, defaults={"source": source}
        )
        if owner.source_id != self.source_id:
            raise ModelOwned(
                f"{mirrored.label} is matched by its primary key and source {owner.source.name} writes it "
                "already; give it a UUIDModel key, or list it for one source only"
            )
        self._owned.add(mirrored.label)

    def _copy(self, source: Source, held: list[Taken]) -> None:
        quote = self.connection.ops.quote_name
        columns = ("stream_id", "ts", "position", "op", "model", "key", "ends_group", "body")
        names = ", ".join(map(quote, columns))
        rows: list[tuple[Any, ...]] = [
            (
                source.stream_id,
                taken.change.ts,
                taken.position,
                taken.change.op.value,
                taken.change.model,
                key_text(mirrored_models().get(taken.change.model), taken.change),
                taken.ends_group,
                taken.body,
            )
            for taken in held
        ]
        with self.connection.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO {quote(Oplog._meta.db_table)} ({names}) VALUES ({', '.join(['%s'] * 8)})", rows
            )

    def _move(self, source: Source, applied: Applied) -> None:
        moved = Source.objects.using(self.using).filter(pk=source.pk, cursor=source.cursor)
        if not moved.update(
            cursor=applied.cursor,
            position=applied.position,
            mark=applied.mark,
            skipped=F("skipped") + applied.skipped,
            head=applied.head,
            head_position=applied.head_position,
            heard_at=timezone.now(),
        ):
            raise Superseded("the cursor moved under this process")
        stream = Stream.objects.using(self.using).filter(source=source)
        stream.update(head=applied.cursor, position=applied.position)


def _unpack(batches: Iterable[Batch], progress: _Progress) -> Iterator[Taken]:
    for batch in batches:
        if batch.prev != progress.cursor:
            raise Gap(f"changes after {batch.prev} do not follow the cursor {progress.cursor}")
        ends = set(batch.ends)
        for raw in batch.changes:
            body = bytes(raw).decode()
            change = _decode(body)
            if change.ts <= progress.cursor:
                raise Gap(f"the change at {change.ts} does not follow {progress.cursor}")
            progress.cursor = change.ts
            progress.position += 1
            yield Taken(change=change, body=body, position=progress.position, ends_group=change.ts in ends)
        if (progress.cursor, progress.position) != (batch.last, batch.position):
            raise Gap(f"the batch ends at {progress.cursor}, not at {batch.last}")
        progress.head, progress.head_position = batch.head, batch.head_position


def _decode(body: str) -> Change:
    try:
        return decode_change(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"not a change: {error}") from error

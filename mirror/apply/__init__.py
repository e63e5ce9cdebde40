"""Apply: groups of changes into rows, in one transaction with the cursor and the oplog copy.

The transaction begins by taking the source's row under the old cursor and this process's fence: whoever
else follows the same source, or followed it before, cannot commit any more. A change that comes again is
therefore harmless, and a crash at any moment leaves cursor and rows as they were together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import msgspec
from django.db import IntegrityError, connections

from mirror import capture, oplog
from mirror.apply.ledger import Applied, Ledger, Standing
from mirror.apply.plans import ModelPlan
from mirror.apply.runs import Intake
from mirror.apply.writer import REFUSED, BatchWriter, applying, may_be_unchecked, parents_first
from mirror.changes import mark_of
from mirror.conf import conf
from mirror.errors import (
    ConstraintFailed,
    Gap,
    Malformed,
    ModelOwned,
    UnknownModel,
    WrongValue,
)
from mirror.models import ModelOwner
from mirror.registry import MirroredModel, matches, mirrored_models
from mirror.wire import Batch

__all__ = ["Applied", "Applier"]

#: Changes held and collapsed at a time, whatever the size of the transaction.
_FLUSH = 5000

#: SQLite's defaults, 2 MB of pages and a checkpoint every 4 MB, make a mirror that catches up read the same
#: pages of its indexes again and again. The soft limit is for all connections of the process together.
_PRAGMAS = ("cache_size = -32768", "wal_autocheckpoint = 8000", "soft_heap_limit = 134217728")


@dataclass(slots=True)
class _Held:
    """Changes that were received and are not written yet."""

    next_position: int
    raws: list[msgspec.Raw] = field(default_factory=list)
    changes: list[Any] = field(default_factory=list)
    ends: list[bool] = field(default_factory=list)

    def add(self, batch: Batch, changes: Sequence[Any]) -> None:
        ends = set(batch.ends)
        self.raws += batch.changes
        self.changes += changes
        self.ends += [change.ts in ends for change in changes]

    def take(self, count: int) -> _Held:
        """The first ones, which are gone from here then."""
        taken = _Held(self.next_position, self.raws[:count], self.changes[:count], self.ends[:count])
        self.next_position += count
        del self.raws[:count], self.changes[:count], self.ends[:count]
        return taken


@dataclass(slots=True, kw_only=True)
class _Progress:
    """How far one transaction has come."""

    cursor: int
    position: int
    skipped: int = 0
    head: int = 0
    head_position: int = 0
    last: msgspec.Raw | None = None
    ends_group: bool = False


class Applier:
    """Applies one source's changes; used from one thread."""

    def __init__(self, source_id: int, *, fence: int, using: str | None = None) -> None:
        self.source_id = source_id
        self.using = using or conf().database
        self.connection = connections[self.using]
        self._ledger = Ledger(self.connection, source_id, fence)
        self._plans: dict[str, ModelPlan] = {}
        self._intake = Intake(self._plan)
        self._owned: set[str] = set()
        self._order = parents_first()
        self._unchecked = may_be_unchecked(self.connection)
        if self.connection.vendor == "sqlite":
            with self.connection.cursor() as cursor:
                for pragma in _PRAGMAS:
                    cursor.execute(f"PRAGMA {pragma}")

    def apply(self, batches: Iterable[Batch]) -> Applied:
        """Commit batches that together end with a group; they may be asked for twice.

        Raises Superseded when the fence or the cursor is no longer ours, Gap or Malformed for changes
        that do not follow, an ApplyError for what cannot be applied, and the database's OperationalError.
        In every case nothing of it is kept.
        """
        return self._transact(batches, explain=False)

    def _transact(self, batches: Iterable[Batch], *, explain: bool) -> Applied:
        writer = BatchWriter(self.connection, self._plan, self._order, unchecked=self._unchecked)
        owned = self._owned.copy()
        try:
            with applying(self.connection, unchecked=self._unchecked):
                standing = self._ledger.lock()
                with capture.silenced(self.connection):
                    applied = self._write(standing, batches, writer)
                self._ledger.move(standing, applied)
                writer.finish(explain=explain)
        except IntegrityError as error:
            self._owned = owned
            if not explain:
                # A deferred constraint speaks at commit and names nothing; a second try looks closer.
                return self._transact(batches, explain=True)
            raise ConstraintFailed(f"the database refused the rows: {error}") from error
        except REFUSED as error:
            self._owned = owned
            raise WrongValue(f"the database does not take this: {error}") from error
        except Exception:
            self._owned = owned
            raise
        return applied

    def _write(self, standing: Standing, batches: Iterable[Batch], writer: BatchWriter) -> Applied:
        progress = _Progress(cursor=standing.cursor, position=standing.position)
        held = _Held(next_position=standing.position + 1)
        for batch in batches:
            held.add(batch, self._unpack(batch, progress))
            while len(held.raws) >= _FLUSH:
                progress.skipped += self._flush(standing.stream_id, held.take(_FLUSH), writer)
        if progress.last is None or not progress.ends_group:
            raise Gap("the changes do not end with a group")
        if held.raws:
            progress.skipped += self._flush(standing.stream_id, held, writer)
        return Applied(
            cursor=progress.cursor,
            position=progress.position,
            mark=mark_of(_text(progress.last)),
            changes=progress.position - standing.position,
            skipped=progress.skipped,
            head=max(progress.head, standing.head),
            head_position=max(progress.head_position, standing.head_position),
        )

    def _unpack(self, batch: Batch, progress: _Progress) -> list[Any]:
        """The changes of a batch, decoded, if they follow what came before."""
        if batch.prev != progress.cursor:
            raise Gap(f"changes after {batch.prev} do not follow the cursor {progress.cursor}")
        changes = self._intake.decode(batch.changes)
        times = [batch.prev, *(change.ts for change in changes)]
        for before, after in pairwise(times):
            if after <= before:
                raise Gap(f"the change at {after} does not follow {before}")
        position = progress.position + len(changes)
        if (times[-1], position) != (batch.last, batch.position) or not set(batch.ends) <= set(times[1:]):
            raise Gap(f"the batch after {batch.prev} is not what it says it is")
        progress.cursor, progress.position = batch.last, batch.position
        progress.last, progress.ends_group = batch.changes[-1], batch.last in batch.ends
        progress.head, progress.head_position = batch.head, batch.head_position
        return changes

    def _flush(self, stream_id: int, held: _Held, writer: BatchWriter) -> int:
        """Write rows and copy; return how many changes were of models that are not listed here."""
        run = self._intake.run(held.raws, held.changes)
        for label in run.listed:
            self._own(mirrored_models()[label])
        writer.write(run)
        self._ledger.copy(
            stream_id,
            held.next_position,
            times=[change.ts for change in held.changes],
            ops=[str(change.op) for change in held.changes],
            models=run.labels,
            keys=[oplog.fit_key(key) for key in run.keys],
            ends=held.ends,
            bodies=list(map(_text, held.raws)),
        )
        return sum(label not in run.listed for label in run.labels)

    def _plan(self, label: str) -> ModelPlan | None:
        """None for a model that is not listed here. Raises UnknownModel for one that is, but missing."""
        mirrored = mirrored_models().get(label)
        if mirrored is None:
            if matches(label, conf().models):
                raise UnknownModel(f"{label:.200} is not installed here: migrate the centre, or unlist it")
            return None
        if label not in self._plans:
            self._plans[label] = ModelPlan(mirrored, self.connection)
        return self._plans[label]

    def _own(self, mirrored: MirroredModel) -> None:
        if mirrored.merges or mirrored.label in self._owned:
            return
        owner, _ = ModelOwner.objects.using(self.using).get_or_create(
            model=mirrored.label, defaults={"source_id": self.source_id}
        )
        if owner.source_id != self.source_id:
            raise ModelOwned(
                f"{mirrored.label} is matched by its primary key and source {owner.source.name} writes it "
                "already; give it a UUIDModel key, or list it for one source only"
            )
        self._owned.add(mirrored.label)


def _text(raw: msgspec.Raw) -> str:
    try:
        return str(raw, "utf-8")
    except UnicodeError as error:
        raise Malformed(f"not a change: {error}") from error

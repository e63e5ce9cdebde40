"""Apply: groups of changes into rows, in one transaction with the cursor and the oplog copy.

The transaction begins by taking the source's row under the old cursor and this process's fence: whoever
else follows the same source, or followed it before, cannot commit any more. A change that comes again is
therefore harmless, and a crash at any moment leaves cursor and rows as they were together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec
from django.db import IntegrityError, connections, transaction

from mirror import capture, oplog
from mirror.apply.ledger import Applied, Ledger, Standing
from mirror.apply.plans import ModelPlan, key_text
from mirror.apply.writer import REFUSED, BatchWriter, parents_first, unchecked
from mirror.changes import Change, decode_change, mark_of
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


@dataclass(slots=True, kw_only=True)
class _Progress:
    """How far one transaction has come."""

    cursor: int
    position: int
    skipped: int = 0
    head: int = 0
    head_position: int = 0


class Applier:
    """Applies one source's changes; used from one thread."""

    def __init__(self, source_id: int, *, fence: int, using: str | None = None) -> None:
        self.source_id = source_id
        self.using = using or conf().database
        self.connection = connections[self.using]
        self._ledger = Ledger(self.connection, source_id, fence)
        self._plans: dict[str, ModelPlan] = {}
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
            with unchecked(self.connection), transaction.atomic(using=self.using):
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
        held: list[Taken] = []
        last: Taken | None = None
        for last in _unpack(batches, progress):
            held.append(last)
            if len(held) >= _FLUSH:
                progress.skipped += self._flush(standing.stream_id, held, writer)
                held = []
        if last is None or not last.ends_group:
            raise Gap("the changes do not end with a group")
        progress.skipped += self._flush(standing.stream_id, held, writer)
        return Applied(
            cursor=progress.cursor,
            position=progress.position,
            mark=mark_of(last.body),
            changes=progress.position - standing.position,
            skipped=progress.skipped,
            head=max(progress.head, standing.head),
            head_position=max(progress.head_position, standing.head_position),
        )

    def _flush(self, stream_id: int, held: list[Taken], writer: BatchWriter) -> int:
        """Write rows and copy; return how many changes were of models that are not listed here."""
        listed = []
        for taken in held:
            plan = self._plan(taken.change.model)
            if plan is not None:
                self._own(plan.mirrored)
                listed.append(taken.change)
        writer.write(listed)
        self._copy(stream_id, held)
        return len(held) - len(listed)

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

    def _copy(self, stream_id: int, held: list[Taken]) -> None:
        self._ledger.copy(
            (
                stream_id,
                taken.change.ts,
                taken.position,
                taken.change.op.value,
                taken.change.model,
                oplog.fit_key(key_text(mirrored_models().get(taken.change.model), taken.change)),
                taken.ends_group,
                taken.body,
            )
            for taken in held
        )


def _unpack(batches: Iterable[Batch], progress: _Progress) -> Iterator[Taken]:
    for batch in batches:
        if batch.prev != progress.cursor:
            raise Gap(f"changes after {batch.prev} do not follow the cursor {progress.cursor}")
        ends = set(batch.ends)
        for raw in batch.changes:
            body, change = _decode(bytes(raw))
            if change.ts <= progress.cursor:
                raise Gap(f"the change at {change.ts} does not follow {progress.cursor}")
            progress.cursor = change.ts
            progress.position += 1
            yield Taken(change=change, body=body, position=progress.position, ends_group=change.ts in ends)
            ends.discard(change.ts)
        if (progress.cursor, progress.position) != (batch.last, batch.position) or ends:
            raise Gap(f"the batch after {batch.prev} is not what it says it is")
        progress.head, progress.head_position = batch.head, batch.head_position


def _decode(raw: bytes) -> tuple[str, Change]:
    try:
        body = raw.decode()
        return body, decode_change(body)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise Malformed(f"not a change: {error}") from error

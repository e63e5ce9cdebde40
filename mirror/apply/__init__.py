"""Apply: groups of changes into rows, in one transaction with the cursor and the oplog copy.

The transaction begins by taking the source's row under the old cursor and this process's fence: whoever
else follows the same source, or followed it before, cannot commit any more. A change that comes again is
therefore harmless, and a crash at any moment leaves cursor and rows as they were together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter, lt
from typing import Any

import msgspec
from django.db import IntegrityError, connections

from mirror import capture
from mirror.apply.ledger import Applied, Entries, Ledger, Standing, text_of
from mirror.apply.loading import Loader, Pause, Question
from mirror.apply.plans import ModelPlan
from mirror.apply.runs import Intake, Portion, Run
from mirror.apply.verifying import Verifier
from mirror.apply.writer import REFUSED, BatchWriter, applying, may_be_unchecked, parents_first
from mirror.changes import mark_of
from mirror.conf import conf
from mirror.errors import (
    ConstraintFailed,
    Gap,
    ModelOwned,
    UnknownModel,
    WrongValue,
)
from mirror.models import ModelOwner
from mirror.registry import MirroredModel, matches, mirrored_models
from mirror.wire import Batch, Chunk

__all__ = ["Applied", "Applier", "Pause", "Prepared", "Question", "Verifier"]

#: Changes held and collapsed at a time, whatever the size of the transaction, and their bytes.
_FLUSH = 30_000
_FLUSH_BYTES = 16 * 1024 * 1024

#: Changes that are copied into the oplog at a time.
_COPY = 10_000

#: SQLite's defaults, 2 MB of pages and a checkpoint every 4 MB, make a mirror that catches up read the same
#: pages of its indexes again and again. The soft limit is for all connections of the process together.
_PRAGMAS = ("cache_size = -32768", "wal_autocheckpoint = 8000", "soft_heap_limit = 134217728")


_ts = attrgetter("ts")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch, decoded and put in the form of the oplog copy before its turn to be applied."""

    portion: Portion
    stream_id: int
    entries: Entries


@dataclass(slots=True)
class _Held:
    """Changes that were received and are not written yet."""

    raws: list[msgspec.Raw] = field(default_factory=list)
    changes: list[Any] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, portion: Portion) -> None:
        self.raws += portion.batch.changes
        self.changes += portion.changes
        self.labels += portion.labels
        self.keys += portion.keys
        self.size += sum(memoryview(raw).nbytes for raw in portion.batch.changes)

    def take(self, count: int) -> _Held:
        """The first ones, which are gone from here then."""
        taken = _Held(self.raws[:count], self.changes[:count], self.labels[:count], self.keys[:count])
        del self.raws[:count], self.changes[:count], self.labels[:count], self.keys[:count]
        self.size = 0
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

    def __init__(
        self, source_id: int, *, fence: int, using: str | None = None, verifier: Verifier | None = None
    ) -> None:
        self.source_id = source_id
        self.using = using or conf().database
        self.connection = connections[self.using]
        self._unchecked = may_be_unchecked(self.connection)
        self._ledger = Ledger(self.connection, source_id, fence, unchecked=self._unchecked)
        self._plans: dict[str, ModelPlan] = {}
        self._intake = Intake(self._plan)
        self._owned: set[str] = set()
        #: As the last transaction found it.
        self._stream_id: int | None = None
        self._order = parents_first()
        self.loader = Loader(self.connection, source_id, self._order)
        self.verifier = verifier or Verifier(self.connection, source_id, self._order)
        if self.connection.vendor == "sqlite":
            with self.connection.cursor() as cursor:
                for pragma in _PRAGMAS:
                    cursor.execute(f"PRAGMA {pragma}")

    def prepare(self, batch: Batch) -> Batch | Prepared:
        """What can be done with a batch before its turn, on another thread while this one applies."""
        portion = self._intake.portion_ahead(batch)
        if portion is None or self._stream_id is None:
            return batch
        first = batch.position - len(portion.changes) + 1
        entries = self._ledger.entries(self._stream_id, first, portion)
        return Prepared(portion, self._stream_id, self._ledger.lines(entries))

    def apply(self, batches: Iterable[Batch | Prepared]) -> Applied:
        """Commit batches that together end with a group; they may be asked for twice.

        Raises Superseded when the fence or the cursor is no longer ours, Gap or Malformed for changes
        that do not follow, an ApplyError for what cannot be applied, and the database's OperationalError.
        In every case nothing of it is kept.
        """
        return self._transact(batches, explain=False)

    def question(self) -> Question | Pause | None:
        """Which rows to ask the source for next; None when everything is loaded."""
        if not self.loader.active:
            return None
        writer = self._writer()
        with applying(self.connection, unchecked=self._unchecked, loading=True):
            self._ledger.lock()
            with capture.silenced(self.connection):
                question = self.loader.question(writer)
        return question

    def comparison(self) -> Question | Pause | None:
        """Which rows to ask for to compare them; None when nothing is to be compared, or not yet."""
        if not self.verifier.active:
            return None
        writer = self._writer()
        with self._compared(), applying(self.connection, unchecked=self._unchecked, loading=True):
            self._ledger.lock()
            with capture.silenced(self.connection):
                question = self.verifier.question(writer, self.loader)
        return question

    @contextmanager
    def _compared(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.verifier.reset()
            self.loader.refresh()
            raise

    def load(self, question: Question, chunk: Chunk) -> None:
        """Commit rows that were asked for, or compare them. Raises what ``apply`` raises."""
        writer = self._writer()
        try:
            with (
                self._compared() if question.compares else nullcontext(),
                applying(self.connection, unchecked=self._unchecked, loading=True),
            ):
                standing = self._ledger.lock()
                if standing.cursor != chunk.at:
                    raise Gap(f"rows as of {chunk.at} came at {standing.cursor}")
                with capture.silenced(self.connection):
                    if question.compares:
                        self.verifier.take(question, chunk, writer, self.loader)
                    else:
                        self._load(question, chunk, writer)
                writer.finish(explain=False)
        except IntegrityError as error:
            raise ConstraintFailed(f"the database refused rows of {chunk.model:.200}: {error}") from error
        except REFUSED as error:
            raise WrongValue(f"the database does not take this: {error}") from error

    def _load(self, question: Question, chunk: Chunk, writer: BatchWriter) -> None:
        run = self._run_of(chunk)
        for label in run.listed:
            self._own(mirrored_models()[label])
        self.loader.take(question, chunk, run, writer)
        self.loader.store()

    def _run_of(self, chunk: Chunk) -> Run:
        rows = Batch(prev=0, last=chunk.at, position=0, head=0, head_position=0, ends=[], changes=chunk.rows)
        portion = self._intake.portion(rows)
        return self._intake.run(chunk.rows, portion.changes, portion.labels, portion.keys)

    def _writer(self) -> BatchWriter:
        # While rows are loaded, what they refer to may come later.
        checks = self._unchecked and not self.loader.active
        return BatchWriter(self.connection, self._plan, self._order, unchecked=checks)

    def _transact(self, batches: Iterable[Batch | Prepared], *, explain: bool) -> Applied:
        writer = self._writer()
        owned = self._owned.copy()
        loading = self.loader.active
        try:
            with applying(self.connection, unchecked=self._unchecked, loading=loading):
                standing = self._ledger.lock()
                self._stream_id = standing.stream_id
                with capture.silenced(self.connection):
                    applied, entries = self._write(standing, batches, writer)
                    if loading:
                        self.loader.store()
                self._ledger.close(standing, applied, entries)
                writer.finish(explain=explain)
        except IntegrityError as error:
            self._owned = owned
            if not explain:
                # A deferred constraint speaks at commit and names nothing; a second try looks closer.
                self.loader.refresh()
                return self._transact(batches, explain=True)
            raise ConstraintFailed(f"the database refused the rows: {error}") from error
        except REFUSED as error:
            self._owned = owned
            raise WrongValue(f"the database does not take this: {error}") from error
        except Exception:
            self._owned = owned
            raise
        return applied

    def _write(
        self, standing: Standing, batches: Iterable[Batch | Prepared], writer: BatchWriter
    ) -> tuple[Applied, Entries]:
        """Where the mirror is then, and the last entries of the oplog copy."""
        progress = _Progress(cursor=standing.cursor, position=standing.position)
        held, entries = _Held(), list[Any]()
        for batch in batches:
            portion, more = self._follow(standing, progress, batch)
            held.add(portion)
            entries += more
            while len(entries) >= _COPY:
                self._ledger.copy(entries[:_COPY])
                del entries[:_COPY]
            while len(held.raws) >= _FLUSH or held.size >= _FLUSH_BYTES:
                progress.skipped += self._flush(held.take(_FLUSH), writer)
        if progress.last is None or not progress.ends_group:
            raise Gap("the changes do not end with a group")
        if held.raws:
            progress.skipped += self._flush(held, writer)
        applied = Applied(
            cursor=progress.cursor,
            position=progress.position,
            mark=mark_of(text_of(progress.last)),
            changes=progress.position - standing.position,
            skipped=progress.skipped,
            head=max(progress.head, standing.head),
            head_position=max(progress.head_position, standing.head_position),
        )
        return applied, entries

    def _follow(
        self, standing: Standing, progress: _Progress, given: Batch | Prepared
    ) -> tuple[Portion, Entries]:
        """The changes of a batch, decoded, if they follow what came before."""
        batch = given.portion.batch if isinstance(given, Prepared) else given
        if batch.prev != progress.cursor:
            raise Gap(f"changes after {batch.prev} do not follow the cursor {progress.cursor}")
        portion = given.portion if isinstance(given, Prepared) else self._intake.portion(batch)
        times = [batch.prev, *map(_ts, portion.changes)]
        if not all(map(lt, times, times[1:])):
            before, after = next(pair for pair in pairwise(times) if pair[0] >= pair[1])
            raise Gap(f"the change at {after} does not follow {before}")
        position = progress.position + len(portion.changes)
        if (times[-1], position) != (batch.last, batch.position) or not set(batch.ends) <= set(times[1:]):
            raise Gap(f"the batch after {batch.prev} is not what it says it is")
        if isinstance(given, Prepared) and given.stream_id == standing.stream_id:
            entries = given.entries
        else:
            entries = self._ledger.entries(standing.stream_id, progress.position + 1, portion)
        progress.cursor, progress.position = batch.last, batch.position
        progress.last, progress.ends_group = batch.changes[-1], batch.last in batch.ends
        progress.head, progress.head_position = batch.head, batch.head_position
        return portion, entries

    def _flush(self, held: _Held, writer: BatchWriter) -> int:
        """Write rows; return how many changes were of models that are not listed here."""
        run = self._intake.run(held.raws, held.changes, held.labels, held.keys)
        skipped = sum(label not in run.listed for label in run.labels)
        if self.loader.active:
            run = self.loader.sift(run, writer)
        for label in run.listed:
            self._own(mirrored_models()[label])
        if len(run):
            writer.write(run)
            self.verifier.touch(run, writer)
        return skipped

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

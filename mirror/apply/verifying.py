"""Verifying: a model's rows here are compared with the source's, chunk by chunk, while the stream goes on.

The source tells which rows it has and what each comes to, exactly as of the mirror's own cursor, so that
being behind makes nothing look different. Of those that differ the rows themselves are asked for, to say
which fields. A row that is here, that no chunk told of and no change has touched meanwhile, is one that the
source does not have.
"""

from __future__ import annotations

import hashlib
import logging
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import msgspec
from django.db import IntegrityError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from mirror.apply.ghosts import Ghosts
from mirror.apply.loading import Loader, Pause, Question
from mirror.apply.own import OwnRows
from mirror.apply.plans import ModelPlan, comparable
from mirror.apply.runs import Run
from mirror.apply.writer import BatchWriter
from mirror.changes import Change, Op, decode_change
from mirror.errors import CODES, Malformed, MirrorError, Oversized, UnknownField, UnknownModel, WrongValue
from mirror.models import Difference, DifferenceKind, Verification, VerificationState
from mirror.oplog import fit_key
from mirror.rows import Row
from mirror.rows.canonical import Canonical, sum_of
from mirror.rows.keys import order_of
from mirror.wire import Chunk

__all__ = ["Verifier"]

logger = logging.getLogger("mirror.verifying")

#: Differences that are stored of one model; all are counted.
_STORED = 1000
#: More rows of a range than a source tells together; with so many it differs anyway.
_TOGETHER = 10_000
#: Rows here that are looked at together, whether the source has them.
_PAGE = 5000
#: Rows of which the fields are asked for at a time.
_ASKED = 200
#: Seconds until rows are asked for again of which the source could not tell yet.
_PAUSE = 0.2
#: Rows that are mended one by one; where there are more, the model is loaded anew.
_MENDED = 10_000


class Marks:
    """Rows that were met, by eight bytes each: a set of Python's would take ten times as much."""

    def __init__(self) -> None:
        self._buckets: dict[int, array[int]] = {}

    def add(self, row: tuple[str, ...]) -> None:
        mark = _mark(row)
        if (bucket := self._buckets.get(mark >> 48)) is None:
            bucket = self._buckets[mark >> 48] = array("Q")
        bucket.append(mark)

    def __contains__(self, row: tuple[str, ...]) -> bool:
        mark = _mark(row)
        return mark in self._buckets.get(mark >> 48, ())


def _mark(row: tuple[str, ...]) -> int:
    return int.from_bytes(hashlib.blake2b("\0".join(row).encode(), digest_size=8).digest())


@dataclass(slots=True)
class _Course:
    """How far the comparison of one model has come. What one process knows no other can take over."""

    row: Verification
    plan: ModelPlan
    own: OwnRows
    canonical: Canonical
    #: In which the source is asked for what many rows come to together, until some differ.
    order: str = ""
    met: Marks = field(default_factory=Marks)
    after: Any = None
    #: Whether the source has told all its rows.
    told: bool = False
    #: Whether to wait before rows are asked for again.
    rests: bool = False
    #: Rows that the source left out, by its key: their changes are on their way.
    pending: dict[str, None] = field(default_factory=dict)
    #: Rows that differ and are not asked for yet, by the source's key; and what they are stored as.
    differing: dict[str, Difference] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    #: The last row here that was looked at whether the source has it.
    looked: Sequence[Any] = ()
    stored: int = 0
    #: Rows to load again, by the source's key; at most one more than are worth it.
    mending: list[Any] = field(default_factory=list)

    def key_of(self, row: Row | Change) -> str:
        return self.canonical.digest(row.pk, row.fields, [one.name for one in self.plan.mirrored.key])


class Verifier:
    """What of one source is compared. Used within the transactions of its Applier; outlives its connections,
    since whatever is applied meanwhile is applied here.
    """

    def __init__(self, connection: BaseDatabaseWrapper, source_id: int, order: Mapping[str, int]) -> None:
        """``order``: the models' places, parents before children."""
        self._connection = connection
        self._source_id = source_id
        self._order = order
        self._ghosts = Ghosts(connection, source_id)
        self._course: _Course | None = None
        self._wanted = False
        self.refresh()

    @property
    def active(self) -> bool:
        return self._wanted

    def refresh(self) -> None:
        """As the database says: somebody may have asked for a comparison."""
        self._wanted = self._open().exists()

    def _current(self) -> _Course | None:
        """What is under way, unless somebody has asked for it anew."""
        if self._course is not None and not self._open().filter(pk=self._course.row.pk).exists():
            self._course = None
        return self._course

    def reset(self) -> None:
        """What was under way begins again: a transaction of it has failed, or rows were loaded."""
        self._course = None

    def give_up(self, code: str) -> None:
        """Nothing that is asked for can be compared with this source, by this error's code."""
        self._open().update(state=VerificationState.DONE, refused=code, ended_at=timezone.now())
        self.reset()
        self.refresh()

    def _open(self) -> Any:
        rows = Verification.objects.using(self._connection.alias).filter(source_id=self._source_id)
        return rows.exclude(state=VerificationState.DONE)

    # Changes that come meanwhile

    def touch(self, run: Run, writer: BatchWriter) -> None:
        """These were applied: what they touched is the source's, whether or not a chunk tells of it."""
        course = self._course
        if course is None or course.order or course.row.model not in run.listed:
            return
        label = course.row.model
        changes = [run.change(place) for place in range(len(run)) if run.labels[place] == label]
        for change in changes if course.pending else ():
            course.pending.pop(_text(change.pk), None)
        saved = (change for change in changes if change.op == Op.SAVE)
        self._meet(course, (writer.identity(course.plan, change) for change in saved))

    def _meet(self, course: _Course, identities: Iterable[Sequence[Any] | None]) -> None:
        for row in course.plan.present([identity for identity in identities if identity is not None]):
            course.met.add(row)

    # What to ask, and what comes

    def question(self, writer: BatchWriter, loader: Loader) -> Question | Pause | None:
        """What to ask the source for next; a Pause after looking at some rows here; None when all is done."""
        if loader.active:
            self.reset()
            return None
        course = self._current() or self._begin(writer)
        if course is None:
            self._wanted = False
            return None
        model = course.row.model
        if course.differing:
            return Question(model=model, keys=_keys(course.differing), compares=True)
        if not course.told:
            return Question(model=model, after=course.after, compares=True, digests=True, order=course.order)
        if course.pending and not course.rests:
            course.rests = True
            return Question(model=model, keys=_keys(course.pending), compares=True, digests=True)
        if course.pending:
            course.rests = False
            return Pause(_PAUSE)
        if self._look_for_more(course):
            self._finish(course, loader)
        return Pause(0.0)

    def _begin(self, writer: BatchWriter) -> _Course | None:
        using = self._connection.alias
        # Parents first: a row that is loaded again may need one that is missing as well.
        waiting = sorted(self._open(), key=lambda one: (self._order.get(one.model, -1), one.model))
        for row in waiting:
            Difference.objects.using(using).filter(source_id=self._source_id, model=row.model).delete()
            row.state, row.began_at = VerificationState.COMPARING, timezone.now()
            row.rows = row.missing = row.different = row.extra = 0
            plan = writer.plan(row.model)
            if plan is None:
                self._end(row, refused=UnknownModel.code)
                continue
            mirrored = plan.mirrored
            try:
                own = OwnRows(self._connection, mirrored)
            except MirrorError as error:
                self._end(row, refused=error.code)
                continue
            row.save(using=using, force_update=True)
            # Among rows of other sources none can be told to be missing from a range.
            alone = self._ghosts.exist(plan) and self._ghosts.alone(plan)
            order = order_of(mirrored, self._connection) if alone else ""
            self._course = _Course(row, plan, own, Canonical(mirrored), order)
            return self._course
        return None

    def take(self, question: Question, chunk: Chunk, writer: BatchWriter, loader: Loader) -> None:
        """Compare what was asked for. Raises Malformed, and what writing raises."""
        course = self._current()
        if course is None or course.row.model != question.model:
            return  # somebody asked once more, and it begins anew
        if loader.active:
            self.reset()  # rows that are loaded are not here yet, or not as they are there
            return
        if chunk.model != question.model:
            raise Malformed(f"rows of another model than {question.model}")
        course.row.cursor = chunk.at
        if chunk.refused:
            error = CODES.get(chunk.refused, MirrorError)
            logger.warning("%s: %s is not compared: %s", course.row.source, chunk.model, chunk.refused)
            self._end(course.row, refused=error.code)
            return
        try:
            if question.digests:
                self._compare(course, question, chunk, writer)
            else:
                self._explain(course, question, chunk, writer)
        except Oversized as error:
            self._end(course.row, refused=error.code)
        course.row.save(using=self._connection.alias, force_update=True)

    def _compare(self, course: _Course, question: Question, chunk: Chunk, writer: BatchWriter) -> None:
        row = course.row
        if not set(chunk.names) <= set(course.canonical.names):
            self._end(row, refused=UnknownField.code)
            return
        course.names = tuple(chunk.names)
        row.total = row.total if chunk.total is None else chunk.total
        if chunk.sum:
            self._compare_together(course, question, chunk, writer)
            return
        course.order = ""
        changes, digests = _told(chunk)
        identities = self._identities(course, changes, writer)
        here = self._here(course, identities)
        self._meet(course, identities)
        found: list[tuple[Change, DifferenceKind]] = []
        for change, digest in zip(changes, digests, strict=True):
            mine = here.get(course.key_of(change))
            if mine is None:
                found.append((change, DifferenceKind.MISSING))
            elif course.canonical.digest(mine.pk, mine.fields, course.names) != digest:
                found.append((change, DifferenceKind.DIFFERENT))
        self._note(course, found)
        row.rows += len(changes)
        waits = dict.fromkeys(map(_text, chunk.pending))
        if question.keys is None:
            course.pending |= waits
            course.after, course.told = chunk.next, chunk.next is None
            return
        for key in map(_text, question.keys):
            course.pending.pop(key, None)
            if key in waits:
                course.pending[key] = None  # it comes last, after those not asked yet

    @staticmethod
    def _identities(
        course: _Course, changes: Sequence[Change], writer: BatchWriter
    ) -> list[list[Any] | None]:
        writer.look_up({parent for change in changes for parent in course.plan.parents(change)})
        return [writer.identity(course.plan, change) for change in changes]

    @staticmethod
    def _here(course: _Course, identities: Sequence[list[Any] | None]) -> dict[str, Row]:
        """Rows here by the digest of what identifies them, which both sides may say in different words."""
        found = course.own.of([identity for identity in identities if identity is not None])
        return {course.key_of(row): row for row in found.values()}

    def _compare_together(
        self, course: _Course, question: Question, chunk: Chunk, writer: BatchWriter
    ) -> None:
        """Many rows at once. If they differ, what each row of the model comes to is asked for."""
        after, upto = (self._bound(course, one, writer) for one in (question.after, chunk.next))
        left_out = {str(one) for one in chunk.pending}
        digests = [
            course.canonical.digest(mine.pk, mine.fields, course.names)
            for mine in course.own.between(after, upto, _TOGETHER)
            if mine.key not in left_out
        ]
        row = course.row
        if (len(digests), sum_of(digests)) == (chunk.count, chunk.sum):
            row.rows += chunk.count
            course.after, course.told = chunk.next, chunk.next is None
        else:
            logger.warning("%s: rows of %s differ", row.source, row.model)
            row.rows, course.after, course.order = 0, None, ""

    def _bound(self, course: _Course, place: Any, writer: BatchWriter) -> Any:
        """What identifies a row, to bind."""
        if place is None:
            return None
        (key,) = course.plan.mirrored.key
        fields = {} if key is course.plan.mirrored.pk else {key.name: place}
        change = Change(ts=0, op=Op.SAVE, model=course.row.model, pk=place, fields=fields)
        try:
            (bound,) = writer.identity(course.plan, change) or (None,)
        except WrongValue as error:
            raise Malformed(f"{place!r:.200} identifies no row of {course.row.model}") from error
        return bound

    def _note(self, course: _Course, found: Sequence[tuple[Change, DifferenceKind]]) -> None:
        row = course.row
        row.missing += sum(kind is DifferenceKind.MISSING for _change, kind in found)
        row.different += sum(kind is DifferenceKind.DIFFERENT for _change, kind in found)
        stored = [
            self._difference(course, course.plan.key_text(change), kind, repaired=row.repair)
            for change, kind in found[: _STORED - course.stored]
        ]
        Difference.objects.using(self._connection.alias).bulk_create(stored)
        course.stored += len(stored)
        for (change, kind), difference in zip(found, stored, strict=False):
            if kind is DifferenceKind.DIFFERENT:
                course.differing[_text(change.pk)] = difference
        if row.repair:
            room = _MENDED + 1 - len(course.mending)
            course.mending += [change.pk for change, _kind in found[:room]]

    def _difference(self, course: _Course, key: str, kind: DifferenceKind, *, repaired: bool) -> Difference:
        return Difference(
            source_id=self._source_id,
            model=course.row.model,
            key=fit_key(key),
            kind=kind,
            cursor=course.row.cursor,
            found_at=timezone.now(),
            repaired=repaired,
        )

    def _explain(self, course: _Course, question: Question, chunk: Chunk, writer: BatchWriter) -> None:
        """Which fields differ; a row that differs no more was mended by a change that came meanwhile."""
        changes = list(map(_row, chunk.rows))
        here = self._here(course, self._identities(course, changes, writer))
        for change in changes:
            difference = course.differing.get(_text(change.pk))
            mine = here.get(course.key_of(change))
            if difference is None or mine is None:
                continue
            differ = course.canonical.differing(
                (mine.pk, mine.fields), (change.pk, change.fields), course.names
            )
            difference.fields = ",".join(differ)
            difference.repaired = difference.repaired or not differ
            difference.save(
                using=self._connection.alias, force_update=True, update_fields=["fields", "repaired"]
            )
        for key in question.keys or ():
            course.differing.pop(_text(key), None)

    # What is here and not there

    def _look_for_more(self, course: _Course) -> bool:
        """A page of the rows here, each of which was met unless the source lacks it; True after the last."""
        plan, row, using = course.plan, course.row, self._connection.alias
        if course.order or not self._ghosts.exist(plan) or not self._ghosts.tellable(plan):
            return True
        rows, course.looked = self._ghosts.page(plan, course.looked, _PAGE)
        extra = self._ghosts.of_source(plan, [key for key in rows if comparable(key) not in course.met])
        if extra:
            row.extra += len(extra)
            stored = course.own.of(extra[: _STORED - course.stored])
            gone = row.repair and self._delete(course, extra)
            Difference.objects.using(using).bulk_create(
                self._difference(course, key, DifferenceKind.EXTRA, repaired=gone) for key in stored
            )
            course.stored += len(stored)
            row.save(using=using, force_update=True)
        return len(rows) < _PAGE

    def _delete(self, course: _Course, keys: Sequence[Sequence[Any]]) -> bool:
        """False for rows that others here refer to, which the source may not have either."""
        try:
            with transaction.atomic(using=self._connection.alias):
                course.plan.delete(list(zip(*keys, strict=True)))
                self._connection.check_constraints(table_names=self._referring(course))
        except IntegrityError as error:
            logger.warning("%s: rows of %s stay: %s", course.row.source, course.row.model, error)
            return False
        return True

    @staticmethod
    def _referring(course: _Course) -> list[str]:
        """The tables whose rows may refer to the model's."""
        links = course.plan.mirrored.model._meta.related_objects
        return sorted({link.related_model._meta.db_table for link in links})

    # The end

    def _finish(self, course: _Course, loader: Loader) -> None:
        row = course.row
        if len(course.mending) > _MENDED:
            loader.load_again(row.model)
        elif course.mending:
            loader.ask_again(row.model, course.mending)
            loader.store()
        self._end(row)

    def _end(self, row: Verification, *, refused: str = "") -> None:
        row.state, row.refused, row.ended_at = VerificationState.DONE, refused, timezone.now()
        row.save(using=self._connection.alias, force_update=True)
        self._course = None
        if row.differences:
            logger.warning(
                "%s: %s: %d rows are missing, %d are different, %d are here alone",
                row.source,
                row.model,
                row.missing,
                row.different,
                row.extra,
            )
        elif not refused:
            logger.debug("%s: %s is identical, %d rows", row.source, row.model, row.rows)


def _text(pk: Any) -> str:
    return msgspec.json.encode(pk).decode()


def _keys(texts: Iterable[str]) -> tuple[Any, ...]:
    return tuple(map(msgspec.json.decode, islice(texts, _ASKED)))


def _told(chunk: Chunk) -> tuple[list[Change], list[str]]:
    """What a chunk tells of rows: what identifies each, and its digest. Raises Malformed."""
    changes, digests = [], []
    for raw in chunk.told:
        try:
            pk, *key, digest = msgspec.json.decode(raw, type=list[Any])
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise Malformed(f"no row is told like this: {error}") from error
        if len(key) != len(chunk.key) or not isinstance(digest, str):
            raise Malformed(f"a row of {chunk.model:.200} is told by its key and a digest")
        fields = dict(zip(chunk.key, key, strict=True))
        changes.append(Change(ts=chunk.at, op=Op.SAVE, model=chunk.model, pk=pk, fields=fields))
        digests.append(digest)
    return changes, digests


def _row(raw: msgspec.Raw) -> Change:
    try:
        return decode_change(bytes(raw))
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise Malformed(f"no row: {error}") from error

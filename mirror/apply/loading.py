"""Loading: rows that no log tells of are copied as they are, chunk by chunk, while the stream goes on.

A chunk is the rows of one model exactly as they were at the mirror's own cursor, so that no row goes back and
nothing has to be compared. Parents come before children. While a model is copied, changes of its rows are
passed over, and each such row is asked for again by its key; so is a row whose parent is not here yet. Once
every row was asked for, changes are applied again, but for the rows that are still asked for: those become
fewer, and when none is left the model is done.

What was here before and is not there any more is deleted once every row was asked for; until then everything
stays readable.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from mirror.apply.ghosts import Ghosts
from mirror.apply.plans import ModelPlan, comparable
from mirror.apply.runs import Run
from mirror.apply.writer import BatchWriter
from mirror.changes import Change, Op
from mirror.errors import CODES, ConstraintFailed, Malformed, MirrorError, UnknownModel
from mirror.models import Again, Loaded, Loading, LoadingState
from mirror.oplog import fit_key
from mirror.wire import Chunk

__all__ = ["Loader", "Pause", "Question"]

logger = logging.getLogger("mirror.loading")

#: Rows that are asked for by their keys at a time. The protocol allows 1000.
_KEYS = 500
#: Rows of a table that are looked at together, whether they were loaded.
_PAGE = 1000
#: Seconds until rows are asked for again of which the source could not tell yet.
_PAUSE = 0.2

_PASSING = (LoadingState.COPYING, LoadingState.COPIED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Rows to ask for: those after a key of the source, or those with these keys.

    ``compares``: not to be loaded, but to be compared with those here; by their ``digests``, or as they are.
    With an ``order``, ``after`` is what identifies a row, and all may be told by one digest.
    """

    model: str
    after: Any = None
    keys: tuple[Any, ...] | None = None
    compares: bool = False
    digests: bool = False
    order: str = ""


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


@dataclass(slots=True)
class _Course:
    """How far one model has come. ``again`` by the source's key as JSON, in the order of asking."""

    row: Loading
    again: dict[str, Again] = field(default_factory=dict)
    #: How many rows were asked for by key since one of them could be written.
    fruitless: int = 0
    #: Whether the source left out some of those.
    pending: bool = False
    #: Rows that were written without what they refer to, so that others could follow.
    cut: set[str] = field(default_factory=set)

    @property
    def is_stuck(self) -> bool:
        return self.fruitless >= len(self.again)


class Loader:
    """What is loaded from one source. Used within the transactions of its Applier."""

    def __init__(self, connection: BaseDatabaseWrapper, source_id: int, order: dict[str, int]) -> None:
        self._connection = connection
        self._source_id = source_id
        self._order = order
        self._ghosts = Ghosts(connection, source_id)
        self._courses: dict[str, _Course] = {}
        #: Nothing goes on one by one: what is left refers to each other, and has to come together.
        self._together = False
        self._new: list[Again] = []
        self._answered: list[Again] = []
        self.refresh()

    @property
    def active(self) -> bool:
        return bool(self._courses)

    def refresh(self) -> None:
        """As the database says: somebody may have asked for a model, or a transaction has failed."""
        using = self._connection.alias
        open_ones = Loading.objects.using(using).filter(source_id=self._source_id)
        courses = {row.model: _Course(row) for row in open_ones.exclude(state=LoadingState.DONE)}
        if courses:
            for again in Again.objects.using(using).filter(source_id=self._source_id):
                if again.model in courses:
                    courses[again.model].again[again.pk_there] = again
        self._courses = self._in_order(courses)
        self._new, self._answered = [], []

    def _notice(self) -> None:
        """Whoever asks for a model makes its row anew, and what is known of it here means nothing then."""
        rows = Loading.objects.using(self._connection.alias).filter(source_id=self._source_id)
        current = set(rows.exclude(state=LoadingState.DONE).values_list("pk", flat=True))
        if current != {course.row.pk for course in self._courses.values()}:
            self.refresh()

    def _in_order(self, courses: dict[str, _Course]) -> dict[str, _Course]:
        return dict(sorted(courses.items(), key=lambda item: self._order.get(item[0], -1)))

    # Changes that come meanwhile

    def sift(self, run: Run, writer: BatchWriter) -> Run:
        """The changes that can be applied now; the rows of the others are asked for again."""
        kept: dict[int, None] = {}
        marked: list[Change] = []
        for place, (label, change) in enumerate(zip(run.labels, run.changes, strict=True)):
            course = self._courses.get(label)
            if course is None or label not in run.listed or self._applies(course, change):
                kept[place] = None
            elif course.row.state in _PASSING and course.row.sweep:
                marked.append(run.change(place))
        for place in self._parentless(run, kept, writer):
            del kept[place]
            label = run.labels[place]
            self._ask_again(self._courses.get(label) or self._reopened(label), run.changes[place].pk)
        self._mark(marked, writer)
        return run if len(kept) == len(run) else run.only(kept)

    def _applies(self, course: _Course, change: Any) -> bool:
        key = _text(change.pk)
        if change.op == Op.DELETE:
            self._answer(course, key)
            return True
        if course.row.state == LoadingState.WAITING:
            return not course.row.anew
        if course.row.state in _PASSING or key in course.again:
            self._ask_again(course, change.pk)
            return False
        return True

    def _reopened(self, label: str) -> _Course:
        """Of a model that is loaded, or that nobody asked for: only some of its rows are asked for."""
        row, _ = Loading.objects.using(self._connection.alias).update_or_create(
            source_id=self._source_id,
            model=label,
            defaults=(
                reopened := {"state": LoadingState.SETTLING, "sweep": False, "began_at": timezone.now()}
            ),
            create_defaults={**reopened, "anew": False},
        )
        course = _Course(row)
        self._courses = self._in_order({**self._courses, label: course})
        return course

    def _parentless(self, run: Run, places: Iterable[int], writer: BatchWriter) -> list[int]:
        """Of these places, those of rows that refer to rows that are not here and do not come with them."""
        saved = [
            place for place in places if run.labels[place] in run.listed and run.changes[place].op == Op.SAVE
        ]
        plans = {label: writer.plan(label) for label in run.listed}
        suspects: dict[int, list[tuple[str, str]]] = {}
        for place in saved:
            plan = plans[run.labels[place]]
            if plan is None or not (plan.references or plan.generic):
                continue  # nothing to decode it for
            if parents := list(plan.parents(run.change(place))):
                suspects[place] = parents
        wanted = {label for parents in suspects.values() for label, _uuid in parents}
        coming: dict[tuple[str, str], int] = {}
        for place in saved:
            plan = plans[run.labels[place]]
            if plan is not None and plan.by_uuid is not None and plan.mirrored.label in wanted:
                coming[plan.mirrored.label, plan.uuid_of(run.change(place))] = place
        writer.look_up({parent for parents in suspects.values() for parent in parents} - coming.keys())
        without: list[int] = []
        found = True
        while found:
            lost = [
                place
                for place, parents in suspects.items()
                if any(parent not in coming and not writer.knows(parent) for parent in parents)
            ]
            without += lost
            for place in lost:
                del suspects[place]
            gone = set(lost)
            coming = {parent: place for parent, place in coming.items() if place not in gone}
            found = bool(lost)
        return sorted(without)

    # Rows that were asked for

    def take(self, question: Question, chunk: Chunk, run: Run, writer: BatchWriter) -> None:
        """Write what was asked for. Raises Malformed, and what writing raises."""
        self._notice()
        course = self._courses.get(question.model)
        if course is None or not self._still_wants(course, question):
            return  # somebody asked for the model once more, from its beginning
        if any(label != question.model for label in run.labels) or chunk.model != question.model:
            raise Malformed(f"rows of another model than {question.model}")
        if any(change.op != Op.SAVE for change in run.changes):
            raise Malformed("a chunk holds rows, no deletions")
        if chunk.refused and chunk.refused != UnknownModel.code:
            raise CODES.get(chunk.refused, MirrorError)(f"the source tells no rows of {chunk.model:.200}")
        if chunk.refused:
            course.row.sweep = False
            logger.warning(
                "%s: the source tells no rows of %s: %s", course.row.source, chunk.model, chunk.refused
            )
        without = set(self._parentless(run, range(len(run)), writer))
        if self._together:
            without -= self._coming_together(course, run, without, writer)
        without |= self._write(run, [place for place in range(len(run)) if place not in without], writer)
        for place in without:
            self._ask_again(course, run.changes[place].pk)
        # Of rows that are asked for by key, changes are noted anyway.
        for key in chunk.pending if question.keys is None else ():
            self._ask_again(course, key, known=False)
        if course.row.sweep:
            self._mark([run.change(place) for place in range(len(run))], writer)
        if question.keys is None:
            self._go_on(course, chunk, len(run))
        else:
            parentless = {_text(run.changes[place].pk) for place in without}
            self._close(course, question.keys, parentless, set(map(_text, chunk.pending)))
        course.row.save(using=self._connection.alias, force_update=True)

    def _still_wants(self, course: _Course, question: Question) -> bool:
        if question.keys is not None:
            return True
        place = "" if question.after is None else _text(question.after)
        return course.row.state == LoadingState.COPYING and course.row.after == place

    def _coming_together(
        self, course: _Course, run: Run, places: Iterable[int], writer: BatchWriter
    ) -> set[int]:
        """The places of rows that have to be written whole: with them comes what they refer to, or never.

        The others are written without the references that are missing, and are still asked for again.
        """
        plan = writer.plan(course.row.model)
        assert plan is not None
        whole, cut = set(), []
        for place in places:
            change = run.change(place)
            optional = {
                one.name: None
                for one in plan.references
                if one.field.null
                and change.fields.get(one.name) is not None
                and not writer.knows_parent(plan, one, change)
            }
            rest = msgspec.structs.replace(change, fields={**change.fields, **optional})
            if _text(change.pk) in course.cut or not all(map(writer.knows, plan.parents(rest))):
                whole.add(place)
            else:
                course.cut.add(_text(change.pk))
                cut.append(rest)
        if cut:
            writer.write(Run.plainly(cut))
            course.fruitless = -len(run)  # others may follow them now
            self._together = False
        return whole

    def _write(self, run: Run, places: Sequence[int], writer: BatchWriter) -> set[int]:
        """Return the places of rows that have to wait: for one that still holds their unique value."""
        if not places:
            return set()
        try:
            with transaction.atomic(using=self._connection.alias):
                writer.write(run.only(places))
        except ConstraintFailed:
            if len(places) == 1 and self._together:
                raise
            if len(places) == 1:
                return set(places)
            middle = len(places) // 2
            return self._write(run, places[:middle], writer) | self._write(run, places[middle:], writer)
        return set()

    def _go_on(self, course: _Course, chunk: Chunk, count: int) -> None:
        row = course.row
        row.rows += count
        row.total = row.total if chunk.total is None else chunk.total
        if chunk.next is not None:
            row.after = _text(chunk.next)
        else:
            row.state = LoadingState.COPIED

    def _close(self, course: _Course, keys: Iterable[Any], parentless: set[str], pending: set[str]) -> None:
        asked = list(map(_text, keys))
        written = 0
        for key in asked:
            if key in parentless or key in pending:
                if key in course.again:
                    course.again[key] = course.again.pop(key)  # it comes last, after those not asked yet
            else:
                written += self._answer(course, key)
        course.pending = not pending.isdisjoint(asked) or (course.pending and not written)
        course.fruitless = 0 if written else course.fruitless + len(asked)

    # What to ask next

    def question(self, writer: BatchWriter) -> Question | Pause | None:
        """None when everything is loaded."""
        self._notice()
        for course in list(self._courses.values()):
            question = self._next(course, writer)
            if question is not None:
                return question
        if not self._courses:
            self._together = False
            return None
        pending = False
        for course in self._courses.values():
            pending = pending or course.pending
            course.fruitless, course.pending = 0, False
        if not pending and self._together:
            # Their parents may come as changes that are on their way.
            self._together = False
            return Pause(_PAUSE)
        self._together = not pending
        return Pause(_PAUSE) if pending else self.question(writer)

    def _next(self, course: _Course, writer: BatchWriter) -> Question | None:
        row, using = course.row, self._connection.alias
        if row.state == LoadingState.WAITING:
            plan = writer.plan(row.model)
            row.state, row.began_at, row.rows, row.after = LoadingState.COPYING, timezone.now(), 0, ""
            row.sweep = row.sweep and plan is not None and self._has_rows(plan)
            row.save(using=using, force_update=True)
            logger.info("%s: loading %s", row.source, row.model)
        if row.state == LoadingState.COPYING:
            return Question(model=row.model, after=msgspec.json.decode(row.after) if row.after else None)
        if row.state == LoadingState.COPIED and all(again.known for again in course.again.values()):
            if row.sweep:
                self._sweep(course, writer)
            row.state = LoadingState.SETTLING
            row.save(using=using, force_update=True)
        if course.again:
            return None if course.is_stuck else Question(model=row.model, keys=self._keys(course))
        if row.state == LoadingState.SETTLING:
            self._finish(course)
        return None

    def _keys(self, course: _Course) -> tuple[Any, ...]:
        first = (
            sorted(course.again, key=lambda key: course.again[key].known)[:_KEYS]
            if (course.row.state == LoadingState.COPIED)
            else list(course.again)[:_KEYS]
        )
        return tuple(msgspec.json.decode(key) for key in first)

    def _finish(self, course: _Course) -> None:
        row, using = course.row, self._connection.alias
        row.state, row.ended_at = LoadingState.DONE, timezone.now()
        row.save(using=using, force_update=True)
        Loaded.objects.using(using).filter(source_id=self._source_id, model=row.model)._raw_delete(using)
        del self._courses[row.model]
        logger.info("%s: loaded %s, %d rows", row.source, row.model, row.rows)

    # Rows that are asked for again

    def ask_again(self, label: str, keys: Iterable[Any]) -> None:
        """Have these rows of a model that is loaded asked for, by the source's keys."""
        course = self._courses.get(label) or self._reopened(label)
        for key in keys:
            self._ask_again(course, key)

    def load_again(self, label: str) -> None:
        """Have all rows of a model that is loaded asked for, from its beginning."""
        using = self._connection.alias
        for of_source in (Again, Loaded):
            of_source.objects.using(using).filter(source_id=self._source_id, model=label).delete()
        Loading.objects.using(using).update_or_create(
            source_id=self._source_id,
            model=label,
            defaults={"state": LoadingState.WAITING, "anew": False, "sweep": False, "after": ""},
        )
        self.refresh()

    def _ask_again(self, course: _Course, pk: Any, *, known: bool = True) -> None:
        key = _text(pk)
        again = course.again.get(key)
        if again is not None:
            if again.known or not known:
                return
            self._answer(course, key)
        course.again[key] = again = Again(
            source_id=self._source_id, model=course.row.model, pk_there=key, known=known
        )
        self._new.append(again)

    def _answer(self, course: _Course, key: str) -> bool:
        again = course.again.pop(key, None)
        if again is not None:
            self._answered.append(again)
        return again is not None

    def store(self) -> None:
        """Before the commit: what the next process has to know."""
        using = self._connection.alias
        gone = {again.id for again in self._answered}
        Again.objects.using(using).bulk_create(
            [again for again in self._new if again.id not in gone], batch_size=_PAGE
        )
        old = list(gone - {again.id for again in self._new})
        for start in range(0, len(old), _KEYS):
            Again.objects.using(using).filter(id__in=old[start : start + _KEYS]).delete()
        self._new, self._answered = [], []

    # What is here and not there

    def _has_rows(self, plan: ModelPlan) -> bool:
        return bool(self._ghosts.page(plan, (), 1)[0])

    def _mark(self, changes: Sequence[Change], writer: BatchWriter) -> None:
        """Those of the rows that are here are there as well."""
        by_label: dict[str, list[Change]] = {}
        for change in changes:
            by_label.setdefault(change.model, []).append(change)
        for label, found in by_label.items():
            plan = writer.plan(label)
            if plan is None:
                continue
            identities = [identity for change in found if (identity := writer.identity(plan, change))]
            Loaded.objects.using(self._connection.alias).bulk_create(
                [
                    Loaded(source_id=self._source_id, model=label, key=_key(key))
                    for key in plan.present(identities)
                ],
                batch_size=_PAGE,
            )

    def _sweep(self, course: _Course, writer: BatchWriter) -> None:
        """Delete the rows that were here before and that the source does not have."""
        plan = writer.plan(course.row.model)
        if plan is None or not self._ghosts.exist(plan):
            return
        if not self._ghosts.tellable(plan):
            logger.warning(
                "%s: rows of %s that the source does not have stay, for other sources may write it too",
                course.row.source,
                course.row.model,
            )
            return
        swept = 0
        for rows in self._pages(plan):
            keys = {_key(comparable(row)): row for row in rows}
            loaded = Loaded.objects.using(self._connection.alias).filter(
                source_id=self._source_id, model=course.row.model, key__in=list(keys)
            )
            for key in loaded.values_list("key", flat=True):
                keys.pop(key, None)
            doomed = self._ghosts.of_source(plan, list(keys.values()))
            if doomed:
                plan.delete(list(zip(*doomed, strict=True)))
                swept += len(doomed)
        if swept:
            logger.warning(
                "%s: %d rows of %s are deleted: the source does not have them",
                course.row.source,
                swept,
                course.row.model,
            )

    def _pages(self, plan: ModelPlan) -> Iterator[list[Sequence[Any]]]:
        """The keys of all rows, as the driver shows them."""
        last: Sequence[Any] = ()
        while True:
            rows, last = self._ghosts.page(plan, last, _PAGE)
            if not rows:
                return
            yield rows


def _text(pk: Any) -> str:
    return msgspec.json.encode(pk).decode()


def _key(values: Sequence[str]) -> str:
    return fit_key(",".join(values))

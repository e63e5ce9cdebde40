"""A run of changes that is written together: decoded, identified, collapsed to each row's last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from operator import attrgetter
from typing import Any

import msgspec

from mirror.apply.lanes import Lane, lane_for
from mirror.apply.plans import ModelPlan, key_text
from mirror.apply.typed import ChangeDecoder, decode_plain
from mirror.changes import Change, Op, encode_change
from mirror.errors import Malformed
from mirror.registry import mirrored_models
from mirror.wire import Batch

_op = attrgetter("op")


@dataclass(slots=True)
class Rows:
    """The changes of one model that matter: structs of its lane, or Changes where there is none."""

    lane: Lane | None
    saves: list[Any] = field(default_factory=list)
    deletes: list[Any] = field(default_factory=list)
    #: What a struct was decoded from, by the struct's identity.
    origin: dict[int, msgspec.Raw] = field(default_factory=dict)
    #: Whether one was deleted and came again under another primary key, which another row may have got.
    moved: bool = False

    @classmethod
    def of(cls, change: Change) -> Rows:
        rows = cls(None)
        rows.add(change)
        return rows

    def add(self, change: Any) -> None:
        (self.saves if change.op == Op.SAVE else self.deletes).append(change)

    def plain(self, changes: Sequence[Any]) -> list[Change]:
        if self.lane is None:
            return list(changes)
        return [decode_plain(self.origin[id(change)]) for change in changes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """A batch, decoded: sequences that go together, a place for each change."""

    batch: Batch
    #: Structs of lanes, or Changes where there was none.
    changes: Sequence[Any]
    labels: Sequence[str]
    #: What identifies each row on every server.
    keys: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Sequences that go together, a place for each change. Those of one model are all of one type."""

    raws: Sequence[msgspec.Raw]
    changes: Sequence[Any]
    labels: Sequence[str]
    keys: Sequence[str]
    lanes: Mapping[str, Lane]
    #: Models that are listed here: only their changes are written.
    listed: frozenset[str]

    @classmethod
    def plainly(cls, changes: Sequence[Change]) -> Run:
        """Of models that are listed, without lanes."""
        labels = [change.model for change in changes]
        return cls(
            raws=[msgspec.Raw(encode_change(change).encode()) for change in changes],
            changes=changes,
            labels=labels,
            keys=list(map(_plain_key, changes)),
            lanes={},
            listed=frozenset(labels),
        )

    def plain(self) -> Iterator[Change]:
        """Every change that is to be written, in order."""
        for raw, change, label in zip(self.raws, self.changes, self.labels, strict=True):
            if label in self.listed:
                yield change if isinstance(change, Change) else decode_plain(raw)

    def __len__(self) -> int:
        return len(self.changes)

    def halves(self) -> Iterator[Run]:
        middle = len(self) // 2
        yield self.only(range(middle))
        yield self.only(range(middle, len(self)))

    def only(self, places: Iterable[int]) -> Run:
        """The changes at these places, in that order."""
        places = list(places)
        labels = [self.labels[place] for place in places]
        return Run(
            raws=[self.raws[place] for place in places],
            changes=[self.changes[place] for place in places],
            labels=labels,
            keys=[self.keys[place] for place in places],
            lanes=self.lanes,
            listed=self.listed.intersection(labels),
        )

    def change(self, place: int) -> Change:
        change = self.changes[place]
        return change if isinstance(change, Change) else decode_plain(self.raws[place])

    def last_of_each_row(self) -> dict[str, Rows]:
        """By model; the rows in the order of their last changes."""
        if Op.DELETE in map(_op, self.changes):
            return self._last_of_each_row()
        places: dict[str, list[int]] = {label: [] for label in self.listed}
        for place in sorted(dict(zip(zip(self.labels, self.keys, strict=True), count())).values()):
            if (label := self.labels[place]) in places:
                places[label].append(place)
        return {label: self._rows(label, found, moved=False) for label, found in places.items() if found}

    def _last_of_each_row(self) -> dict[str, Rows]:
        """The same where rows are deleted, which may come again as others."""
        last: dict[str, dict[str, int]] = {label: {} for label in self.listed}
        moved: set[str] = set()
        for place, (label, key) in enumerate(zip(self.labels, self.keys, strict=True)):
            if label in last:
                # In the order of the last changes, not of the first.
                before = last[label].pop(key, None)
                if before is not None and self._moves(before, place):
                    moved.add(label)
                last[label][key] = place
        return {
            label: self._rows(label, places.values(), moved=label in moved)
            for label, places in last.items()
            if places
        }

    def _moves(self, before: int, after: int) -> bool:
        deleted, saved = self.changes[before], self.changes[after]
        return bool(deleted.op == Op.DELETE and deleted.pk != saved.pk)

    def _rows(self, label: str, places: Iterable[int], *, moved: bool) -> Rows:
        rows = Rows(self.lanes.get(label), moved=moved)
        for place in places:
            change = self.changes[place]
            rows.add(change)
            if rows.lane is not None:
                rows.origin[id(change)] = self.raws[place]
        return rows


@dataclass(frozen=True, slots=True)
class _Known:
    """The lanes of one moment."""

    lanes: Mapping[type[Any], Lane]
    decoder: ChangeDecoder


class Intake:
    """Decodes what comes, and learns from it: the next changes like these get a lane.

    ``plan`` gives the plan of a model, None for one that is not listed, and may raise.
    """

    def __init__(self, plan: Callable[[str], ModelPlan | None]) -> None:
        self._plan = plan
        #: Structs of lanes that were replaced, and their models: some may still be on their way.
        self._former: dict[type[Any], str] = {}
        self._unlaned: set[tuple[str, frozenset[str]]] = set()
        self._known = _Known({}, ChangeDecoder([]))

    def portion(self, batch: Batch) -> Portion:
        """Raises Malformed."""
        known = self._known
        changes = known.decoder.decode(batch.changes)
        labels = [
            change.model if type(change) is Change else known.lanes[type(change)].label for change in changes
        ]
        keys = [
            _plain_key(change) if type(change) is Change else known.lanes[type(change)].key_text(change)
            for change in changes
        ]
        return Portion(batch=batch, changes=changes, labels=labels, keys=keys)

    def portion_ahead(self, batch: Batch) -> Portion | None:
        """The same of usual changes alone, while another thread may apply what came before."""
        known = self._known
        try:
            changes = known.decoder.decode(batch.changes)
        except Malformed:
            return None  # to be found again, in its turn
        kinds = list(map(type, changes))
        if not known.lanes.keys() >= set(kinds):
            return None
        labels = {kind: lane.label for kind, lane in known.lanes.items()}
        keys = {kind: lane.key_text for kind, lane in known.lanes.items()}
        return Portion(
            batch=batch,
            changes=changes,
            labels=[labels[kind] for kind in kinds],
            keys=[keys[kind](change) for kind, change in zip(kinds, changes, strict=True)],
        )

    def run(
        self,
        raws: Sequence[msgspec.Raw],
        changes: Sequence[Any],
        labels: Sequence[str],
        keys: Sequence[str],
    ) -> Run:
        """Portions together, whichever lanes they were decoded with."""
        lanes = dict(self._known.lanes)
        by_label = {lane.label for lane in lanes.values()}
        kinds = set(map(type, changes))
        examples: dict[str, Change] = {}
        if Change in kinds:
            examples = {change.model: change for change in changes if type(change) is Change}
        # Of one model all or none are structs. Those of a former lane are none any more.
        plain = {self._former[kind] for kind in kinds - lanes.keys() - {Change}} | examples.keys()
        lanes = {kind: lane for kind, lane in lanes.items() if lane.label not in plain}
        if len(plain) > len(examples) or not by_label.isdisjoint(examples):
            changes = [
                change if type(change) is Change or type(change) in lanes else decode_plain(raw)
                for raw, change in zip(raws, changes, strict=True)
            ]
        listed = frozenset(label for label in set(labels) if self._plan(label) is not None)
        self._learn(examples)
        return Run(
            raws=raws,
            changes=changes,
            labels=labels,
            keys=keys,
            lanes={lane.label: lane for lane in lanes.values()},
            listed=listed,
        )

    def _learn(self, examples: Mapping[str, Change]) -> None:
        lanes = {lane.label: lane for lane in self._known.lanes.values()}
        made = False
        for label, example in examples.items():
            plan, looks = self._plan(label), (label, frozenset(example.fields))
            if plan is None or looks in self._unlaned:
                continue
            lane = lane_for(plan, looks[1])
            if lane is None or (label in lanes and lanes[label].looks == looks[1]):
                self._unlaned.add(looks)
                continue
            if label in lanes:
                self._former[lanes[label].shape.struct] = label
            lanes[label] = lane
            made = True
        if made:
            self._known = _Known(
                {lane.shape.struct: lane for lane in lanes.values()},
                ChangeDecoder([lane.shape for lane in lanes.values()]),
            )


def _plain_key(change: Change) -> str:
    return key_text(mirrored_models().get(change.model), change)

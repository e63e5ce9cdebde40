"""A run of changes that is written together: decoded, identified, collapsed to each row's last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mirror.apply.lanes import Lane, lane_for
from mirror.apply.plans import ModelPlan, key_text
from mirror.apply.typed import ChangeDecoder, decode_plain
from mirror.changes import Change, Op
from mirror.registry import mirrored_models


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
class Run:
    """Sequences that go together, a place for each change. Those of one model are all of one type."""

    raws: Sequence[msgspec.Raw]
    changes: Sequence[Any]
    labels: Sequence[str]
    keys: Sequence[str]
    lanes: Mapping[str, Lane]
    #: Models that are listed here: only their changes are written.
    listed: frozenset[str]

    def plain(self) -> Iterator[Change]:
        """Every change that is to be written, in order."""
        for raw, change, label in zip(self.raws, self.changes, self.labels, strict=True):
            if label in self.listed:
                yield change if isinstance(change, Change) else decode_plain(raw)

    def last_of_each_row(self) -> dict[str, Rows]:
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


class Intake:
    """Decodes what comes, and learns from it: the next changes like these get a lane.

    ``plan`` gives the plan of a model, None for one that is not listed, and may raise.
    """

    def __init__(self, plan: Callable[[str], ModelPlan | None]) -> None:
        self._plan = plan
        self._lanes: dict[str, Lane] = {}
        #: Structs of lanes that were replaced, and their models: some may still be on their way.
        self._former: dict[type[Any], str] = {}
        self._unlaned: set[tuple[str, frozenset[str]]] = set()
        self._decoder = ChangeDecoder([])

    def decode(self, raws: Sequence[msgspec.Raw]) -> list[Any]:
        """A struct of a lane or a Change for each. Raises Malformed."""
        return self._decoder.decode(raws)

    def run(self, raws: Sequence[msgspec.Raw], changes: Sequence[Any]) -> Run:
        """What is known of changes that ``decode`` returned."""
        lanes = {lane.shape.struct: lane for lane in self._lanes.values()}
        examples: dict[str, Change] = {}
        # Of one model all or none are structs. Those of a former lane are none any more.
        plain: set[str] = set()
        for kind in set(map(type, changes)) - lanes.keys() - {Change}:
            plain.add(self._former[kind])
        for change in changes:
            if type(change) is Change:
                examples[change.model] = change
        plain.update(examples)
        lanes = {kind: lane for kind, lane in lanes.items() if lane.label not in plain}
        if len(plain) > len(examples) or any(label in self._lanes for label in examples):
            changes = [
                change if type(change) is Change or type(change) in lanes else decode_plain(raw)
                for raw, change in zip(raws, changes, strict=True)
            ]
        labels = [change.model if type(change) is Change else lanes[type(change)].label for change in changes]
        keys = [
            _plain_key(change) if type(change) is Change else lanes[type(change)].key_text(change)
            for change in changes
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
        made = False
        for label, example in examples.items():
            plan, looks = self._plan(label), (label, frozenset(example.fields))
            if plan is None or looks in self._unlaned:
                continue
            lane = lane_for(plan, looks[1])
            if lane is None or (label in self._lanes and self._lanes[label].looks == looks[1]):
                self._unlaned.add(looks)
                continue
            if label in self._lanes:
                self._former[self._lanes[label].shape.struct] = label
            self._lanes[label] = lane
            made = True
        if made:
            self._decoder = ChangeDecoder([lane.shape for lane in self._lanes.values()])


def _plain_key(change: Change) -> str:
    return key_text(mirrored_models().get(change.model), change)

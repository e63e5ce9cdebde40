"""A lane: the rows of one model on the way in, column by column instead of row by row.

Most rows are unremarkable. A lane takes those, decoded in C and checked a column at a time, and leaves the
others to the ModelPlan: it raises Unusual and has done nothing then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

from mirror.apply.plans import ModelPlan
from mirror.apply.typed import Shape
from mirror.errors import WrongValue
from mirror.registry import MirroredField, Reference
from mirror.rows import canonical_uuids

#: Local keys by (label, UUID).
Known = Mapping[tuple[str, str], Any]


class Unusual(Exception):
    """These rows want to be looked at one by one."""


class Lane:
    """``looks`` are the names of the fields that its changes carry."""

    def __init__(self, plan: ModelPlan, looks: frozenset[str]) -> None:
        self.plan = plan
        self.looks = looks
        mirrored = plan.mirrored
        self.label = mirrored.label
        pk = mirrored.pk
        assert pk is not None, mirrored.label
        inside = [field for field in mirrored.fields if field.name in looks]
        keyed_by_pk = plan.own_pk is None and not pk.reference
        self.shape = Shape(
            mirrored.label,
            [(field.name, self._wire(field)) for field in inside],
            self._wire(pk) if keyed_by_pk else Any,
        )
        self.fields = [*inside, pk] if keyed_by_pk else inside
        self.names = [field.name for field in self.fields]
        self._values = _getter([self._path(field) for field in self.fields])
        self._key: Any = attrgetter(*(self._path(field) for field in mirrored.key))
        self._compound = len(mirrored.key) > 1
        #: What identifies a row; the same as of a plain Change.
        self.key_text: Any = self._key_text
        if not self._compound and self._wire(mirrored.key[0]) is str:
            self.key_text = self._key
        self._parents = [
            (field.reference, attrgetter(self._path(field))) for field in self.fields if field.reference
        ]

    def _wire(self, field: MirroredField) -> Any:
        return str | None if field.reference else self.plan.writer.columns[field.name].wire

    def _path(self, field: MirroredField) -> str:
        return f"fields.{self.shape.attributes[field.name]}" if field.name in self.shape.attributes else "pk"

    def _key_text(self, change: Any) -> str:
        key = self._key(change)
        return ",".join(map(str, key)) if self._compound else str(key)

    def parents(self, changes: Sequence[Any]) -> Iterator[tuple[Reference, list[str]]]:
        """The UUIDs of the rows that these refer to by a local key. Raises Unusual."""
        for reference, get in self._parents:
            yield reference, self._canonical([uuid for uuid in map(get, changes) if uuid is not None])

    def values(self, changes: Sequence[Any], known: Known) -> list[Sequence[Any]]:
        """Parameters, a sequence for each of ``names``. Raises Unusual."""
        columns = zip(*map(self._values, changes), strict=True)
        return [self._load(field, column, known) for field, column in zip(self.fields, columns, strict=True)]

    def key_values(self, changes: Sequence[Any], known: Known) -> list[Sequence[Any]]:
        """The same of the columns that identify a row."""
        keys = map(self._key, changes)
        columns = zip(*keys, strict=True) if self._compound else [tuple(keys)]
        return [
            self._load(field, column, known)
            for field, column in zip(self.plan.mirrored.key, columns, strict=True)
        ]

    def _load(self, field: MirroredField, values: Sequence[Any], known: Known) -> Sequence[Any]:
        if field in self.plan.mirrored.key and None in values:
            raise Unusual
        try:
            if field.reference is None:
                return self.plan.writer.columns[field.name].load(values)
            label = field.reference.label
            return [None if uuid is None else known[label, uuid] for uuid in values]
        except (ValueError, KeyError, WrongValue) as error:
            raise Unusual from error

    def _canonical(self, uuids: list[str]) -> list[str]:
        try:
            return list(canonical_uuids(uuids)) if uuids else uuids
        except ValueError as error:
            raise Unusual from error


def _getter(paths: list[str]) -> Any:
    get = attrgetter(*paths)
    return get if len(paths) > 1 else lambda change: (get(change),)


def lane_for(plan: ModelPlan, looks: frozenset[str]) -> Lane | None:
    """None for rows that are always looked at one by one.

    Those are rows with a composite key, which travels as a list; with a field that is unknown here; with
    something whose number or name is looked up in more than one way; and such as do not say what identifies
    them.
    """
    mirrored = plan.mirrored
    known = set(plan.fields)
    if mirrored.pk is None or not looks <= known or plan.generic or plan.keyed_by_name:
        return None
    hidden = mirrored.pk.name if not mirrored.pk.reference else None
    if hidden in looks or not all(field.name in looks or field.name == hidden for field in mirrored.key):
        return None
    return Lane(plan, looks)

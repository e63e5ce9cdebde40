"""Random programs of the ORM: what signals told of them is what triggers told, which saw every row, and makes
of a mirror's tables what the source has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import Case, F, Value, When
from django.db.models.functions import Concat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.changes import Change, Op
from mirror.registry import mirrored_models
from tests.fakes import Centre, Recorded
from tests.mirror.conftest import attached
from tests.mirror.signals_support import both, engines, signalled, tables
from tests.zoo.models import Animal, Bird, Cafe, Keeper, Label, Note, Place, Shift, Tame, TextKeyed
from tests.zoo.pairs import empty

pytestmark = engines()


class _Undo(Exception):
    pass


def _some(model: Any, number: int) -> Any:
    """One of the rows that are there, or None."""
    rows = list(model.objects.order_by("pk"))
    return rows[number % len(rows)] if rows else None


def _on(model: Any, do: Callable[[Any, int], object]) -> Callable[[int], object]:
    def run(number: int) -> object:
        row = _some(model, number)
        return None if row is None else do(row, number)

    return run


def _renamed(row: Any, number: int) -> None:
    row.name = str(number)
    row.save()


def _computed(row: Any, number: int) -> None:
    row.value = F("value") + number
    row.save(update_fields=["value"])


def _identified(row: Any, number: int) -> None:
    Animal.objects.filter(pk=row.pk).update(id=UUID(int=number + (row.pk << 32)))


STEPS: dict[str, Callable[[int], object]] = {
    "create": lambda n: Animal.objects.create(
        name=str(n), parent=_some(Animal, n), favourite=_some(Keeper, n)
    ),
    "create keeper": lambda n: Keeper.objects.create(name=str(n), favourite=_some(Animal, n)),
    "create child": lambda n: Bird.objects.create(name=str(n), wings=n % 5),
    "create cafe": lambda n: Cafe.objects.create(name=str(n), seats=n),
    "save": _on(Animal, _renamed),
    "save child": _on(Bird, _renamed),
    "save an expression": _on(TextKeyed, _computed),
    "bulk_create": lambda n: Place.objects.bulk_create([Place(name=str(n)) for _ in range(n % 4)]),
    "bulk_create ignoring": lambda n: TextKeyed.objects.bulk_create(
        [TextKeyed(code=str(k), value=n) for k in (n % 3, n % 5)], ignore_conflicts=True
    ),
    "update_or_create": lambda n: TextKeyed.objects.update_or_create(code=str(n % 5), defaults={"value": n}),
    "bulk_update": lambda n: Place.objects.bulk_update(
        [Place(pk=place.pk, name=f"{n} {place.pk % 1000}") for place in Place.objects.all()], ["name"]
    ),
    "update": lambda n: TextKeyed.objects.filter(value__gte=n % 4).update(
        value=Case(When(value__gt=3, then=Value(0)), default=F("value") + 1)
    ),
    "update by a join": lambda n: Animal.objects.filter(favourite__name=str(n)).update(name="joined"),
    "update both tables": lambda n: Cafe.objects.filter(seats__gte=n % 4).update(
        name=str(n), seats=F("seats") + 1
    ),
    "update a proxy": lambda n: Tame.objects.filter(name=str(n)).update(name="tame"),
    "move keys": lambda n: TextKeyed.objects.filter(code=str(n % 5)).update(code=Concat("code", Value("+"))),
    "another uuid": _on(Animal, _identified),
    "delete": _on(Animal, lambda row, n: row.delete()),
    "delete keeper": _on(Keeper, lambda row, n: row.delete()),
    "delete many": lambda n: Place.objects.filter(pk__gt=n % 7).delete(),
    "delete child only": _on(Bird, lambda row, n: row.delete(keep_parents=True)),
    "raw delete": lambda n: TextKeyed.objects.filter(value=n % 3)._raw_delete("default"),
    "befriend": _on(Animal, lambda row, n: row.friends.add(_some(Animal, n + 1))),
    "unfriend": _on(Animal, lambda row, n: row.friends.clear()),
    "set friends": _on(Animal, lambda row, n: row.friends.set(Animal.objects.filter(name=str(n)))),
    "set animals": _on(Keeper, lambda row, n: row.animals.set(Animal.objects.all()[: n % 3])),
    "shorten": lambda n: Shift.objects.update(hours=F("hours") + n % 3),
    "near": _on(Place, lambda row, n: row.near.add(*Place.objects.all()[: n % 3])),
    "note": _on(Animal, lambda row, n: Note.objects.create(about=row, text=str(n))),
}

_NUMBERS = st.integers(0, 9)
_STEP = st.tuples(st.sampled_from(sorted(STEPS)), _NUMBERS)
_PROGRAM = st.lists(
    st.tuples(st.sampled_from(["autocommit", "atomic", "undone", "savepoint"]), st.lists(_STEP, max_size=6)),
    max_size=6,
)


def walk(way: str, steps: list[tuple[str, int]]) -> None:
    if way == "autocommit":
        for name, number in steps:
            with suppress(IntegrityError):
                STEPS[name](number)
        return
    with suppress(_Undo), transaction.atomic():
        for name, number in steps:
            with suppress(IntegrityError), transaction.atomic():
                STEPS[name](number)
        if way == "savepoint":
            with suppress(_Undo), transaction.atomic():
                Animal.objects.create(name="never")
                Animal.objects.update(name="never")
                raise _Undo
        if way == "undone":
            raise _Undo


class Folded:
    """What changes amount to.

    Another UUID is told by signals with all that refers to the row, by triggers with the row alone. They
    agree in what a mirror makes of it: what referred to a UUID refers to the one that took over its local
    key.
    """

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, dict[str, Any]]] = {}
        self._left: dict[tuple[str, Any], str] = {}
        self._replaced: dict[str, str] = {}

    def add(self, changes: list[Change]) -> None:
        for change in changes:
            row = dict(change.fields)
            self._table(change.model).pop(self._key(change.model, change.pk, row), None)
            uuid = row.get("id")
            if change.op is Op.DELETE:
                self._left[change.model, repr(change.pk)] = str(uuid)
                continue
            self._replaced.pop(str(uuid), None)
            left = self._left.pop((change.model, repr(change.pk)), str(uuid))
            if "id" in row and left != uuid:
                self._replaced[left] = str(uuid)
                self._follow()
            self._save(change.model, change.pk, row)

    def rows(self) -> dict[str, dict[str, dict[str, Any]]]:
        return {
            model: {key: row for key, (_pk, row) in table.items()}
            for model, table in self._rows.items()
            if table
        }

    def assert_counts(self) -> None:
        """As many rows of each table as there are, by the tables themselves."""
        for label, mirrored in mirrored_models().items():
            assert len(self._table(label)) == mirrored.model._base_manager.count(), label

    def _table(self, model: str) -> dict[str, Any]:
        return self._rows.setdefault(model, {})

    def _key(self, model: str, pk: Any, row: dict[str, Any]) -> str:
        return repr([row.get(field.name, pk) for field in mirrored_models()[model].key])

    def _save(self, model: str, pk: Any, row: dict[str, Any]) -> None:
        mirrored = mirrored_models()[model]
        row = {
            name: self._now(value) if name == "object_id" or mirrored.by_name()[name].reference else value
            for name, value in row.items()
        }
        self._table(model)[self._key(model, pk, row)] = pk, row

    def _now(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._now(uuid) for name, uuid in value.items()}
        return self._replaced.get(value, value)

    def _follow(self) -> None:
        for model, table in self._rows.items():
            held, self._rows[model] = list(table.values()), {}
            for pk, row in held:
                self._save(model, pk, row)


@dataclass
class Twice:
    """A source whose writes triggers tell of as well, and a mirror of what signals tell."""

    source: Recorded
    centre: Centre
    by_signals: Folded = field(default_factory=Folded)
    by_triggers: Folded = field(default_factory=Folded)

    def assert_told(self) -> None:
        signalled, triggered = both(self.source)
        self.by_signals.add(signalled)
        self.by_triggers.add(triggered)
        assert self.by_signals.rows() == self.by_triggers.rows()
        self.by_signals.assert_counts()
        if signalled:
            self.centre.apply(*signalled)
        assert tables("centre") == tables("default")


@pytest.fixture
def twice(engine, zoo_databases, django_db_blocker) -> Iterator[Twice]:
    databases = zoo_databases(engine, "source"), zoo_databases(engine, "centre")
    with (
        django_db_blocker.unblock(),
        signalled(databases[0]) as source,
        attached("centre", databases[1]) as other,
    ):
        empty(other)
        yield Twice(source, Centre("centre"))


def test_a_random_program_is_told_as_triggers_tell_it(twice):
    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    @given(_PROGRAM)
    def any_program(program):
        for way, steps in program:
            walk(way, steps)
            twice.assert_told()
        assert not Animal.objects.using("centre").filter(name="never").exists()

    any_program()


@pytest.mark.parametrize("name", sorted(STEPS))
def test_every_step_of_a_program_is_told(twice, name):
    """Each is tried at least once, on rows of every kind."""
    for other in (
        "create keeper",
        "create",
        "create child",
        "create cafe",
        "bulk_create",
        "update_or_create",
    ):
        STEPS[other](3)
    Animal.objects.get(name="3", bird=None).keepers.add(Keeper.objects.get())
    twice.assert_told()
    STEPS[name](3)
    twice.assert_told()


def _other(row: Any, number: int) -> None:
    Animal.objects.filter(pk=row.pk).update(id=UUID(int=number + (row.pk << 32)))


#: With an animal, a bird and a keeper. None of it is right if only the row with the other UUID is told: a
#: mirror writes each row as it was last, and knows no row of a UUID that was there in between.
ANOTHER_UUID: dict[str, Callable[[Any, Any, Any], object]] = {
    "of a row that was referred to just before": lambda animal, bird, keeper: (
        Keeper.objects.filter(pk=keeper.pk).update(favourite=animal),
        _other(animal, 1),
    ),
    "of a row that is referred to just after": lambda animal, bird, keeper: (
        _other(animal, 1),
        Keeper.objects.filter(pk=keeper.pk).update(favourite=animal),
    ),
    "of a row of the same table's": lambda animal, bird, keeper: (
        Animal.objects.filter(pk=bird.pk).update(parent=animal),
        _other(animal, 1),
    ),
    "under a GenericForeignKey, a number": lambda animal, bird, keeper: (
        Note.objects.create(about=animal),
        Note.objects.create(about=bird),
        _other(animal, 1),
        _other(bird, 1),
        Note.objects.create(about=animal),
    ),
    "under a GenericForeignKey, a text": lambda animal, bird, keeper: (
        Label.objects.create(about=animal),
        Label.objects.create(about=bird),
        _other(animal, 1),
        _other(bird, 1),
    ),
    "of an end of a many-to-many": lambda animal, bird, keeper: (
        animal.friends.add(bird),
        animal.keepers.add(keeper),
        _other(bird, 1),
        _other(animal, 1),
    ),
    "of a child": lambda animal, bird, keeper: (
        Bird.objects.filter(pk=bird.pk).update(wings=7),
        _other(bird, 1),
        Bird.objects.filter(pk=bird.pk).update(wings=8),
    ),
    "of new rows": lambda animal, bird, keeper: (
        Keeper.objects.filter(pk=keeper.pk).update(favourite=Animal.objects.create(name="new")),
        Bird.objects.create(name="new"),
        [_other(row, 1) for row in Animal.objects.filter(name="new")],
    ),
    "there and back": lambda animal, bird, keeper: (
        Keeper.objects.filter(pk=keeper.pk).update(favourite=animal),
        _other(animal, 1),
        _other(animal, 2),
        Animal.objects.filter(pk=animal.pk).update(id=animal.id),
    ),
    "between two rows": lambda animal, bird, keeper: (
        Keeper.objects.filter(pk=keeper.pk).update(favourite=animal),
        _other(animal, 1),
        Animal.objects.filter(pk=bird.pk).update(id=animal.id),
        Animal.objects.filter(pk=animal.pk).update(id=bird.id),
    ),
    "of a row that goes": lambda animal, bird, keeper: (
        Keeper.objects.filter(pk=keeper.pk).update(favourite=bird),
        _other(bird, 1),
        Animal.objects.get(pk=bird.pk).delete(),
    ),
    "by an upsert": lambda animal, bird, keeper: (
        Keeper.objects.filter(pk=keeper.pk).update(favourite=bird),
        Animal.objects.bulk_create(
            [Animal(pkid=bird.pk, id=UUID(int=bird.pk << 32), name="upsert")],
            update_conflicts=True,
            update_fields=["id", "name"],
            **({} if connection.vendor == "mysql" else {"unique_fields": ["pkid"]}),
        ),
    ),
}


@pytest.mark.parametrize("name", ANOTHER_UUID)
def test_another_uuid_arrives_with_all_that_refers_to_it(twice, name):
    for known in (False, True):
        animal, bird = Animal.objects.create(name="a"), Bird.objects.create(name="b")
        keeper = Keeper.objects.create(name="k")
        Keeper.objects.create(name="other", favourite=animal)
        if known:
            twice.centre.apply(*both(twice.source)[0])
        with transaction.atomic():
            ANOTHER_UUID[name](animal, bird, keeper)
        twice.centre.apply(*both(twice.source)[0])
        assert tables("centre") == tables("default")

"""Every value, told by signals as the triggers tell it: here both of them capture each write."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, connections, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.capture import signals
from mirror.changes import Change, Op
from tests.fakes import Recorded
from tests.mirror.signals_support import both, engines, signalled
from tests.mirror.test_fields import EDGES, VALUES, write
from tests.zoo import models as zoo
from tests.zoo.fields import Hand

pytestmark = engines()

_FEW = settings(max_examples=15, suppress_health_check=list(HealthCheck))


class Twice:
    """A source whose writes both a trigger and this process tell of."""

    def __init__(self, source: Recorded) -> None:
        self._source = source

    def assert_agreed(self, count: int | None = None) -> list[Change]:
        """What signals told is what triggers told, row by row; return it."""
        by_signals, by_triggers = both(self._source)
        assert sorted(by_signals, key=repr) == sorted(by_triggers, key=repr)
        assert count is None or len(by_signals) == count
        return by_signals


@pytest.fixture
def twice(engine, zoo_databases, django_db_blocker) -> Iterator[Twice]:
    # The triggers stay: nobody migrates.
    database = zoo_databases(engine, "source")
    with django_db_blocker.unblock(), signalled(database) as source:
        yield Twice(source)


def written(model: Any, values: dict[str, Any]) -> Any:
    """The row, or None where it is the source that does not take it, and not the capture."""
    row = write(model, values)
    if row is None:
        with signals.silenced(connections["default"]):
            assert write(model, values) is None
    return row


@pytest.mark.parametrize("model", VALUES, ids=lambda model: model.__name__.lower())
def test_any_value_is_told_as_triggers_tell_it(twice, model):
    @_FEW
    @given(st.fixed_dictionaries({}, optional=VALUES[model]))
    def any_row(values):
        row = written(model, values)
        if row is not None:
            twice.assert_agreed(1)

    any_row()


@pytest.mark.parametrize("model", EDGES, ids=lambda model: model.__name__.lower())
def test_values_at_the_edge_are_told_as_triggers_tell_them(twice, model):
    for field, values in EDGES[model].items():
        for value in values:
            row = written(model, {field: value})
            if row is not None:
                twice.assert_agreed(1)


def test_custom_fields_are_told_as_the_column_holds_them(twice):
    row = zoo.Custom.objects.create(secret="plain", hand=Hand(("a", "b")), cents="1.25", wrapped={"a": 1})
    (change,) = twice.assert_agreed(1)
    assert "plain" not in str(change.fields)
    row.delete()
    twice.assert_agreed(1)


def test_what_the_database_fills_in_is_told(twice):
    zoo.Computed.objects.create(side=3)
    (change,) = twice.assert_agreed(1)
    assert change.fields["label"] == "given by the table"


_KEYS: dict[Any, list[Any]] = {
    zoo.TextKeyed: ["a", " a", "é😀", 'it\'s \\ "quoted"'],
    zoo.UuidKeyed: [UUID(int=1 << 64 | 4 << 76 | 8 << 60)],
    zoo.DayKeyed: [date(2026, 1, 1), date(1, 1, 1)],
    zoo.MomentKeyed: [datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)],
    zoo.SpanKeyed: [timedelta(0), timedelta(days=-1, microseconds=1)],
    zoo.AmountKeyed: [Decimal("1.10"), Decimal("-1.10"), Decimal("0.00")],
    zoo.Place: [1, 2**62],
}


@pytest.mark.parametrize("model", _KEYS, ids=lambda model: model.__name__.lower())
def test_a_row_is_found_by_a_key_of_every_kind(twice, model):
    field = "name" if model is zoo.Place else "value"
    for number, key in enumerate(_KEYS[model]):
        model.objects.create(pk=key, **{field: number})
        twice.assert_agreed(1)
        model.objects.filter(**{field: number}).update(**{field: number + 100})
        twice.assert_agreed(1)
        row = model.objects.get(pk=key)
        row.save()
        twice.assert_agreed(1)
    model.objects.all().delete()
    twice.assert_agreed(len(_KEYS[model]))


def test_references_of_every_kind_are_told_as_uuids(twice):
    keeper = zoo.Keeper.objects.create(name="k")
    animal = zoo.Animal.objects.create(name="a", favourite=keeper)
    bird = zoo.Bird.objects.create(name="b", parent=animal)
    animal.friends.add(bird)
    animal.keepers.add(keeper, through_defaults={"hours": Decimal("2.5")})
    note = zoo.Note.objects.create(about=animal)
    zoo.Label.objects.create(about=bird)
    told = {change.model: change for change in twice.assert_agreed()}
    assert told["zoo.note"].fields["object_id"] == {"$row": str(animal.id)}
    assert told["zoo.bird"].fields["animal_ptr"] == str(bird.id)
    zoo.Tame.objects.filter(pk=animal.pk).update(name="tame")
    assert [change.model for change in twice.assert_agreed()] == ["zoo.animal"]
    animal.delete()
    assert str(note.id) in {change.fields.get("id") for change in twice.assert_agreed()}


def test_a_parent_that_comes_later_or_went_before_is_named(twice):
    with transaction.atomic(), connection.constraint_checks_disabled():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET CONSTRAINTS ALL DEFERRED")
        keeper = zoo.Keeper.objects.create(pkid=70, name="k", favourite_id=80)
        animal = zoo.Animal.objects.create(pkid=80, name="a", favourite=keeper)
        note = zoo.Note.objects.create(about=animal)
        zoo.Animal.objects.filter(pk=80)._raw_delete("default")
        zoo.Note.objects.filter(pk=note.pk).delete()
        zoo.Keeper.objects.filter(pk=70)._raw_delete("default")
    told = [(change.op, change.model, change.fields) for change in twice.assert_agreed(6)]
    assert (Op.DELETE, "zoo.keeper") in [(op, model) for op, model, _fields in told]
    assert {fields["favourite"] for _op, model, fields in told if model == "zoo.keeper"} == {str(animal.id)}
    assert {str(fields["object_id"]) for _op, model, fields in told if model == "zoo.note"} == {
        str({"$row": str(animal.id)})
    }

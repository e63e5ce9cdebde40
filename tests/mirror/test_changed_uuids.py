"""A UUIDModel row gets another ``id``: whatever refers to it, and whenever that was written, still does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import transaction
from django.db.models import Case, F, Value, When
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.mirror.signals_support import execute, tables
from tests.zoo.models import Animal, Bird, Keeper, Label, Note, Shift
from tests.zoo.pairs import Pair

#: At the last of them MariaDB's triggers leave the UUID of a parent to the sequencer.
pytestmark = pytest.mark.parametrize(
    ("engines", "isolation"),
    [
        pytest.param((engine, engine), isolation, id=f"{engine} {isolation}".strip(), marks=marks)
        for engine, isolation, marks in [
            ("sqlite", "", ()),
            ("postgresql", "", pytest.mark.postgresql),
            ("mariadb", "READ COMMITTED", pytest.mark.mariadb),
            ("mariadb", "REPEATABLE READ", pytest.mark.mariadb),
        ]
    ],
)

#: How many changes the mirror writes at a time.
PORTIONS = (1, 2, 3, 5000)

Write = Callable[[Any, Any, Any], object]


@pytest.fixture(autouse=True)
def isolated(pair, isolation) -> None:
    if isolation:
        execute(f"SET SESSION TRANSACTION ISOLATION LEVEL {isolation}")


@pytest.fixture
def told(pair, monkeypatch) -> Callable[[Write], None]:
    """Has something happen to an animal, a bird and a keeper in one transaction, which a mirror follows."""

    def tell(write: Write) -> None:
        for known in (False, True):
            for portion in PORTIONS:
                monkeypatch.setattr("mirror.apply._FLUSH", portion)
                with transaction.atomic():
                    rows = Animal.objects.create(name="a"), Bird.objects.create(name="b")
                    keeper = Keeper.objects.create(name="k")
                    Keeper.objects.create(name="other", favourite=rows[0])
                    if not known:
                        write(*rows, keeper)
                pair.follow()
                if known:
                    with transaction.atomic():
                        write(*rows, keeper)
                    pair.follow()
                assert tables("centre") == tables("default")

    return tell


def identify(row: Any, uuid: UUID | None = None) -> None:
    Animal.objects.filter(pk=row.pk).update(id=uuid or uuid4())


def prefer(keeper: Any, animal: Any) -> None:
    Keeper.objects.filter(pk=keeper.pk).update(favourite=animal)


def swap(one: Any, other: Any) -> None:
    one.refresh_from_db()
    other.refresh_from_db()
    identify(one)
    identify(other, one.id)
    identify(one, other.id)


def test_a_reference_that_was_written_before(told):
    told(lambda animal, bird, keeper: (prefer(keeper, animal), identify(animal)))


def test_a_reference_that_is_written_after(told):
    told(lambda animal, bird, keeper: (identify(animal), prefer(keeper, animal)))


def test_references_written_before_between_and_after_two_changes(told):
    def write(animal, bird, keeper):
        prefer(keeper, animal)
        identify(animal)
        Keeper.objects.create(name="between", favourite=animal)
        identify(animal)
        Keeper.objects.create(name="after", favourite=animal)

    told(write)


def test_a_new_row_that_refers_to_it_before(told):
    told(lambda animal, bird, keeper: (Animal.objects.create(parent=bird), identify(bird)))


def test_a_new_row_that_refers_to_it_after(told):
    told(lambda animal, bird, keeper: (identify(bird), Animal.objects.create(parent=bird)))


def test_a_row_that_is_new_itself(told):
    def write(animal, bird, keeper):
        new = Bird.objects.create(name="new")
        prefer(keeper, new)
        identify(new)
        Animal.objects.filter(pk=animal.pk).update(parent=new)

    told(write)


def test_a_reference_of_the_row_to_itself(told):
    def write(animal, bird, keeper):
        Animal.objects.filter(pk=animal.pk).update(parent=animal)
        identify(animal)
        Animal.objects.filter(pk=bird.pk).update(parent=bird, id=uuid4())

    told(write)


def test_a_uuid_that_comes_back(told):
    def write(animal, bird, keeper):
        prefer(keeper, animal)
        identify(animal)
        Note.objects.create(about=animal)
        identify(animal, animal.id)
        Note.objects.create(about=animal)

    told(write)


def test_two_rows_that_swap_theirs(told):
    def write(animal, bird, keeper):
        prefer(keeper, animal)
        Note.objects.create(about=bird)
        swap(animal, bird)
        Note.objects.create(about=animal)
        Keeper.objects.create(name="after", favourite=bird)

    told(write)


def test_two_rows_that_swap_theirs_with_nothing_else_written(told):
    told(lambda animal, bird, keeper: swap(animal, bird))


def test_a_uuid_that_another_row_takes(told):
    def write(animal, bird, keeper):
        prefer(keeper, bird)
        identify(animal)
        identify(bird, animal.id)

    told(write)


def test_a_uuid_that_a_new_row_takes(told):
    def write(animal, bird, keeper):
        prefer(keeper, animal)
        identify(animal)
        prefer(keeper, Animal.objects.create(id=animal.id))

    told(write)


def test_a_row_that_is_deleted_afterwards(told):
    def write(animal, bird, keeper):
        prefer(keeper, bird)
        bird.friends.add(animal)
        Note.objects.create(about=bird)
        identify(bird)
        Shift.objects.create(animal=bird, keeper=keeper)
        Animal.objects.get(pk=bird.pk).delete()

    told(write)


def test_what_refers_to_it_is_deleted_afterwards(told):
    def write(animal, bird, keeper):
        animal.friends.add(bird)
        identify(animal)
        identify(bird)
        animal.friends.clear()
        Bird.objects.get(pk=bird.pk).delete(keep_parents=True)

    told(write)


def test_the_ends_of_a_many_to_many(told):
    def write(animal, bird, keeper):
        animal.friends.add(bird)
        animal.keepers.add(keeper)
        identify(bird)
        identify(animal)
        Keeper.objects.filter(pk=keeper.pk).update(id=uuid4())
        Shift.objects.update(hours=F("hours") + 1)

    told(write)


def test_a_multi_table_child_that_is_saved_before_and_after(told):
    def write(animal, bird, keeper):
        Bird.objects.filter(pk=bird.pk).update(wings=7)
        identify(bird)
        Bird.objects.filter(pk=bird.pk).update(wings=8)

    told(write)


def test_generic_references_before_and_after(told):
    def write(animal, bird, keeper):
        for _ in range(2):
            for row in (animal, bird):
                Note.objects.create(about=row)
                Label.objects.create(about=row)
            identify(animal)
            identify(bird)

    told(write)


@pytest.mark.parametrize("portion", PORTIONS)
def test_rows_that_only_generic_references_refer_to(pair, monkeypatch, portion):
    monkeypatch.setattr("mirror.apply._FLUSH", portion)
    note, other = (Note.objects.create(about=Animal.objects.create(), text=text) for text in "no")
    Label.objects.create(about=note, text="before")
    pair.follow()
    with transaction.atomic():
        Label.objects.create(about=note, text="meanwhile")
        Note.objects.filter(pk=note.pk).update(id=uuid4())
        Note.objects.filter(pk=other.pk).update(id=note.id)
        Label.objects.create(about=note, text="after")
    pair.follow()
    found = [(label.text, label.about.text) for label in Label.objects.using("centre").order_by("text")]
    assert found == [("after", "n"), ("before", "n"), ("meanwhile", "n")]


def test_all_rows_of_a_table_in_one_statement(told):
    """PostgreSQL tells of all that went before all that came, and these refer to each other."""

    def write(animal, bird, keeper):
        prefer(keeper, bird)
        Animal.objects.filter(pk=animal.pk).update(parent=bird)
        Animal.objects.filter(pk=bird.pk).update(parent=animal)
        keys = list(Animal.objects.values_list("pk", flat=True))
        Animal.objects.update(id=Case(*(When(pk=key, then=Value(uuid4())) for key in keys)))
        Note.objects.create(about=animal)

    told(write)


def test_changes_of_several_transactions_that_arrive_together(pair, monkeypatch):
    for portion in PORTIONS:
        monkeypatch.setattr("mirror.apply._FLUSH", portion)
        one, two = Animal.objects.create(name="1"), Animal.objects.create(name="2")
        keeper = Keeper.objects.create(name="k", favourite=one)
        pair.source.step()
        swap(one, two)
        pair.source.step()
        note = Note.objects.create(about=one)
        prefer(keeper, two)
        swap(one, two)
        pair.source.step()
        Note.objects.filter(pk=note.pk).delete()
        one.delete()
        pair.follow()
        assert tables("centre") == tables("default")


# Programs


def some(model: Any, number: int) -> Any:
    rows = list(model.objects.order_by("pk"))
    return rows[number % len(rows)] if rows else None


def on(model: Any, do: Callable[[Any, int], object]) -> Callable[[int], object]:
    def run(number: int) -> object:
        row = some(model, number)
        return None if row is None else do(row, number)

    return run


def identified(row: Any, number: int) -> None:
    """With one of a few UUIDs, so that they are used again; where it is taken, the two swap."""
    uuid = UUID(int=1 + number)
    model = type(row)
    other = model.objects.filter(id=uuid).exclude(pk=row.pk).first()
    if other is None:
        model.objects.filter(pk=row.pk).update(id=uuid)
        return
    model.objects.filter(pk=row.pk).update(id=uuid4())
    model.objects.filter(pk=other.pk).update(id=row.id)
    model.objects.filter(pk=row.pk).update(id=uuid)


def all_identified(number: int) -> None:
    keys = list(Animal.objects.values_list("pk", flat=True))
    if keys:
        cases = (When(pk=key, then=Value(uuid4())) for key in keys)
        Animal.objects.update(id=Case(*cases), parent=F("pk") if number % 2 else None)


STEPS: dict[str, Callable[[int], object]] = {
    "animal": lambda n: Animal.objects.create(parent=some(Animal, n), favourite=some(Keeper, n)),
    "bird": lambda n: Bird.objects.create(parent=some(Animal, n)),
    "keeper": lambda n: Keeper.objects.create(favourite=some(Animal, n)),
    "note": on(Animal, lambda row, n: Note.objects.create(about=row)),
    "animal of a uuid": lambda n: Animal.objects.get_or_create(id=UUID(int=1 + n)),
    "parent": on(Animal, lambda row, n: Animal.objects.filter(pk=row.pk).update(parent=some(Animal, n + 1))),
    "favourite": on(Keeper, lambda row, n: prefer(row, some(Animal, n + 1))),
    "wings": on(Bird, lambda row, n: Bird.objects.filter(pk=row.pk).update(wings=n)),
    "befriend": on(Animal, lambda row, n: row.friends.add(some(Animal, n + 1))),
    "unfriend": on(Animal, lambda row, n: row.friends.clear()),
    "shift": on(Keeper, lambda row, n: row.animals.set(Animal.objects.all()[: n % 3])),
    "move a note": on(
        Note, lambda row, n: Note.objects.filter(pk=row.pk).update(object_id=some(Animal, n).pk)
    ),
    "another uuid": on(Animal, lambda row, n: identified(Animal.objects.get(pk=row.pk), n)),
    "another uuid of a keeper": on(Keeper, identified),
    "another uuid of all": all_identified,
    "delete": on(Animal, lambda row, n: row.delete()),
    "delete keeper": on(Keeper, lambda row, n: row.delete()),
    "delete child only": on(Bird, lambda row, n: row.delete(keep_parents=True)),
}
#: Every second one changes a UUID: that is what we are after.
_STEP = st.tuples(
    st.sampled_from(sorted(STEPS)) | st.sampled_from(["another uuid", "another uuid of a keeper"]),
    st.integers(0, 5),
)
_TRANSACTION = st.tuples(st.lists(_STEP, min_size=1, max_size=8), st.booleans(), st.booleans())


def test_any_program_ends_in_the_same_tables(pair, monkeypatch):
    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    @given(st.lists(_TRANSACTION, max_size=5), st.sampled_from(PORTIONS))
    def any_program(program, portion):
        monkeypatch.setattr("mirror.apply._FLUSH", portion)
        begin_anew(pair)
        for steps, sequenced, followed in program:
            with transaction.atomic():
                for name, number in steps:
                    STEPS[name](number)
            if sequenced:
                pair.source.step()
            if followed:
                pair.follow()
        pair.follow()
        assert tables("centre") == tables("default")

    any_program()


def begin_anew(pair: Pair) -> None:
    """Also after a program that failed, of which Hypothesis tries shorter ones."""
    for model in (Shift, Note, Bird, Animal, Keeper):
        for alias in ("default", "centre"):
            model.objects.using(alias).all().delete()
    pair.source.step()
    pair.skip()

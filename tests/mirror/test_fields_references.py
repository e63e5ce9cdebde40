"""References of every kind between every two engines; the centre has numbers of its own."""

from __future__ import annotations

import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import connection, connections, transaction

from tests.zoo.models import Animal, Bird, Cafe, Keeper, Label, Note, Place, Shift, Tame, TextKeyed, Texts
from tests.zoo.pairs import PAIRS

pytestmark = pytest.mark.parametrize("engines", PAIRS)


@pytest.fixture(autouse=True)
def numbered_otherwise(pair):
    """The centre has used other numbers than the source, so that no reference is right by chance."""
    for model in (Animal, Keeper):
        for _ in range(3):
            model.objects.using("centre").create(name="the centre's own").delete()
        kept = model.objects.using("centre").create(name="the centre's own")
        assert kept.pkid != 1


def names(model, **filters):
    found = model.objects.using("centre").exclude(name="the centre's own").filter(**filters)
    return sorted(found.values_list("name", flat=True))


def the(model, name):
    return model.objects.using("centre").get(name=name)


def test_a_multi_table_row_and_its_parent_with_one_number(pair):
    cafe = Cafe.objects.create(name="c", seats=3)
    Cafe.objects.filter(pk=cafe.pk).update(seats=4, name="d")
    pair.follow()
    pair.assert_same(Place, Cafe)
    assert Cafe.objects.using("centre").get().name == "d"
    cafe.delete()
    pair.follow()
    assert not Place.objects.using("centre").exists()


def test_a_multi_table_row_of_a_parent_known_by_its_uuid(pair):
    bird = Bird.objects.create(name="b", wings=2)
    pair.follow()
    Bird.objects.update(wings=3)
    pair.follow()
    theirs = Bird.objects.using("centre").get()
    assert (theirs.id, theirs.name, theirs.wings) == (bird.id, "b", 3)
    Bird.objects.get().delete()
    pair.follow()
    assert not Bird.objects.using("centre").exists()
    assert names(Animal) == []


def test_a_row_that_refers_to_itself_and_a_tree(pair):
    root = Animal.objects.create(name="root")
    root.parent = root
    root.save()
    child = Animal.objects.create(name="child", parent=root)
    Animal.objects.create(name="grandchild", parent=child)
    pair.follow()
    assert the(Animal, "root").parent == the(Animal, "root")
    assert the(Animal, "grandchild").parent.parent.name == "root"


def test_rows_of_two_tables_that_refer_to_each_other(pair):
    with transaction.atomic():
        keeper = Keeper.objects.create(name="k")
        animal = Animal.objects.create(name="a", favourite=keeper)
        keeper.favourite = animal
        keeper.save()
    pair.follow()
    assert the(Keeper, "k").favourite.favourite == the(Keeper, "k")


def test_an_automatic_many_to_many(pair):
    one, two, three = (Animal.objects.create(name=name) for name in ("one", "two", "three"))
    one.friends.set([two, three])
    pair.follow()
    assert {friend.name for friend in the(Animal, "one").friends.all()} == {"two", "three"}
    assert {friend.name for friend in the(Animal, "two").friends.all()} == {"one"}
    one.friends.remove(two)
    three.delete()
    pair.follow()
    assert not the(Animal, "one").friends.exists()


def test_an_automatic_many_to_many_of_integer_keys(pair):
    first, second = (Place.objects.create(name=name) for name in ("x", "y"))
    first.near.add(second)
    pair.follow()
    pair.assert_same(Place, Place.near.through)
    first.near.clear()
    pair.follow()
    assert not Place.near.through.objects.using("centre").exists()


def test_an_explicit_many_to_many(pair):
    animal, keeper = Animal.objects.create(name="a"), Keeper.objects.create(name="k")
    animal.keepers.add(keeper, through_defaults={"hours": "2.5"})
    pair.follow()
    shift = Shift.objects.using("centre").get()
    assert (shift.animal.name, shift.keeper.name, str(shift.hours)) == ("a", "k", "2.5")
    animal.keepers.clear()
    pair.follow()
    assert not Shift.objects.using("centre").exists()


def test_a_proxy_is_its_table(pair):
    tame = Tame.objects.create(name="t")
    pair.follow()
    assert the(Tame, "t").id == tame.id
    Tame.objects.update(name="u")
    pair.follow()
    assert names(Animal) == ["u"]


# Rows of any table


def about(model):
    return ContentType.objects.get_for_model(model, for_concrete_model=False)


def test_a_generic_reference_to_a_row_known_by_its_uuid_points_at_that_row(pair):
    Animal.objects.create(name="other")
    animal = Animal.objects.create(name="a", pkid=10**9)  # a number that the centre does not give it
    Note.objects.create(about=animal, text="n")
    Label.objects.create(about=animal, text="l")
    pair.follow()
    note, label = Note.objects.using("centre").get(), Label.objects.using("centre").get()
    assert note.object_id != animal.pkid
    assert note.about == label.about == the(Animal, "a")
    assert list(the(Animal, "a").notes.all()) == [note]
    note, label = Note.objects.get(), Label.objects.get()
    assert note.about == label.about == animal


def test_a_generic_reference_to_a_multi_table_child_and_to_a_proxy(pair):
    Animal.objects.create(name="other")
    bird, tame = Bird.objects.create(name="b"), Tame.objects.create(name="t")
    Note.objects.create(about=bird, text="bird")
    Note.objects.create(kind=about(Tame), object_id=tame.pk, text="tame")
    pair.follow()
    told = {note.text: note.about for note in Note.objects.using("centre")}
    assert told["bird"] == Bird.objects.using("centre").get()
    assert told["tame"].pk == the(Animal, "t").pk


def test_a_generic_reference_to_a_row_with_the_same_key_everywhere(pair):
    place, text = Place.objects.create(name="p"), TextKeyed.objects.create(code="k'1")
    Note.objects.create(about=place)
    Label.objects.create(about=text)
    pair.follow()
    assert Note.objects.using("centre").get().about == Place.objects.using("centre").get()
    assert Label.objects.using("centre").get().about == TextKeyed.objects.using("centre").get()
    assert Label.objects.using("centre").get().object_id == "k'1"


def test_a_generic_reference_comes_before_its_row_in_the_same_transaction(pair):
    with transaction.atomic():
        note = Note.objects.create(kind=about(Keeper), object_id=10**6)
        keeper = Keeper.objects.create(pkid=10**6, name="k")
    pair.follow()
    assert Note.objects.using("centre").get(id=note.id).about == the(Keeper, "k")
    Note.objects.update(object_id=keeper.pkid, kind=about(Animal), text="dangling")
    pair.follow()
    assert Note.objects.using("centre").get().about is None


def test_a_generic_reference_follows_when_it_moves_and_goes_with_its_row(pair):
    one, two = (Animal.objects.create(name=name) for name in ("one", "two"))
    note = Note.objects.create(about=one)
    pair.follow()
    note.about = two
    note.save()
    pair.follow()
    assert Note.objects.using("centre").get().about.name == "two"
    two.delete()
    pair.follow()
    assert not Note.objects.using("centre").exists()


def test_a_generic_reference_to_nothing_points_at_nothing_and_is_told(pair, caplog):
    own = Animal.objects.using("centre").get(name="the centre's own")
    for number in (0, own.pkid):
        Note.objects.create(kind=about(Animal), object_id=number)
    Label.objects.create(kind=about(Animal), object_id="no number")
    Label.objects.create(kind=about(Animal), object_id="9" * 30)
    Label.objects.create(kind=None, object_id=None)
    pair.follow()
    assert [note.about for note in Note.objects.using("centre")] == [None, None]
    assert sorted(str(label.object_id) for label in Label.objects.using("centre")) == ["0", "0", "None"]
    told = [record.getMessage() for record in caplog.records if record.name == "mirror.apply"]
    assert len(told) == 4
    assert all(line.startswith("coerced: zoo.") and "object_id" in line for line in told)


def test_a_generic_reference_to_a_row_that_the_centre_never_got_is_refused(pair):
    animal = Animal.objects.create(name="a")
    pair.source.step()
    pair.skip()
    Note.objects.create(about=animal)
    pair.refuses("zoo.note", "zoo.animal", str(animal.id))
    assert not Note.objects.using("centre").exists()


# References that lead nowhere at the source itself


def test_a_reference_to_a_row_that_is_not_there_is_refused_and_not_made_null(pair):
    animal = Animal.objects.create(name="a")
    pair.follow()
    with connection.cursor() as cursor:
        with connection.constraint_checks_disabled():
            if connection.vendor == "postgresql":
                cursor.execute("ALTER TABLE zoo_animal DISABLE TRIGGER ALL")
                cursor.execute("ALTER TABLE zoo_animal ENABLE TRIGGER USER")
            cursor.execute("UPDATE zoo_animal SET parent_id = 4711 WHERE pkid = %s", [animal.pk])
        pair.refuses("zoo.animal.parent")
        assert the(Animal, "a").parent is None
        cursor.execute("UPDATE zoo_animal SET parent_id = NULL")
        if connection.vendor == "postgresql":
            cursor.execute("ALTER TABLE zoo_animal ENABLE TRIGGER ALL")


def test_content_types_of_the_centre_stay_its_own(pair):
    note = Note.objects.create(about=Place.objects.create(name="p"))
    pair.follow()
    with connections["centre"].cursor() as cursor:
        cursor.execute("SELECT kind_id FROM zoo_note")
        ((number,),) = cursor.fetchall()
    assert number != note.kind_id
    assert ContentType.objects.using("centre").get(pk=number).model == "place"
    assert Texts.objects.using("centre").count() == 0

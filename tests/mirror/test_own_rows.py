"""Between every two engines: what the centre accepted has the same digest there, and nothing else has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group, Permission
from django.contrib.contenttypes.models import ContentType
from django.db import connections, transaction
from django.db.models import Model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from mirror import snapshot
from mirror.apply.own import OwnRows
from mirror.apply.plans import ModelPlan, key_text
from mirror.apply.writer import BatchWriter, parents_first
from mirror.capture.tables import Selection
from mirror.changes import Change, decode_change
from mirror.errors import Oversized, UnknownStream
from mirror.registry import mirrored_models
from mirror.rows import Row
from mirror.rows.canonical import Canonical
from tests.mirror import test_fields_custom
from tests.mirror.test_fields import EDGES, VALUES, refusals, write
from tests.mirror.test_fields_keys import KEYS
from tests.mirror.test_fields_stored import FORMS, OWN, write_raw
from tests.zoo.fields import Hand
from tests.zoo.models import (
    Animal,
    Bird,
    Cafe,
    CompositeKeyed,
    Computed,
    Custom,
    Keeper,
    Label,
    MomentKeyed,
    Note,
    Numbers,
    Place,
    Shift,
    Tame,
    TextKeyed,
    Texts,
    Times,
)
from tests.zoo.pairs import PAIRS, Pair

every_pair = pytest.mark.parametrize("engines", PAIRS)

SAME_ENGINE = [pair for pair in PAIRS if len({*pair.values[0]}) == 1]


# Both sides


def at_the_source(label: str) -> list[Change]:
    """Every row, as a centre is told it that loads them."""
    found: list[Change] = []
    after = None
    while True:
        page = snapshot.read("default", label, after=after, limit=500, max_bytes=10**8)
        assert page.pending == []
        found += map(decode_change, page.rows)
        if (after := page.next) is None:
            return found


def identities(using: str, changes: Sequence[Change]) -> list[list[Any]]:
    writer = BatchWriter(
        connections[using],
        lambda label: ModelPlan(mirrored_models()[label], connections[using]),
        parents_first(),
        unchecked=False,
    )
    plans = {change.model: writer.plan(change.model) for change in changes}
    found = [writer.identity(plans[change.model], change) for change in changes]
    return [identity for identity in found if identity is not None]


def own_rows(label: str, changes: Sequence[Change], using: str = "centre") -> dict[str, Row]:
    with transaction.atomic(using=using):
        own = OwnRows(connections[using], mirrored_models()[label])
        return own.of(identities(using, changes))


def differences(label: str) -> dict[str, list[str] | None]:
    """Of each row that is not the same: the fields, or None where it is missing. By its key."""
    mirrored = mirrored_models()[label]
    canonical = Canonical(mirrored)
    there = {key_text(mirrored, change): change for change in at_the_source(label)}
    here = own_rows(label, list(there.values()))
    found: dict[str, list[str] | None] = {}
    for key, change in there.items():
        row = here.get(key)
        if row is None:
            found[key] = None
            continue
        one, other = (canonical.digest(side.pk, side.fields, canonical.names) for side in (change, row))
        names = canonical.differing((row.pk, row.fields), (change.pk, change.fields), canonical.names)
        assert (one == other) is (names == [])
        if one != other:
            found[key] = names
    return found


def assert_same(*models: type[Model]) -> None:
    """Of every row: that its digests are one, also where the source reads it as the centre does."""
    for model in models:
        label = model._meta.label_lower
        changes = at_the_source(label)
        assert changes, f"no row of {label}"
        assert differences(label) == {}, f"{label}: {changes!r:.500} {own_rows(label, changes)!r:.500}"
        mirrored = mirrored_models()[label]
        canonical = Canonical(mirrored)
        at_home = own_rows(label, changes, using="default")
        for change in changes:
            row = at_home[key_text(mirrored, change)]
            told = [canonical.digest(side.pk, side.fields, canonical.names) for side in (change, row)]
            assert told[0] == told[1], (change, row)


@contextmanager
def altered(sql: str, *parameters: Any) -> Iterator[None]:
    """What somebody did to the centre's rows, for a while."""
    other = connections["centre"]
    with transaction.atomic(using="centre"):
        with other.cursor() as cursor:
            cursor.execute(sql, parameters)
            assert cursor.rowcount == 1, sql
        yield
        transaction.set_rollback(True, using="centre")


def assert_every_change_shows(model: type[Model]) -> None:
    """Give the first row, column by column, what the second has, and then NULL; it differs in that field."""
    label, other = model._meta.label_lower, connections["centre"]
    mirrored = mirrored_models()[label]
    first, second, *_ = identities("centre", at_the_source(label))
    quote = other.ops.quote_name
    table = quote(mirrored.table)
    where = " AND ".join(f"{quote(field.column)} = %s" for field in mirrored.key)
    generic = {one.kind.name for one in mirrored.generic}
    changed = 0
    for field in mirrored.fields:
        if field in mirrored.key or field.name not in Canonical(mirrored).names:
            continue
        copied = f"(SELECT * FROM (SELECT {quote(field.column)} FROM {table} WHERE {where}) other)"
        values = [(copied, second)] + [("NULL", ())] * field.field.null
        for value, parameters in values:
            sql = f"UPDATE {table} SET {quote(field.column)} = {value} WHERE {where}"
            with altered(sql, *parameters, *first):
                (names,) = differences(label).values()
            # What a number means another table says then.
            assert names == [field.name] or (field.name in generic and field.name in (names or ())), field
            changed += 1
    assert changed
    assert differences(label) == {}


# Values


def write_edges(pair: Pair, model: Any) -> int:
    """Those at the edge that this centre takes; return how many."""
    written = [
        write(model, {field: value})
        for field, values in EDGES[model].items()
        for value in values
        if not refusals(pair.engines, field, value)
    ]
    return len(written) - written.count(None)


@every_pair
@pytest.mark.parametrize("model", EDGES, ids=lambda model: model.__name__.lower())
def test_values_at_the_edge_are_the_same(pair, model):
    assert write_edges(pair, model) > 8
    pair.follow()
    assert_same(model)


@every_pair
@pytest.mark.parametrize("model", VALUES, ids=lambda model: model.__name__.lower())
def test_any_rows_are_the_same(pair, model):
    @settings(max_examples=5, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.fixed_dictionaries({}, optional=VALUES[model]), min_size=1, max_size=6))
    def any_rows(rows):
        model.objects.all().delete()
        for values in rows:
            if not any(refusals(pair.engines, name, value) for name, value in values.items()):
                write(model, values)
        pair.follow()
        if model.objects.exists():
            assert_same(model)

    any_rows()


PAIRS_OF_ROWS: dict[Any, list[dict[str, Any]]] = {
    Numbers: [
        {
            "small": 1,
            "whole": 2,
            "big": 2**53,
            "positive_small": 3,
            "positive": 4,
            "positive_big": 5,
            "money": Decimal("1.10"),
            "fine": Decimal("1e-10"),
            "huge": Decimal("0.1"),
            "ratio": 0.1,
            "sure": True,
        },
        {
            "small": -1,
            "whole": 3,
            "big": 2**53 + 1,
            "positive_small": 4,
            "positive": 5,
            "positive_big": 6,
            "money": Decimal("1.11"),
            "fine": Decimal("2e-10"),
            "huge": Decimal("0.2"),
            "ratio": 0.1 + 2**-56,
            "sure": False,
        },
    ],
    Texts: [
        {
            "title": "a",
            "body": "x",
            "slug": "a",
            "mail": "a@b.c",
            "link": "http://a",
            "file": "a",
            "image": "a",
            "path": "/a",
            "address": "::1",
            "address4": "10.0.0.1",
            "blob": b"a",
            "token": uuid4(),
            "document": {"a": 1},
        },
        {
            "title": "A",
            "body": "x ",
            "slug": "b",
            "mail": "A@b.c",
            "link": "http://b",
            "file": "á",
            "image": "b",
            "path": "/b",
            "address": "::2",
            "address4": "10.0.0.2",
            "blob": b"a\0",
            "token": uuid4(),
            "document": {"a": "1"},
        },
    ],
    Times: [
        {
            "day": date(2026, 1, 1),
            "hour": datetime(2026, 1, 1, 1, 2, 3).time(),
            "moment": datetime(2026, 1, 1, tzinfo=UTC),
            "span": timedelta(days=1),
        },
        {
            "day": date(2026, 1, 2),
            "hour": datetime(2026, 1, 1, 1, 2, 3, 1).time(),
            "moment": datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
            "span": timedelta(days=-1),
        },
    ],
    Custom: [
        {"secret": "a", "hand": Hand(("A",)), "cents": "1.00", "wrapped": {"a": 1}},
        {"secret": "b", "hand": Hand(("B",)), "cents": "1.01", "wrapped": {"a": 2}},
    ],
    Computed: [
        {"side": 1, "label": "a", "made_at": datetime(2026, 1, 1, tzinfo=UTC)},
        {"side": 2, "label": "b", "made_at": datetime(2026, 1, 2, tzinfo=UTC)},
    ],
}


@every_pair
@pytest.mark.parametrize("model", PAIRS_OF_ROWS, ids=lambda model: model.__name__.lower())
def test_a_column_that_somebody_changed_at_the_centre_is_named(pair, model):
    for values in PAIRS_OF_ROWS[model]:
        model.objects.create(**values)
    pair.follow()
    assert_same(model)
    assert_every_change_shows(model)


@every_pair
def test_what_custom_fields_stored_is_the_same(pair):
    @settings(max_examples=5, suppress_health_check=list(HealthCheck))
    @given(st.fixed_dictionaries({}, optional=test_fields_custom.VALUES))
    def any_row(values):
        Custom.objects.all().delete()
        Custom.objects.create(**values)
        pair.follow()
        assert_same(Custom)

    any_row()


@every_pair
def test_another_form_of_a_value_is_the_same_as_what_django_reads_in_it(pair):
    for model, column, value, _read in FORMS[pair.engines[0]]:
        write_raw(model, column, value)
    pair.follow()
    for model in {model for model, *_ in FORMS[pair.engines[0]]}:
        assert_same(model)


@pytest.mark.parametrize("engines", SAME_ENGINE)
def test_what_only_one_engine_holds_is_the_same_on_another_of_its_kind(pair):
    for model, column, value in OWN[pair.engines[0]]:
        write_raw(model, column, value)
    pair.follow()
    for model in {model for model, *_ in OWN[pair.engines[0]]}:
        assert_same(model)


@every_pair
def test_naive_moments_are_the_same(pair, settings):
    settings.USE_TZ = False
    settings.TIME_ZONE = "Asia/Kolkata"
    for moment in (datetime(1, 1, 2), datetime(2026, 1, 2, 3, 4, 5, 678901), datetime.max):
        Times.objects.create(moment=moment, hour=moment.time(), day=moment.date())
    pair.follow()
    assert_same(Times)


@pytest.fixture
def source_in_another_zone(pair):
    """A source whose database has local times, as ``DATABASES["default"]["TIME_ZONE"]`` says."""
    _set_zone(connections["default"], "Asia/Kolkata")
    yield
    _set_zone(connections["default"], None)


def _set_zone(connection: Any, zone: str | None) -> None:
    connection.settings_dict["TIME_ZONE"] = zone
    for name in ("timezone", "timezone_name"):
        vars(connection).pop(name, None)
    connection.close()


@every_pair
def test_moments_of_a_database_with_a_time_zone_of_its_own_are_the_same(pair, source_in_another_zone):
    for moment in (datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)):
        Times.objects.create(moment=moment)
    pair.follow()
    assert_same(Times)


@every_pair
def test_keys_that_are_told_in_two_forms_are_one_by_their_digests(pair, source_in_another_zone):
    MomentKeyed.objects.create(moment=datetime(2026, 1, 2, tzinfo=UTC))
    pair.follow()
    mirrored = mirrored_models()["zoo.momentkeyed"]
    (there,) = at_the_source(mirrored.label)
    (here,) = own_rows(mirrored.label, [there]).values()
    key = [field.name for field in mirrored.key]
    one, other = (Canonical(mirrored).digest(side.pk, side.fields, key) for side in (there, here))
    assert one == other


# Keys


@every_pair
@pytest.mark.parametrize("model", KEYS, ids=lambda model: model.__name__.lower())
def test_rows_with_keys_of_every_kind_are_found_and_the_same(pair, model):
    for number, key in enumerate(KEYS[model]):
        model.objects.create(pk=key, **{"name" if model is Place else "value": number})
    pair.follow()
    assert_same(model)
    assert_every_change_shows(model)


@every_pair
def test_rows_with_a_key_of_three_columns_are_found_and_the_same(pair):
    for code in ("a", "b"):
        TextKeyed.objects.create(code=code)
    for code, day, number in [
        ("a", date(2026, 1, 1), 1),
        ("a", date(2026, 1, 1), 2**40),
        ("b", date(1, 1, 1), 1),
    ]:
        CompositeKeyed.objects.create(owner_id=code, day=day, number=number, value=number % 7)
    pair.follow()
    assert_same(TextKeyed, CompositeKeyed)
    CompositeKeyed.objects.filter(owner="b").update(value=9)
    pair.follow()
    assert_same(CompositeKeyed)
    assert_every_change_shows(CompositeKeyed)


@every_pair
def test_more_rows_than_fit_into_a_query_are_all_found(pair):
    animals = Animal.objects.bulk_create(Animal(name=str(number)) for number in range(700))
    animals[0].friends.add(*animals[1:400])
    pair.follow()
    assert_same(Animal, Animal.friends.through)


@every_pair
def test_rows_that_are_not_there_are_left_out(pair):
    TextKeyed.objects.create(code="a")
    pair.follow()
    changes = at_the_source("zoo.textkeyed")
    TextKeyed.objects.using("centre").all().delete()
    assert own_rows("zoo.textkeyed", changes) == {}
    assert own_rows("zoo.textkeyed", []) == {}


@every_pair
def test_a_row_that_a_collation_takes_for_another_is_told_by_its_own_key(pair):
    TextKeyed.objects.create(code="a", value=1)
    pair.follow()
    TextKeyed.objects.using("centre").all().delete()
    TextKeyed.objects.using("centre").create(code="A", value=1)
    rows = own_rows("zoo.textkeyed", at_the_source("zoo.textkeyed"))
    assert {key: row.pk for key, row in rows.items()} in ({}, {"A": "A"})
    assert differences("zoo.textkeyed") == {"a": None}


# References: the centre has numbers of its own


@pytest.fixture
def numbered_otherwise(pair):
    """Both tables of the centre give out other numbers than the source, and than each other."""
    animals, keepers = (model.objects.using("centre") for model in (Animal, Keeper))
    for model, count in ((animals, 3), (keepers, 9)):
        for _ in range(count):
            model.create(name="the centre's own")
    if connections["centre"].vendor != "postgresql":
        # Deleted rows have used up numbers.
        highest = max(model.latest("pkid").pkid for model in (animals, keepers))
        keepers.create(name="the centre's own", pkid=highest + 1000)


REFERRING = (
    Animal,
    Animal.friends.through,
    Bird,
    Cafe,
    Keeper,
    Label,
    Note,
    Place,
    Place.near.through,
    Shift,
)


def write_references() -> None:
    first, second = (Keeper.objects.create(name=name) for name in ("first", "second"))
    one = Animal.objects.create(name="one", favourite=first)
    two = Animal.objects.create(name="two", parent=one, favourite=second, pkid=10**9)
    Animal.objects.filter(pk=one.pk).update(parent=two)
    Keeper.objects.filter(pk=first.pk).update(favourite=one)
    one.friends.set([one, two])
    bird, other_bird = Bird.objects.create(name="bird", wings=2), Bird.objects.create(name="other", wings=3)
    for keeper, animal, hours in ((first, two, "2.5"), (second, bird, "3")):
        animal.keepers.add(keeper, through_defaults={"hours": hours})
    cafe, other_cafe = Cafe.objects.create(name="cafe", seats=1), Cafe.objects.create(name="other", seats=2)
    cafe.near.add(other_cafe)
    text = TextKeyed.objects.create(code="k'1")
    for model, about in (
        (Note, two),
        (Note, first),
        (Note, other_bird),
        (Note, cafe),
        (Label, two),
        (Label, text),
    ):
        model.objects.create(about=about, text=about._meta.model_name)
    Note.objects.create(
        kind=ContentType.objects.get_for_model(Tame, for_concrete_model=False), object_id=one.pk
    )
    Label.objects.create(kind=None, object_id=None)


@every_pair
def test_references_of_every_kind_are_the_same(pair, numbered_otherwise):
    write_references()
    pair.follow()
    assert Animal.objects.using("centre").get(name="one").pk != Animal.objects.get(name="one").pk
    assert_same(*REFERRING)


@every_pair
@pytest.mark.parametrize(
    "model", [Animal, Bird, Keeper, Label, Note, Shift], ids=lambda model: model.__name__
)
def test_a_reference_that_somebody_changed_at_the_centre_is_named(pair, numbered_otherwise, model):
    write_references()
    pair.follow()
    assert_every_change_shows(model)


@every_pair
def test_generic_references_to_rows_that_are_gone_are_the_same(pair, numbered_otherwise):
    animal, kept = Animal.objects.create(name="a"), Keeper.objects.create(name="kept")
    kind = ContentType.objects.get_for_model(Animal)
    for number in (0, 2, 10**6):
        Note.objects.create(kind=kind, object_id=number)
    Label.objects.create(kind=kind, object_id="no number")
    Label.objects.create(about=animal)
    Label.objects.create(about=kept)
    pair.follow()
    Animal.objects.all().delete()
    pair.follow()
    assert_same(Note, Label)
    notes = Note.objects.using("centre").order_by("pkid")
    here = Animal.objects.using("centre").latest("pkid").pk
    with altered("UPDATE zoo_note SET object_id = %s WHERE pkid = %s", here, notes[1].pk):
        assert list(differences("zoo.note").values()) == [["object_id"]]


@every_pair
def test_a_parent_that_is_another_row_at_the_centre_shows_at_all_that_refer_to_it(pair):
    keeper = Keeper.objects.create(name="k")
    Animal.objects.create(name="a", favourite=keeper)
    pair.follow()
    uuid = Keeper._meta.get_field("id").get_db_prep_value(uuid4(), connections["centre"])
    with altered("UPDATE zoo_keeper SET id = %s", uuid):
        assert list(differences("zoo.animal").values()) == [["favourite"]]
        assert list(differences("zoo.keeper").values()) == [None]


# Content types and permissions


@pytest.fixture
def with_permissions(pair, settings):
    settings.MIRROR = {**settings.MIRROR, "MODELS": ["zoo.*", "auth.*", "contenttypes.*"]}


@every_pair
def test_content_types_and_permissions_are_the_same_by_their_names(pair, with_permissions):
    for label in ("contenttypes.contenttype", "auth.permission"):
        assert len(at_the_source(label)) > 10
        assert differences(label) == {}, label
    with altered("UPDATE auth_permission SET name = 'other' WHERE codename = 'add_note'"):
        assert [*differences("auth.permission").values()] == [["name"]]
    with altered("UPDATE auth_permission SET codename = 'other' WHERE codename = 'add_note'"):
        assert [*differences("auth.permission").values()] == [None]


@every_pair
def test_rows_that_refer_to_permissions_are_the_same(pair, with_permissions):
    group = Group.objects.create(name="editors")
    group.permissions.set(Permission.objects.filter(content_type__app_label="zoo")[:7])
    pair.restart()
    labels = ("auth.group", "auth.group_permissions")
    pair.centre.apply(*(structs.replace(change, ts=0) for label in labels for change in at_the_source(label)))
    for label in labels:
        assert differences(label) == {}, label
    first, *_ = Group.permissions.through.objects.using("centre").all()
    other = Permission.objects.using("centre").exclude(group__isnull=False)[0]
    with altered("UPDATE auth_group_permissions SET permission_id = %s WHERE id = %s", other.pk, first.pk):
        assert [*differences("auth.group_permissions").values()] == [["permission"]]


@every_pair
def test_a_content_type_that_another_process_renamed_has_its_new_name(pair):
    Note.objects.create(about=Place.objects.create(name="p"))
    pair.follow()
    assert_same(Note)
    with altered(
        "UPDATE django_content_type SET model = 'former' WHERE model = 'place' AND app_label = 'zoo'"
    ):
        assert list(differences("zoo.note").values()) == [["kind"]]


# What is not told, and what cannot be read


@every_pair
def test_a_field_that_the_source_excludes_is_not_compared(pair, settings):
    Computed.objects.create(side=3, label="secret")
    pair.follow()
    settings.MIRROR = {**settings.MIRROR, "EXCLUDE_FIELDS": ["zoo.Computed.label"]}
    assert Canonical(mirrored_models()["zoo.computed"]).names == ("id", "made_at", "side")
    with altered("UPDATE zoo_computed SET label = 'other'"):
        assert_same(Computed)
    with altered("UPDATE zoo_computed SET side = 4"):
        assert list(differences("zoo.computed").values()) == [["side"]]


@pytest.mark.parametrize("engines", [pair for pair in PAIRS if pair.values[0][1] == "sqlite"])
def test_a_text_that_is_no_utf_8_breaks_nothing(pair):
    Texts.objects.create(title="a", body="b")
    pair.follow()
    other = connections["centre"]
    factory = other.connection.text_factory
    with altered("UPDATE zoo_texts SET body = CAST(x'ff61' AS TEXT)"):
        assert list(differences("zoo.texts").values()) == [["body"]]
    assert other.connection.text_factory is factory


@pytest.mark.parametrize("engines", [pair for pair in PAIRS if pair.id == "sqlite-sqlite"])
def test_a_text_that_is_no_utf_8_at_the_source_either_is_the_same(pair):
    write_raw(Texts, "body", "CAST(x'ff61' AS TEXT)")
    pair.follow()
    assert_same(Texts)


@pytest.mark.parametrize("engines", [pair for pair in PAIRS if pair.values[0][0] == "sqlite"])
def test_a_centre_without_capture_tells_its_rows(pair, settings):
    row = Times.objects.create(day=date(2026, 1, 1))
    pair.follow()
    (change,) = at_the_source("zoo.times")
    settings.MIRROR = {**settings.MIRROR, "CAPTURE": None, "DATABASE": "centre"}
    with connections["centre"].cursor() as cursor:
        cursor.execute("DELETE FROM mirror_outbox")
    (own,) = own_rows("zoo.times", [change]).values()
    assert own.key == str(row.id)
    assert own.fields == change.fields


@pytest.mark.parametrize("engines", [pair for pair in PAIRS if pair.id == "sqlite-sqlite"])
def test_a_kind_of_database_that_has_no_triggers_is_refused_by_name(pair, monkeypatch):
    monkeypatch.setattr(connections["centre"], "vendor", "oracle")
    with pytest.raises(UnknownStream, match="rows cannot be compared on oracle"):
        OwnRows(connections["centre"], mirrored_models()["zoo.animal"])


@every_pair
def test_a_number_that_is_too_large_for_any_row_names_none(pair):
    Label.objects.create(kind=ContentType.objects.get_for_model(Animal), object_id="0")
    pair.follow()
    with altered("UPDATE zoo_label SET object_id = %s", "9" * 30):
        assert_same(Label)


@pytest.mark.parametrize("engines", [pair for pair in PAIRS if pair.id == "sqlite-sqlite"])
def test_a_row_that_does_not_fit_into_a_packet_is_refused_by_name(pair):
    Place.objects.using("centre").create(pk=1, name="large")
    with transaction.atomic(using="centre"):
        own = OwnRows(connections["centre"], mirrored_models()["zoo.place"])
        # What MySQL's functions do.
        own._selection = Selection(table="zoo_place", sql="SELECT NULL FROM zoo_place AS this", row="this")
        with pytest.raises(Oversized, match=r"a row of zoo\.place"):
            own.of([[1]])


@pytest.mark.parametrize("engines", [pair for pair in PAIRS if pair.id == "sqlite-sqlite"])
def test_a_table_that_is_not_there_has_no_rows(pair):
    missing = replace(mirrored_models()["zoo.animal"], table="zoo_nothing")
    with transaction.atomic(using="centre"):
        assert OwnRows(connections["centre"], missing).of([["x"]]) == {}

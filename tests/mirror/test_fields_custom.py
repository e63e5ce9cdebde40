"""Fields that projects write themselves, and columns that a database fills, between every two engines."""

from __future__ import annotations

import pytest
from django.db import connection, connections
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.registry import mirrored_models
from tests.fakes import Centre
from tests.zoo.fields import Hand
from tests.zoo.models import Computed, Custom
from tests.zoo.pairs import PAIRS

pytestmark = pytest.mark.parametrize("engines", PAIRS)

_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0|"), max_size=15)
VALUES = {
    "secret": _TEXT,
    "hand": st.lists(_TEXT, min_size=1, max_size=3).map(lambda cards: Hand(tuple(cards))),
    "cents": st.integers(-(10**9), 10**9).map(lambda cents: f"{cents / 100:.2f}"),
    "wrapped": st.dictionaries(_TEXT, st.none() | st.integers(-(2**60), 2**60) | _TEXT, max_size=3),
}


def columns(alias: str) -> list[tuple]:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT secret, hand, cents FROM zoo_custom ORDER BY secret, hand, cents")
        return list(cursor.fetchall())


def test_what_a_custom_field_stored_is_what_arrives(pair):
    @settings(max_examples=15, suppress_health_check=list(HealthCheck))
    @given(st.fixed_dictionaries({}, optional=VALUES))
    def any_row(values):
        Custom.objects.all().delete()
        row = Custom.objects.create(**values)
        pair.follow()
        pair.assert_same(Custom)
        # Encrypted anew, each side would have a text of its own.
        assert columns("centre") == columns("default")
        row.save()
        pair.follow()
        assert columns("centre") == columns("default")

    any_row()


def test_what_is_encrypted_stays_encrypted_on_the_way(pair):
    Custom.objects.create(secret="the plain words")
    pair.follow()
    (entry,) = pair.source.entries()
    assert "plain words" not in entry.body
    assert b"plain words".hex() not in entry.body
    assert Custom.objects.using("centre").get().secret == "the plain words"


def test_a_generated_column_is_not_sent_and_computed_by_the_mirror(pair):
    row = Computed.objects.create(side=3)
    pair.follow()
    (change,) = pair.source.changes()
    assert "area" not in change.fields
    assert Computed.objects.using("centre").get().area == 9
    Computed.objects.filter(id=row.id).update(side=4)
    pair.follow()
    assert Computed.objects.using("centre").get().area == 16


def test_what_a_database_gave_by_default_arrives(pair):
    row = Computed.objects.create()
    row.refresh_from_db()
    pair.follow()
    theirs = Computed.objects.using("centre").get()
    assert (theirs.label, theirs.made_at) == ("given by the table", row.made_at)
    pair.assert_same(Computed)


def test_a_column_that_does_not_come_gets_the_default_of_the_mirrors_table(pair, settings):
    settings.MIRROR = {**settings.MIRROR, "EXCLUDE_FIELDS": ["zoo.Computed.label"]}
    assert "label" not in mirrored_models()["zoo.computed"].by_name()
    Computed.objects.create(side=2, label="not this")
    # What the trigger still sends, the sequencer leaves out.
    (change,) = pair.source.changes()
    assert "label" not in change.fields
    settings.MIRROR = {name: value for name, value in settings.MIRROR.items() if name != "EXCLUDE_FIELDS"}
    Centre("centre", "lyon").apply(change)
    assert Computed.objects.using("centre").get().label == "given by the table"


def test_a_row_written_by_plain_sql_is_read_by_the_fields_of_the_mirror(pair):
    with connection.cursor() as cursor:
        row = Custom(secret="abc", hand=Hand(("A", "K")), cents="12.34")
        cursor.execute(
            "INSERT INTO zoo_custom (id, secret, hand, cents) VALUES (%s, %s, %s, %s)",
            [
                Custom._meta.get_field("id").get_db_prep_save(row.id, connection),
                Custom._meta.get_field("secret").get_prep_value("abc"),
                "A|K",
                1234,
            ],
        )
    pair.follow()
    theirs = Custom.objects.using("centre").get()
    assert (theirs.id, theirs.secret, theirs.hand, theirs.cents) == (row.id, "abc", Hand(("A", "K")), "12.34")

"""What CAPTURE "signals" does not see: raw SQL is noticed when it is committed, counted and kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from django.db import connection, models, transaction

from mirror.capture import holes, signals
from mirror.models import Hole
from tests.fakes import Recorded
from tests.mirror.signals_support import engines, execute, signalled
from tests.zoo import models as zoo


@pytest.fixture
def engine() -> str:
    return "sqlite"


@pytest.fixture
def source(engine, zoo_databases, django_db_blocker) -> Iterator[Recorded]:
    """Without a trigger."""
    database = zoo_databases(engine, "centre")
    with django_db_blocker.unblock(), signalled(database) as made:
        yield made


def noticed() -> dict[str, int]:
    return {hole.model: hole.count for hole in signals.holes(connection) if hole.kind == "statement"}


@engines()
def test_raw_sql_that_writes_to_a_mirrored_table_is_noticed(source):
    execute("UPDATE zoo_textkeyed SET value = 5 WHERE code = %s", ["secret"])
    assert noticed() == {"zoo.textkeyed": 1}
    assert source.news() == []


@engines()
def test_a_sample_has_no_values(source):
    execute("UPDATE zoo_textkeyed SET value = 12345 WHERE code IN ('it''s secret', %s)", ["hidden"])
    (hole,) = signals.holes(connection)
    assert "UPDATE zoo_textkeyed SET value = ? WHERE code IN (?, %s)" in hole.text
    assert hole.first_seen is not None
    assert hole.mend


@engines()
def test_what_is_rolled_back_is_no_hole(source):
    with suppress(ZeroDivisionError), transaction.atomic():
        execute("DELETE FROM zoo_textkeyed")
        raise ZeroDivisionError
    assert noticed() == {}
    with transaction.atomic():
        execute("DELETE FROM zoo_textkeyed")
        assert noticed() == {}
    assert noticed() == {"zoo.textkeyed": 1}


@engines()
def test_a_statement_that_fails_is_no_hole(source):
    with suppress(Exception):
        execute("UPDATE zoo_textkeyed SET nothing = 1")
    assert noticed() == {}


def test_many_statements_are_kept_now_and_then_and_none_is_lost(source):
    moments = iter([100.0, 101.0, 102.0, 110.0])
    for moment in moments:
        holes._count("default", "zoo.place", "statement", "UPDATE zoo_place", lambda moment=moment: moment)
        if moment < 110:
            assert noticed() == {"zoo.place": 1}
    assert noticed() == {"zoo.place": 4}


def test_a_hole_is_told_to_the_log_once(source, caplog):
    for _ in range(3):
        execute("DELETE FROM zoo_place")
    assert [record.getMessage() for record in caplog.records if "past the capture" in record.message] == [
        "zoo.place was written past the capture (statement): DELETE FROM zoo_place"
    ]


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO zoo_place (id, name) VALUES (1, 'a')",
        "  insert\n into zoo_place (id, name) VALUES (1, 'a')",
        "/* why */ -- so\n UPDATE zoo_place SET name = 'b'",
        'UPDATE "zoo_place" SET name = 1',
        "UPDATE main.zoo_place SET name = 1",
        'UPDATE "main"."zoo_place" SET name = 1',
        "INSERT OR REPLACE INTO zoo_place (id, name) VALUES (1, 'a')",
        "REPLACE INTO zoo_place (id, name) VALUES (1, 'a')",
        "WITH gone AS (SELECT 1 AS id) DELETE FROM zoo_place WHERE id IN (SELECT id FROM gone)",
        "UPDATE `zoo_place` SET name = 1",
        "UPDATE [zoo_place] SET name = 1",
        "UPDATE ZOO_PLACE SET name = 1",
    ],
)
def test_a_write_is_known_in_every_form(source, sql):
    execute(sql)
    assert noticed() == {"zoo.place": 1}


@pytest.mark.parametrize(
    "sql",
    [
        "TRUNCATE TABLE a, zoo_place",
        "TRUNCATE zoo_place",
        "MERGE INTO zoo_place USING b ON true WHEN MATCHED THEN DELETE",
        "COPY zoo_place FROM STDIN",
        "LOAD DATA LOCAL INFILE 'x' REPLACE INTO TABLE zoo_place",
        "DELETE zoo_place FROM zoo_place INNER JOIN b ON b.id = zoo_place.id",
        "UPDATE ONLY public.zoo_place SET name = 1",
        "WITH b AS (UPDATE zoo_place SET name = 1 RETURNING id) SELECT * FROM b",
        b"UPDATE zoo_place SET name = 1",
    ],
)
def test_forms_of_other_databases_are_known_too(source, sql):
    watch = holes.Watch(connection, lambda: False)
    watch(lambda *arguments: None, sql, None, False, {})
    assert noticed() == {"zoo.place": 1}


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM zoo_place",
        "SELECT 'UPDATE zoo_place SET name = 1'",
        "INSERT INTO other SELECT * FROM zoo_place",
        "UPDATE other SET name = 'DELETE FROM zoo_place'",
        "DELETE FROM zoo_place_archive",
        "CREATE FUNCTION f() RETURNS int AS $$ UPDATE zoo_place SET name = 1 $$ LANGUAGE sql",
        "SELECT * FROM zoo_place FOR UPDATE",
        'INSERT INTO "new__zoo_place" (id) SELECT id FROM "zoo_place"',
    ],
)
def test_what_only_names_a_mirrored_table_is_no_hole(source, sql):
    watch = holes.Watch(connection, lambda: False)
    watch(lambda *arguments: None, sql, None, False, {})
    assert noticed() == {}


@engines()
def test_what_the_orm_writes_is_no_hole(source):
    place = zoo.Place.objects.create(name="a")
    zoo.Place.objects.bulk_create([zoo.Place(name="b"), zoo.Place(name="c")])
    zoo.Place.objects.update(name="d")
    place.near.set(zoo.Place.objects.exclude(pk=place.pk))
    zoo.Cafe.objects.create(name="e", seats=1)
    zoo.Place.objects.all().delete()
    assert signals.holes(connection) == []
    assert not Hole.objects.exists()


@pytest.mark.skipif(not hasattr(models, "DB_CASCADE"), reason="before Django had models.DB_CASCADE")
def test_a_foreign_key_that_the_database_follows_is_named(source, settings):
    from mirror.registry import mirrored_models

    field = models.ForeignKey(zoo.TextKeyed, models.DB_CASCADE, name="owner")
    kept = mirrored_models()["zoo.compositekeyed"].by_name()["owner"].field.remote_field
    before, kept.on_delete = kept.on_delete, field.remote_field.on_delete
    try:
        (hole,) = signals.holes(connection)
    finally:
        kept.on_delete = before
    assert (hole.kind, hole.model) == ("cascade", "zoo.compositekeyed")
    assert "owner" in hole.text

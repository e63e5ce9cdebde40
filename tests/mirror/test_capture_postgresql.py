"""Capture on a PostgreSQL server: every way to write, and what only a server can do."""

from __future__ import annotations

import uuid

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import F

from mirror import capture
from tests.mirror.postgresql_support import (
    DELETE,
    SAVE,
    execute,
    fetch,
    names,
    plain,
    recorded,
    rolled_back,
    seen,
)
from tests.project.shop.models import Brand, Bundle, Counter, Product, Seat, Tag

pytestmark = pytest.mark.postgresql


@pytest.fixture
def source(postgresql_source, django_db_blocker):
    with django_db_blocker.unblock(), recorded(postgresql_source) as source:
        yield source


def values(changes) -> list[tuple]:
    return [(change.op, change.pk, change.fields.get("value")) for change in changes]


# Every way to write


def test_a_row_is_captured_through_its_whole_life(source):
    brand = Brand.objects.create(name='Ébène \\ "quoted" 😀\n')
    brand.name = "b"
    brand.save()
    brand.save(update_fields=["name"])
    pkid, identity = brand.pkid, str(brand.id)
    brand.delete()
    assert [(change.op, change.pk, change.fields) for change in source.news()] == [
        (SAVE, pkid, {"id": identity, "name": 'Ébène \\ "quoted" 😀\n'}),
        (SAVE, pkid, {"id": identity, "name": "b"}),
        (SAVE, pkid, {"id": identity, "name": "b"}),
        (DELETE, pkid, {"id": identity, "name": "b"}),
    ]


def test_bulk_writes_are_a_change_for_each_row_in_order(source):
    brands = Brand.objects.bulk_create([Brand(name=str(number)) for number in range(50)])
    assert names(source.news()) == [(SAVE, str(number)) for number in range(50)]
    for brand in brands:
        brand.name += "x"
    Brand.objects.bulk_update(brands, ["name"])
    assert names(source.news()) == [(SAVE, f"{number}x") for number in range(50)]
    Brand.objects.all().delete()
    assert sorted(names(source.news())) == sorted((DELETE, f"{number}x") for number in range(50))


def test_an_upsert_says_what_became_of_each_row(source):
    kept = Brand.objects.create(name="a")
    source.news()
    Brand.objects.bulk_create(
        [Brand(id=kept.id, name="a2"), Brand(name="b")],
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=["name"],
    )
    assert sorted(names(source.news())) == [(SAVE, "a2"), (SAVE, "b")]
    Brand.objects.bulk_create([Brand(name="b"), Brand(name="c")], ignore_conflicts=True)
    assert names(source.news()) == [(SAVE, "c")]


def test_update_or_create_and_expressions_carry_what_was_written(source):
    Counter.objects.update_or_create(id=7, defaults={"value": 1})
    Counter.objects.update_or_create(id=7, defaults={"value": 2})
    Counter.objects.update(value=F("value") * 2 + 1)
    assert values(source.news()) == [(SAVE, 7, 1), (SAVE, 7, 2), (SAVE, 7, 5)]


def test_a_cascade_by_django_tells_every_row(source):
    brand, other = Brand.objects.create(name="a"), Brand.objects.create(name="b")
    product = Product.objects.create(name="p", brand=brand)
    product.tags.add(Tag.objects.create(label="t"))
    Product.objects.create(name="k", second_brand=brand, brand=other)
    source.news()
    brand.delete()
    assert sorted(seen(source.news())) == sorted(
        [(DELETE, "product_tags"), (SAVE, "product"), (DELETE, "product"), (DELETE, "brand")]
    )


@pytest.fixture
def database_cascades(source):
    """The foreign keys of products, as Django 6.1 makes them for DB_CASCADE and DB_SET_NULL."""
    added = {
        "one": "FOREIGN KEY (parent_id) REFERENCES shop_product (pkid) ON DELETE CASCADE",
        "two": "FOREIGN KEY (second_brand_id) REFERENCES shop_brand (pkid) ON DELETE SET NULL",
        "three": "FOREIGN KEY (brand_id) REFERENCES shop_brand (id) ON DELETE CASCADE ON UPDATE CASCADE",
    }
    dropped = fetch(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE contype = 'f' AND conrelid = 'shop_product'::regclass"
    )
    execute("".join(f'ALTER TABLE shop_product DROP CONSTRAINT "{name}";' for name, _ in dropped))
    execute(
        "".join(f'ALTER TABLE shop_product ADD CONSTRAINT "{name}" {text};' for name, text in added.items())
    )
    capture.sync(connection)
    yield
    execute("TRUNCATE shop_product, shop_brand CASCADE")
    execute("".join(f'ALTER TABLE shop_product DROP CONSTRAINT "{name}";' for name in added))
    execute("".join(f'ALTER TABLE shop_product ADD CONSTRAINT "{name}" {text};' for name, text in dropped))


def test_a_cascade_by_the_database_tells_every_row_and_its_parents(source, database_cascades):
    brand = Brand.objects.create(name="a")
    kept = Product.objects.create(name="kept", second_brand=brand)
    top = Product.objects.create(name="top", brand=brand, second_brand=brand)
    Product.objects.create(name="low", parent=top)
    source.news()
    execute("DELETE FROM shop_brand")
    changes = source.news()
    assert sorted({*names(changes)} - {(SAVE, "top")}) == sorted(
        [(DELETE, "a"), (SAVE, "kept"), (DELETE, "top"), (DELETE, "low")]
    )
    last = {change.fields["name"]: change for change in changes}
    assert last["kept"].fields["second_brand"] is None
    assert last["kept"].fields["id"] == str(kept.id)
    assert last["low"].fields["parent"] == str(top.id)
    assert last["top"].fields["brand"] == str(brand.id)


def test_a_row_that_a_cascade_first_changes_and_then_deletes_is_gone(source):
    # A later part of the cascade updates once more: one call is made for both updates, after the deletion.
    text = "bigint REFERENCES shop_counter (id) ON DELETE"
    execute(
        f"ALTER TABLE shop_reading ADD early {text} SET NULL;"
        f"ALTER TABLE shop_reading ADD middle {text} CASCADE;"
        f"ALTER TABLE shop_reading ADD late {text} SET NULL"
    )
    capture.sync(connection)
    execute("INSERT INTO shop_counter (id, value) VALUES (1, 1), (2, 2)")
    execute(
        "INSERT INTO shop_reading (id, counter_id, taken_at, early, middle, late) "
        "VALUES (1, 1, now(), 2, 2, NULL), (2, 1, now(), NULL, NULL, 2)"
    )
    source.news()
    execute("DELETE FROM shop_counter WHERE id = 2")
    last = {(change.model, change.pk): change.op for change in source.news()}
    execute("ALTER TABLE shop_reading DROP early, DROP middle, DROP late")
    assert last == {("shop.counter", 2): DELETE, ("shop.reading", 1): DELETE, ("shop.reading", 2): SAVE}


def test_a_key_that_the_database_cascades_into_is_told(source, database_cascades):
    brand = Brand.objects.create(name="a")
    Product.objects.create(name="p", brand=brand)
    source.news()
    other = uuid.uuid4()
    execute("UPDATE shop_brand SET id = %s", [other])
    changes = source.news()
    assert seen(changes) == [(DELETE, "brand"), (SAVE, "brand"), (SAVE, "product")]
    assert changes[2].fields["brand"] == str(other)


def test_many_to_many_rows_are_changes_of_their_own(source):
    product = Product.objects.create(name="p")
    red, blue = Tag.objects.create(label="red"), Tag.objects.create(label="blue")
    source.news()
    product.tags.add(red, blue)
    product.tags.add(red)
    product.tags.set([red])
    product.tags.clear()
    assert [(change.op, change.fields["tag"]) for change in source.news()][2:] == [
        (DELETE, str(blue.id)),
        (DELETE, str(red.id)),
    ]


def test_a_multi_table_row_is_a_change_of_each_table(source):
    bundle = Bundle.objects.create(name="b", discount=5)
    identity = str(bundle.id)
    product, child = source.news()
    assert (product.model, product.fields["name"]) == ("shop.product", "b")
    assert (child.model, child.fields) == ("shop.bundle", {"product_ptr": identity, "discount": 5})
    bundle.delete()
    assert seen(source.news()) == [(DELETE, "bundle"), (DELETE, "product")]


def test_a_copy_from_a_file_is_captured(source):
    with plain() as other, other.cursor() as cursor, cursor.copy("COPY shop_counter FROM STDIN") as copy:
        copy.write("1\t5\n2\t6\n")
    other.close()
    assert values(source.news()) == [(SAVE, 1, 5), (SAVE, 2, 6)]


def test_a_merge_is_captured(source):
    if fetch("SELECT current_setting('server_version_num')::int")[0][0] < 150000:
        pytest.skip("MERGE came with PostgreSQL 15")
    execute("INSERT INTO shop_counter (id, value) VALUES (1, 1), (2, 2)")
    source.news()
    execute(
        "MERGE INTO shop_counter c USING (VALUES (1, 10), (2, 0), (3, 30)) AS v (id, value) ON c.id = v.id "
        "WHEN MATCHED AND v.value = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET value = v.value "
        "WHEN NOT MATCHED THEN INSERT (id, value) VALUES (v.id, v.value)"
    )
    assert sorted(values(source.news())) == [(DELETE, 2, 2), (SAVE, 1, 10), (SAVE, 3, 30)]


def test_writes_within_one_query_are_captured(source):
    execute("INSERT INTO shop_counter (id, value) VALUES (1, 1)")
    execute(
        "WITH gone AS (DELETE FROM shop_counter RETURNING *), "
        "made AS (INSERT INTO shop_counter (id, value) SELECT id + 1, value FROM gone RETURNING *) "
        "INSERT INTO shop_seat (row, number, guest) SELECT 'A', id, '' FROM made"
    )
    assert seen(source.news()) == [(SAVE, "counter"), (DELETE, "counter"), (SAVE, "counter"), (SAVE, "seat")]


@pytest.mark.parametrize("command", ["TRUNCATE shop_counter CASCADE", "DELETE FROM shop_counter"])
def test_emptying_a_table_tells_every_row(source, command):
    Counter.objects.bulk_create([Counter(id=number, value=-number) for number in range(3)])
    source.news()
    execute(command)
    assert values(source.news()) == [(DELETE, number, -number) for number in range(3)]


def test_truncating_parents_and_children_names_the_parents(source):
    brand = Brand.objects.create(name="a")
    Product.objects.create(name="p", second_brand=brand)
    source.news()
    execute("TRUNCATE shop_brand CASCADE")
    changes = source.news()
    assert sorted(seen(changes)) == [(DELETE, "brand"), (DELETE, "product")]
    assert {change.fields.get("second_brand") for change in changes} == {None, str(brand.id)}


def test_a_truncation_that_is_rolled_back_leaves_nothing(source):
    Counter.objects.create()
    source.news()
    with rolled_back():
        execute("TRUNCATE shop_counter CASCADE")
    assert source.news() == []


def test_what_is_rolled_back_leaves_nothing(source):
    with transaction.atomic():
        Brand.objects.create(name="before")
        with rolled_back():
            Brand.objects.create(name="within")
        Brand.objects.create(name="after")
    with rolled_back():
        Brand.objects.create(name="never")
    with pytest.raises(IntegrityError):
        Brand.objects.bulk_create([Brand(name="new"), Brand(name="before")])
    assert names(source.news()) == [(SAVE, "before"), (SAVE, "after")]


# Keys


@pytest.fixture
def deferrable(source):
    """A key that may be swapped within one statement."""
    execute("ALTER TABLE shop_seat DROP CONSTRAINT shop_seat_pkey, ADD PRIMARY KEY (row, number) DEFERRABLE")
    yield
    execute("ALTER TABLE shop_seat DROP CONSTRAINT shop_seat_pkey, ADD PRIMARY KEY (row, number)")


def guests(changes) -> list[tuple]:
    return [(change.op, *change.pk, change.fields["guest"]) for change in changes]


def test_a_changed_key_is_another_row(source):
    Seat.objects.create(row="A", number=3, guest="Ada")
    Seat.objects.filter(row="A").update(number=4)
    assert guests(source.news()) == [(SAVE, "A", 3, "Ada"), (DELETE, "A", 3, "Ada"), (SAVE, "A", 4, "Ada")]


def test_keys_that_move_up_within_a_statement_are_deleted_before_they_are_saved(source, deferrable):
    Seat.objects.bulk_create([Seat(row="A", number=number, guest=str(number)) for number in (1, 2, 3)])
    source.news()
    execute("UPDATE shop_seat SET number = number + 1")
    changes = guests(source.news())
    assert sorted(changes[:3]) == [(DELETE, "A", number, str(number)) for number in (1, 2, 3)]
    assert sorted(changes[3:]) == [(SAVE, "A", number + 1, str(number)) for number in (1, 2, 3)]


def test_keys_that_are_swapped_are_two_rows_with_other_values(source, deferrable):
    Seat.objects.bulk_create([Seat(row="A", number=number, guest=str(number)) for number in (1, 2)])
    source.news()
    execute("UPDATE shop_seat SET number = 3 - number")
    assert sorted(guests(source.news())) == [(SAVE, "A", 1, "2"), (SAVE, "A", 2, "1")]


def test_a_changed_uuid_is_another_row_and_a_changed_local_key_is_not(source):
    brand = Brand.objects.create(name="a")
    Brand.objects.update(pkid=99)
    first, other = str(brand.id), str(uuid.uuid4())
    Brand.objects.update(id=other)
    assert [(change.op, change.pk, change.fields["id"]) for change in source.news()] == [
        (SAVE, brand.pkid, first),
        (SAVE, 99, first),
        (DELETE, 99, first),
        (SAVE, 99, other),
    ]

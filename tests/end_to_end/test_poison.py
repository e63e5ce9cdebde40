"""Values that a database holds and its field cannot: nothing stops unseen."""

from __future__ import annotations

import pytest

from tests.end_to_end.conftest import Ground
from tests.end_to_end.oracle import assert_same_shop
from tests.end_to_end.processes import wait_until_level

_PRODUCT = "INSERT INTO shop_product (id, name, stock, price, on_sale, details{more}) VALUES ({values})"


def product(*, price: str = "1", more: str = "", value: str = "") -> str:
    values = f"'{'0' * 31}1', 'poison', 1, {price}, 0, '{{}}'{value and f', {value}'}"
    return _PRODUCT.format(more=more and f", {more}", values=values)


@pytest.mark.parametrize(
    ("sql", "field"),
    [
        (product(price="'free'"), "price"),
        (product(more="listed_at", value="'yesterday'"), "listed_at"),
        (product(more="shelf_life", value="'long'"), "shelf_life"),
        (product(more="weight", value="'heavy'"), "weight"),
    ],
    ids=["decimal", "time", "duration", "float"],
)
def test_a_value_of_another_kind_arrives_as_it_is_where_the_database_is_the_same(
    ground: Ground, sql: str, field: str
):
    source, centre = ground.pair()
    centre.mirror()
    with source.writing() as connection:
        connection.execute(sql)
    wait_until_level(source, centre)
    assert isinstance(centre.one(f"SELECT {field} FROM shop_product"), str)
    assert_same_shop(source, centre)


def test_a_number_with_too_many_digits_arrives_as_it_is(ground: Ground):
    """Django's own ``update`` writes it, and Django itself cannot read it again."""
    source, centre = ground.pair()
    centre.mirror()
    source.run(
        "from django.db.models import F\n"
        "shop.Product.objects.create(name='dear', price=99_999_999)\n"
        "shop.Product.objects.update(price=F('price') * 10**12)\n"
    )
    wait_until_level(source, centre)
    assert_same_shop(source, centre)


def test_a_text_that_is_no_text_does_not_stop_the_stream(ground: Ground):
    source, centre = ground.pair()
    centre.mirror()
    with source.writing() as connection:
        connection.execute(
            "INSERT INTO shop_ticket (id, text, secret) VALUES (?, CAST(x'61ff62' AS TEXT), '')",
            ["0" * 31 + "1"],
        )
    source.run("shop.Ticket.objects.create(text='after')")
    wait_until_level(source, centre)
    assert centre.rows("SELECT text FROM shop_ticket ORDER BY rowid") == [("a\ufffdb",), ("after",)]

"""Several sources in one centre."""

from __future__ import annotations

from tests.end_to_end.conftest import Ground
from tests.end_to_end.oracle import shop_of
from tests.end_to_end.processes import Site, copy_database, wait_until, wait_until_level, wait_until_state

#: The same numbers on every server: each begins to count at 1.
_SHOP = """
def fill(town):
    brands = [shop.Brand.objects.create(name=f"{town} brand {number}") for number in range(3)]
    tags = [shop.Tag.objects.create(label=f"{town} tag {number}") for number in range(3)]
    parent = None
    for number in range(5):
        parent = shop.Product.objects.create(
            name=f"{town} product {number}", brand=brands[number % 3], second_brand=brands[number % 2],
            parent=parent, stock=number,
        )
        parent.tags.add(tags[number % 3], tags[(number + 1) % 3])
    bundle = shop.Bundle.objects.create(name=f"{town} bundle", second_brand=brands[2], discount=5)
    bundle.tags.add(*tags)
    shop.Ticket.objects.create(text=town)
"""


def assert_merged(sources: list[Site], centre: Site) -> None:
    merged = shop_of(centre)
    for table, rows in merged.items():
        expected = [row for source in sources for row in shop_of(source)[table]]
        assert rows == sorted(expected, key=repr), table


def two_sources(ground: Ground) -> tuple[list[Site], Site]:
    sources, centre = [ground.source("north"), ground.source("south")], ground.centre()
    for source in sources:
        source.serve()
        centre.follow(source.name, source.url, source.token())
    centre.mirror()
    return sources, centre


def test_rows_with_the_same_numbers_merge_with_their_references(ground: Ground):
    sources, centre = two_sources(ground)
    for source in sources:
        source.run(f"{_SHOP}\nfill({source.name!r})")
    for source in sources:
        numbers = "SELECT pkid FROM shop_brand ORDER BY 1"
        assert source.rows(numbers) == [(1,), (2,), (3,)], "they are to collide"
        wait_until_level(source, centre, name=source.name)
    assert_merged(sources, centre)

    # And they stay apart: what one changes and deletes is its own.
    north, south = sources
    north.run("shop.Brand.objects.get(name='north brand 0').delete()")
    north.run("shop.Bundle.objects.get().delete()")
    south.run("shop.Product.objects.get(name='south product 4').tags.clear()")
    south.run("shop.Product.objects.update(second_brand=shop.Brand.objects.get(name='south brand 0'))")
    for source in sources:
        wait_until_level(source, centre, name=source.name)
    assert_merged(sources, centre)


def test_a_model_matched_by_numbers_belongs_to_the_first_source_only(ground: Ground):
    (north, south), centre = two_sources(ground)
    north.run("shop.Counter.objects.create(value=1)")
    wait_until_level(north, centre, name="north")
    south.run("shop.Ticket.objects.create(text='before'); shop.Counter.objects.create(value=2)")
    halted = wait_until_state(centre, "halted", "model_owned", name="south")
    assert "shop.counter" in halted["error_text"]
    assert "north" in halted["error_text"]
    north.run("shop.Counter.objects.update(value=3)")
    wait_until_level(north, centre, name="north")
    assert centre.rows("SELECT value FROM shop_counter") == [(3,)]
    assert centre.source_row("north")["state"] == "live"


def test_a_cloned_server_is_not_taken_for_another_source(ground: Ground):
    source, centre = ground.pair()
    source.run("shop.Ticket.objects.create(text='both')")
    clone = ground.source("clone")
    clone.path.unlink()
    copy_database(source.path, clone.path)
    clone.serve()
    centre.mirror()
    wait_until_level(source, centre)
    centre.follow("clone", clone.url, clone.token("second"))
    wait_until_state(centre, "halted", "doubled", name="clone")
    clone.run("shop.Ticket.objects.create(text='only the clone')")
    source.run("shop.Ticket.objects.create(text='only the source')")
    wait_until_level(source, centre)
    wait_until(lambda: centre.source_row("clone")["attempts"] > 2)
    assert centre.rows("SELECT text FROM shop_ticket ORDER BY 1") == [("both",), ("only the source",)]

"""The judge itself: it acquits what was captured rightly, and condemns every kind of wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import connection, connections, transaction

from mirror.changes import encode_change
from mirror.models import Outbox
from tests.fakes import Recorded, delete, save
from tests.judge.court import Court
from tests.judge.explained import EXPLAINED
from tests.judge.fold import differences, fold, row_text
from tests.judge.report import Explained, compared
from tests.judge.sessions import copied
from tests.project.shop.models import Brand, Counter, Product, Tag


def folded(base, *changes):
    return fold(base, [encode_change(change) for change in changes], lambda change: str(change.pk))


def row(pk, **fields):
    return row_text(str(pk), fields)


# The fold


def test_a_fold_keeps_the_last_save_of_each_row_and_forgets_the_deleted():
    base = {"shop.tag": {"1": row(1, label="old"), "2": row(2, label="gone")}}
    state = folded(
        base,
        save("shop.tag", 1, label="new"),
        save("shop.tag", 3, label="first"),
        delete("shop.tag", 2, label="gone"),
        save("shop.tag", 3, label="last"),
    )
    assert state == {"shop.tag": {"1": row(1, label="new"), "3": row(3, label="last")}}
    assert base["shop.tag"]["1"] == row(1, label="old")


@pytest.mark.parametrize(
    "changes",
    [
        [],
        [save("shop.tag", 1, label="right"), save("shop.tag", 2, label="invented")],
        [save("shop.tag", 1, label="wrong")],
        [save("shop.tag", 1, label="right"), delete("shop.tag", 1, label="right")],
        [save("shop.tag", 1, label="right", more=1)],
        [save("shop.tag", 1)],
        [save("shop.tag", 10, label="right")],
        [save("shop.brand", 1, label="right")],
    ],
    ids=[
        "lost",
        "invented",
        "wrong value",
        "deleted",
        "one column more",
        "no column",
        "other key",
        "other table",
    ],
)
def test_a_capture_that_is_wrong_is_condemned(changes):
    stored = {"shop.tag": {"1": row(1, label="right")}}
    assert differences(folded({}, save("shop.tag", 1, label="right")), stored) == []
    assert differences(folded({}, *changes), stored)


def test_numbers_that_differ_in_the_last_digit_are_different():
    stored = {"shop.tag": {"1": row(1, big="12345678901234567890.1234567890")}}
    told = folded({}, save("shop.tag", 1, big=12345678901234567890.1))
    assert differences(told, stored)


# The court, over a database with triggers


@pytest.fixture
def court(source: Recorded) -> Iterator[Court]:
    Tag.objects.create(label="before")
    centre = copied(connections["default"])
    court = Court("default", centre)
    court.begin()
    yield court
    centre.connection.close()  # close() of Django keeps a database in memory open


def write_rows() -> None:
    brand = Brand.objects.create(name="acme")
    product = Product.objects.create(name="pen", brand=brand, second_brand=brand, weight=0.1)
    product.tags.add(Tag.objects.get(label="before"))
    Counter.objects.create(value=1)
    Brand.objects.update(name="other")
    Tag.objects.create(label="short-lived").delete()


def meddle(change: str, where: str) -> None:
    """Whatever is captured from now on is told wrongly."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TRIGGER meddling AFTER INSERT ON mirror_outbox WHEN {where} "
            f"BEGIN UPDATE mirror_outbox SET {change} WHERE id = NEW.id; END"
        )


def test_what_was_captured_rightly_is_acquitted(court):
    write_rows()
    verdict = court.judge()
    assert verdict.changes > 5
    assert (verdict.folded, verdict.mirrored, verdict.unjudged) == ([], [], "")


def test_judging_leaves_no_trace(court):
    write_rows()
    captured = list(Outbox.objects.values_list())
    assert court.judge() == court.judge()
    assert list(Outbox.objects.values_list()) == captured


def test_rows_of_a_transaction_are_judged_before_it_ends(court):
    with transaction.atomic():
        write_rows()
        assert court.judge().changes > 5
        transaction.set_rollback(True)
    assert court.judge().changes == 0


def test_a_write_that_no_trigger_saw_is_condemned(court):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'shop_brand' "
            "AND name LIKE '%update%'"
        )
        for (name,) in cursor.fetchall():
            cursor.execute(f'DROP TRIGGER "{name}"')
    write_rows()
    verdict = court.judge()
    assert [line.split()[0] for line in verdict.folded] == ["shop.brand"]
    assert [line.split(":")[0] for line in verdict.mirrored] == ["shop.brand"]


def test_a_value_that_a_trigger_got_wrong_is_condemned(court):
    meddle("payload = json_set(payload, '$.value', 2)", "NEW.model = 'shop.counter'")
    write_rows()
    assert [line.split()[0] for line in court.judge().folded] == ["shop.counter"]


def test_a_deletion_told_of_another_row_is_condemned(court):
    another = "'1b4e28ba2fa111d2883f0016d3cca427'"
    meddle(f"payload = json_set(payload, '$.id', {another})", "NEW.op = 'DELETE'")
    write_rows()
    verdict = court.judge()
    assert [line.split()[0] for line in verdict.folded] == ["shop.tag"]
    assert verdict.mirrored


def test_what_a_mirror_makes_another_value_of_is_condemned(court):
    with court.centre.cursor() as cursor:
        cursor.execute(
            "CREATE TRIGGER meddling AFTER INSERT ON shop_brand BEGIN UPDATE shop_brand SET name = 'x'; END"
        )
    Brand.objects.create(name="acme")
    verdict = court.judge()
    assert verdict.folded == []
    assert "acme" in verdict.mirrored[0]


def test_a_mirror_that_refuses_a_change_is_told(court):
    with court.centre.cursor() as cursor:
        cursor.execute(
            "CREATE TRIGGER stubborn BEFORE INSERT ON shop_counter BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    Counter.objects.create(value=1)
    assert "refused: ConstraintFailed" in court.judge().mirrored[0]


# The report


def outcome(**more):
    return {"tests": {"t.one": "passed", "t.two": "passed"}, "judged": 2, "changes": 9, **more}


def test_equal_runs_differ_in_nothing():
    assert compared("sqlite", "t", outcome(), outcome(), []).findings == []


@pytest.mark.parametrize(
    ("without", "captured"),
    [
        (outcome(), outcome(tests={"t.one": "passed", "t.two": "failed"})),
        (outcome(), outcome(tests={"t.one": "passed"})),
        (outcome(), {}),
        ({}, outcome()),
        (outcome(), outcome(folds={"t.one": ["t.model 1"]})),
        (outcome(), outcome(mirrors={"t.one": ["t.model 1"]})),
        (outcome(), outcome(uncaptured=["t.model"])),
    ],
    ids=["fails", "is not run", "does not end", "ended only with it", "fold", "mirror", "no trigger"],
)
def test_whatever_capture_changes_is_found(without, captured):
    assert compared("sqlite", "t", without, captured, []).unexplained


def test_a_test_that_differs_again_is_a_difference_and_one_that_does_not_is_unsteady():
    def line(**ended):
        return compared("sqlite", "t", {"tests": dict.fromkeys(ended, "passed")}, {"tests": ended}, [])

    first = line(one="failed", two="failed", three="passed")
    confirmed = first.confirmed_by(line(one="failed", two="passed", three="failed"))
    assert [one.test for one in confirmed.findings] == ["one"]
    assert confirmed.unsteady == ["two"]


def test_a_fold_that_differs_once_is_a_difference():
    wrong = compared("sqlite", "t", outcome(), outcome(folds={"t.one": ["x"]}), [])
    assert wrong.confirmed_by(compared("sqlite", "t", outcome(), outcome(), [])).unexplained


def test_an_explanation_is_of_its_engine_its_kind_and_its_test():
    captured = outcome(folds={"t.one": ["x"]}, mirrors={"t.one": ["x"]})
    known = [Explained(engines=("sqlite",), kind="fold", test="t.o*", why="because")]
    kinds = [one.kind for one in compared("sqlite", "t", outcome(), captured, known).unexplained]
    assert kinds == ["mirror"]
    assert len(compared("postgresql", "t", outcome(), captured, known).unexplained) == 2


def test_every_explanation_says_why():
    assert all(len(one.why) > 20 for one in EXPLAINED)

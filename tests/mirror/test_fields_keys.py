"""Keys of every kind between every two engines: the row that is meant is found, and no other."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError, connection, connections, transaction
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.zoo.models import (
    AmountKeyed,
    CompositeKeyed,
    DayKeyed,
    MomentKeyed,
    Place,
    SpanKeyed,
    TextKeyed,
    UuidKeyed,
)
from tests.zoo.pairs import PAIRS

pytestmark = pytest.mark.parametrize("engines", PAIRS)

KEYS: dict[Any, list[Any]] = {
    TextKeyed: ["a", "b", " a", "é😀", 'it\'s \\ "quoted"', "null", "1"],
    UuidKeyed: [UUID(int=number << 64 | 4 << 76 | 8 << 60) for number in range(1, 4)],
    DayKeyed: [date(2026, 1, 1), date(1, 1, 1), date(9999, 12, 31)],
    MomentKeyed: [
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ],
    SpanKeyed: [timedelta(0), timedelta(days=-1, microseconds=1), timedelta(days=400, seconds=1)],
    AmountKeyed: [Decimal("1.10"), Decimal("-1.10"), Decimal("99999999.99"), Decimal("0.00")],
    Place: [1, 2**31, 2**62],
}


@pytest.mark.parametrize("model", KEYS, ids=lambda model: model.__name__.lower())
def test_a_row_is_made_changed_and_removed_under_its_key(pair, model):
    field = "name" if model is Place else "value"
    for number, key in enumerate(KEYS[model]):
        model.objects.create(pk=key, **{field: number})
        pair.follow()
        pair.assert_same(model)
    for number, key in enumerate(KEYS[model], start=100):
        model.objects.filter(pk=key).update(**{field: number})
    pair.follow()
    pair.assert_same(model)
    for key in KEYS[model]:
        model.objects.get(pk=key).delete()
        pair.follow()
        pair.assert_same(model)
    assert not model.objects.using("centre").exists()


@pytest.mark.parametrize("model", KEYS, ids=lambda model: model.__name__.lower())
def test_a_row_moves_to_another_key(pair, model):
    first, second, *_ = KEYS[model]
    field = "name" if model is Place else "value"
    model.objects.create(pk=first, **{field: 7})
    pair.follow()
    model.objects.filter(pk=first).update(**{model._meta.pk.name: second})
    pair.follow()
    pair.assert_same(model)
    assert [row.pk for row in model.objects.using("centre").all()] == [second]


def test_a_key_of_three_columns_one_of_them_a_reference(pair):
    for code in ("a", "b"):
        TextKeyed.objects.create(code=code)
    for code, day, number in [
        ("a", date(2026, 1, 1), 1),
        ("a", date(2026, 1, 1), 2**40),
        ("b", date(1, 1, 1), 1),
    ]:
        CompositeKeyed.objects.create(owner_id=code, day=day, number=number)
    pair.follow()
    pair.assert_same(TextKeyed, CompositeKeyed)
    CompositeKeyed.objects.filter(owner="a").update(value=5)
    CompositeKeyed.objects.filter(number=2**40).update(number=3)
    CompositeKeyed.objects.filter(owner="b").delete()
    pair.follow()
    pair.assert_same(CompositeKeyed)
    assert CompositeKeyed.objects.using("centre").count() == 2


_ALIKE = ["a", "A", "a ", "á", "ß", "ss"]


def test_texts_that_a_collation_takes_for_one_are_kept_apart_or_refused(pair):
    """MariaDB's own collations: capitals, accents and spaces at the end do not count."""
    step = st.tuples(st.sampled_from(["save", "delete"]), st.sampled_from(_ALIKE)) | st.just(("follow", ""))

    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(st.lists(step, max_size=10))
    @example([("save", "a"), ("follow", ""), ("save", "A"), ("delete", "A")])
    @example([("save", "a"), ("follow", ""), ("delete", "a"), ("save", "A")])
    def any_history(steps):
        TextKeyed.objects.all().delete()
        pair.follow()
        for value, (step, code) in enumerate([*steps, ("follow", "")]):
            if step != "follow":
                _write(step, code, value)
            elif _clash(pair):
                pair.refuses("zoo.textkeyed")
                TextKeyed.objects.all().delete()
                TextKeyed.objects.using("centre").all().delete()
                pair.source.step()
                pair.skip()
                return
            else:
                pair.follow()
                pair.assert_same(TextKeyed)

    any_history()


def _clash(pair) -> bool:
    """Whether the source holds several rows that the centre cannot tell apart."""
    if pair.engines[1] != "mariadb":
        return False
    codes = [row.code for row in TextKeyed.objects.all()]
    with connections["centre"].cursor() as cursor:
        selected = " UNION ALL ".join(["SELECT CONVERT(%s USING utf8mb4)"] * len(codes))
        if not selected:
            return False
        cursor.execute(
            f"SELECT COUNT(DISTINCT code COLLATE {_collation()}) FROM (SELECT '' AS code WHERE 0 "
            f"UNION ALL {selected}) told",
            codes,
        )
        return cursor.fetchone()[0] < len(codes)


def _collation() -> str:
    with connections["centre"].cursor() as cursor:
        cursor.execute(
            "SELECT collation_name FROM information_schema.columns WHERE table_schema = DATABASE() "
            "AND table_name = 'zoo_textkeyed' AND column_name = 'code'"
        )
        return cursor.fetchone()[0]


def _write(step: str, code: str, value: int) -> None:
    # By plain SQL and byte by byte: what the engine takes for one is not our subject.
    exact = {"mysql": "BINARY code = %s"}.get(connection.vendor, "code = %s")
    with connection.cursor() as cursor:
        if step == "delete":
            cursor.execute(f"DELETE FROM zoo_textkeyed WHERE {exact}", [code])
            return
        cursor.execute(f"UPDATE zoo_textkeyed SET value = %s WHERE {exact}", [value, code])
        if not cursor.rowcount:
            try:
                with transaction.atomic():
                    cursor.execute("INSERT INTO zoo_textkeyed (code, value) VALUES (%s, %s)", [code, value])
            except IntegrityError:
                assert connection.vendor == "mysql"


def test_a_key_whose_capitals_change_is_changed(pair):
    TextKeyed.objects.create(code="a", value=1)
    pair.follow()
    TextKeyed.objects.filter(code="a").update(code="A")
    pair.follow()
    assert TextKeyed.objects.using("centre").get().code == "A"
    assert [row.code for row in TextKeyed.objects.using("centre").all()] == ["A"]
    pair.assert_same(TextKeyed)

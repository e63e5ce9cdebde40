from __future__ import annotations

from typing import Any

import pytest

from mirror.changes import Change, Op
from streamer.diff import VALUE_CHARACTERS, Kind, field_changes, kind_of, summary


def saved(**fields: Any) -> Change:
    return Change(ts=1, op=Op.SAVE, model="shop.brand", pk=1, fields=fields)


def deleted(**fields: Any) -> Change:
    return Change(ts=2, op=Op.DELETE, model="shop.brand", pk=1, fields=fields)


def told(change: Change, previous: Change | None) -> list[tuple[str, str | None, str | None]]:
    return [
        (field.name, field.before and field.before.text, field.after and field.after.text)
        for field in field_changes(change, previous)
    ]


def test_only_the_fields_that_changed_are_told() -> None:
    assert told(saved(name="B", stock=1), saved(name="A", stock=1)) == [("name", "A", "B")]


def test_without_an_earlier_change_every_field_is_told_and_none_has_a_before() -> None:
    assert told(saved(name="A", stock=1), None) == [("name", None, "A"), ("stock", None, "1")]


def test_a_row_that_comes_back_after_its_deletion_is_not_compared_with_what_it_was() -> None:
    assert told(saved(name="A"), deleted(name="old")) == [("name", None, "A")]


def test_a_deletion_tells_how_the_row_last_was() -> None:
    assert told(deleted(name="A"), saved(name="older")) == [("name", "A", None)]


def test_a_field_that_appears_or_goes_is_a_change_of_it() -> None:
    assert told(saved(new=1), saved(old=2)) == [("new", None, "1"), ("old", "2", None)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (1, True),  # equal in Python
        (1, 1.0),
        (0, False),
        ("1", 1),
        (None, ""),
        ({"a": 1}, {"a": 1.0}),
    ],
)
def test_values_that_json_tells_apart_are_different(before: Any, after: Any) -> None:
    assert len(field_changes(saved(value=after), saved(value=before))) == 1


@pytest.mark.parametrize(
    ("value", "type_", "text"),
    [
        (None, "null", "null"),
        (True, "boolean", "true"),
        (3, "number", "3"),
        ("3", "string", "3"),
        (["ö"], "json", '["ö"]'),
    ],
)
def test_a_value_says_what_it_is(value: Any, type_: str, text: str) -> None:
    (field,) = field_changes(saved(value=value), None)
    assert field.after is not None
    assert (field.after.type, field.after.text, field.after.cut) == (type_, text, 0)


def test_a_long_value_is_cut_and_says_by_how_much() -> None:
    (field,) = field_changes(saved(value="x" * (VALUE_CHARACTERS + 7)), None)
    assert field.after is not None
    assert (len(field.after.text), field.after.cut) == (VALUE_CHARACTERS, 7)


@pytest.mark.parametrize(
    ("op", "previous", "kind"),
    [
        ("SAVE", None, Kind.CREATED),
        ("SAVE", "SAVE", Kind.CHANGED),
        ("SAVE", "DELETE", Kind.CREATED),
        ("DELETE", "SAVE", Kind.DELETED),
        ("DELETE", None, Kind.DELETED),
    ],
)
def test_the_kind_of_a_change_follows_from_the_one_before(op: str, previous: str | None, kind: Kind) -> None:
    assert kind_of(op, previous) == kind


def test_the_summary_of_a_changed_row_is_from_what_to_what() -> None:
    assert summary(saved(name="A", stock=4), saved(name="A", stock=3)) == "stock 3 → 4"


def test_the_summary_of_a_new_row_is_its_values_without_the_key() -> None:
    assert summary(saved(id="3f", name="A", tags=[1]), None) == "name A, tags [1]"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("one", "one"),
        ("two words", "“two words”"),
        ("", "“”"),
        (None, "null"),
        ([1, 2], "[1, 2]"),
        ("8362bbe2-0569-4950-9fa1-46783218d94f", "8362bbe2…"),
        ("x" * 50, "x" * 39 + "…"),
    ],
)
def test_a_value_in_a_summary_is_short_and_has_visible_ends(value: Any, shown: str) -> None:
    assert summary(saved(value=value), None) == f"value {shown}"


def test_a_save_that_changed_nothing_says_so() -> None:
    assert summary(saved(name="A"), saved(name="A")) == "no field changed"


def test_a_summary_is_one_line_of_bounded_length_whatever_the_values() -> None:
    line = summary(saved(**{f"field{number}": "two\nlines " * 1000 for number in range(50)}), None)
    assert len(line) == 160
    assert "\n" not in line

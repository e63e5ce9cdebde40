"""What a row comes to: the same in every engine's words, and something else for every other row."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, timedelta, timezone
from decimal import MAX_PREC, Context, Decimal
from typing import Any

import msgspec
import pytest
from django.contrib.auth.models import Permission
from django.utils.duration import duration_string
from hypothesis import given
from hypothesis import strategies as st

from mirror.registry import MirroredModel, describe
from mirror.rows.canonical import Canonical
from tests.zoo.models import (
    Animal,
    Bird,
    Cafe,
    CompositeKeyed,
    Custom,
    Label,
    Note,
    Numbers,
    Place,
    TextKeyed,
    Texts,
    Times,
)
from tests.zoo.pairs import zoo

UUID = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
OTHER = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


@pytest.fixture(autouse=True, scope="module")
def listed() -> Iterator[None]:
    with zoo():
        yield


def of(model: Any) -> Canonical:
    return Canonical(describe(model))


def digests(model: Any, field: str, *values: Any) -> list[str]:
    canonical = of(model)
    return [canonical.digest(None, {field: value}, [field]) for value in values]


def raw(document: Any) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(document, ensure_ascii=False).encode())


SAME = {
    "a decimal with and without its zeros": (Numbers, "money", "1.10", "1.1"),
    "a decimal that is whole": (Numbers, "money", "7.00", "7"),
    "a decimal that was an integer": (Numbers, "money", "7.00", 7),
    "a decimal as Python writes a small one": (Numbers, "huge", "1E-20", "0." + "0" * 19 + "1"),
    "a decimal of more digits than Python's context": (Numbers, "huge", "9" * 39 + ".50", "9" * 39 + ".5"),
    "a large decimal with and without its zeros": (Numbers, "huge", "1" + "0" * 30, "1" + "0" * 30 + ".00"),
    "nothing with and without a sign": (Numbers, "money", "-0.00", "0.00"),
    "nothing, as Python writes one with many places": (Numbers, "huge", "0E-20", "0"),
    "a float below zero that is zero": (Numbers, "ratio", -0.0, 0.0),
    "a float and the integer that JSON makes of it": (Numbers, "ratio", 1e16, 10**16),
    "a large float and the integer that JSON makes of it": (Numbers, "ratio", 1e22, 10**22),
    "an infinite float": (Numbers, "ratio", "inf", "inf"),
    "a moment in another zone": (Times, "moment", "2026-01-01T08:00:00+05:30", "2026-01-01T02:30:00Z"),
    "a moment in UTC by its offset": (Times, "moment", "2026-01-01T02:30:00+00:00", "2026-01-01T02:30:00Z"),
    "a moment with and without a fraction that is zero": (
        *(Times, "moment"),
        *("2026-01-01T02:30:00.000000Z", "2026-01-01T02:30:00Z"),
    ),
    "a moment with a fraction cut short": (
        *(Times, "moment"),
        *("2026-01-01T02:30:00.500Z", "2026-01-01T02:30:00.500000Z"),
    ),
    "a naive moment with and without a fraction that is zero": (
        *(Times, "moment"),
        *("2026-01-01T02:30:00.000000", "2026-01-01T02:30:00"),
    ),
    "a time of day with and without a fraction that is zero": (Times, "hour", "01:02:03.000000", "01:02:03"),
    "a time of day with a fraction cut short": (Times, "hour", "01:02:03.5", "01:02:03.500000"),
    "a duration with and without its days": (Times, "span", "0 01:02:03", "01:02:03"),
    "a duration with a fraction cut short": (Times, "span", "-1 01:02:03.5", "-1 01:02:03.500000"),
    "a UUID in capitals": (Texts, "token", UUID.upper(), UUID),
    "a UUID without dashes": (Texts, "token", UUID.replace("-", ""), UUID),
    "an address in capitals": (Texts, "address", "2001:DB8::1", "2001:db8::1"),
    "an address written out": (Texts, "address", "2001:db8:0:0:0:0:0:1", "2001:db8::1"),
    "an IPv4 address within IPv6": (Texts, "address", "::ffff:10.0.0.1", "::ffff:a00:1"),
    "what SQLite stores and what Django reads in it": (
        *(Numbers, "money"),
        *({"$sqlite": 3.8871, "$read": "3.89"}, "3.89"),
    ),
    "two stored forms that Django reads as one": (
        *(Times, "span"),
        *(
            {"$postgresql": "25:00:00", "$read": "1 01:00:00"},
            {"$postgresql": "1 day 01:00:00", "$read": "1 01:00:00"},
        ),
    ),
    "a value that is read in another form": (
        *(Times, "moment"),
        *(
            {"$sqlite": "2026-01-01T08:00:00+05:30", "$read": "2026-01-01T08:00:00+05:30"},
            "2026-01-01T02:30:00Z",
        ),
    ),
    "a text that nobody has decoded": (Texts, "title", msgspec.Raw(b'"a"'), "a"),
    "a number that nobody has decoded": (Numbers, "money", msgspec.Raw(b'"1.10"'), "1.1"),
    "references to rows that are not there": (Animal, "parent", {"$missing": 7}, {"$missing": 4711}),
    "generic references to rows that are not there, as a number and a text": (
        *(Label, "object_id"),
        *({"$missing": 0}, {"$missing": "no number"}),
    ),
    "a reference in capitals": (Animal, "parent", UUID.upper(), UUID),
    "what PostgreSQL's driver has no plain value for": (
        *(Custom, "hand"),
        *({"$postgresql": "2026-01-01"}, "2026-01-01"),
    ),
    "a number of a type of its own": (Custom, "hand", {"$postgresql": "3.50"}, 3.5),
    "the same number from MariaDB": (Custom, "hand", {"$mysql": "3.50"}, {"$postgresql": "3.5"}),
    "true of a type of its own, where there is no such type": (Custom, "hand", True, 1),
}

DIFFERENT = {
    "null and an empty text": (Texts, "title", None, ""),
    "null and the word": (Texts, "title", None, "null"),
    "texts that differ in a capital": (Texts, "title", "a", "A"),
    "texts that differ in a space at the end": (Texts, "title", "a", "a "),
    "two ways to write an accent": (Texts, "title", "é", "e\u0301"),
    "a text and its digits": (Texts, "title", "1", 1),
    "true and one": (Numbers, "sure", True, {"$sqlite": 1}),
    "true and false": (Numbers, "sure", True, False),
    "integers beyond what a float holds": (Numbers, "big", 2**53, 2**53 + 1),
    "integers that differ in their sign": (Numbers, "big", 1, -1),
    "decimals beyond what a float holds": (Numbers, "huge", "9007199254740992", "9007199254740993"),
    "decimals that differ in the last of many places": (Numbers, "huge", "0." + "0" * 19 + "1", "0"),
    "large decimals": (Numbers, "huge", "1" + "0" * 30, "1" + "0" * 29),
    "a decimal and a number that is none": (Numbers, "money", {"$postgresql": "NaN"}, "0"),
    "floats that differ in the last bit": (Numbers, "ratio", 0.1, 0.1 + 2**-56),
    "floats that differ in their sign": (Numbers, "ratio", 0.5, -0.5),
    "infinities": (Numbers, "ratio", "inf", "-inf"),
    "moments that differ by a microsecond": (
        *(Times, "moment"),
        *("2026-01-01T02:30:00.000001Z", "2026-01-01T02:30:00Z"),
    ),
    "the same digits in another zone": (
        *(Times, "moment"),
        *("2026-01-01T02:30:00+05:30", "2026-01-01T02:30:00Z"),
    ),
    "an aware moment and a naive one": (Times, "moment", "2026-01-01T02:30:00Z", "2026-01-01T02:30:00"),
    "times of day that differ by a microsecond": (Times, "hour", "01:02:03.000001", "01:02:03"),
    "durations that differ in their days": (Times, "span", "1 00:00:00", "-1 00:00:00"),
    "durations that differ by a microsecond": (Times, "span", "00:00:00.000001", "00:00:00"),
    "UUIDs": (Texts, "token", UUID, OTHER),
    "addresses": (Texts, "address", "2001:db8::1", "2001:db8::2"),
    "an IPv4 address and the same within IPv6": (Texts, "address", "10.0.0.1", "::ffff:10.0.0.1"),
    "addresses that differ in their zone": (Texts, "address", "fe80::1%a", "fe80::1%b"),
    "bytes": (Texts, "blob", "AAE=", "AAI="),
    "values that Django reads differently": (
        *(Numbers, "money"),
        *({"$sqlite": 3.8871, "$read": "3.89"}, {"$sqlite": 3.88, "$read": "3.88"}),
    ),
    "stored values that Django does not read": (Numbers, "whole", {"$sqlite": 1.5}, {"$sqlite": 1.6}),
    "a stored number and its text": (Texts, "blob", {"$sqlite": 7.5}, {"$sqlite": "7.5"}),
    "a stored text and its bytes": (Texts, "body", {"$sqlite": {"b": "61"}}, "a"),
    "a row that is not there and no row": (Animal, "parent", {"$missing": 7}, None),
    "a row that is not there and one that is": (Note, "object_id", {"$missing": 7}, {"$row": UUID}),
    "rows": (Note, "object_id", {"$row": OTHER}, {"$row": UUID}),
    "a row by its UUID and one by its number": (Note, "object_id", {"$row": UUID}, 7),
    "content types": (Note, "kind", ["zoo", "animal"], ["zoo", "keeper"]),
    "texts of a type of its own that read as numbers": (Custom, "hand", "1.0", "1.00"),
    "numbers of a type of its own": (Custom, "hand", {"$mysql": "3.50"}, 3.6),
}

SAME_DOCUMENTS = {
    "a document and its text": ({"a": [1, None]}, {"$json": '{"a": [1, null]}'}),
    "keys in another order": ({"b": 1, "a": 2}, {"a": 2, "b": 1}),
    "keys in another order within": ([{"b": 1, "a": 2}], [{"a": 2, "b": 1}]),
    "a key that comes twice": ({"$json": '{"a": 1, "a": 2}'}, {"a": 2}),
    "other spacing": ({"$json": '{"a" :1}'}, {"a": 1}),
    "a number that is written out": (1e300, {"$json": str(10**300)}),
    "a number that is written out, decoded": (1e300, 10**300),
    "a small number that is written out": (1e-07, {"$json": "0.0000001"}),
    "a whole number with a point": (1.0, 1),
    "zeros after the point": ({"$json": "1.50"}, 1.5),
    "nothing below zero": (-0.0, 0),
    "nothing below zero, as an integer": ({"$json": "-0"}, 0),
    "a number of many digits": ({"$json": "1" + "0" * 5000}, {"$json": "1e5000"}),
    "escapes that need not be": ({"$json": '"\\u00e9\\/"'}, "é/"),
    "a document deeper than Python goes": (
        {"$json": "[" * 300 + "1.0" + "]" * 300},
        {"$json": "[" * 300 + "1" + "]" * 300},
    ),
    "the null of JSON": ({"$json": "null"}, {"$json": " null"}),
    "a document that looks wrapped": ({"$sqlite": 1}, {"$json": '{"$sqlite": 1}'}),
    "a document that looks like a row that is gone": ({"$missing": 1}, {"$json": '{"$missing": 1}'}),
}

DIFFERENT_DOCUMENTS = {
    "the null of JSON and that of SQL": ({"$json": "null"}, None),
    "the null of JSON and its word": ({"$json": "null"}, "null"),
    "a number and its digits": (1, "1"),
    "true and one": (True, 1),
    "false and null": ([False], [None]),
    "one list or two": ([[1, 2]], [[1], [2]]),
    "an empty list and an empty object": ([], {}),
    "items in another order": ([1, 2], [2, 1]),
    "values that changed places": ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
    "a key of null and none": ({"a": None}, {}),
    "numbers beyond what a float holds": (10**40, 10**40 + 1),
    "fractions beyond what a float holds": ({"$json": "0.1000000000000000000001"}, 0.1),
    "halves of surrogate pairs": ({"$json": '"\\ud800"'}, {"$json": '"\\ud801"'}),
    "keys that look like items": ({"a": "b"}, ["a", "b"]),
    "a text with quotes in it": (['a" "b'], ["a", "b"]),
    "a document and one in which it is": ({"a": 1}, {"$json": '{"$json": {"a": 1}}'}),
    "documents that look like rows that are gone": ({"$missing": 1}, {"$missing": 2}),
    "what is no document": ({"$json": "{"}, {"$json": "["}),
    "bytes in a column of documents": (
        {"$json": {"$sqlite": {"b": "00"}}},
        {"$json": {"$sqlite": {"b": "01"}}},
    ),
}


@pytest.mark.parametrize(("model", "field", "one", "other"), SAME.values(), ids=SAME)
def test_one_value_in_two_forms_is_the_same(model, field, one, other):
    first, second = digests(model, field, one, other)
    assert first == second
    assert of(model).differing((None, {field: one}), (None, {field: other}), [field]) == []


@pytest.mark.parametrize(("model", "field", "one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_two_values_are_not_the_same(model, field, one, other):
    first, second = digests(model, field, one, other)
    assert first != second
    assert of(model).differing((None, {field: one}), (None, {field: other}), [field]) == [field]


@pytest.mark.parametrize(("one", "other"), SAME_DOCUMENTS.values(), ids=SAME_DOCUMENTS)
def test_one_document_in_two_forms_is_the_same(one, other):
    first, second = digests(Texts, "document", one, other)
    assert first == second


@pytest.mark.parametrize(("one", "other"), DIFFERENT_DOCUMENTS.values(), ids=DIFFERENT_DOCUMENTS)
def test_two_documents_are_not_the_same(one, other):
    first, second = digests(Texts, "document", one, other)
    assert first != second


# Rows


def test_a_digest_is_16_hexadecimal_digits_and_stays_what_it_is():
    row = {"id": UUID, "document": {"b": [1, 2.5, None], "a": "é"}, "title": 'a "é"', "token": None}
    # Both servers must come to it, whatever versions they run.
    assert of(Texts).digest(7, row, ["document", "id", "title", "token"]) == "83a9230dc7582c15"
    times = {"moment": "2026-01-01T02:30:00Z", "span": "1 02:03:04", "day": "2026-01-01", "hour": "01:02:03"}
    assert of(Times).digest(7, times, ["day", "hour", "moment", "span"]) == "81a13e9571a5bea4"
    numbers = {"whole": 7, "money": "1.10", "huge": "1E-20", "ratio": 1e300, "sure": True}
    assert of(Numbers).digest(7, numbers, ["huge", "money", "ratio", "sure", "whole"]) == "37dcd062017c1b1d"


def test_all_fields_are_compared_but_a_key_that_is_each_servers_own():
    assert of(Animal).names == ("favourite", "id", "name", "parent")
    assert of(Bird).names == ("animal_ptr", "wings"), "a key that is a reference"
    assert of(Cafe).names == ("place_ptr", "seats")
    assert of(Animal.friends.through).names == ("from_animal", "to_animal")
    assert of(Place.near.through).names == ("from_place", "id", "to_place")
    assert of(Permission).names == ("codename", "content_type", "name")
    assert of(CompositeKeyed).names == ("day", "number", "owner", "value")


def test_a_field_that_is_not_told_differs_from_null():
    canonical = of(Texts)
    assert canonical.digest(1, {}, ["title"]) != canonical.digest(1, {"title": None}, ["title"])
    assert canonical.differing((1, {}), (1, {"title": None}), ["title"]) == ["title"]
    assert canonical.differing((1, {}), (2, {}), ["title"]) == []


def test_values_of_two_fields_that_changed_places_differ():
    canonical, names = of(Texts), ["slug", "title"]
    rows = [{"title": "a", "slug": "b"}, {"title": "b", "slug": "a"}]
    assert len({canonical.digest(1, row, names) for row in rows}) == 2
    assert canonical.differing((1, rows[0]), (1, rows[1]), names) == names


def test_a_primary_key_counts_where_it_is_the_same_everywhere():
    canonical = of(TextKeyed)
    one, other = (canonical.digest(pk, {"value": 1}, canonical.names) for pk in ("a", "b"))
    assert one != other
    assert canonical.differing(("a", {"value": 1}), ("b", {"value": 1}), canonical.names) == ["code"]


def test_a_primary_key_that_is_each_servers_own_does_not_count():
    canonical, row = of(Animal), {"id": UUID, "name": "a", "parent": None, "favourite": None}
    assert canonical.digest(1, row, canonical.names) == canonical.digest(2, row, canonical.names)


def test_a_key_of_several_columns_is_compared_column_by_column():
    canonical = of(CompositeKeyed)
    mine, theirs = ["a", "2026-01-01", 1], ["a", "2026-01-01", 2]
    assert canonical.digest(mine, {"value": 1}, canonical.names) != canonical.digest(
        theirs, {"value": 1}, canonical.names
    )
    assert canonical.differing((mine, {"value": 1}), (theirs, {"value": 2}), canonical.names) == [
        "number",
        "value",
    ]


def test_only_the_names_that_are_asked_for_count():
    canonical = of(TextKeyed)
    assert canonical.digest("a", {"value": 1}, ["code"]) == canonical.digest("a", {"value": 2}, ["code"])


def test_a_field_that_is_excluded_is_not_among_the_names(settings):
    settings.MIRROR = {**settings.MIRROR, "EXCLUDE_FIELDS": ["zoo.Place.name"]}
    assert of(Place).names == ("id",)


def test_a_composite_key_of_one_column_whose_primary_key_is_excluded_is_told_beside_the_fields(settings):
    settings.MIRROR = {**settings.MIRROR, "EXCLUDE_FIELDS": ["zoo.Animal.pkid"]}
    canonical = of(Animal)
    assert describe(Animal).pk is None
    assert canonical.differing(([UUID], {"name": "a"}), ([OTHER], {"name": "a"}), ["id", "name"]) == ["id"]


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        [[]],
        {"a": {"b": 1.5}},
        {"$read": 1},
        {"$sqlite": 1, "$read": {"$sqlite": 1}},
        10**400,
        "1e9",
        -1,
    ],
    ids=repr,
)
@pytest.mark.parametrize("model", [Animal, Custom, Note, Numbers, Texts, Times])
def test_a_value_that_is_none_of_its_kind_is_compared_as_it_is(model, value):
    canonical = of(model)
    row = dict.fromkeys(canonical.names, value)
    assert canonical.digest(value, row, canonical.names) == canonical.digest(value, {**row}, canonical.names)
    assert canonical.differing((1, row), (1, dict.fromkeys(row)), canonical.names) == list(canonical.names)


# Any values

_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
)
DOCUMENTS = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def shuffled(document: Any, chance: random.Random) -> Any:
    if isinstance(document, list):
        return [shuffled(item, chance) for item in document]
    if not isinstance(document, dict):
        return document
    names = list(document)
    chance.shuffle(names)
    return {name: shuffled(document[name], chance) for name in names}


def comparable(document: Any) -> Any:
    """As PostgreSQL compares documents: another way to say when two are equal."""
    if isinstance(document, dict):
        return "object", frozenset((name, comparable(value)) for name, value in document.items())
    if isinstance(document, list):
        return "list", tuple(map(comparable, document))
    if isinstance(document, bool) or not isinstance(document, int | float):
        return type(document).__name__, document
    return "number", Decimal(repr(document))


@given(DOCUMENTS, st.randoms(use_true_random=False), st.booleans(), st.sampled_from([None, 2]))
def test_a_document_is_the_same_however_it_is_written(document, chance, escaped, indent):
    text = json.dumps(shuffled(document, chance), ensure_ascii=escaped, indent=indent)
    told = [raw(document), {"$json": text}, {"$json": json.dumps(document)}]
    if not (isinstance(document, dict) and "$json" in document) and document is not None:
        told.append(document)
    assert len(set(digests(Texts, "document", *told))) == 1


@given(DOCUMENTS, DOCUMENTS)
def test_documents_are_the_same_exactly_if_postgresql_finds_them_equal(one, other):
    first, second = digests(Texts, "document", raw(one), raw(other))
    assert (first == second) is (comparable(one) == comparable(other))


@given(st.integers(-(10**38), 10**38), st.integers(0, 20), st.integers(0, 10))
def test_a_decimal_is_the_same_with_any_number_of_zeros(digits, places, zeros):
    number, next_one = (Decimal(one).scaleb(-places, Context(prec=MAX_PREC)) for one in (digits, digits + 1))
    with_zeros = f"{number:f}" + ("." if places == 0 and zeros else "") + "0" * zeros
    told = digests(Numbers, "huge", with_zeros, str(number), f"{number:f}", str(next_one))
    assert told[0] == told[1] == told[2] != told[3]


@given(st.datetimes(timezones=st.just(UTC)), st.timedeltas(timedelta(hours=-23), timedelta(hours=23)))
def test_a_moment_is_the_same_in_every_zone(moment, offset):
    minutes = timezone(timedelta(minutes=offset // timedelta(minutes=1)))
    try:
        elsewhere = moment.astimezone(minutes).isoformat()
    except OverflowError:
        return  # before the year 1, or after 9999
    told = moment.isoformat().replace("+00:00", "Z"), elsewhere, moment.isoformat()
    assert len(set(digests(Times, "moment", *told))) == 1


@given(st.timedeltas(), st.timedeltas())
def test_durations_are_the_same_exactly_if_they_are_as_long(one, other):
    first, second = digests(Times, "span", duration_string(one), duration_string(other))
    assert (first == second) is (one == other)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_the_same_exactly_if_they_are_equal(one, other):
    first, again, second = digests(
        Numbers, "ratio", one, msgspec.json.decode(msgspec.json.encode(one)), other
    )
    assert first == again
    assert (first == second) is (one == other)


def test_a_model_without_fields_to_compare_has_a_digest():
    mirrored: MirroredModel = replace(describe(Place), fields=(), pk=None, key=())
    assert Canonical(mirrored).names == ()
    assert len(Canonical(mirrored).digest(1, {}, ())) == 16

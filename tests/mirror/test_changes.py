from __future__ import annotations

import json
import logging

import msgspec
import pytest
from django.core import serializers
from hypothesis import given
from hypothesis import strategies as st

from mirror.changes import (
    Change,
    Op,
    decode_change,
    encode_change,
    format_ts,
    log_line,
    mark_of,
    parse_ts,
    stamp,
    to_datetime,
)
from tests import strategies
from tests.project.shop.models import Brand


@given(st.integers(0, 2**53), st.lists(st.integers(-(2**53), 2**53)))
def test_stamps_strictly_increase_however_the_clock_jumps(last, clock):
    for captured_at in clock:
        assert stamp(last, captured_at) > last
        last = stamp(last, captured_at)


@given(st.integers(0, 2**53), st.integers(1, 2**53))
def test_a_stamp_is_the_time_of_capture_where_that_is_later(last, later):
    assert stamp(last, last + later) == last + later


@given(st.integers(-(2**63), 2**63))
def test_a_formatted_timestamp_reads_back_exactly(ts):
    assert parse_ts(format_ts(ts)) == ts


def test_a_timestamp_is_written_as_in_the_article():
    assert format_ts(1698395500971553) == "1698395500.971553"
    assert format_ts(1_000_001) == "1.000001"


@pytest.mark.parametrize(
    ("text", "ts"),
    [
        ("1698395500", 1698395500_000000),  # a whole second
        ("1698395500.", 1698395500_000000),
        ("1698395500.9", 1698395500_900000),  # tenths
        ("1698395500.9715539", 1698395500_971553),  # finer than a microsecond
    ],
)
def test_times_written_by_others_are_read(text, ts):
    assert parse_ts(text) == ts


@pytest.mark.parametrize("text", ["", "now", "1.5e3", "1,5", ".", "1.x"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="int"):
        parse_ts(text)


def test_the_datetime_of_a_timestamp_is_exact():
    assert to_datetime(1698395500971553).isoformat() == "2023-10-27T08:31:40.971553+00:00"


@given(strategies.changes)
def test_an_encoded_change_decodes_to_the_same(change):
    assert decode_change(encode_change(change)) == change


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "{}",
        '{"ts":1,"op":"TRUNCATE","model":"a.b","pk":1,"fields":{}}',  # no such operation
        '{"ts":1.5,"op":"SAVE","model":"a.b","pk":1,"fields":{}}',
        '{"ts":-1,"op":"SAVE","model":"a.b","pk":1,"fields":{}}',
        '{"ts":9223372036854775808,"op":"SAVE","model":"a.b","pk":1,"fields":{}}',  # no table takes it
        '{"ts":1,"op":"SAVE","model":"a.b","pk":1,"fields":[]}',
        '{"ts":1,"op":"SAVE","model":"a.b","pk":1}',
    ],
)
def test_what_is_no_change_does_not_decode(body):
    with pytest.raises(msgspec.DecodeError):
        decode_change(body)


@given(strategies.changes, strategies.changes)
def test_a_mark_tells_changes_apart_by_their_content(one, other):
    first, second = encode_change(one), encode_change(other)
    assert len(mark_of(first)) == 16
    assert (mark_of(first) == mark_of(second)) == (first == second)


def test_a_mark_stays_the_same_between_releases():
    # It is stored at every mirror: another way to compute it would fork them all.
    assert mark_of('{"ts":1}') == "92b698ea35e77e82"


@given(strategies.changes)
def test_a_log_line_holds_the_whole_change_on_one_line(change):
    line = log_line(encode_change(change))
    assert "\n" not in line
    ts, op, document = line.split(" ", 2)
    (logged,) = json.loads(document)
    assert (parse_ts(ts), op) == (change.ts, change.op)
    assert logged == {"model": change.model, "pk": change.pk, "fields": change.fields}


def test_a_log_line_is_what_django_serializes_with_time_and_operation():
    brand = Brand(pkid=1, name="What's “new”?")
    fields = {"id": str(brand.id), "name": brand.name}
    change = Change(ts=1698395500971553, op=Op.SAVE, model="shop.brand", pk=1, fields=fields)
    assert (
        log_line(encode_change(change))
        == f"1698395500.971553 SAVE {serializers.serialize('json', [brand]).strip()}"
    )


def test_a_log_line_goes_through_logging_whole(caplog):
    change = Change(ts=1, op=Op.DELETE, model="a.b", pk=1, fields={"percent": "100 %s"})
    with caplog.at_level(logging.INFO, "anything"):
        logging.getLogger("anything").info("%s", log_line(encode_change(change)))
    assert '"100 %s"' in caplog.messages[0]

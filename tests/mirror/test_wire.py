from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirror.errors import Malformed
from mirror.wire import Batch, Entry, Fragment, decode, encode, segments
from tests import strategies

SMALL = 1024


@given(strategies.messages)
def test_an_encoded_message_decodes_to_the_same(message):
    assert decode(encode(message)) == message
    assert decode(encode(message).encode()) == message


@given(st.text() | st.binary() | strategies.json_values.map(json.dumps))
@example("\ud800")  # half a surrogate pair
@example('{"type":"error","code":"\\ud800","message":""}')
@example(b'{"type":"error","code":"\xff","message":""}')
@example('{"type":')
@example("null")
def test_what_is_no_message_is_malformed_and_nothing_else(text):
    with pytest.raises(Malformed):
        decode(text)


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"type":"batch","changes":[['])
def test_deep_nesting_is_malformed(opening):
    with pytest.raises(Malformed):
        decode(opening * 100_000)


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"ack","taken":1}',  # something missing
        '{"type":"ack","taken":1,"cursor":2,"also":3}',  # something unknown
        '{"type":"ack","taken":1.0,"cursor":2}',
        '{"type":"ack","taken":-1,"cursor":2}',
        '{"type":"ack","taken":1,"cursor":9223372036854775808}',  # more than any table holds
        '{"type":"ack","taken":true,"cursor":2}',
        '{"type":"attack","taken":1,"cursor":2}',
        '{"type":"subscribe","mirror":"m","window":1,"seek":"later"}',
        '{"type":"subscribe","mirror":"m","window":1,"seek":-5}',
        '{"type":"subscribe","mirror":"m","window":1,"stream":"polls"}',
        '{"type":"subscribe","mirror":"m","window":1,"mark":"0123456789abcdef\\n"}',
    ],
)
def test_a_message_with_a_wrong_field_is_malformed(text):
    with pytest.raises(Malformed, match="livemirror"):
        decode(text)


@given(st.data())
def test_a_message_cut_anywhere_is_malformed(data):
    text = encode(data.draw(strategies.messages))
    with pytest.raises(Malformed):
        decode(text[: data.draw(st.integers(0, len(text) - 1))])


def cut(prev: int, entries: list[Entry], frame_bytes: int):
    head = entries[-1].ts if entries else prev
    head_position = entries[-1].position if entries else 0
    return list(segments(prev, entries, head=head, head_position=head_position, frame_bytes=frame_bytes))


def bodies_of(cut_segments) -> list[str]:
    """What a receiver reads out of the frames: the changes as text."""
    found, pieces = [], []
    for segment in cut_segments:
        for frame in segment.frames:
            message = decode(frame.text)
            if isinstance(message, Batch):
                found += [bytes(raw).decode() for raw in message.changes]
            else:
                assert isinstance(message, Fragment)
                assert message.index == len(pieces)
                pieces.append(message.text)
                if message.last:
                    found.append("".join(pieces))
                    pieces = []
    assert not pieces
    return found


streams = strategies.entries(largest=4 * SMALL)


@given(streams, st.sampled_from([SMALL, 2 * SMALL, 4096]))
def test_every_frame_keeps_its_limit_and_knows_its_size(stream, frame_bytes):
    for segment in cut(*stream, frame_bytes):
        for frame in segment.frames:
            assert frame.size == len(frame.text.encode()) <= frame_bytes
        assert segment.size == sum(frame.size for frame in segment.frames)


@given(streams)
def test_the_frames_carry_exactly_the_entries(stream):
    prev, entries = stream
    assert bodies_of(cut(prev, entries, SMALL)) == [entry.body for entry in entries]


@given(streams)
def test_segments_follow_one_another_from_the_cursor_to_the_last(stream):
    prev, entries = stream
    made = cut(prev, entries, SMALL)
    assert [segment.prev for segment in made] == [prev, *(segment.last for segment in made)][:-1]
    assert not entries or made[-1].last == entries[-1].ts
    position = {entry.ts: entry.position for entry in entries}
    assert all(segment.position == position[segment.last] for segment in made)


@given(streams)
def test_a_frame_says_where_it_stands(stream):
    prev, entries = stream
    by_ts = {entry.ts: entry for entry in entries}
    for segment in cut(prev, entries, SMALL):
        for frame in segment.frames:
            message = decode(frame.text)
            assert message.prev == segment.prev
            assert message.position == segment.position
            assert message.head == entries[-1].ts
            assert message.head_position == entries[-1].position
            if isinstance(message, Batch):
                assert message.last == segment.last == frame.last
                between = [by_ts[ts] for ts in by_ts if segment.prev < ts <= segment.last]
                assert len(message.changes) == len(between)
                assert message.ends == [entry.ts for entry in between if entry.ends_group]
                assert not message.ends or message.ends[-1] == message.last
                assert frame.end == (message.last if message.ends else None)
            else:
                assert message.ts == segment.last
                assert message.ends == by_ts[segment.last].ends_group
                assert frame.last == (segment.last if message.last else segment.prev)
                assert frame.end == (segment.last if message.last and message.ends else None)


@given(streams)
def test_the_head_is_never_behind_what_is_carried(stream):
    prev, entries = stream
    for segment in segments(prev, entries, head=0, head_position=0, frame_bytes=SMALL):
        for frame in segment.frames:
            message = decode(frame.text)
            assert message.head >= segment.last
            assert message.head_position >= segment.position


@given(strategies.entries(largest=10, most=5))
def test_small_changes_share_a_frame_but_for_an_open_group(stream):
    prev, entries = stream
    ends = [entry.ends_group for entry in entries]
    expected = 0 if not ends else 2 if any(ends) and not ends[-1] else 1
    assert len(cut(prev, entries, SMALL)) == expected


def test_many_tiny_changes_cost_their_commas_and_ends():
    entries = [Entry(ts=2**60 + ts, position=ts, ends_group=True, body="0") for ts in range(1, 2000)]
    made = cut(2**60, entries, SMALL)
    assert all(frame.size <= SMALL for segment in made for frame in segment.frames)
    assert bodies_of(made) == ["0"] * 1999


@pytest.mark.parametrize("unit", ["a", '"', "\\", "\n", "é", "😀"])
@pytest.mark.parametrize("frame_bytes", [4096, 256 * 1024, 1_000_000])
def test_a_change_of_any_size_around_the_limit_fits(unit, frame_bytes):
    width = len(json.dumps(unit, ensure_ascii=False).encode()) - 2
    for excess in range(-3, 4):
        body = json.dumps(unit * ((frame_bytes - 512 - 24) // width + excess), ensure_ascii=False)
        entry = Entry(ts=2**62, position=2**62, ends_group=True, body=body)
        made = list(
            segments(2**62 - 1, [entry], head=2**63 - 1, head_position=2**63 - 1, frame_bytes=frame_bytes)
        )
        assert all(frame.size <= frame_bytes for segment in made for frame in segment.frames)
        assert bodies_of(made) == [body]


def test_whole_groups_are_parted_from_the_open_one_after_them():
    entries = [Entry(ts=ts, position=ts, ends_group=ts in {2, 3}, body="0") for ts in range(1, 6)]
    first, rest = (decode(segment.frames[0].text) for segment in cut(0, entries, SMALL))
    assert (first.prev, first.last, first.ends) == (0, 3, [2, 3])
    assert (rest.prev, rest.last, rest.ends) == (3, 5, [])

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirror.errors import Malformed
from mirror.session import Limits, Role, Session
from mirror.wire import (
    COMPRESSIONS,
    Batch,
    Chunk,
    Entry,
    Fetch,
    Fragment,
    Piece,
    Subscribe,
    Subscribed,
    decode,
    encode,
    pieces,
    segments,
)
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
        '{"type":"fetch","number":1}',
        '{"type":"fetch","number":1,"model":"a.b","before":1}',
        '{"type":"fetch","number":1,"model":"a.b","keys":{}}',
        '{"type":"fetch","number":1,"model":"a.b","keys":7}',
        '{"type":"fetch","number":-1,"model":"a.b"}',
        '{"type":"fetch","number":1,"model":null}',
        json.dumps({"type": "fetch", "number": 1, "model": "m" * 201}),
        json.dumps({"type": "fetch", "number": 1, "model": "a.b", "keys": [1] * 1001}),
        '{"type":"piece","number":1,"at":1,"index":0,"last":true}',
        '{"type":"piece","number":1,"at":1,"index":0,"last":true,"text":"","also":1}',
        '{"type":"piece","number":1,"at":1,"index":0,"last":1,"text":""}',
        '{"type":"chunk","number":1,"model":"a.b"}',
        '{"type":"chunk","number":1,"model":"a.b","at":1,"also":1}',
        '{"type":"chunk","number":1,"model":"a.b","at":1,"rows":{}}',
        '{"type":"chunk","number":1,"model":"a.b","at":1,"total":-1}',
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
    for segment in cut(*stream, frame_bytes=frame_bytes):
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


# Rows that were asked for


@pytest.mark.parametrize(
    "key",
    [
        0,
        -(2**63),
        1.5,
        "",
        "\x00'\"é😀",
        False,
        None,
        ["A", 7],
        ["A", None],
        {"missing": 7},
        "123e4567-e89b-12d3-a456-426614174000",
    ],
)
def test_a_key_of_any_kind_travels_in_a_question(key):
    for question in (
        Fetch(number=1, model="shop.seat", after=key),
        Fetch(number=1, model="shop.seat", keys=[key, key]),
    ):
        told = decode(encode(question))
        assert told == question
        assert type(told.after) is type(question.after)


def test_as_many_keys_as_may_be_asked_for_travel():
    question = Fetch(number=1, model="shop.counter", keys=list(range(1000)))
    assert decode(encode(question)) == question


def in_stream(frame_bytes: int, *, compression: bool) -> tuple[Session, Session]:
    """A source and a mirror that has asked for rows, at the change 10."""
    limits = Limits(window=2**40, frame=frame_bytes, change=2**30)
    source, mirror = Session(Role.SOURCE, limits), Session(Role.MIRROR, limits)
    offer = [*COMPRESSIONS] if compression else []
    source.receive(mirror.send(Subscribe(mirror="m", window=2**40, compression=offer)))
    answer = Subscribed(
        stream="00000000-0000-0000-0000-000000000000",
        outcome="started",
        cursor=10,
        position=3,
        mark="",
        head=10,
        head_position=3,
        now=1,
        compression="deflate" if compression else None,
    )
    mirror.receive(source.send(answer))
    source.receive(mirror.send(Fetch(number=7, model="shop.tag")))
    return source, mirror


rows = st.lists(
    strategies.bodies(4 * SMALL) | strategies.json_values.map(lambda value: json.dumps(value)), max_size=8
)


@given(
    rows=rows,
    pending=st.lists(strategies.json_values, max_size=4),
    after=strategies.json_values,
    total=st.none() | strategies.counts,
    refused=st.text(max_size=20),
    frame_bytes=st.sampled_from([SMALL, 2 * SMALL, 4096]),
    compression=st.booleans(),
)
@example(rows=[], pending=[], after=None, total=0, refused="", frame_bytes=SMALL, compression=False)
@example(
    rows=[json.dumps("\x00" * 9000)], pending=[], after=0, total=1, refused="", frame_bytes=SMALL,
    compression=True,
)  # fmt: skip
def test_rows_come_together_again_from_pieces_within_the_limit(
    rows, pending, after, total, refused, frame_bytes, compression
):
    source, mirror = in_stream(frame_bytes, compression=compression)
    frames = list(
        pieces(
            number=7,
            model="shop.tag",
            at=10,
            rows=rows,
            pending=pending,
            after=after,
            total=total,
            refused=refused,
            frame_bytes=frame_bytes,
        )
    )
    heard = []
    for frame in frames:
        assert frame.size == len(frame.text.encode()) <= frame_bytes
        assert (frame.last, frame.end) == (10, None)
        if compression:
            frame.pack()
        heard.append(mirror.receive(source.send(frame)))
    source.answered()
    assert all(isinstance(message, Piece) for message in heard[:-1])
    assert heard[-1] == Chunk(
        number=7,
        model="shop.tag",
        at=10,
        rows=[msgspec.Raw(row.encode()) for row in rows],
        pending=pending,
        next=after,
        total=total,
        refused=refused,
    )
    assert mirror.carried == source.carried == sum(frame.size for frame in frames)
    assert mirror.asked is source.asked is None


@pytest.mark.parametrize("unit", ["a", '"', "\\", "\n", "\x7f", "é", "\u2028", "😀"])
@pytest.mark.parametrize("frame_bytes", [4096, 256 * 1024, 1_000_000])
def test_large_rows_are_cut_within_the_limit(unit, frame_bytes):
    row = json.dumps(unit * 1_200_000, ensure_ascii=False)
    _, mirror = in_stream(frame_bytes, compression=False)
    made = list(pieces(number=7, model="m" * 200, at=10, rows=[row, "0"], frame_bytes=frame_bytes))
    assert max(frame.size for frame in made) <= frame_bytes
    *_, chunk = (mirror.receive(frame.text) for frame in made)
    assert [bytes(raw).decode() for raw in chunk.rows] == [row, "0"]


def test_the_envelope_of_a_piece_has_room_for_the_largest_numbers():
    largest = 2**63 - 1
    made = pieces(number=largest, model="😀" * 200, at=largest, rows=['"😀"'] * 500, frame_bytes=SMALL)
    assert max(frame.size for frame in made) <= SMALL

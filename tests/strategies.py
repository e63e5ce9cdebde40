"""Hypothesis strategies for what travels and what is stored."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import strategies as st

from mirror.changes import Change, Op
from mirror.wire import (
    Ack,
    Batch,
    Chunk,
    Entry,
    Error,
    Fetch,
    Fragment,
    Heartbeat,
    Piece,
    Subscribe,
    Subscribed,
)

counts = st.integers(0, 2**63 - 1)
timestamps = st.integers(0, 2**53 - 1)
uuids = st.uuids().map(str)
marks = st.one_of(st.just(""), st.from_regex(r"[0-9a-f]{16}", fullmatch=True))

#: What a JSON document can hold; numbers as Python reads them back.
json_leaves: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)
json_values = st.recursive(
    json_leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)

#: Any row, as long as it is JSON text.
raws = json_values.map(lambda value: msgspec.Raw(json.dumps(value, ensure_ascii=False).encode()))

changes = st.builds(
    Change,
    ts=timestamps,
    op=st.sampled_from(Op),
    model=st.from_regex(r"[a-z_]{1,10}\.[a-z0-9_]{1,10}", fullmatch=True),
    pk=st.integers() | uuids | st.none() | st.lists(st.integers(), max_size=2),
    fields=st.dictionaries(st.text(max_size=10), json_values, max_size=5),
)

messages = st.one_of(
    st.builds(
        Subscribe,
        mirror=st.text(max_size=100),
        window=counts,
        stream=st.none() | uuids,
        cursor=st.none() | counts,
        mark=st.none() | marks,
        seek=st.sampled_from(["start", "now"]) | counts,
    ),
    st.builds(
        Subscribed,
        stream=uuids,
        outcome=st.sampled_from(["resumed", "started"]),
        cursor=counts,
        position=counts,
        mark=marks,
        head=counts,
        head_position=counts,
        now=counts,
    ),
    st.builds(
        Batch,
        prev=counts,
        last=counts,
        position=counts,
        head=counts,
        head_position=counts,
        ends=st.lists(counts, max_size=3),
        changes=st.lists(raws, max_size=3),
    ),
    st.builds(
        Fragment,
        prev=counts,
        ts=counts,
        position=counts,
        head=counts,
        head_position=counts,
        index=counts,
        last=st.booleans(),
        ends=st.booleans(),
        text=st.text(),
    ),
    st.builds(
        Fetch,
        number=counts,
        model=st.text(max_size=200),
        after=json_values,
        keys=st.none() | st.lists(json_values, max_size=3),
    ),
    st.builds(Piece, number=counts, at=counts, index=counts, last=st.booleans(), text=st.text()),
    st.builds(
        Chunk,
        number=counts,
        model=st.text(),
        at=counts,
        rows=st.lists(raws, max_size=3),
        pending=st.lists(json_values, max_size=3),
        next=json_values,
        total=st.none() | counts,
        refused=st.text(),
    ),
    st.builds(Heartbeat, head=counts, head_position=counts, now=counts),
    st.builds(Ack, taken=counts, cursor=counts),
    st.builds(Error, code=st.text(), message=st.text()),
)


@st.composite
def bodies(draw: st.DrawFn, largest: int) -> str:
    """JSON text from one byte to ``largest`` characters: what costs least, most, and what needs escaping."""
    size = draw(st.integers(0, min(largest, 40)) | st.integers(0, largest))
    if size == 0:
        return draw(st.sampled_from(["0", "7"]))
    unit = draw(st.sampled_from(["a", '"', "\\", "\x00", "\n", "\x7f", "é", "\u2028", "😀", '\\"', "ab😀"]))
    return json.dumps(unit * (size // len(unit) + 1), ensure_ascii=False)[:-1] + draw(
        st.sampled_from(['"', 'z"', '😀"'])
    )


@st.composite
def entries(draw: st.DrawFn, *, largest: int, most: int = 12) -> tuple[int, list[Entry]]:
    """A cursor, and consecutive entries after it in groups of any shape; the last may be open."""
    prev = draw(st.sampled_from([0, 1_698_395_500_971_553, 2**53]))
    position = draw(st.integers(0, 2**40))
    made = []
    ts = prev
    for place in range(draw(st.integers(0, most))):
        ts += draw(st.sampled_from([1, 2, 1_000_000]))
        made.append(
            Entry(
                ts=ts,
                position=position + place + 1,
                ends_group=draw(st.booleans()),
                body=draw(bodies(largest)),
            )
        )
    return prev, made

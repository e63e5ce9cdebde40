from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.spool import Spool
from mirror.wire import Batch


def batch(number: int, text: str = "x") -> Batch:
    body = msgspec.json.encode({"number": number, "text": text})
    return Batch(
        prev=number,
        last=number + 1,
        position=number,
        head=9,
        head_position=9,
        ends=[],
        changes=[msgspec.Raw(body)],
    )


def texts(spool: Spool) -> list[tuple[int, bytes]]:
    return [(each.prev, bytes(each.changes[0])) for each in spool]


@settings(max_examples=50)
@given(
    rounds=st.lists(st.lists(st.text(max_size=50), max_size=8), max_size=4),
    memory=st.sampled_from([1, 10_000]),
)
def test_what_goes_in_comes_out_in_order_as_often_as_asked(rounds: list[list[str]], memory: int) -> None:
    spool = Spool(memory)
    expected = []
    for lines in rounds:
        batches = [batch(len(expected) + place, line) for place, line in enumerate(lines)]
        spool.add(*batches)
        expected += [(each.prev, bytes(each.changes[0])) for each in batches]
        assert texts(spool) == texts(spool) == expected
    assert len(spool) == len(expected)
    spool.close()


@pytest.mark.parametrize("memory", [1, 1_000_000])  # on disk, in memory
def test_a_cleared_spool_takes_the_next_group(memory: int) -> None:
    spool = Spool(memory)
    spool.add(batch(1, "a long first group" * 100), batch(2))
    spool.clear()
    assert texts(spool) == []
    spool.add(batch(3))
    assert [prev for prev, _ in texts(spool)] == [3]
    spool.close()

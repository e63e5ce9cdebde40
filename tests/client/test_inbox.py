from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from client.inbox import Inbox
from mirror.wire import Batch, Chunk


def batch(number: int, changes: int = 1, *, ends: bool = True) -> Batch:
    return Batch(
        prev=number,
        last=number + 1,
        position=number + 1,
        head=number + 1,
        head_position=number + 1,
        ends=[number + 1] if ends else [],
        changes=[msgspec.Raw(b"{}")] * changes,
    )


def test_only_whole_groups_are_taken() -> None:
    inbox = Inbox(0)
    inbox.put(batch(0, ends=False), 10)
    assert inbox.take(100) == []
    inbox.put(batch(1), 10)
    inbox.put(batch(2, ends=False), 10)
    assert inbox.take(100) == [batch(0, ends=False), batch(1)]
    assert inbox.take_rest() == [batch(2, ends=False)]


def test_no_more_is_taken_than_the_group_in_which_it_is_enough() -> None:
    inbox = Inbox(0)
    for number in range(4):
        inbox.put(batch(number, 3), 10)
    assert inbox.take(5) == [batch(0, 3), batch(1, 3)]
    assert inbox.taken == 20


def test_what_waits_counts_as_taken_in_while_there_is_room() -> None:
    inbox = Inbox(25)
    for number in range(4):
        inbox.put(batch(number), 10, ahead=True)
    assert inbox.taken == 20
    inbox.take(1)
    assert inbox.taken == 20
    inbox.put(batch(4), 10, ahead=True)
    assert inbox.taken == 30


@given(
    ahead_bytes=st.integers(0, 300),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(1, 100), st.booleans(), st.booleans()),
            st.tuples(st.just("pass"), st.integers(1, 100), st.just(None), st.just(None)),
            st.tuples(st.just("take"), st.integers(1, 4), st.just(None), st.just(None)),
            st.tuples(st.just("rest"), st.just(0), st.just(None), st.just(None)),
        )
    ),
)
def test_every_byte_is_taken_in_once_and_what_is_here_is_bounded(
    ahead_bytes: int, steps: list[tuple[str, int, bool, bool]]
) -> None:
    inbox, came, left, sizes, waiting = Inbox(ahead_bytes), 0, [], {}, 0
    for number, (what, size, ahead, ends) in enumerate(steps):
        if what == "put":
            inbox.put(batch(number, ends=ends), size, ahead=ahead)
            sizes[number] = size
            came += size
        elif what == "pass":
            inbox.pass_by(size)
            came += size
        else:
            gone = inbox.take(size) if what == "take" else inbox.take_rest()
            left += [plain.prev for plain in gone if isinstance(plain, Batch)]
        waiting = sum(size for number, size in sizes.items() if number not in left)
        assert came - waiting <= inbox.taken <= came - waiting + ahead_bytes
    assert left == sorted(left)
    inbox.take_rest()
    assert inbox.taken == came


# Rows that were asked for


def chunk(number: int) -> Chunk:
    return Chunk(number=number, model="shop.tag", at=number)


def test_rows_have_their_turn_after_what_came_before_and_before_what_comes_then() -> None:
    inbox = Inbox(0)
    inbox.put(batch(0), 10)
    inbox.put(batch(1), 10)
    inbox.put_chunk(chunk(2), 5)
    inbox.put(batch(2), 10)
    assert inbox.take_chunk() is None
    assert inbox.take(1) == [batch(0)]
    assert inbox.take_chunk() is None
    assert inbox.take(100) == [batch(1)]
    assert inbox.take(100) == []
    assert inbox.take_chunk() == chunk(2)
    assert inbox.take_chunk() is None
    assert inbox.take(100) == [batch(2)]
    assert inbox.taken == 35


def test_rows_with_nothing_before_them_have_their_turn_at_once() -> None:
    inbox = Inbox(0)
    inbox.put(batch(0), 10)
    inbox.take(1)
    inbox.put_chunk(chunk(1), 5)
    assert inbox.take_chunk() == chunk(1)


def test_an_unfinished_group_is_not_set_aside_past_rows() -> None:
    inbox = Inbox(0)
    inbox.put(batch(0), 10)
    inbox.put_chunk(chunk(1), 5)
    inbox.put(batch(1, ends=False), 10)
    assert inbox.take_rest() == []
    assert inbox.take(100) == [batch(0)]
    assert inbox.take_rest() == []
    assert inbox.take_chunk() == chunk(1)
    assert inbox.take_rest() == [batch(1, ends=False)]
    assert inbox.taken == 25


def test_rows_count_as_taken_in_when_they_leave() -> None:
    inbox = Inbox(100)
    inbox.put(batch(0), 10, ahead=True)
    inbox.put_chunk(chunk(1), 5)
    assert inbox.taken == 10
    inbox.take(1)
    inbox.take_chunk()
    assert inbox.taken == 15


def test_rows_are_dropped_with_the_rest() -> None:
    inbox = Inbox(0)
    inbox.put_chunk(chunk(0), 5)
    inbox.clear()
    assert inbox.take_chunk() is None
    assert inbox.taken == 0


class Reader:
    """What left an inbox, in its order: batches by their ``prev``, rows as "rows" and the change before."""

    def __init__(self, ahead_bytes: int) -> None:
        self.inbox = Inbox(ahead_bytes)
        self.left: list[object] = []

    def take(self, most: int) -> None:
        found = self.inbox.take(most)
        assert all(isinstance(one, Batch) for one in found)
        assert not found or found[-1].ends  # type: ignore[union-attr]
        self.left += [one.prev for one in found if isinstance(one, Batch)]

    def take_chunk(self) -> None:
        if (found := self.inbox.take_chunk()) is not None:
            self.left.append(f"rows {found.at}")

    def take_rest(self) -> None:
        self.left += [one.prev for one in self.inbox.take_rest()]

    def drain(self) -> None:
        """As the follower does."""
        for _ in range(2):  # before the rows, and after them
            self.take(10**9)
            self.take_chunk()
        self.take_rest()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 100), st.booleans(), st.sampled_from([True, True, False])),
        st.tuples(st.just("rows"), st.integers(1, 100), st.just(False), st.just(False)),
        st.tuples(st.just("take"), st.integers(1, 4), st.just(False), st.just(False)),
        st.tuples(st.sampled_from(["take rows", "take rest"]), st.just(0), st.just(False), st.just(False)),
    ),
    max_size=40,
)


@given(ahead_bytes=st.integers(0, 300), steps=steps)
def test_rows_leave_in_their_place_and_change_nothing_else(
    ahead_bytes: int, steps: list[tuple[str, int, bool, bool]]
) -> None:
    reader, without = Reader(ahead_bytes), Reader(ahead_bytes)
    came: list[object] = []
    sizes: dict[object, int] = {}
    between_groups = True
    for number, (what, size, ahead, ends) in enumerate(steps):
        if what == "put":
            for one in (reader, without):
                one.inbox.put(batch(number, ends=ends), size, ahead=ahead)
            came.append(number)
            sizes[number] = size
            between_groups = ends
        elif what == "rows":
            # Rows come between groups, and one at a time: the session sees to that.
            waiting = any(str(one).startswith("rows") and one not in reader.left for one in came)
            if between_groups and not waiting:
                reader.inbox.put_chunk(chunk(number), size)
                came.append(f"rows {number}")
                sizes[f"rows {number}"] = size
        elif what == "take":
            reader.take(size), without.take(size)
        elif what == "take rows":
            reader.take_chunk()
        else:
            reader.take_rest(), without.take_rest()
        assert reader.left == came[: len(reader.left)]
        done = sum(sizes[one] for one in reader.left)
        assert done <= reader.inbox.taken <= done + ahead_bytes
    reader.drain(), without.drain()
    assert reader.left == came
    assert without.left == [one for one in came if isinstance(one, int)]
    assert reader.inbox.taken == sum(sizes.values())
    assert without.inbox.taken == sum(size for one, size in sizes.items() if isinstance(one, int))

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from client.pace import Pace


def after(pace: Pace, speed: float, transactions: int) -> int:
    """The limit after so many full transactions at so many changes a second."""
    for _ in range(transactions):
        pace.took(pace.limit, pace.limit / speed)
    return pace.limit


@given(speed=st.floats(2_000, 50_000))
def test_transactions_come_to_take_half_a_second(speed: float) -> None:
    assert abs(after(Pace(30_000), speed, 20) - speed / 2) <= 1


def test_a_fast_mirror_takes_no_more_than_it_may() -> None:
    assert after(Pace(30_000), 1_000_000, 20) == 30_000
    assert Pace(10).limit == 10


def test_a_slow_mirror_still_takes_some() -> None:
    assert after(Pace(30_000), 10, 20) == 500


def test_one_transaction_that_waited_does_not_ruin_the_pace() -> None:
    pace = Pace(30_000)
    before = after(pace, 40_000, 20)
    pace.took(before, 60.0)
    assert pace.limit == before / 2


@given(changes=st.integers(1, 2_499), seconds=st.floats(0, 100))
def test_a_few_changes_say_nothing(changes: int, seconds: float) -> None:
    pace = Pace(30_000)
    pace.took(changes, seconds)
    assert pace.limit == 5_000


@given(
    most=st.integers(1, 100_000), taken=st.lists(st.tuples(st.integers(1, 200_000), st.floats(0, 1e6))),
)  # fmt: skip
def test_the_limit_stays_within_its_bounds(most: int, taken: list[tuple[int, float]]) -> None:
    pace = Pace(most)
    for changes, seconds in taken:
        pace.took(changes, seconds)
        assert min(500, most) <= pace.limit <= most

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from client.backoff import Backoff


def highest(low: float, high: float) -> float:
    return high


def lowest(low: float, high: float) -> float:
    return low


def test_the_ceiling_doubles_up_to_the_longest_delay() -> None:
    backoff = Backoff(0.2, 10.0, highest)
    assert [backoff.next_delay() for _ in range(8)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_jitter_is_full_so_that_many_mirrors_do_not_come_at_once() -> None:
    backoff = Backoff(0.2, 10.0, lowest)
    assert [backoff.next_delay() for _ in range(5)] == [0] * 5


def test_only_a_reset_makes_it_quick_again() -> None:
    backoff = Backoff(0.2, 10.0, highest)
    for _ in range(5):
        backoff.next_delay()
    backoff.reset()
    assert backoff.attempts == 0
    assert backoff.next_delay() == 0.2


def test_what_haste_does_not_mend_waits_at_least_half_the_longest() -> None:
    assert Backoff(0.2, 10.0, lowest).longest_delay() == 5.0
    assert Backoff(0.2, 10.0, highest).longest_delay() == 10.0


@given(attempts=st.integers(0, 5000))
def test_a_week_without_a_line_overflows_nothing(attempts: int) -> None:
    backoff = Backoff(0.2, 10.0, highest)
    backoff.attempts = attempts
    assert 0.2 <= backoff.next_delay() <= 10.0

from __future__ import annotations

from streamer.pace import BUCKET, BUCKETS, Pace

NOW = 1000 * BUCKET
SECOND = 1_000_000


def test_the_rate_is_over_the_last_five_to_ten_seconds() -> None:
    pace = Pace(0, known_from=0, counted={})
    pace.observe(50, NOW)
    assert pace.rate(NOW) == 10.0
    assert pace.rate(NOW + 5 * SECOND) == 10.0
    assert pace.rate(NOW + 10 * SECOND) == 0.0


def test_what_came_is_told_and_a_stream_that_goes_back_counts_nothing() -> None:
    pace = Pace(100, known_from=0, counted={})
    assert pace.observe(103, NOW) == 3
    assert pace.observe(50, NOW) == 0
    assert pace.observe(51, NOW) == 1


def test_the_sparkline_is_the_finished_buckets_of_five_minutes() -> None:
    pace = Pace(0, known_from=0, counted={999: 5, 1000 - BUCKETS: 10, 1000 - BUCKETS - 1: 99})
    line = pace.spark(NOW)
    assert len(line) == BUCKETS
    assert (line[0], line[-1]) == (2.0, 1.0)


def test_what_is_not_known_is_not_shown_as_nothing() -> None:
    line = Pace(0, known_from=998 * BUCKET, counted={}).spark(NOW)
    assert line[-3:] == [None, 0.0, 0.0]


def test_old_buckets_are_forgotten() -> None:
    pace = Pace(0, known_from=0, counted={})
    for number in range(1000):
        pace.observe(number, number * BUCKET)
    assert len(pace._counts) == BUCKETS + 1

"""What is kept, against the rules said over again for each change (F35, F36, F37)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.retention import CHANGE_OVERHEAD, DAY, Cut, Log, Reader, Rules, decide

NOW = 1_000 * DAY
MONTH = Rules(keep_age=30 * DAY, wait=90 * DAY)


def log(kept: list[int], anchor: int = 0, anchor_position: int = 0, body_bytes: int = 0) -> Log:
    return Log(
        anchor=anchor,
        anchor_position=anchor_position,
        head=kept[-1] if kept else anchor,
        position=anchor_position + len(kept),
        body_bytes=body_bytes,
    )


def taken(cut: Cut, kept: list[int], anchor_position: int = 0) -> list[int]:
    """Which of the changes at these times may go."""
    return [
        ts
        for position, ts in enumerate(kept, start=anchor_position + 1)
        if (ts < cut.before and position <= cut.position)
        or ts < cut.capped_before
        or position <= cut.capped_position
    ]


def days(*numbers: float) -> list[int]:
    return [round(number * DAY) for number in numbers]


# By example

OLD = days(900, 950, 960, 980, 999)


def test_what_is_older_than_the_age_goes_when_nobody_follows():
    assert taken(decide(log(OLD), MONTH, [], NOW), OLD) == days(900, 950, 960)


def test_what_a_mirror_lacks_is_kept_however_old_it_is():
    slow = Reader(name="slow", cursor=900 * DAY, seen=NOW)
    fast = Reader(name="fast", cursor=999 * DAY, seen=NOW)
    cut = decide(log(OLD), MONTH, [fast, slow], NOW)
    assert (taken(cut, OLD), cut.held_by) == (days(900), slow)


def test_a_mirror_that_needs_nothing_old_holds_nothing_back():
    fast = Reader(name="fast", cursor=980 * DAY, seen=NOW)
    cut = decide(log(OLD), MONTH, [fast], NOW)
    assert (taken(cut, OLD), cut.held_by) == (days(900, 950, 960), None)


def test_a_dead_mirror_is_waited_for_until_its_time_is_over_f37():
    dead = Reader(name="dead", cursor=0, seen=NOW - 90 * DAY)
    assert taken(decide(log(OLD), MONTH, [dead], NOW), OLD) == []
    assert taken(decide(log(OLD), MONTH, [dead], NOW + 1), OLD) == days(900, 950, 960)


def test_a_mirror_seen_after_a_clock_was_set_back_is_alive():
    ahead = Reader(name="ahead", cursor=0, seen=NOW + 500 * DAY)
    assert taken(decide(log(OLD), MONTH, [ahead], NOW), OLD) == []


def test_a_mirror_that_is_lost_already_holds_nothing_back_any_more():
    lost = Reader(name="lost", cursor=100 * DAY, seen=NOW)
    cut = decide(log(OLD, anchor=200 * DAY), MONTH, [lost], NOW)
    assert (taken(cut, OLD), cut.waited_for) == (days(900, 950, 960), ())


def test_a_mirror_at_the_anchor_still_needs_the_next_change():
    edge = Reader(name="edge", cursor=200 * DAY, seen=NOW)
    assert taken(decide(log(OLD, anchor=200 * DAY), MONTH, [edge], NOW), OLD) == []


def test_over_the_cap_of_bytes_the_oldest_go_whoever_lacks_them_f37():
    slow = Reader(name="slow", cursor=0, seen=NOW)
    rules = replace(MONTH, most_bytes=3 * (1000 + CHANGE_OVERHEAD))
    cut = decide(log(OLD, body_bytes=1000), rules, [slow], NOW)
    assert taken(cut, OLD) == days(900, 950)
    assert cut.loses(950 * DAY) == (slow,)


def test_over_the_cap_of_age_they_go_whoever_lacks_them():
    slow = Reader(name="slow", cursor=0, seen=NOW)
    cut = decide(log(OLD), replace(MONTH, most_age=45 * DAY), [slow], NOW)
    assert taken(cut, OLD) == days(900, 950)


def test_without_an_age_everything_is_kept_up_to_the_caps():
    rules = replace(MONTH, keep_age=None)
    assert taken(decide(log(OLD), rules, [], NOW), OLD) == []
    rules = replace(rules, most_age=45 * DAY)
    assert taken(decide(log(OLD), rules, [], NOW), OLD) == days(900, 950)


def test_the_newest_change_of_a_quiet_stream_stays_for_ever_f36():
    rules = Rules(keep_age=0, wait=1, most_age=1, most_bytes=4096)
    kept = days(1, 2, 3)
    assert taken(decide(log(kept, body_bytes=10**9), rules, [], NOW), kept) == days(1, 2)


@pytest.mark.parametrize("kept", [[], days(5)])
def test_of_an_empty_log_or_a_single_change_nothing_goes(kept):
    rules = Rules(keep_age=0, wait=1, most_age=1, most_bytes=4096)
    assert taken(decide(log(kept, body_bytes=10**9), rules, [], NOW), kept) == []


# For any log

ages = st.none() | st.integers(0, 200)


@st.composite
def situations(draw):
    kept = sorted(draw(st.sets(st.integers(1, 300), max_size=30)))
    anchor = draw(st.integers(0, kept[0] - 1)) if kept else draw(st.integers(0, 300))
    rules = Rules(
        keep_age=draw(ages),
        keep_changes=draw(st.integers(0, 40)),
        wait=draw(st.integers(1, 200)),
        most_age=draw(ages),
        most_bytes=draw(st.none() | st.integers(0, 40).map(lambda count: count * (100 + CHANGE_OVERHEAD))),
    )
    seen = st.none() | st.integers(0, 400)
    readers = [
        Reader(name=str(number), cursor=draw(st.integers(0, 300)), seen=draw(seen))
        for number in range(draw(st.integers(0, 4)))
    ]
    return kept, anchor, draw(st.integers(0, 5)), rules, readers, draw(st.integers(0, 400))


@given(situations())
def test_each_change_goes_or_stays_as_the_rules_say_of_it_alone(situation):
    kept, anchor, anchor_position, rules, readers, now = situation
    here = log(kept, anchor, anchor_position, body_bytes=100)
    gone = taken(decide(here, rules, readers, now), kept, anchor_position)
    for place, ts in enumerate(kept):
        after = len(kept) - place
        needed = any(
            anchor <= reader.cursor < ts and (reader.seen is None or now - reader.seen <= rules.wait)
            for reader in readers
        )
        old = rules.keep_age is not None and ts < now - rules.keep_age
        over = rules.most_bytes is not None and after * (100 + CHANGE_OVERHEAD) > rules.most_bytes
        over = over or (rules.most_age is not None and ts < now - rules.most_age)
        expected = over or (old and after > rules.keep_changes and not needed)
        assert (ts in gone) == (expected and ts != kept[-1])


@given(situations())
def test_what_goes_is_the_beginning_of_the_log(situation):
    kept, anchor, anchor_position, rules, readers, now = situation
    here = log(kept, anchor, anchor_position, body_bytes=100)
    gone = taken(decide(here, rules, readers, now), kept, anchor_position)
    assert gone == kept[: len(gone)]


@given(situations(), st.integers(0, 100))
def test_who_is_lost_is_whoever_lacked_something_that_went(situation, where):
    kept, anchor, anchor_position, rules, readers, now = situation
    cut = decide(log(kept, anchor, anchor_position, body_bytes=100), rules, readers, now)
    gone = taken(cut, kept, anchor_position)
    if gone:
        until = gone[where % len(gone)]
        lacking = {reader for reader in cut.waited_for if any(reader.cursor < ts <= until for ts in gone)}
        assert set(cut.loses(until)) == lacking


@given(situations(), st.integers(0, 100))
def test_waiting_longer_never_brings_back_what_may_go(situation, later):
    """Two processes whose clocks differ want the same in the end."""
    kept, anchor, anchor_position, rules, readers, now = situation
    here = log(kept, anchor, anchor_position, body_bytes=100)
    before = taken(decide(here, rules, readers, now), kept, anchor_position)
    after = taken(decide(here, rules, readers, now + later), kept, anchor_position)
    assert after[: len(before)] == before

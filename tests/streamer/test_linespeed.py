from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamer.linespeed import LineSpeed

FRAME = 128 * 1024


def told(bytes_a_second: float, frames: int, *, pause: float = 0.0, window: int = 4) -> LineSpeed:
    """Frames over a line of this speed, as many under way as a window holds; pauses once all is taken in."""
    speed, now, sent, taken = LineSpeed(), 0.0, 0, 0
    for _ in range(frames):
        speed.sends(outstanding=sent - taken, taken=taken, now=now)
        sent += FRAME
        if sent - taken >= window * FRAME:
            while taken < sent:
                taken += FRAME
                now += FRAME / bytes_a_second
                speed.hears(taken=taken, now=now)
            now += pause
    return speed


@given(speed=st.floats(1e3, 1.9e6))
def test_a_slow_line_is_noticed_within_half_a_megabyte(speed: float) -> None:
    assert told(speed, 4).slow


@given(speed=st.floats(2.2e6, 1e9), frames=st.integers(1, 60))
def test_a_fast_line_is_never_called_slow(speed: float, frames: int) -> None:
    assert not told(speed, frames).slow


@given(speed=st.floats(2.2e6, 1e9), pause=st.floats(0, 1e5))
def test_having_nothing_to_send_is_no_slowness(speed: float, pause: float) -> None:
    assert not told(speed, 40, pause=pause).slow


def test_what_is_slow_stays_so() -> None:
    speed = told(1e5, 8)
    for number in range(40):
        speed.sends(outstanding=FRAME, taken=number * FRAME, now=100.0)
        speed.hears(taken=(number + 1) * FRAME, now=100.0)
    assert speed.slow


def test_little_is_under_way_until_the_speed_is_known() -> None:
    speed = LineSpeed()
    speed.sends(outstanding=0, taken=0, now=0.0)
    assert speed.lets(outstanding=4 * FRAME - 1)
    assert not speed.lets(outstanding=4 * FRAME)
    speed.hears(taken=2 * FRAME, now=0.1)
    assert speed.lets(outstanding=100 * FRAME)


def test_a_little_says_nothing() -> None:
    speed = LineSpeed()
    speed.sends(outstanding=0, taken=0, now=0.0)
    speed.hears(taken=1000, now=60.0)
    assert not speed.slow

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mirror.models import SourceState
from mirror.status import LoadingStatus, SourceStatus
from mirror.verifying import Result, Summary, VerifiedState, summary
from streamer.cards import Card, Follower, source_card
from streamer.pace import Pace
from tests.streamer.records import NOW, SECOND, moment

STREAMER = Path(__file__).resolve().parents[2] / "streamer"

MODELS = ("polls.choice", "polls.question", "polls.vote")


def verified(*models: str, state: str = "done", **found: Any) -> Summary:
    """What is known of these models, each compared at ``NOW`` unless told otherwise."""
    row: dict[str, Any] = {
        "state": state,
        "rows": 40,
        "total": 100,
        **dict.fromkeys(("missing", "different", "extra", "repaired"), 0),
        "refused": "",
        "cursor": NOW - 7,
        "began_at": None,
        "ended_at": moment(NOW),
    }
    return summary([Result(model=model, **{**row, **found}) for model in models], MODELS)


LEVEL = SourceStatus(
    name="paris",
    state="live",
    since=moment(NOW),
    stream="s",
    cursor=NOW,
    head=NOW,
    position=10,
    head_position=10,
    changes_behind=0,
    seconds_behind=0.0,
    heard_at=moment(NOW),
    error_code="",
    error_text="",
    attempts=0,
    next_try_at=None,
    skipped=0,
    loading=(),
    verified=verified(),
)


def card(
    *, came: int = 0, level_at: int | None = None, mirrors: list[Follower] | None = None, **state: Any
) -> Card:
    pace = Pace(0, known_from=0, counted={NOW // (5 * SECOND): came})
    return source_card(replace(LEVEL, **state), pace=pace, level_at=level_at, mirrors=mirrors or [], now=NOW)


def test_times_are_epoch_microseconds_and_exact() -> None:
    shown = card(since=moment(NOW + 1), heard_at=moment(NOW + 2), next_try_at=moment(NOW + 3))
    assert (shown.since, shown.heard_at, shown.next_try_at) == (NOW + 1, NOW + 2, NOW + 3)


@pytest.mark.parametrize("state", SourceState.values)
def test_every_state_has_words(state: str) -> None:
    shown = card(state=state)
    assert shown.state == state
    assert shown.state_words


def loading(model: str, rows: int = 0, total: int | None = None, seconds: int | None = None) -> LoadingStatus:
    began_at = None if seconds is None else moment(NOW - seconds * SECOND)
    return LoadingStatus(model=model, state="copying", rows=rows, total=total, began_at=began_at)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([], "asks for the rows"),
        ([loading("polls.choice")], "polls.choice: 0 rows"),
        (
            [loading("polls.choice", 12_000, 48_000, 10), loading("polls.vote")],
            "polls.choice: 12,000 of 48,000 rows, about 0:00:30 left, then 1 more model",
        ),
    ],
)
def test_loading_says_of_which_model_and_how_far(models: list[LoadingStatus], words: str) -> None:
    assert card(state="loading", loading=tuple(models)).state_words == words


def test_a_source_whose_rows_were_never_compared_says_nothing_of_it() -> None:
    assert card().verified is None


def test_identical_rows_say_as_of_when() -> None:
    shown = card(verified=verified(*MODELS)).verified
    assert shown is not None
    assert (shown.state, shown.words) == ("identical", "identical")
    assert (shown.as_of, shown.cursor) == (NOW, NOW - 7)


@pytest.mark.parametrize(
    ("found", "state", "words"),
    [
        (verified("polls.vote"), "identical", "1 of 3 models identical"),
        (verified("polls.vote", state="comparing"), "comparing", "comparing 40 % of polls.vote"),
        (
            verified(*MODELS, state="waiting", rows=0, total=None),
            "comparing",
            "comparing polls.choice, then 2 more models",
        ),
        (verified(*MODELS, missing=1, different=3), "differences", "12 rows differ"),
        (verified("polls.vote", extra=1), "differences", "1 row differs"),
        (verified("polls.vote", extra=1234), "differences", "1,234 rows differ"),
        (verified("polls.vote", missing=2, repaired=2), "repaired", "2 rows differed, repaired"),
        (verified("polls.vote", refused="unknown_model"), "refused", "1 of 1 models could not be compared"),
    ],
)
def test_a_comparison_says_what_came_of_it(found: Summary, state: str, words: str) -> None:
    shown = card(verified=found).verified
    assert shown is not None
    assert (shown.state, shown.words) == (state, words)
    assert shown.as_of == (NOW if state == "identical" else None)


def test_every_outcome_has_its_icon_on_the_page() -> None:
    script = (STREAMER / "static/mirror/cards.js").read_text()
    icons = (STREAMER / "templates/mirror/icons.html").read_text()
    table = script.partition("const VERIFIED = {")[2].partition("};")[0]
    outcomes = dict(re.findall(r'(\w+): \{ icon: "(\w+)"', table))
    assert outcomes.keys() == {*VerifiedState} - {"never"}
    assert [icon for icon in outcomes.values() if f'id="icon-{icon}"' not in icons] == []


@pytest.mark.parametrize(
    ("came", "words"),
    [
        (0, "1,000 of 50,000"),
        (500, "1,000 of 50,000, about 0:08:10 left"),
    ],
)
def test_catching_up_says_how_far_it_is_and_how_long_it_takes(came: int, words: str) -> None:
    shown = card(came=came, state="catching_up", position=1000, head_position=50_000, changes_behind=49_000)
    assert shown.state_words == words


@pytest.mark.parametrize(
    ("of_cursor", "level_at", "seconds"),
    [
        (None, None, None),
        (None, NOW - SECOND, None),  # nothing known of the cursor
        (90.0, None, 90.0),
        (90.0, NOW - 2 * SECOND, 2.0),
        (1.0, NOW - 2 * SECOND, 1.0),
        (1.0, NOW + SECOND, 0.0),  # heard while this look was under way
    ],
)
def test_seconds_behind_is_the_smaller_of_two_upper_bounds(
    of_cursor: float | None, level_at: int | None, seconds: float | None
) -> None:
    assert card(seconds_behind=of_cursor, level_at=level_at).seconds_behind == seconds


@pytest.mark.parametrize(
    ("code", "text", "problem"),
    [
        ("", "", None),
        ("pruned", "too old", ("pruned", "too old")),
        ("", "nothing was heard", ("", "nothing was heard")),
    ],
)
def test_the_last_error_is_shown_with_its_code(code: str, text: str, problem: tuple[str, str] | None) -> None:
    error = card(error_code=code, error_text=text).last_error
    assert (error and (error.code, error.text)) == problem


def test_a_source_without_a_stream_has_no_pace() -> None:
    shown = source_card(
        replace(LEVEL, state="new", stream=None), pace=None, level_at=None, mirrors=[], now=NOW
    )
    assert (shown.rate, shown.spark) == (0.0, [])

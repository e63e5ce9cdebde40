from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.loading import _results, source_of
from bench.sites import Ground, ground
from bench.steady import Steady, rate

ROWS = 20


@pytest.fixture
def place() -> Iterator[Ground]:
    with ground() as made:
        yield made


def test_commits_a_second_are_those_between_two_marks() -> None:
    assert rate((10, 1.0), (40, 2.5)) == 20


def test_a_writer_that_stood_still_has_no_rate() -> None:
    with pytest.raises(ValueError, match=r"no commit in 1\.5 s"):
        rate((10, 1.0), (10, 2.5))


def test_a_source_holds_its_rows_before_it_captures(place: Ground) -> None:
    source = source_of(place, "sqlite", ROWS)
    counted = "SELECT (SELECT count(*) FROM polls_question) + (SELECT count(*) FROM polls_choice)"
    assert source.one(counted) == ROWS
    assert source.position() == 0
    assert {label for (label,) in source.rows("SELECT model FROM mirror_untold")} == {
        "polls.choice",
        "polls.question",
    }


def test_a_writer_without_a_pause_tells_what_it_commits(place: Ground) -> None:
    source = place.site("source", "sqlite")
    with Steady(source) as writer:
        assert writer.commits_in(0.1) > 0
    assert source.one("SELECT count(*) FROM polls_question") > 0


def test_loading_is_set_beside_the_peer_of_its_own_engine() -> None:
    figures = {
        ("sqlite", "livemirror"): {"rows/s": (20.0,), "peak MiB": (50.0,)},
        ("postgresql", "livemirror"): {"rows/s": (10.0,), "peak MiB": (60.0,)},
        ("postgresql", "logical replication"): {"rows/s": (40.0,)},
    }
    rates = {
        (told.case, told.subject): [ratio.figures for ratio in told.ratios]
        for told in _results(figures, ROWS)
        if told.unit == "rows/s"
    }
    assert rates == {
        ("sqlite", "livemirror"): [],
        ("postgresql", "livemirror"): [(0.25,)],
        ("postgresql", "logical replication"): [],
    }


def test_a_writer_is_compared_with_itself_alone() -> None:
    of_writer = {
        "us a commit, alone": (100.0,),
        "while rows are loaded": (150.0,),
        "while the mirror follows": (120.0,),
    }
    (told,) = _results({("sqlite, a writer at the source", "livemirror"): of_writer}, ROWS)
    assert told.figures == (150.0,)
    alone, followed = told.ratios
    assert (alone.figures, followed.figures) == ((1.5,), (1.25,))
    assert alone.aim is not None
    assert not alone.aim.met(alone.figures)

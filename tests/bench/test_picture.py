from __future__ import annotations

from pathlib import Path

import pytest

from bench.picture import caption, draw, panels
from bench.report import Spread
from bench.results import Result


def result(subject: str, quantity: str, *figures: float) -> Result:
    return Result(
        scenario="catch-up", case="sqlite", subject=subject, quantity=quantity, unit="s", figures=figures
    )


def test_a_panel_holds_one_quantity_of_all_subjects() -> None:
    found = panels(
        [result("livemirror", "time", 1, 3), result("peer", "time", 4), result("peer", "memory", 5)]
    )
    assert [panel.title for panel in found] == ["catch-up: time", "catch-up: memory"]
    ours, peer = found[0].bars
    assert (ours.label, ours.spread, ours.ours) == ("sqlite, livemirror", Spread(1, 2, 3), True)
    assert (peer.label, peer.ours) == ("sqlite, peer", False)


def test_bars_that_differ_much_stand_on_a_logarithmic_axis() -> None:
    near = panels([result("livemirror", "time", 1), result("peer", "time", 20)])
    far = panels([result("livemirror", "time", 1), result("peer", "time", 21)])
    assert [near[0].logarithmic, far[0].logarithmic] == [False, True]


def test_nothing_has_no_logarithm() -> None:
    (panel,) = panels([result("livemirror", "time", 0), result("peer", "time", 21)])
    assert not panel.logarithmic


def test_where_all_is_nothing_there_is_no_panel() -> None:
    found = panels([result("livemirror", "torn", 0), result("peer", "torn", 0), result("peer", "time", 1)])
    assert [panel.title for panel in found] == ["catch-up: time"]


def test_what_was_left_out_has_no_bar() -> None:
    assert panels([Result(scenario="idle", case="mariadb", subject="livemirror", left_out="absent")]) == []


def test_the_picture_says_on_what_machine_and_under_which_load() -> None:
    about = {"cpu": "a fast one", "cores": 2, "load at the beginning": [0.1], "versions": {"Django": "5.2"}}
    assert caption(about) == "a fast one, 2 cores, load at the beginning [0.1]"


def test_a_picture_is_written_where_matplotlib_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "bench.png"
    assert draw([result("livemirror", "time", 1, 3)], {"cores": 2}, path) == ""
    assert path.stat().st_size > 1000

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import bench.__main__ as program
from bench import versions
from bench.report import described, machine
from bench.results import Result
from bench.scenarios import SCENARIOS


def test_a_run_is_told_with_its_machine() -> None:
    assert set(machine()) == {
        "cpu",
        "cores",
        "memory_gib",
        "system",
        "python",
        "load at the beginning",
    }


def test_lists_and_versions_read_as_text() -> None:
    told = described({"load": [0.5, 0.25], "versions": {"Django": "5.2", "SQLite": "3.40"}, "scale": 1.0})
    assert told.splitlines()[-3:] == [
        "| load | 0.5, 0.25 |",
        "| versions | Django 5.2, SQLite 3.40 |",
        "| scale | 1.0 |",
    ]


def test_of_what_is_measured_the_versions_are_known() -> None:
    assert {"Django", "daphne", "websockets", "SQLite"} <= set(versions.of_scenarios())


class Scenario:
    """A module of a scenario, in small."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, options: object) -> list[Result]:
        if self.name == "latency":
            raise LookupError("nothing there")
        return [Result(scenario=self.name, case="a", subject="b", quantity="c", unit="s", figures=(1.0,))]


@pytest.fixture
def _signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("_signals")
def test_a_scenario_that_fails_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "scenario", Scenario)
    monkeypatch.setattr("sys.argv", ["bench", "--output", str(tmp_path), "--scale", "0.5"])
    assert program.main() == 1
    told = json.loads((tmp_path / "bench.json").read_text())
    failed = [result for result in told["results"] if "left_out" in result]
    assert [result["scenario"] for result in failed] == ["latency"]
    assert failed[0]["left_out"] == "it failed: nothing there"
    assert {result["scenario"] for result in told["results"]} == set(SCENARIOS)
    assert set(told["machine"]["minutes"]) == set(SCENARIOS)
    assert len(told["machine"]["load at the end"]) == 3
    assert "nothing there" in (tmp_path / "bench.md").read_text()
    assert "LookupError" in capsys.readouterr().err

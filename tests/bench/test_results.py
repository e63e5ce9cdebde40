from __future__ import annotations

import json

import pytest

from bench.results import FAILED, Aim, Contestant, Lineup, Ratio, Result, markdown, quotients

A, B = ("sqlite", "livemirror"), ("sqlite", "peer")


def result(**values: object) -> Result:
    values = {"scenario": "catch-up", "case": "sqlite", "subject": "livemirror", **values}
    return Result(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("aim", "figures", "met"),
    [
        (Aim("at most", 5), (1, 5, 9), True),
        (Aim("at most", 5), (1, 6, 9), False),
        (Aim("at least", 5), (1, 5, 9), True),
        (Aim("at least", 5), (1, 4, 9), False),
    ],
)
def test_the_median_meets_an_aim(aim: Aim, figures: tuple[float, ...], met: bool) -> None:
    assert aim.met(figures) is met


def test_a_ratio_compares_figures_of_the_same_round() -> None:
    assert quotients((10, 30), (5, 10)) == (2, 3)


def test_a_round_without_the_other_figure_has_no_ratio() -> None:
    assert quotients((10, 30), (0, 10)) == (3,)


class Log:
    """Contestants that note when it was their turn."""

    def __init__(self) -> None:
        self.turns: list[str] = []

    def contestant(self, name: str, *, fails_in: int | None = None) -> Contestant:
        def measure(number: int) -> dict[str, float]:
            self.turns.append(f"{name}{number}")
            if number == fails_in:
                raise LookupError("first line\ntables differ")
            return {"s": float(number)}

        return measure


def test_rounds_are_interleaved_in_both_orders() -> None:
    log, lineup = Log(), Lineup("catch-up")
    figures = lineup.rounds({A: log.contestant("a"), B: log.contestant("b")}, 3)
    assert log.turns == ["a0", "b0", "b1", "a1", "a2", "b2"]
    assert figures == {A: {"s": (0, 1, 2)}, B: {"s": (0, 1, 2)}}
    assert lineup.left_out == []


def test_a_contestant_that_fails_is_left_out_and_said_so() -> None:
    said: list[str] = []
    log, lineup = Log(), Lineup("catch-up", said.append)
    figures = lineup.rounds({A: log.contestant("a"), B: log.contestant("b", fails_in=1)}, 3)
    assert log.turns == ["a0", "b0", "b1", "a1", "a2"]
    assert figures == {A: {"s": (0, 1, 2)}}
    (left_out,) = lineup.left_out
    assert (left_out.case, left_out.subject, left_out.left_out) == (*B, f"{FAILED}tables differ")
    assert any("Traceback" in line and "LookupError" in line for line in said)


def test_what_cannot_be_prepared_leaves_the_others_in() -> None:
    lineup = Lineup("catch-up")
    assert lineup.attempt(A, lambda: "ready") == "ready"
    assert lineup.attempt(B, lambda: [][0]) is None
    assert [(gone.case, gone.subject) for gone in lineup.left_out] == [B]
    assert lineup.left_out[0].left_out.startswith(FAILED)


def test_what_there_is_a_reason_against_is_not_even_begun() -> None:
    lineup = Lineup("catch-up")
    assert lineup.attempt(A, lambda: pytest.fail("it was begun"), unless="not installed") is None
    assert lineup.left_out[0].left_out == "not installed"


def test_the_table_tells_figures_aims_and_ratios() -> None:
    text = markdown(
        [
            result(
                quantity="changes brought over",
                unit="changes/s",
                figures=(1000.0, 3000.0, 2000.0),
                ratios=(Ratio(to="peer", figures=(0.5, 1.5, 1.0), aim=Aim("at least", 1)),),
            ),
            result(quantity="memory", unit="MiB", figures=(250.0,), aim=Aim("at most", 200)),
        ]
    )
    assert "| 2,000 (1,000 to 3,000) | changes/s |" in text
    assert "1 (0.5 to 1.5) x peer, at least 1: met" in text
    assert "| 250 | MiB | at most 200: missed |" in text


def test_what_is_left_out_is_named_below_the_table() -> None:
    text = markdown([result(subject="django-cqrs", left_out="no RabbitMQ answers on loopback")])
    assert "- sqlite: django-cqrs is left out: no RabbitMQ answers on loopback" in text


def test_a_note_is_told_once() -> None:
    noted = [result(quantity=name, unit="ms", figures=(1.0,), note="200 writes") for name in ("p50", "p99")]
    assert markdown(noted).count("200 writes") == 1


def test_each_scenario_has_its_own_table() -> None:
    each = [result(scenario=name, quantity="time", unit="s", figures=(1.0,)) for name in ("idle", "growth")]
    assert [line for line in markdown(each).splitlines() if line.startswith("##")] == ["## idle", "## growth"]


def test_json_holds_every_figure_and_the_verdict() -> None:
    told = result(
        quantity="p50",
        unit="ms",
        figures=(4.0, 2.0),
        aim=Aim("at most", 5),
        ratios=(Ratio(to="peer", figures=(8.0, 4.0)),),
    ).as_json()
    assert json.loads(json.dumps(told)) == {
        "scenario": "catch-up",
        "case": "sqlite",
        "subject": "livemirror",
        "quantity": "p50",
        "unit": "ms",
        "min": 2.0,
        "median": 3.0,
        "max": 4.0,
        "figures": [4.0, 2.0],
        "aim": "at most 5",
        "met": True,
        "ratios": {"peer": {"min": 4.0, "median": 6.0, "max": 8.0, "figures": [8.0, 4.0]}},
    }


def test_json_of_what_is_left_out_has_the_reason_and_no_figures() -> None:
    told = result(left_out="not installed").as_json()
    assert told == {
        "scenario": "catch-up",
        "case": "sqlite",
        "subject": "livemirror",
        "left_out": "not installed",
    }

"""What every scenario returns, and how it reads as JSON and as a Markdown table."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

from bench.report import Spread, table

#: How the reason begins of what was left out because it went wrong, not because something is not here.
FAILED = "it failed: "

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Aim:
    """What the median should be: ``Aim("at most", 5)``."""

    side: Literal["at least", "at most"]
    limit: float

    def met(self, figures: Sequence[float]) -> bool:
        median = Spread.of(figures).median
        return median >= self.limit if self.side == "at least" else median <= self.limit

    def __str__(self) -> str:
        return f"{self.side} {self.limit:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A subject's figure divided by another's of the same round, for each round."""

    to: str
    figures: tuple[float, ...]
    aim: Aim | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One quantity of one subject, a figure for each round; or why there is none (``left_out``)."""

    scenario: str
    #: What was done: the engines, the rate, the size.
    case: str
    #: Who did it: the mirror, or the peer by name.
    subject: str
    quantity: str = ""
    unit: str = ""
    figures: tuple[float, ...] = ()
    aim: Aim | None = None
    ratios: tuple[Ratio, ...] = ()
    note: str = ""
    left_out: str = ""

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "scenario": self.scenario,
            "case": self.case,
            "subject": self.subject,
        }
        if self.left_out:
            return {**found, "left_out": self.left_out}
        found |= {"quantity": self.quantity, "unit": self.unit, **_told(self.figures, self.aim)}
        if self.ratios:
            found["ratios"] = {ratio.to: _told(ratio.figures, ratio.aim) for ratio in self.ratios}
        return {**found, "note": self.note} if self.note else found


def _told(figures: Sequence[float], aim: Aim | None) -> dict[str, Any]:
    told = {**Spread.of(figures).as_json(), "figures": [round(figure, 4) for figure in figures]}
    return told if aim is None else {**told, "aim": str(aim), "met": aim.met(figures)}


def quotients(figures: Sequence[float], others: Sequence[float]) -> tuple[float, ...]:
    """Round by round; rounds in which the other figure is nothing have no ratio."""
    return tuple(figure / other for figure, other in zip(figures, others, strict=True) if other)


#: Case and subject.
Key = tuple[str, str]
#: Of one contestant: its quantities, a figure for each round.
Figures = Mapping[str, tuple[float, ...]]
#: Called with the number of the round, returns its quantities.
Contestant = Callable[[int], Mapping[str, float]]


@dataclass(slots=True)
class Lineup:
    """Who takes part in a scenario, and who is left out with the reason.

    Whatever goes wrong with one of them leaves out this one alone: the others' figures are still worth
    having.
    """

    scenario: str
    say: Callable[[str], None] = lambda line: None
    left_out: list[Result] = field(default_factory=list)

    def attempt(self, key: Key, make: Callable[[], T], *, unless: str = "", what: str = "") -> T | None:
        """What ``make`` makes; nothing if there is a reason not to, or if it goes wrong."""
        if unless:
            self._leave_out(key, unless)
            return None
        try:
            return make()
        except Exception as error:  # noqa: BLE001 - told in full, in the results, and by the exit code
            self.say(f"  {what or 'preparing'} {', '.join(key)}: {FAILED}{traceback.format_exc()}")
            self._leave_out(key, f"{FAILED}{brief(error)}")
            return None

    def rounds(self, contestants: Mapping[Key, Contestant], repeats: int) -> dict[Key, Figures]:
        """Each contestant once a round, now in one order and now in the other."""
        found: dict[Key, dict[str, list[float]]] = {key: {} for key in contestants}
        for number in range(repeats):
            for key in list(found) if number % 2 == 0 else list(reversed(found)):
                what = f"round {number + 1},"
                quantities = self.attempt(key, partial(contestants[key], number), what=what)
                if quantities is None:
                    del found[key]
                    continue
                told = ", ".join(f"{quantity} {figure:,.4g}" for quantity, figure in quantities.items())
                self.say(f"  {what} {', '.join(key)}: {told}")
                for quantity, figure in quantities.items():
                    found[key].setdefault(quantity, []).append(figure)
        return {
            key: {quantity: tuple(each) for quantity, each in quantities.items()}
            for key, quantities in found.items()
        }

    def _leave_out(self, key: Key, why: str) -> None:
        case, subject = key
        self.left_out.append(Result(scenario=self.scenario, case=case, subject=subject, left_out=why))


def brief(error: Exception) -> str:
    """The last line of what went wrong: a log may be all of it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1][:300]


_HEADER = ["case", "subject", "quantity", "median (min to max)", "unit", "aim", "ratios"]


def markdown(results: Sequence[Result]) -> str:
    """A table for each scenario, what was left out and the notes below it."""
    parts = []
    for scenario in dict.fromkeys(result.scenario for result in results):
        of_it = [result for result in results if result.scenario == scenario]
        measured = [result for result in of_it if not result.left_out]
        lines = [f"## {scenario}", ""]
        if measured:
            lines += [table(_HEADER, [_row(result) for result in measured]), ""]
        remarks = [f"- {line}" for line in dict.fromkeys(_remarks(of_it))]
        parts.append("\n".join([*lines, *remarks]).rstrip())
    return "\n\n".join(parts)


def _row(result: Result) -> list[str]:
    ratios = "; ".join(
        f"{_spread(ratio.figures)} x {ratio.to}{_verdict(ratio.figures, ratio.aim)}"
        for ratio in result.ratios
        if ratio.figures
    )
    verdict = _verdict(result.figures, result.aim).removeprefix(", ")
    return [
        result.case,
        result.subject,
        result.quantity,
        _spread(result.figures),
        result.unit,
        verdict,
        ratios,
    ]


def _remarks(results: Sequence[Result]) -> Iterator[str]:
    for result in results:
        if result.left_out:
            yield f"{result.case}: {result.subject} is left out: {result.left_out}"
        elif result.note:
            yield f"{result.case}, {result.subject}: {result.note}"


def _verdict(figures: Sequence[float], aim: Aim | None) -> str:
    return "" if aim is None else f", {aim}: {'met' if aim.met(figures) else 'missed'}"


def _spread(figures: Sequence[float]) -> str:
    spread = Spread.of(figures)
    if len(figures) == 1:
        return _figure(spread.median)
    return f"{_figure(spread.median)} ({_figure(spread.lowest)} to {_figure(spread.highest)})"


def _figure(figure: float) -> str:
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"

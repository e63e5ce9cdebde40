"""The results as a picture: bars with their spread, a panel for each quantity of a scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.report import Spread
from bench.results import Result

_COLUMNS = 2
#: Inches.
_WIDTH, _PANEL, _BAR, _FOOT = 13.0, 1.3, 0.27, 0.4
#: Of what is told of a run, what stands below the picture, and in which unit.
_CAPTION = {"cpu": "", "cores": "cores", "memory_gib": "GiB", "system": "", "repeats": "rounds"}
_LOADS = "load at the beginning", "load at the end"
_OURS, _PEERS = "#0f766e", "#94a3b8"


@dataclass(frozen=True, slots=True)
class Bar:
    label: str
    spread: Spread
    ours: bool


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    unit: str
    bars: tuple[Bar, ...]
    #: Whether the bars differ so much that only their logarithms can be seen side by side.
    logarithmic: bool


def panels(results: Sequence[Result]) -> list[Panel]:
    """In the order in which the quantities come; where all is nothing there is nothing to see."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        if result.figures:
            groups.setdefault((result.scenario, result.quantity, result.unit), []).append(result)
    return [
        _panel(f"{scenario}: {quantity}", unit, group)
        for (scenario, quantity, unit), group in groups.items()
        if any(any(result.figures) for result in group)
    ]


def _panel(title: str, unit: str, results: Sequence[Result]) -> Panel:
    bars = tuple(
        Bar(
            f"{of_it.case}, {of_it.subject}", Spread.of(of_it.figures), of_it.subject.startswith("livemirror")
        )
        for of_it in results
    )
    lowest, highest = min(bar.spread.median for bar in bars), max(bar.spread.median for bar in bars)
    return Panel(title, unit, bars, logarithmic=lowest > 0 and highest / lowest > 20)


def caption(about: Mapping[str, object]) -> str:
    """The machine and its load, in a line."""
    told = [f"{about[what]} {unit}".strip() for what, unit in _CAPTION.items() if about.get(what) is not None]
    return ", ".join([*told, *(f"{what} {about[what]}" for what in (*_LOADS, "scale") if what in about)])


def _ours(result: Result) -> bool:
    return result.subject.startswith("livemirror")


def draw(results: Sequence[Result], about: Mapping[str, object], path: Path) -> str:
    """Write the picture of a run, of which ``about`` tells; return what to tell when there is none."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return "no picture: matplotlib is not installed"
    found = panels(results)
    if not found:
        return "no picture: nothing was measured"
    columns = [found[start::_COLUMNS] for start in range(_COLUMNS)]
    heights = [[_PANEL + _BAR * len(panel.bars) for panel in column] for column in columns]
    total = max(map(sum, heights)) + _FOOT
    figure = Figure(figsize=(_WIDTH, total))
    FigureCanvasAgg(figure)
    figure.text(0.5 / _WIDTH, 0.5 * _FOOT / total, caption(about), fontsize=7)
    for place, column in enumerate(columns):
        top = 1.0
        for panel, height in zip(column, heights[place], strict=True):
            share, bars = height / total, _BAR * len(panel.bars) / total
            left = (place + 0.42) / _COLUMNS
            axes = figure.add_axes((left, top - bars - 0.45 / total, 0.5 / _COLUMNS, bars))
            _fill(axes, panel)
            top -= share
    figure.savefig(path, dpi=110)
    return ""


def _fill(axes: Any, panel: Panel) -> None:
    values = [bar.spread.median for bar in panel.bars]
    errors = [
        [bar.spread.median - bar.spread.lowest for bar in panel.bars],
        [bar.spread.highest - bar.spread.median for bar in panel.bars],
    ]
    places = range(len(panel.bars))
    colours = [_OURS if bar.ours else _PEERS for bar in panel.bars]
    axes.barh(places, values, xerr=errors, color=colours, error_kw={"elinewidth": 1})
    axes.set_yticks(places, [bar.label for bar in panel.bars], fontsize=7)
    axes.invert_yaxis()
    axes.set_title(panel.title, fontsize=9, loc="left")
    axes.set_xlabel(panel.unit, fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    if panel.logarithmic:
        axes.set_xscale("log")

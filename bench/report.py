"""How figures are told: ratios with their spread, the machine they come from, JSON and a Markdown table."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    """Repeated figures of one kind."""

    lowest: float
    median: float
    highest: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        return cls(min(figures), statistics.median(figures), max(figures))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lowest:.2f} to {self.highest:.2f})"

    def as_json(self) -> dict[str, float]:
        return {
            "min": round(self.lowest, 4),
            "median": round(self.median, 4),
            "max": round(self.highest, 4),
        }


def load() -> list[float]:
    """Processes that wanted to run, of the last 1, 5 and 15 minutes: whether the machine was quiet."""
    return [round(average, 1) for average in os.getloadavg()]


def machine() -> dict[str, Any]:
    """What the figures were taken on, before they are."""
    cpu = re.search(r"^model name\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE)
    return {
        "cpu": cpu[1] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load at the beginning": load(),
    }


def _read(path: str) -> str:
    return Path(path).read_text(errors="replace") if Path(path).exists() else ""


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [list(map(str, header)), ["---"] * len(header), *(list(map(str, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def described(about: Mapping[str, object]) -> str:
    """What ``machine`` and others tell of a run, as a table."""
    told = [[what, _plain(value)] for what, value in about.items()]
    return f"## machine\n\n{table(['what', 'value'], told)}"


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def save(directory: Path, name: str, result: dict[str, Any], markdown: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    (directory / f"{name}.md").write_text(markdown + "\n")

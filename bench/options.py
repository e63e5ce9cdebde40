"""What a run of the bench was asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.processes import ROOT

ENGINES = ("sqlite", "postgresql", "mariadb")


def cqrs_python() -> Path:
    """The interpreter of django-cqrs's environment: it wants versions that ours does not."""
    return Path(os.environ.get("BENCH_CQRS_PYTHON") or ROOT / ".venv-cqrs" / "bin" / "python")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """``scale`` multiplies every count of changes, rows and seconds; ``say`` is told the progress."""

    engines: tuple[str, ...] = ENGINES
    repeats: int = 3
    scale: float = 1.0
    say: Callable[[str], None] = print

    def scaled(self, count: int, *, least: int = 1) -> int:
        return max(least, round(count * self.scale))

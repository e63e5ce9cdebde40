"""The scenarios by name, and which of them a run does."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType

#: In the order in which they run: name, and the module with its ``run(options) -> list of Result``.
SCENARIOS = {
    "catch-up": "bench.catchup",
    "loading": "bench.loading",
    "latency": "bench.latency",
    "streaming": "bench.streaming",
    "sources": "bench.sources",
    "growth": "bench.growth",
    "idle": "bench.idle",
    "slow-line": "bench.slow_line",
}


def selected(names: Sequence[str]) -> list[str]:
    """Those named, each once and in the order above; all when none is named. Raises ValueError."""
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        raise ValueError(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    return [name for name in SCENARIOS if not names or name in names]


def scenario(name: str) -> ModuleType:
    return importlib.import_module(SCENARIOS[name])

"""``python -m tests.judge``: Django's own tests with capture and without it.

Exits with 1 if they differ, or if changes do not say what the tables hold, where that is not explained.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from tests.judge.explained import EXPLAINED
from tests.judge.report import ENDED, Line, Outcome, as_json, as_markdown, compared
from tests.judge.suite import Suite, fetched, labels_of

_ROOT = Path(__file__).resolve().parents[2]
_ENGINES = ("sqlite", "postgresql", "mariadb")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    suite = fetched(options.cache, options.series, fresh=options.fresh)
    labels = options.labels or labels_of(suite)
    options.out.mkdir(parents=True, exist_ok=True)
    pairs = [(engine, label) for engine in options.engine or _ENGINES[:2] for label in labels]

    def judged(pair: tuple[str, str]) -> Line:
        engine, label = pair
        line = _judged(suite, engine, label, options)
        if line.count(ENDED):
            # Some tests of the suite measure time: only what differs again is a difference.
            line = line.confirmed_by(_judged(suite, engine, label, options))
        _tell(line)
        return line

    with ThreadPoolExecutor(options.jobs) as pool:
        lines = list(pool.map(judged, pairs))
    heading = {
        "Django": suite.version,
        "Python": platform.python_version(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    (options.out / "judge.json").write_text(json.dumps(as_json(heading, lines), indent=1))
    (options.out / "judge.md").write_text(as_markdown(heading, lines))
    unexplained = sum(len(line.unexplained) for line in lines)
    tests = sum(line.tests for line in lines)
    print(f"{tests} tests, {unexplained} unexplained differences: {options.out / 'judge.md'}")
    return 1 if unexplained or not tests else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.judge", description=__doc__)
    parser.add_argument("labels", nargs="*", help="packages, or dotted tests of them; all that have models")
    parser.add_argument("--engine", action="append", choices=_ENGINES, help="sqlite and postgresql")
    parser.add_argument("--series", default="5.2", help="of Django; its newest release is taken")
    parser.add_argument("--cache", type=Path, default=_ROOT / ".cache" / "judge", help="suite and its Python")
    parser.add_argument("--out", type=Path, default=_ROOT / ".cache" / "judge" / "report")
    parser.add_argument("--fresh", action="store_true", help="ask for a newer release")
    parser.add_argument("--jobs", type=int, default=1, help="packages at a time")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one run of a package")
    return parser


def _judged(suite: Suite, engine: str, label: str, options: argparse.Namespace) -> Line:
    without, captured = (_run(suite, engine, mode, label, options) for mode in ("off", "on"))
    return compared(engine, label, without, captured, EXPLAINED)


def _run(suite: Suite, engine: str, mode: str, label: str, options: argparse.Namespace) -> Outcome:
    out = (options.out / f"{engine}-{label}-{mode}.json").resolve()
    out.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(_ROOT),
        "PYTHONHASHSEED": "0",
        "JUDGE_ENGINE": engine,
        "JUDGE_CAPTURE": mode,
    }
    command = [suite.python.absolute(), "-m", "tests.judge.run", out, label]
    with out.with_suffix(".log").open("w") as log:
        try:
            subprocess.run(
                command,
                cwd=suite.tests,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=options.timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            print(f"{label} on {engine}, capture {mode}: not ended after {options.timeout} s")
    return json.loads(out.read_text()) if out.exists() else {}


def _tell(line: Line) -> None:
    print(
        f"{line.engine:10} {line.label:32} {line.tests:5} tests {line.judged:5} judged "
        f"{line.changes:7} changes {len(line.findings):4} differ, {len(line.unexplained)} unexplained",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())

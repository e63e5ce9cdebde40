"""From the outcomes of two runs to what is reported: what differs, and what of that is explained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

#: What a run says of each test, as ``run`` wrote it; empty for a run that did not come to its end.
Outcome = Mapping[str, Any]

ENDED, FOLDED, MIRRORED = "ended", "fold", "mirror"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A difference that is known: ``test`` is a pattern of test ids, ``why`` a sentence for the docs."""

    engines: tuple[str, ...]
    kind: str
    test: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One test that differs, and how; ``why`` where that is explained."""

    engine: str
    label: str
    kind: str
    test: str
    found: list[str]
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One package on one engine."""

    engine: str
    label: str
    tests: int
    judged: int
    changes: int
    unjudged: list[str]
    findings: list[Finding] = field(default_factory=list)
    unsteady: list[str] = field(default_factory=list)

    def count(self, kind: str) -> int:
        return sum(finding.kind == kind for finding in self.findings)

    def confirmed_by(self, again: Line) -> Line:
        """Without the tests that ended alike the second time; they are kept as ``unsteady``."""
        ended = {one.test for one in again.findings if one.kind == ENDED}
        steady = [one for one in self.findings if one.kind != ENDED or one.test in ended]
        unsteady = [one.test for one in self.findings if one not in steady]
        return replace(self, findings=steady, unsteady=unsteady)

    @property
    def unexplained(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.why]


def compared(
    engine: str, label: str, without: Outcome, captured: Outcome, known: Iterable[Explained]
) -> Line:
    """What capture changed. A run that did not end differs from one that did in all its tests."""
    ended, ended_captured = without.get("tests", {}), captured.get("tests", {})
    found = [
        (ENDED, test, [f"{ended.get(test)} without capture, {ended_captured.get(test)} with it"])
        for test in sorted(ended.keys() | ended_captured.keys())
        if ended.get(test) != ended_captured.get(test)
    ]
    if not captured or not without:
        found.append((ENDED, label, ["a run did not come to its end"]))
    found += [
        (ENDED, model, ["its table is here, without triggers"]) for model in captured.get("uncaptured", [])
    ]
    found += [(FOLDED, test, lines) for test, lines in captured.get("folds", {}).items()]
    found += [(MIRRORED, test, lines) for test, lines in captured.get("mirrors", {}).items()]
    known = list(known)
    return Line(
        engine=engine,
        label=label,
        tests=len(ended_captured),
        judged=captured.get("judged", 0),
        changes=captured.get("changes", 0),
        unjudged=sorted(captured.get("unjudged", {})),
        findings=[
            Finding(
                engine=engine,
                label=label,
                kind=kind,
                test=test,
                found=lines,
                why=_why(known, engine, kind, test),
            )
            for kind, test, lines in found
        ],
    )


def _why(known: Iterable[Explained], engine: str, kind: str, test: str) -> str:
    for one in known:
        if engine in one.engines and kind == one.kind and fnmatchcase(test, one.test):
            return one.why
    return ""


def as_json(heading: Mapping[str, Any], lines: Iterable[Line]) -> dict[str, Any]:
    return {**heading, "packages": [asdict(line) for line in lines]}


def as_markdown(heading: Mapping[str, Any], lines: Iterable[Line]) -> str:
    lines = list(lines)
    text = [", ".join(f"{name} {value}" for name, value in heading.items()), ""]
    text += ["| engine | packages | tests | judged | changes | ended | fold | mirror |"]
    text += ["| --- " + "| ---: " * 7 + "|"]
    for engine in dict.fromkeys(line.engine for line in lines):
        text.append(_row(engine, "", [line for line in lines if line.engine == engine]))
    differing = [finding for line in lines for finding in line.findings]
    if differing:
        text += ["", "| engine | what | test | explained |", "| --- | --- | --- | --- |"]
        text += [f"| {one.engine} | {one.kind} | {one.test} | {one.why or '**no**'} |" for one in differing]
    text += ["", "| package | engine | tests | judged | changes | ended | fold | mirror |"]
    text += ["| --- | --- " + "| ---: " * 6 + "|"]
    text += [_row(line.label, line.engine, [line]) for line in sorted(lines, key=lambda line: line.label)]
    return "\n".join(text) + "\n"


def _row(first: str, second: str, lines: list[Line]) -> str:
    counts = [
        sum(line.tests for line in lines),
        sum(line.judged for line in lines),
        sum(line.changes for line in lines),
        *(sum(line.count(kind) for line in lines) for kind in (ENDED, FOLDED, MIRRORED)),
    ]
    cells = [first, second or len(lines), *counts]
    return "| " + " | ".join(map(str, cells)) + " |"

"""What capture costs the application: ``python -m bench.capture``.

For each engine one process per way of capturing, each with a database of its own, takes its turn at the
same block of writes, again and again; a ratio compares two turns that follow each other. ``without`` is
the same application without capture; ``articles`` is a post_save/post_delete handler that writes the
serialized object to a log file, outside the transaction. What the processes captured is cleared away
between the blocks, outside the measured time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench import versions
from bench.report import Spread, described, load, machine, save, table
from tests.end_to_end.databases import Database, served, sqlite

ENGINES = ("sqlite", "postgresql", "mariadb")
WAYS: dict[str, dict[str, Any]] = {
    "without": {"CAPTURE": None, "READ_ONLY": False},
    "triggers": {"CAPTURE": "triggers"},
    "signals": {"CAPTURE": "signals"},
    "articles": {"CAPTURE": None, "READ_ONLY": False},
}
#: Rows of a turn, and turns of a round. Single writes are told by the median of a round's, with many short
#: turns: a machine that stands still for a moment would decide the ratio otherwise.
SCENARIOS = {"create": (25, 40), "save": (25, 40), "bulk_create": (10_000, 1), "update": (10_000, 1)}


# The process that writes


def serve_writes(way: str, log: Path) -> None:
    """Answer each line, a scenario and how many rows, with each write's seconds and what was captured."""
    import django

    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    lines = _listen_as_the_articles_did(log) if way == "articles" else None
    for request in sys.stdin:
        scenario, count = json.loads(request)
        writes = _prepared(scenario, count)
        _forget(lines)
        print(json.dumps([list(map(_seconds, writes)), _captured(lines)]), flush=True)


def _seconds(write: Callable[[], object]) -> float:
    began = time.perf_counter()
    write()
    return time.perf_counter() - began


def _prepared(scenario: str, count: int) -> list[Callable[[], object]]:
    from django.db.models import F
    from django.utils import timezone

    from demo.polls.models import Choice, Question

    Choice.objects.all().delete()
    Question.objects.all().delete()
    question = Question.objects.create(question_text="Which?", pub_date=timezone.now())
    choices = [Choice(question=question, choice_text=f"choice {number}") for number in range(count)]

    if scenario == "create":
        return [partial(choice.save, force_insert=True) for choice in choices]
    if scenario == "bulk_create":
        return [lambda: Choice.objects.bulk_create(choices)]
    Choice.objects.bulk_create(choices)
    if scenario == "save":
        return [partial(_vote, choice) for choice in Choice.objects.all()]
    return [lambda: Choice.objects.update(votes=F("votes") + 1)]


def _vote(choice: Any) -> None:
    # MariaDB would not write a row that stays as it is.
    choice.votes += 1
    choice.save()


def _listen_as_the_articles_did(log: Path) -> Path:
    import logging

    from django.core import serializers
    from django.db.models.signals import post_delete, post_save

    logger = logging.getLogger("articles")
    logger.addHandler(logging.FileHandler(log))
    logger.setLevel(logging.INFO)

    def told(verb: str) -> Callable[..., None]:
        def handler(sender: Any, instance: Any, **kwargs: Any) -> None:
            logger.info("%s %s %s", time.time(), verb, serializers.serialize("json", [instance]))

        return handler

    post_save.connect(told("SAVE"), weak=False)
    post_delete.connect(told("DELETE"), weak=False)
    return log


def _forget(lines: Path | None) -> None:
    from django.db import connection

    from mirror.models import Outbox

    if lines is not None:
        lines.write_text("")
    Outbox.objects.all()._raw_delete("default")
    # What was deleted is tidied up now, not behind the writes that are measured.
    tidy = {
        "postgresql": "VACUUM polls_choice, mirror_outbox",
        "mysql": "SET GLOBAL innodb_max_purge_lag_wait = 0",
    }
    if connection.vendor in tidy:
        with connection.cursor() as cursor:
            cursor.execute(tidy[connection.vendor])


def _captured(lines: Path | None) -> int:
    from mirror.models import Outbox

    return Outbox.objects.count() if lines is None else len(lines.read_text().splitlines())


# The process that measures


class Writer:
    """One way of capturing, in a process of its own."""

    def __init__(self, way: str, database: Database, directory: Path) -> None:
        environ = {
            "DJANGO_SETTINGS_MODULE": "bench.settings",
            "BENCH_DB": json.dumps(database),
            "BENCH_MIRROR": json.dumps(WAYS[way]),
        }
        command = [sys.executable, "-m", "bench.capture", "--way", way, "--log", str(directory / "oplog.log")]
        self._process = subprocess.Popen(
            command, env={**os.environ, **environ}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, scenario: str, count: int) -> tuple[list[float], int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([scenario, count]) + "\n")
        self._process.stdin.flush()
        seconds, captured = json.loads(self._process.stdout.readline())
        return seconds, captured

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def writers(engine: str, ways: list[str]) -> Iterator[dict[str, Writer]]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = {}
        for way in ways:
            if engine == "sqlite":
                database = sqlite(directory / f"{way}.sqlite3")
            else:
                database = stack.enter_context(served(engine, f"bench_{way}_{os.getpid()}"))
            found[way] = Writer(way, database, directory)
            stack.callback(found[way].end)
        yield found


def measure(engine: str, ways: list[str], repeats: int) -> Iterator[dict[str, Any]]:
    with writers(engine, ways) as processes:
        for scenario, (count, turns) in SCENARIOS.items():
            ratios: dict[str, list[float]] = {way: [] for way in ways[1:]}
            base: list[float] = []
            captured = {}
            for repeat in range(repeats + 1):
                for way in ways[1:]:
                    # Each beside its own run without, and now one first, now the other.
                    pair = [ways[0], way] if repeat % 2 else [way, ways[0]]
                    times: dict[str, list[float]] = {name: [] for name in pair}
                    for name in pair * turns:
                        took, captured[name] = processes[name].run(scenario, count)
                        times[name] += took
                    if repeat:  # the first one warms up
                        medians = {name: statistics.median(of_it) for name, of_it in times.items()}
                        ratios[way].append(medians[way] / medians[ways[0]])
                        base.append(medians[ways[0]] * len(took))
            yield {
                "engine": engine,
                "scenario": scenario,
                "rows": count,
                "microseconds_per_row_without": Spread.of([t / count * 1e6 for t in base]).as_json(),
                "ratio": {way: Spread.of(figures).as_json() for way, figures in ratios.items()},
                "captured": {way: captured[way] for way in ways[1:]},
            }


def markdown(results: list[dict[str, Any]], ways: list[str]) -> str:
    def cell(result: dict[str, Any], way: str) -> str:
        ratio = result["ratio"][way]
        text = f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
        missed = result["rows"] - result["captured"][way]
        return f"{text}, {missed} not captured" if missed else text

    header = ["engine", "writes", "us per row without", *ways[1:]]
    rows = [
        [
            result["engine"],
            f"{result['scenario']} {result['rows']}",
            f"{result['microseconds_per_row_without']['median']:.0f}",
            *(cell(result, way) for way in ways[1:]),
        ]
        for result in results
    ]
    return table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", action="append", choices=ENGINES, help="default: all three")
    parser.add_argument("--without-way", action="append", default=[], choices=list(WAYS)[1:], metavar="WAY")
    parser.add_argument("--repeats", type=int, default=9, metavar="N")
    parser.add_argument("--output", type=Path, default=Path("bench/results"), metavar="DIRECTORY")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        serve_writes(arguments.way, arguments.log)
        return
    about = {**machine(), "versions": versions.of_capture(), "repeats": arguments.repeats}
    ways = [way for way in WAYS if way not in arguments.without_way]
    results = []
    for engine in arguments.engine or ENGINES:
        for result in measure(engine, ways, arguments.repeats):
            results.append(result)
            print(json.dumps(result), file=sys.stderr, flush=True)
    text = markdown(results, ways)
    about["load at the end"] = load()
    told = f"{text}\n\n{described(about)}"
    save(arguments.output, "capture", {"machine": about, "results": results}, told)
    print(text)


if __name__ == "__main__":
    main()

"""Looks for torn transactions: ``python -m bench.torn`` looks at a mirror's tables until its input ends.

Each transaction of ``bench.backlog`` makes a question, its four choices and five votes. Whoever sees whole
transactions alone finds four choices to every question, and five times as many votes as questions. A look is
one statement, and so sees one commit, on every engine. At the end a line of JSON tells of all looks.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from bench.backlog import CHOICES, VOTES
from bench.sites import connect
from tests.end_to_end.processes import Site

_LOOK = (
    "SELECT (SELECT count(*) FROM polls_question), count(*), coalesce(min(choices), 0), "
    "coalesce(max(choices), 0), coalesce(sum(votes), 0) "
    "FROM (SELECT count(*) AS choices, sum(votes) AS votes FROM polls_choice GROUP BY question_id) AS asked"
)
#: Seconds between two looks: the mirror shall get the processor too.
_PAUSE = 0.001


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look saw; ``asked`` are questions that have choices."""

    questions: int
    asked: int
    fewest_choices: int
    most_choices: int
    votes: int

    @property
    def torn(self) -> bool:
        choices = CHOICES if self.questions else 0
        return (self.asked, self.fewest_choices, self.most_choices, self.votes) != (
            self.questions,
            choices,
            choices,
            VOTES * self.questions,
        )


def look(cursor: Any) -> Seen:
    cursor.execute(_LOOK)
    return Seen(*map(int, cursor.fetchone()))


@dataclass(slots=True)
class Looks:
    """How many there were, how many states they saw one after the other, and which was torn first."""

    looks: int = 0
    states: int = 0
    torn: int = 0
    first_torn: Seen | None = None
    newest: Seen | None = None

    def add(self, seen: Seen) -> None:
        self.looks += 1
        self.states += seen != self.newest
        self.newest = seen
        if seen.torn:
            self.torn += 1
            self.first_torn = self.first_torn or seen


class Watcher:
    """The process that looks, beside a mirror."""

    def __init__(self, site: Site) -> None:
        self._process = site.start("torn", "-m", "bench.torn")

    def end(self) -> dict[str, Any]:
        """What ``Looks`` holds."""
        self._process.finish_input()
        assert self._process.wait() == 0, self._process.log
        told: dict[str, Any] = json.loads(self._process.log.splitlines()[-1])
        return told


def _await_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def main() -> None:
    ended = threading.Event()
    threading.Thread(target=_await_end, args=[ended], daemon=True).start()
    found = Looks()
    with closing(connect(json.loads(os.environ["BENCH_DB"]))) as connection:
        cursor = connection.cursor()
        while not ended.wait(_PAUSE) or not found.looks:
            found.add(look(cursor))
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()

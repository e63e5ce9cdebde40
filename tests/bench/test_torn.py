from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.backlog import CHOICES, PER_TRANSACTION, VOTES
from bench.torn import Looks, Seen, look
from tests.end_to_end.databases import sqlite
from tests.end_to_end.processes import ROOT

TABLES = """
    CREATE TABLE polls_question (id integer PRIMARY KEY);
    CREATE TABLE polls_choice (id integer PRIMARY KEY, question_id integer, votes integer);
"""


def statements(number: int) -> list[str]:
    """What a transaction of the backlog does, one change each."""
    newest = (number + 1) * CHOICES
    return [
        f"INSERT INTO polls_question VALUES ({number})",
        *(
            f"INSERT INTO polls_choice VALUES ({number * CHOICES + choice + 1}, {number}, 0)"
            for choice in range(CHOICES)
        ),
        *(f"UPDATE polls_choice SET votes = votes + 1 WHERE id = {newest // 2}" for _ in range(VOTES)),
    ]


@pytest.fixture
def mirror() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(TABLES)
        yield connection


@given(st.integers(0, 4 * PER_TRANSACTION))
def test_a_state_is_torn_unless_it_ends_with_a_transaction(changes):
    every = [statement for number in range(4) for statement in statements(number)]
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(TABLES)
        for statement in every[:changes]:
            connection.execute(statement)
        assert look(connection.cursor()).torn is (changes % PER_TRANSACTION != 0)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM polls_question WHERE id = 1",
        "DELETE FROM polls_choice WHERE id = 1",
        "UPDATE polls_choice SET votes = votes - 1 WHERE id = 4",
        # All sums stay as they were.
        "UPDATE polls_choice SET question_id = 0 WHERE id = 5",
    ],
)
def test_a_part_that_is_missing_is_noticed(mirror, damage):
    for number in range(3):
        for statement in statements(number):
            mirror.execute(statement)
    assert not look(mirror.cursor()).torn
    assert mirror.execute(damage).rowcount == 1
    assert look(mirror.cursor()).torn


def test_looks_count_states_and_keep_the_first_that_was_torn():
    whole, torn = Seen(1, 1, 4, 4, 5), Seen(2, 1, 4, 4, 5)
    looks = Looks()
    for seen in [whole, whole, torn, Seen(2, 2, 4, 4, 10), Seen(3, 2, 4, 4, 10)]:
        looks.add(seen)
    assert (looks.looks, looks.states, looks.torn, looks.first_torn) == (5, 4, 2, torn)


@pytest.mark.parametrize("left_away", [0, 1])
def test_the_watching_process_tells_of_a_torn_state(tmp_path: Path, left_away: int):
    database = sqlite(tmp_path / "mirror.sqlite3")
    with closing(sqlite3.connect(database["NAME"])) as connection, connection:
        connection.executescript(TABLES)
        for statement in statements(0)[: PER_TRANSACTION - left_away]:
            connection.execute(statement)
    done = subprocess.run(
        [sys.executable, "-m", "bench.torn"],
        cwd=ROOT,
        env={**os.environ, "BENCH_DB": json.dumps(database)},
        input="",
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["looks"] >= 1
    assert told["torn"] == left_away * told["looks"]
    assert (told["first_torn"] is None) is (left_away == 0)

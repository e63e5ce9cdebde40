from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bench import filling
from bench.sites import BenchSite
from tests.end_to_end.databases import sqlite

TABLE = """
    CREATE TABLE mirror_oplog (
        id integer PRIMARY KEY, stream_id integer, ts integer, position integer, op text, model text,
        key text, "row" integer, ends_group integer, body text, UNIQUE (stream_id, ts)
    );
"""
SMALL = 7


@pytest.fixture
def site(tmp_path: Path) -> BenchSite:
    """Its oplog holds seven changes."""
    database = sqlite(tmp_path / "source.sqlite3")
    with closing(sqlite3.connect(database["NAME"])) as connection, connection:
        connection.executescript(TABLE)
        for number in range(1, SMALL + 1):
            connection.execute(
                "INSERT INTO mirror_oplog VALUES (NULL, 3, ?, ?, 'SAVE', 'polls.choice', 'k', ?, 1, '{}')",
                [1000 + number**2, number, 10 * number],
            )
    return BenchSite("source", "source", tmp_path, database)


@pytest.mark.parametrize("at_once", [1, 3, 1000])
@pytest.mark.parametrize("size", [SMALL, SMALL + 1, 50])
def test_an_oplog_is_filled_before_its_first_change(
    site: BenchSite, monkeypatch: pytest.MonkeyPatch, size: int, at_once: int
) -> None:
    monkeypatch.setattr(filling, "_AT_ONCE", at_once)
    before = site.rows("SELECT * FROM mirror_oplog ORDER BY ts")
    filling.fill(site, size)
    after = site.rows("SELECT * FROM mirror_oplog ORDER BY ts")
    assert after[-SMALL:] == before
    assert [position for _, _, _, position, *_ in after] == list(range(SMALL - size + 1, SMALL + 1))
    assert len({ts for _, _, ts, *_ in after}) == size

"""The comparison finds what differs: a run that ends in "equal" is worth no more than this."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.applications.comparison import Difference, Table, compare
from tests.end_to_end.databases import reading, sqlite

_TABLES = [
    Table(name="ticket", columns=("id", "title", "price"), links={}),
    Table(
        name="auth_group_permissions",
        columns=("id", "group_id", "permission_id"),
        links={"group_id": "auth_group", "permission_id": "auth_permission"},
    ),
    Table(
        name="auth_permission",
        columns=("id", "name", "content_type_id", "codename"),
        links={"content_type_id": "django_content_type"},
    ),
]

_SCHEMA = """
CREATE TABLE ticket (id INTEGER PRIMARY KEY, title TEXT, price);
CREATE TABLE django_content_type (id INTEGER PRIMARY KEY, app_label TEXT, model TEXT);
CREATE TABLE auth_permission (id INTEGER PRIMARY KEY, name TEXT, content_type_id INTEGER, codename TEXT);
CREATE TABLE auth_group_permissions (id INTEGER PRIMARY KEY, group_id INTEGER, permission_id INTEGER);
INSERT INTO ticket VALUES (1, 'a', 1), (2, 'b', NULL), (3, 'c', 0.1);
"""

_SOURCE = """
INSERT INTO django_content_type VALUES (1, 'desk', 'ticket');
INSERT INTO auth_permission VALUES (1, 'Add', 1, 'add'), (2, 'See', 1, 'see');
INSERT INTO auth_group_permissions VALUES (1, 7, 2);
"""

#: The same in other numbers, and an app of the centre's own.
_CENTRE = """
INSERT INTO django_content_type VALUES (1, 'own', 'thing'), (9, 'desk', 'ticket');
INSERT INTO auth_permission VALUES (1, 'Own', 1, 'own'), (5, 'See', 9, 'see'), (6, 'Add', 9, 'add');
INSERT INTO auth_group_permissions VALUES (1, 7, 5);
"""

Compared = Callable[[str], tuple[list[Difference], int]]


@pytest.fixture
def compared(tmp_path: Path) -> Compared:
    """Compare the two after the centre has run a statement."""

    def run(statement: str) -> tuple[list[Difference], int]:
        for name, script in {"source": _SOURCE, "centre": _CENTRE + statement}.items():
            with closing(sqlite3.connect(tmp_path / name)) as connection:
                connection.executescript(_SCHEMA + script)
        with reading(sqlite(tmp_path / "source")) as here, reading(sqlite(tmp_path / "centre")) as there:
            return compare(here, there, _TABLES)

    return run


def test_the_same_rows_are_equal_whatever_numbers_a_server_gave_to_permissions(compared: Compared):
    assert compared("") == ([], 6)


@pytest.mark.parametrize(
    ("statement", "table", "missing", "extra"),
    [
        ("UPDATE ticket SET title = 'x' WHERE id = 1", "ticket", 1, 1),
        ("UPDATE ticket SET price = 1.0 WHERE id = 1", "ticket", 1, 1),
        ("UPDATE ticket SET price = '' WHERE id = 2", "ticket", 1, 1),
        ("DELETE FROM ticket WHERE id = 3", "ticket", 1, 0),
        ("INSERT INTO ticket VALUES (4, 'd', 4)", "ticket", 0, 1),
        ("UPDATE auth_group_permissions SET permission_id = 6", "auth_group_permissions", 1, 1),
        ("UPDATE auth_permission SET name = 'Look' WHERE id = 5", "auth_permission", 1, 1),
        ("INSERT INTO auth_permission VALUES (7, 'Burn', 9, 'burn')", "auth_permission", 0, 1),
    ],
)
def test_a_difference_is_found(compared: Compared, statement: str, table: str, missing: int, extra: int):
    (difference,), _rows = compared(statement)
    assert (difference.table, len(difference.missing), len(difference.extra)) == (table, missing, extra)
    assert str(difference).startswith(f"{table}: {missing} rows only here, {extra} only at the centre")

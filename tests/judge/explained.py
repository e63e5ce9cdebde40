"""The differences that are known, each with its reason; docs/judge.md says the same in more words."""

from __future__ import annotations

from tests.judge.report import ENDED, MIRRORED, Explained

EXPLAINED = (
    Explained(
        engines=("sqlite",),
        kind=ENDED,
        test="introspection.tests.IntrospectionTests.test_get_relations",
        why="It drops a column with a schema editor outside migrate. SQLite refuses to drop a column that a "
        "trigger names; only migrate takes the triggers away first.",
    ),
    Explained(
        engines=("sqlite",),
        kind=MIRRORED,
        test="queries.test_db_returning.ReturningValuesTests.test_insert_returning_non_integer",
        why="Its key is a moment that SQLite itself wrote, with milliseconds. Keys travel as what they mean, "
        "so that other databases match them, and the mirror stores the moment as Django writes it.",
    ),
)

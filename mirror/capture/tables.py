"""What a writer of triggers has to know of the tables as they are now, while a migration changes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Selection", "Table", "is_refusal", "refusal"]

_REFUSED = "is mirrored and read-only here"


def refusal(table: str) -> str:
    """What the database says to whoever would write to a table that is read-only."""
    return f"{table} {_REFUSED}: write at the source (docs/readonly.md)"


def is_refusal(sql: str) -> bool:
    """Whether a trigger refuses writes, and so captures none."""
    return _REFUSED in sql


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    #: Quoted; with its schema where the database has schemas.
    name: str
    #: Name and type of each column, the type in whatever words its writer wants.
    columns: Mapping[str, str]
    #: Quoted; empty where the database has none.
    schema: str = ""
    #: True where the database itself changes rows of it because another table's changed.
    cascaded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A query for the rows of a table as its triggers would write them, to go on with WHERE or ORDER BY."""

    #: Quoted.
    table: str
    #: What ends before the first WHERE; gives one column, the payload.
    sql: str
    #: What a row is called in it.
    row: str
    #: What the transaction has to be told before, and after it.
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

"""What a writer of triggers has to know of the tables as they are now, while a migration changes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Table"]


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

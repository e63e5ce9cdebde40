"""Whether two databases hold the same rows: every column of every mirrored table, read with plain SQL.

A number that each server gives out itself is replaced by what it stands for; which those are is said
in ``OWN_NUMBERS`` and nowhere else. No code that is tested takes part in the reading.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.end_to_end.databases import Reading

#: Tables whose rows every server numbers itself, and what tells their rows apart everywhere.
OWN_NUMBERS = {
    "django_content_type": "SELECT id, app_label, model FROM django_content_type",
    "auth_permission": (
        "SELECT p.id, t.app_label, t.model, p.codename FROM auth_permission p "
        "JOIN django_content_type t ON t.id = p.content_type_id"
    ),
}


Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A mirrored table. ``links`` says which columns hold the keys of which other tables."""

    name: str
    columns: tuple[str, ...]
    links: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, described: dict[str, Any]) -> Table:
        return cls(
            name=described["name"], columns=tuple(described["columns"]), links=dict(described["links"])
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What is wrong with one table: rows that only one side has."""

    table: str
    missing: tuple[str, ...]
    extra: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.table}: {len(self.missing)} rows only here, {len(self.extra)} only at the centre"]
        lines += [f"  - {row:.2000}" for row in self.missing[:3]]
        lines += [f"  + {row:.2000}" for row in self.extra[:3]]
        return "\n".join(lines)


def rows_of(database: Reading, table: Table) -> Rows:
    quoted = ", ".join(f'"{column}"' for column in table.columns)
    rows = database.rows(f'SELECT {quoted} FROM "{table.name}"')
    meanings = {
        place: _meanings(database, stands_for)
        for place, column in enumerate(table.columns)
        if (stands_for := _numbers(table, column)) in OWN_NUMBERS
    }
    return [tuple(_said(meanings.get(place), value) for place, value in enumerate(row)) for row in rows]


def compare(source: Reading, centre: Reading, tables: Iterable[Table]) -> tuple[list[Difference], int]:
    """The differences, and how many rows were compared."""
    differences, compared = [], 0
    for table in tables:
        here, there = rows_of(source, table), rows_of(centre, table)
        if table.name == "auth_permission":
            there = _without_own_apps(source, table, there)
        compared += len(here)
        # As text: 1 and 1.0 and True are not the same.
        ours, theirs = Counter(map(repr, here)), Counter(map(repr, there))
        if ours != theirs:
            differences.append(
                Difference(
                    table=table.name,
                    missing=tuple(sorted((ours - theirs).elements())),
                    extra=tuple(sorted((theirs - ours).elements())),
                )
            )
    return differences, compared


def _without_own_apps(source: Reading, table: Table, rows: Rows) -> Rows:
    """``migrate`` makes permissions for the apps that only the centre has as well."""
    known = set(_meanings(source, "django_content_type").values())
    place = table.columns.index("content_type_id")
    return [row for row in rows if row[place] in known]


def _numbers(table: Table, column: str) -> str | None:
    """Which table's rows the column numbers."""
    return table.name if column == "id" else table.links.get(column)


def _meanings(database: Reading, table: str) -> dict[Any, tuple[Any, ...]]:
    return {number: tuple(words) for number, *words in database.rows(OWN_NUMBERS[table])}


def _said(meanings: dict[Any, tuple[Any, ...]] | None, value: Any) -> Any:
    return value if meanings is None or value is None else meanings[value]

"""What a statement of a migration does to names: read from its text, for whoever keeps the triggers right."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Ddl", "read"]

_WORD = r"(?:\"(?:[^\"]|\"\")+\"|`(?:[^`]|``)+`|\w+)"
_NAME = rf"{_WORD}(?:\.{_WORD})?"
_ALTER = rf"\bALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?(?P<table>{_NAME})\s+"

_TABLES = re.compile(
    r"\b(?:CREATE|ALTER|DROP|RENAME)\s+(?:UNLOGGED\s+|TEMP(?:ORARY)?\s+)?TABLE\b", re.IGNORECASE
)
_NAMED = re.compile(
    rf"{_TABLES.pattern}\s+(?:IF\s+(?:NOT\s+)?EXISTS\s+)?(?:ONLY\s+)?(?P<tables>{_NAME}(?:\s*,\s*{_NAME})*)",
    re.IGNORECASE,
)
_TABLE_RENAMED = re.compile(rf"{_ALTER}RENAME\s+(?:TO|AS)\s+(?P<new>{_NAME})", re.IGNORECASE)
_TABLE_RENAMED_MYSQL = re.compile(
    rf"\bRENAME\s+TABLE\s+(?P<table>{_NAME})\s+TO\s+(?P<new>{_NAME})", re.IGNORECASE
)
_COLUMN_RENAMED = re.compile(
    rf"{_ALTER}(?:RENAME\s+COLUMN|CHANGE(?:\s+COLUMN)?)\s+(?P<old>{_WORD})\s+(?:TO\s+)?(?P<new>{_WORD})",
    re.IGNORECASE,
)
_COLUMN_DROPPED = re.compile(rf"{_ALTER}DROP\s+COLUMN\s+(?:IF\s+EXISTS\s+)?(?P<old>{_WORD})", re.IGNORECASE)
_TABLE_DROPPED = re.compile(
    rf"\bDROP\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?P<tables>{_NAME}(?:\s*,\s*{_NAME})*)", re.IGNORECASE
)
#: How Django copies the rows of a table that it makes anew on SQLite.
_COPIED = re.compile(
    rf"\s*INSERT\s+INTO\s+(?P<copy>\"new__[^\"]+\")\s+\((?P<into>.+?)\)\s+SELECT\s+(?P<out>.+)"
    rf"\s+FROM\s+(?P<table>{_NAME})\s*$",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ddl:
    """Names as Django has them in its models: without the quotes around them."""

    #: Every table that is named, old and new; None where some may go by another name than Django's.
    tables: frozenset[str] | None = None
    #: Old and new name.
    renamed_tables: tuple[tuple[str, str], ...] = ()
    #: Table, old and new name.
    renamed_columns: tuple[tuple[str, str, str], ...] = ()
    dropped_tables: frozenset[str] = frozenset()
    #: Table and name of each column that will not be there under this name.
    gone_columns: frozenset[tuple[str, str]] = frozenset()
    #: True where no table has changed yet: rows are copied into one that will take another's place.
    copies: bool = False


def read(sql: str) -> Ddl | None:
    """Return what happens to tables, or None for a statement that leaves them as they are."""
    copied = _COPIED.match(sql)
    if copied:
        return _of_copy(copied)
    if not _TABLES.search(sql):
        return None
    columns = [
        (_plain(found["table"]), _plain(found["old"]), _plain(found["new"]))
        for found in _COLUMN_RENAMED.finditer(sql)
    ]
    dropped = {(_plain(found["table"]), _plain(found["old"])) for found in _COLUMN_DROPPED.finditer(sql)}
    renamed = tuple(
        (_plain(found["table"]), _plain(found["new"]))
        for pattern in (_TABLE_RENAMED, _TABLE_RENAMED_MYSQL)
        for found in pattern.finditer(sql)
    )
    return Ddl(
        tables=_tables(sql, renamed),
        renamed_tables=renamed,
        renamed_columns=tuple((table, old, new) for table, old, new in columns if old != new),
        dropped_tables=frozenset(
            _plain(name)
            for found in _TABLE_DROPPED.finditer(sql)
            for name in re.findall(_NAME, found["tables"])
        ),
        gone_columns=frozenset(dropped | {(table, old) for table, old, new in columns if old != new}),
    )


def _tables(sql: str, renamed: Iterable[tuple[str, str]]) -> frozenset[str] | None:
    statements = [re.findall(_NAME, found["tables"]) for found in _NAMED.finditer(sql)]
    names = [name for named in statements for name in named]
    if len(statements) < len(_TABLES.findall(sql)) or any(
        re.fullmatch(_WORD, name) is None for name in names
    ):
        return None
    return frozenset([*map(_plain, names), *(new for _old, new in renamed)])


def _of_copy(copied: re.Match[str]) -> Ddl:
    into, out = re.findall(_WORD, copied["into"]), _split(copied["out"])
    table = _plain(copied["table"])
    renamed = [
        (table, _plain(old), _plain(new))
        for new, old in zip(into, map(_source, out), strict=False)
        if re.fullmatch(_WORD, old) and old != new
    ]
    return Ddl(renamed_columns=tuple(renamed), copies=True)


def _source(expression: str) -> str:
    """The column that an expression of the copy reads: itself, or what ``coalesce`` asks first."""
    return re.sub(r"^coalesce\((\"[^\"]+\"), .*\)$", r"\1", expression, flags=re.DOTALL)


def _split(expressions: str) -> list[str]:
    """Cut a list at the commas that are neither in quotes nor in brackets."""
    parts, depth, quote = [""], 0, ""
    for character in expressions:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"`":
            quote = character
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "," and not depth:
            parts.append("")
            continue
        parts[-1] += character
    return [part.strip() for part in parts]


def _plain(name: str) -> str:
    return name[1:-1] if name[0] in '"`' else name

"""Many rows in one statement: what PostgreSQL takes fastest.

Columns go as arrays that the server unnests, in one statement whatever their number; what needs no upsert is
copied in. Both travel as text that is put together a column at a time, which costs a fraction of what the
driver needs for each value.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.backends.base.base import BaseDatabaseWrapper

#: With fewer rows than this, statements of the ordinary kind are as fast.
MANY = 8

_COLUMN_TYPES = """
    SELECT attname, format_type(atttypid, NULL) FROM pg_attribute
    WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
"""


_MAY_REPLICATE = """
    SELECT CASE WHEN current_setting('server_version_num')::int >= 150000
        THEN has_parameter_privilege('session_replication_role', 'SET')
        ELSE (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
    END AND NOT EXISTS (
        SELECT FROM pg_constraint
        WHERE condeferrable AND contype <> 'f' AND conrelid = ANY (
            SELECT to_regclass(name) FROM unnest(%s::text[]) name
        )
    )
"""


def may_replicate(connection: BaseDatabaseWrapper, tables: Iterable[str]) -> bool:
    """Whether what is written may pass by the triggers, as with PostgreSQL's own logical replication.

    The database then does not look up what a foreign key points at, which is more than half of the cost of a
    row, nor check a constraint that is deferrable.
    """
    with connection.cursor() as cursor:
        cursor.execute(_MAY_REPLICATE, [[connection.ops.quote_name(table) for table in tables]])
        return bool(cursor.fetchone()[0])


#: An expression that makes it so until the end of the transaction.
REPLICATE = "set_config('session_replication_role', 'replica', true)"


def missing(connection: BaseDatabaseWrapper, table: str, column: str, values: Sequence[Any]) -> list[Any]:
    """Those of the values that are not in this column."""
    text = array_text(values)
    if text is None:
        return [value for value in values if not _has(connection, table, column, value)]
    quote = connection.ops.quote_name
    kind = column_types(connection, quote(table))[column]
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT given FROM unnest(%s::{kind}[]) given WHERE NOT EXISTS "
            f"(SELECT FROM {quote(table)} WHERE {quote(column)} = given)",
            [text],
        )
        return [value for (value,) in cursor.fetchall()]


def _has(connection: BaseDatabaseWrapper, table: str, column: str, value: Any) -> bool:
    quote = connection.ops.quote_name
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT 1 FROM {quote(table)} WHERE {quote(column)} = %s LIMIT 1", [value])
        return cursor.fetchone() is not None


def column_types(connection: BaseDatabaseWrapper, table: str) -> dict[str, str]:
    """By column, as Django has its name between the quotes."""
    with connection.cursor() as cursor:
        cursor.execute(_COLUMN_TYPES, [table])
        return {name.replace('"', '""'): kind for name, kind in cursor.fetchall()}


def array_text(values: Sequence[Any]) -> str | None:
    """An array as the server reads it; None if these values have no text that is known here."""
    kinds = set(map(type, values))
    nulls = type(None) in kinds
    kinds.discard(type(None))
    if kinds == {str} and not nulls:
        return _text_array(values)
    for known, element in _ELEMENTS:
        if kinds <= known:
            return "{" + ",".join(["NULL" if value is None else element(value) for value in values]) + "}"
    return None


def _text_array(values: Sequence[str]) -> str:
    joined = '","'.join(values)
    if "\\" in joined or joined.count('"') != 2 * (len(values) - 1):
        joined = '","'.join(map(_escaped, values))
    return f'{{"{joined}"}}'


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


#: How an element is written, by type.
_ELEMENTS: tuple[tuple[frozenset[type], Callable[[Any], str]], ...] = (
    (frozenset({int, float, Decimal, UUID, bool}), str),
    (frozenset({str}), lambda value: f'"{_escaped(value)}"'),
    (frozenset({datetime.datetime, datetime.date, datetime.time}), lambda value: f'"{value.isoformat()}"'),
    (frozenset({bytes}), lambda value: f'"\\\\x{value.hex()}"'),
)


def copy_lines(columns: Iterable[Sequence[str]]) -> list[str]:
    """Columns of texts, none of them NULL, as COPY reads rows."""
    return list(map("\t".join, zip(*map(_copied, columns), strict=True)))


def _copied(values: Sequence[str]) -> Sequence[str]:
    joined = "".join(values)
    for plain, escape in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        if plain in joined:
            values = [value.replace(plain, escape) for value in values]
    return values

"""The rows of one table by their key, as triggers write them and in the order of the database itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import DataError

from mirror.capture.tables import Selection
from mirror.errors import Malformed
from mirror.trips import fetch_last

__all__ = ["SEVERAL_COLUMNS", "OrderedRows"]

#: PostgreSQL finds rows by several columns at once only so; else it reads all of the index.
SEVERAL_COLUMNS = (
    "SET LOCAL enable_bitmapscan TO on",
    "SET LOCAL enable_sort TO on",
    "SET LOCAL enable_indexscan TO off",
)


class OrderedRows:
    """Within a transaction. A place is the values of the key columns, to bind; one that is no such place at
    all raises Malformed.
    """

    def __init__(self, connection: BaseDatabaseWrapper, rows: Selection, columns: Sequence[str]) -> None:
        self._connection = connection
        self._rows = rows
        self._columns = [f"{rows.row}.{connection.ops.quote_name(name)}" for name in columns]
        self._key = self._one(self._columns)
        self._marks = self._one(["%s"] * len(columns))

    def after(self, place: Sequence[Any] | None, count: int) -> list[str]:
        """The payloads of the next rows; of the first without a place."""
        condition, parameters = ("", []) if place is None else self._behind(list(place))
        return self._payloads(condition, parameters, f"LIMIT {count:d}")

    def of(self, places: Sequence[Sequence[Any]]) -> list[str]:
        """Those of the rows that exist."""
        values = ", ".join([self._marks] * len(places))
        if len(self._columns) > 1 and self._connection.vendor == "sqlite":
            values = f"VALUES {values}"
        parameters = [value for place in places for value in place]
        return self._payloads(f"WHERE {self._key} IN ({values})", parameters, before=self._several())

    def _several(self) -> tuple[str, ...]:
        return SEVERAL_COLUMNS if len(self._columns) > 1 else ()

    def count(self) -> int:
        ((total,),) = fetch_last(self._connection, [f"SELECT COUNT(*) FROM {self._rows.table}"])
        return int(total)

    def _behind(self, place: list[Any]) -> tuple[str, list[Any]]:
        if len(place) == 1 or self._connection.vendor != "mysql":
            return f"WHERE {self._key} > {self._marks}", place
        # MySQL finds no range of an index by the comparison of rows.
        cases = [
            " AND ".join([*(f"{name} = %s" for name in self._columns[:depth]), f"{last} > %s"])
            for depth, last in enumerate(self._columns)
        ]
        parameters = [value for depth in range(len(place)) for value in place[: depth + 1]]
        return f"WHERE ({') OR ('.join(cases)})", parameters

    def _payloads(
        self, condition: str, parameters: list[Any], end: str = "", before: tuple[str, ...] = ()
    ) -> list[str]:
        connection, rows = self._connection, self._rows
        select = rows.sql.replace("%", "%%")
        sql = f"{select} {condition} ORDER BY {', '.join(self._columns)} {end}"
        try:
            with connection.wrap_database_errors:
                if connection.vendor == "postgresql":
                    sql = connection.ops.compose_sql(sql, parameters)  # type: ignore[attr-defined]
                    found = fetch_last(connection, [*rows.before, *before, sql], rows.after)
                else:
                    with connection.cursor() as cursor:
                        cursor.execute(sql, parameters)
                        found = cursor.fetchall()
        except (DataError, OverflowError, UnicodeError) as error:
            raise Malformed(f"no primary key: {error}") from error
        return [payload for (payload,) in found]

    @staticmethod
    def _one(parts: Sequence[str]) -> str:
        return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"

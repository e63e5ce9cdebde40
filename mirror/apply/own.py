"""Rows of one model as they are here, told as their source would tell them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import msgspec
from django.contrib.contenttypes.models import ContentType
from django.db.backends.base.base import BaseDatabaseWrapper

from mirror.capture import WRITERS, parents
from mirror.capture.ordered import SEVERAL_COLUMNS
from mirror.capture.tables import Selection
from mirror.capture.triggers import selection
from mirror.errors import Oversized, UnknownStream
from mirror.registry import MirroredModel, Reference
from mirror.rows import Row, RowReader, merge_payload
from mirror.trips import fetch_last

__all__ = ["OwnRows"]

#: Rows that one query asks for. SQLite takes an expression of a depth of 1000.
_PAGE = 300


class OwnRows:
    """Used within a transaction. It needs no trigger, only what triggers would be written with.

    Raises UnknownStream on a kind of database that has none.
    """

    def __init__(self, connection: BaseDatabaseWrapper, mirrored: MirroredModel) -> None:
        writer = WRITERS.get(connection.vendor)
        if writer is None:
            raise UnknownStream(f"rows cannot be compared on {connection.vendor}")
        self._connection = connection
        self._mirrored = mirrored
        self._selection = selection(connection, mirrored)
        self._decoders = writer.decoders(connection, mirrored)

    def of(self, identities: Sequence[Sequence[Any]]) -> dict[str, Row]:
        """Those that are here, by ``Row.key``; maybe others that a collation takes for one of them.

        An identity has the values to bind for the columns of ``mirrored.key``. Raises Oversized for a row
        that MySQL does not put into one packet.
        """
        if self._selection is None:
            return {}
        reader = self._reader()
        found: dict[str, Row] = {}
        for start in range(0, len(identities), _PAGE):
            page = identities[start : start + _PAGE]
            condition = f"WHERE {self._condition(self._selection.row, len(page))}"
            parameters = [value for identity in page for value in identity]
            for payload in self._payloads(self._selection, condition, parameters):
                row = reader.read(merge_payload(msgspec.json.decode(payload)))
                found[row.key] = row
        return found

    def between(self, after: Any, upto: Any, limit: int) -> Iterator[Row]:
        """Those after an identity of one column, up to another; None is no bound. At most ``limit``."""
        rows = self._selection
        if rows is None:
            return
        (field,) = self._mirrored.key
        column = f"{rows.row}.{self._connection.ops.quote_name(field.column)}"
        bounds = {f"{column} > %s": after, f"{column} <= %s": upto}
        bounds = {condition: value for condition, value in bounds.items() if value is not None}
        where = f"WHERE {' AND '.join(bounds)}" if bounds else ""
        condition = f"{where} ORDER BY {column} LIMIT {limit:d}"
        reader = self._reader()
        for payload in self._payloads(rows, condition, list(bounds.values())):
            yield reader.read(merge_payload(msgspec.json.decode(payload)))

    def _reader(self) -> RowReader:
        """What others are called may be different in the next transaction."""
        return RowReader(
            self._mirrored, self._connection, self._decoders, self._uuids(), self._names_of_content_types()
        )

    def _payloads(self, rows: Selection, condition: str, parameters: list[Any]) -> list[str]:
        connection = self._connection
        sql = f"{rows.sql.replace('%', '%%')} {condition}"
        with connection.wrap_database_errors:
            if connection.vendor == "postgresql":
                sql = connection.ops.compose_sql(sql, parameters)  # type: ignore[attr-defined]
                several = SEVERAL_COLUMNS if len(self._mirrored.key) > 1 else ()
                found = fetch_last(connection, [*rows.before, *several, sql], rows.after)
            else:
                with _readable(connection), connection.cursor() as cursor:
                    cursor.execute(sql, parameters)
                    found = cursor.fetchall()
        payloads = [payload for (payload,) in found]
        if None in payloads:
            raise Oversized(f"a row of {self._mirrored.label} needs more than max_allowed_packet")
        return payloads

    def _condition(self, row: str, count: int) -> str:
        columns = [f"{row}.{self._connection.ops.quote_name(field.column)}" for field in self._mirrored.key]
        if len(columns) == 1:
            return f"{columns[0]} IN ({', '.join(['%s'] * count)})"
        # MySQL finds no range of an index by the comparison of rows.
        same = " AND ".join(f"{column} = %s" for column in columns)
        return " OR ".join([f"({same})"] * count)

    def _uuids(self) -> Callable[[Reference, Any], Any]:
        known: dict[tuple[str, Any], Any] = {}

        def uuid_of(reference: Reference, pk: Any) -> Any:
            if (reference.label, pk) not in known:
                try:
                    known[reference.label, pk] = parents.uuid_of(self._connection, reference, pk)
                except OverflowError:  # of SQLite's driver: it has no rows of such numbers
                    known[reference.label, pk] = None
            return known[reference.label, pk]

        return uuid_of

    def _names_of_content_types(self) -> Callable[[Any], list[str] | None]:
        """Django remembers them for as long as the process lives, whatever others do to them."""

        @cache
        def names() -> dict[Any, list[str]]:
            kinds = ContentType.objects.using(self._connection.alias)
            return {pk: [*name] for pk, *name in kinds.values_list("pk", "app_label", "model")}

        return lambda number: names().get(number)


@contextmanager
def _readable(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """SQLite keeps whatever bytes a program calls text; a source reads them so too."""
    if connection.vendor != "sqlite":
        yield
        return
    database = connection.connection
    factory, database.text_factory = database.text_factory, lambda text: text.decode(errors="replace")
    try:
        yield
    finally:
        database.text_factory = factory

"""Triggers for SQLite.

What the payload has to get around (SQLite 3.40, measured): ``json_object`` refuses BLOBs and prints
floats with 15 digits, and takes 127 arguments. A BLOB becomes ``{"b": hex}``, a float ``{"r": text}``
with 20 digits (17 were not always enough to read the same float again), and a table with many columns
becomes an array of objects. SQLite is dynamically typed, so every column is asked what it holds, except the
one that is another name of the rowid. By the rowid a row is found at a third of what its key costs.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Max

from mirror.capture.tables import Selection, Table, refusal
from mirror.changes import Op
from mirror.models import Outbox
from mirror.registry import MirroredField, MirroredModel

_COLUMNS_PER_OBJECT = 50

#: Epoch microseconds; SQLite's clock has milliseconds.
_NOW = "CAST((julianday() - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000"

#: What ``Table.columns`` says of a column that is another name of the rowid, and so holds integers only.
_ROWID = "rowid"

_COLUMNS = """
    SELECT tables.name, columns.name, columns.pk = 1 AND upper(columns.type) = 'INTEGER' AND NOT EXISTS (
        SELECT 1 FROM pragma_index_list(tables.name) WHERE origin = 'pk'
    )
    FROM sqlite_master AS tables JOIN pragma_table_xinfo(tables.name) AS columns
    WHERE tables.type = 'table' AND tables.sql NOT LIKE %s
"""


#: A function that connections have which may write; to all others the name says what is wrong.
_REFUSES = "this table is mirrored and read-only here: write at the source (docs/readonly.md)"


class _Writable:
    """Of one connection of Django's: how many of our blocks are open, on which connection of the driver's."""

    depth = 0
    database: Any = None


class Sqlite:
    PREFIX = "livemirror_"
    IN_PLACE = False

    def alone(self, connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
        return transaction.atomic(using=connection.alias)  # its first write is its lock

    def tables(self, connection: BaseDatabaseWrapper, names: Iterable[str]) -> dict[str, Table]:
        # One query for all: a migration asks after each of its statements.
        columns: dict[str, dict[str, str]] = {}
        with connection.cursor() as cursor:
            # A virtual table, such as one of full-text search, can have no triggers.
            cursor.execute(_COLUMNS, ["CREATE VIRTUAL TABLE%"])
            for table, column, is_rowid in cursor.fetchall():
                columns.setdefault(table, {})[column] = _ROWID if is_rowid else ""
        return {
            name: Table(name=connection.ops.quote_name(name), columns=columns[name])
            for name in names
            if name in columns
        }

    def triggers(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel, tables: Mapping[str, Table]
    ) -> dict[str, str]:
        quote = connection.ops.quote_name
        columns = tables[mirrored.table].columns
        fields = [field for field in mirrored.fields if field.column in columns]
        keys = [quote(field.column) for field in mirrored.key]
        rowid = next((quote(name) for name, kind in columns.items() if kind == _ROWID), None)
        here = f"FROM {quote(mirrored.table)} AS this WHERE"

        def record(op: Op, row: str) -> str:
            return _insert(quote, op, mirrored.label, _payload(quote, fields, columns, row, tables))

        def same(row: str, names: list[str]) -> str:
            return " AND ".join(f"this.{name} = {row}.{name}" for name in names)

        # Another trigger, called before this one, may have changed the row again, and told of it already.
        save = f"{record(Op.SAVE, 'this')} {here} {same('NEW', [rowid] if rowid else keys)}"
        delete = record(Op.DELETE, "OLD")
        gone = f"NOT EXISTS (SELECT 1 {here} {same('OLD', keys)})"
        moved = " OR ".join(f"OLD.{key} IS NOT NEW.{key}" for key in keys)
        bodies = {
            "insert": f"{save};",
            "update": f"{delete} WHERE ({moved}) AND {gone}; {save};",
            "delete": f"{delete} WHERE {gone};",
        }
        return {
            (name := f"{self.PREFIX}{mirrored.table}_{event}"): (
                f"CREATE TRIGGER {quote(name)} AFTER {event.upper()} ON {quote(mirrored.table)} "
                f"BEGIN {body} END"
            )
            for event, body in bodies.items()
        }

    def refusals(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel, tables: Mapping[str, Table]
    ) -> dict[str, str]:
        quote = connection.ops.quote_name
        present = tables[mirrored.table].columns
        columns = ", ".join(quote(field.column) for field in mirrored.fields if field.column in present)
        events = {"insert": "INSERT", "update": f"UPDATE OF {columns}", "delete": "DELETE"}
        return {
            (name := f"{self.PREFIX}refuse_{mirrored.table}_{key}"): (
                f"CREATE TRIGGER {quote(name)} BEFORE {event} ON {quote(mirrored.table)} "
                f"WHEN {quote(_REFUSES)}() "
                f"BEGIN SELECT RAISE(ABORT, {_literal(refusal(mirrored.table))}); END"
            )
            for key, event in events.items()
        }

    @contextmanager
    def writable(self, connection: BaseDatabaseWrapper) -> Iterator[None]:
        connection.ensure_connection()
        state = vars(connection).setdefault("_livemirror_writable", _Writable())
        if state.database is not connection.connection:
            state.database = connection.connection
            connection.connection.create_function(_REFUSES, 0, lambda: not state.depth)
        state.depth += 1
        try:
            yield
        finally:
            state.depth -= 1

    def installed(self, connection: BaseDatabaseWrapper) -> dict[str, tuple[str, str]]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger' AND name LIKE %s",
                [f"{self.PREFIX}%"],
            )
            return {name: (table, sql) for name, table, sql in cursor.fetchall()}

    def drop(self, connection: BaseDatabaseWrapper, name: str) -> str:
        return f"DROP TRIGGER {connection.ops.quote_name(name)}"

    def record_all(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel, tables: Mapping[str, Table]
    ) -> str:
        quote = connection.ops.quote_name
        columns = tables[mirrored.table].columns
        payload = _payload(quote, list(mirrored.fields), columns, "NEW", tables)
        return f"{_insert(quote, Op.SAVE, mirrored.label, payload)} FROM {quote(mirrored.table)} AS NEW"

    def selection(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel, tables: Mapping[str, Table]
    ) -> Selection:
        quote = connection.ops.quote_name
        columns = tables[mirrored.table].columns
        payload = _payload(quote, list(mirrored.fields), columns, "this", tables)
        table = quote(mirrored.table)
        return Selection(table=table, sql=f"SELECT {payload} FROM {table} AS this", row="this")

    def decoders(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel
    ) -> dict[str, Callable[[Any], Any]]:
        return {field.column: _decode for field in mirrored.fields}

    @contextmanager
    def silenced(self, connection: BaseDatabaseWrapper) -> Iterator[None]:
        # There is one writer at a time, and it is this transaction: what appears meanwhile is its own.
        outbox = Outbox.objects.using(connection.alias)
        last = outbox.aggregate(last=Max("id"))["last"] or 0
        yield
        outbox.filter(id__gt=last)._raw_delete(connection.alias)


def _decode(raw: Any) -> Any:
    if isinstance(raw, dict):
        return bytes.fromhex(raw["b"]) if "b" in raw else float(raw["r"])
    return raw


def _insert(quote: Any, op: Op, label: str, payload: str) -> str:
    table = quote(Outbox._meta.db_table)
    return (
        f'INSERT INTO {table} ("op", "model", "captured_at", "payload") '
        f"SELECT '{op}', {_literal(label)}, {_NOW}, {payload}"
    )


def _payload(
    quote: Any, fields: list[MirroredField], columns: Mapping[str, str], row: str, tables: Container[str]
) -> str:
    members = [
        f"{_literal(name)}, {expression}"
        for field in fields
        for name, expression in _expressions(quote, field, columns[field.column], row, tables)
    ]
    objects = [
        f"json_object({', '.join(members[start : start + _COLUMNS_PER_OBJECT])})"
        for start in range(0, len(members), _COLUMNS_PER_OBJECT)
    ]
    return objects[0] if len(objects) == 1 else f"json_array({', '.join(objects)})"


def _expressions(
    quote: Any, field: MirroredField, kind: str, row: str, tables: Container[str]
) -> list[tuple[str, str]]:
    column = f"{row}.{quote(field.column)}"
    expressions = [(field.column, column if kind == _ROWID else _json(column))]
    reference = field.reference
    # A parent's table that is just being rebuilt has nothing to look up: the sequencer will.
    if reference is not None and reference.table in tables:
        uuid = (
            f"(SELECT CAST({quote(reference.uuid_column)} AS TEXT) FROM {quote(reference.table)} "
            f"WHERE {quote(reference.pk_column)} = {column})"
        )
        expressions.append((f"{field.column}>", uuid))
    return expressions


def _json(column: str) -> str:
    return (
        f"CASE typeof({column}) WHEN 'blob' THEN json_object('b', hex({column})) "
        f"WHEN 'real' THEN json_object('r', printf('%!.20g', {column})) ELSE {column} END"
    )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"

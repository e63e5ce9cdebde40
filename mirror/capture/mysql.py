"""Triggers for MariaDB and MySQL: what is installed, what is wanted, and how to read what they wrote.

Written for MariaDB 10.6 and MySQL 8.0 or newer; run on MariaDB 10.11 only.

Who migrates needs the TRIGGER right on the mirrored tables, and, where the server writes a binary log, also
SUPER or ``log_bin_trust_function_creators = 1``. Who writes needs rights on the mirrored tables only: the
triggers run with the rights of the account that migrated, which must stay.

Not seen, because the server fires no triggers for them: rows that foreign keys of the database itself delete
or change (ON DELETE CASCADE, SET NULL), and TRUNCATE.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from functools import lru_cache
from typing import Any

from django.apps import apps
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import OperationalError

from mirror.capture.mysql_triggers import (
    APPLYING,
    COLLATION,
    MAY_WRITE,
    NOT_NULL,
    PREFIX,
    SQL_MODE,
    TEXTS,
    kind_of,
    refusals,
    rows,
    script,
    scripts,
    whole_table,
)
from mirror.capture.tables import Selection, Table
from mirror.models import Outbox
from mirror.registry import MirroredField, MirroredModel, root_of

# What is said of both views, and of the table rather than the trigger, keeps the server from opening every
# table of all its databases: five times as fast where it has more of them than its cache holds.
_COLUMNS = """
    SELECT c.table_schema, c.table_name, c.column_name, CONCAT_WS(
        ' ', c.column_type, c.character_set_name, IF(c.is_nullable = 'NO', %s, NULL)
    )
    FROM information_schema.columns c
    JOIN information_schema.tables t ON t.table_schema = c.table_schema AND t.table_name = c.table_name
    WHERE c.table_schema IN %s AND c.table_name IN %s AND t.table_schema IN %s AND t.table_name IN %s
        AND t.table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')
    ORDER BY c.ordinal_position
"""

_INSTALLED = """
    SELECT trigger_schema, trigger_name, event_manipulation, event_object_table, action_statement,
        action_timing = 'AFTER' AND collation_connection = %s
            AND FIND_IN_SET('STRICT_ALL_TABLES', sql_mode) AND FIND_IN_SET('NO_BACKSLASH_ESCAPES', sql_mode)
    FROM information_schema.triggers WHERE event_object_schema IN %s AND trigger_name LIKE %s
"""

_LONGEST_WAIT = 600

#: Captured rows that are taken away by one statement.
_PAGE = 1000


class Mysql:
    PREFIX = PREFIX
    IN_PLACE = False

    @contextmanager
    def alone(self, connection: BaseDatabaseWrapper) -> Iterator[None]:
        """Without a transaction: each statement that changes a trigger commits on its own."""
        own, _folded = _own_schema(connection)
        lock = f"{PREFIX}{hashlib.blake2b(own.encode(), digest_size=8).hexdigest()}"
        with connection.cursor() as cursor:
            cursor.execute("SELECT GET_LOCK(%s, %s)", [lock, _LONGEST_WAIT])
            if cursor.fetchone() != (1,):
                raise OperationalError(f"another process has been changing triggers for {_LONGEST_WAIT} s")
            try:
                cursor.execute("SELECT @@sql_mode, @@collation_connection")
                before = cursor.fetchone()
                assert before is not None
                try:
                    cursor.execute("SET sql_mode = %s, collation_connection = %s", [SQL_MODE, COLLATION])
                    yield
                finally:
                    cursor.execute("SET sql_mode = %s, collation_connection = %s", before)
            finally:
                cursor.execute("SELECT RELEASE_LOCK(%s)", [lock])

    def tables(self, connection: BaseDatabaseWrapper, names: Iterable[str]) -> dict[str, Table]:
        """Views are left out: they have no triggers."""
        own, folded = _own_schema(connection)
        fold = str.lower if folded else str
        places = {name: _place(fold(name), own) for name in names}
        columns: dict[tuple[str, str], dict[str, str]] = {}
        with connection.cursor() as cursor:
            schemas, tables = ({place[part] for place in places.values()} for part in (0, 1))
            cursor.execute(_COLUMNS, [NOT_NULL, *[tuple(schemas), tuple(tables)] * 2])
            for schema, table, column, kind in cursor.fetchall():
                columns.setdefault((fold(schema), fold(table)), {})[column] = kind
        return {
            name: Table(name=f"`{schema}`.`{table}`", columns=columns[schema, table], schema=f"`{schema}`")
            for name, (schema, table) in places.items()
            if (schema, table) in columns
        }

    def triggers(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel, tables: Mapping[str, Table]
    ) -> dict[str, str]:
        if not all(field.column in tables[mirrored.table].columns for field in mirrored.key):
            return {}
        return scripts(mirrored, tables, _isolation(connection))

    def refusals(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel, tables: Mapping[str, Table]
    ) -> dict[str, str]:
        # Only in the database that is Django's own: elsewhere ``installed`` tells ours by their outbox.
        own = f"`{_own_schema(connection)[0]}`"
        return refusals(mirrored, tables) if tables[mirrored.table].schema == own else {}

    @contextmanager
    def writable(self, connection: BaseDatabaseWrapper) -> Iterator[None]:
        with connection.cursor() as cursor:
            cursor.execute(f"SET {MAY_WRITE} = COALESCE({MAY_WRITE}, 0) + 1")
        try:
            yield
        finally:
            with connection.cursor() as cursor:
                cursor.execute(f"SET {MAY_WRITE} = NULLIF({MAY_WRITE} - 1, 0)")

    def installed(self, connection: BaseDatabaseWrapper) -> dict[str, tuple[str, str]]:
        """A trigger that was made under another SQL mode has another SQL than any that is wanted."""
        own, folded = _own_schema(connection)
        fold = str.lower if folded else str
        outbox = f"`{own}`.`{fold(Outbox._meta.db_table)}`"
        schemas = {own, *(_place(fold(model._meta.db_table), own)[0] for model in apps.get_models())}
        like = PREFIX.replace("_", "\\_") + "%"
        with connection.cursor() as cursor:
            cursor.execute(_INSTALLED, [COLLATION, tuple(schemas), like])
            found = [
                (fold(schema), name, event, fold(table), *rest)
                for schema, name, event, table, *rest in cursor
            ]
        return {
            name if schema == own else f"{schema}`.`{name}": (
                table if schema == own else f"{schema}`.`{table}",
                script(f"`{schema}`", name, event, f"`{schema}`.`{table}`", body) if whole else "",
            )
            for schema, name, event, table, body, whole in found
            if schema == own or outbox in body
        }

    def drop(self, connection: BaseDatabaseWrapper, name: str) -> str:
        return f"DROP TRIGGER IF EXISTS {connection.ops.quote_name(name)}"

    def record_all(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel, tables: Mapping[str, Table]
    ) -> str:
        return whole_table(mirrored, tables, _isolation(connection))

    def selection(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel, tables: Mapping[str, Table]
    ) -> Selection:
        return rows(mirrored, tables)

    def decoders(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel
    ) -> dict[str, Callable[[Any], Any]]:
        tables = self.tables(connection, [mirrored.table])
        if not tables:
            return {}
        columns = tables[mirrored.table].columns
        return {
            field.column: _nullable(_decoder(connection, field, columns[field.column]))
            for field in mirrored.fields
            if field.column in columns
        }

    @contextmanager
    def silenced(self, connection: BaseDatabaseWrapper) -> Iterator[None]:
        # Captured first, and taken away again: where a pooled connection forgot the sign, nothing is lost.
        outbox = connection.ops.quote_name(Outbox._meta.db_table)
        with connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {outbox} (op, model, captured_at, payload) VALUES ('', '', 0, '')")
            marker = cursor.lastrowid
            cursor.execute(f"SET {APPLYING} = %s", [marker])
        try:
            yield
        finally:
            # After an error that ends the transaction all of it goes with it.
            if not connection.needs_rollback:
                with connection.cursor() as cursor:
                    cursor.execute(f"SET {APPLYING} = NULL")
                    # By their keys: a search would wait for what others have captured and not yet committed.
                    cursor.execute(
                        f"SELECT id FROM {outbox} WHERE id = %s OR id > %s AND captured_at = %s",
                        [marker, marker, -marker],
                    )
                    numbers = [number for (number,) in cursor.fetchall()]
                    for start in range(0, len(numbers), _PAGE):
                        page = tuple(numbers[start : start + _PAGE])
                        cursor.execute(f"DELETE FROM {outbox} WHERE id IN %s", [page])


def _own_schema(connection: BaseDatabaseWrapper) -> tuple[str, bool]:
    """Its name, and whether the server tells table names that differ only in their capitals for one."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT DATABASE(), @@lower_case_table_names")
        name, folded = cursor.fetchone()
    return (name.lower() if folded else name), bool(folded)


def _isolation(connection: BaseDatabaseWrapper) -> str:
    return "@@tx_isolation" if connection.mysql_is_mariadb else "@@transaction_isolation"  # type: ignore[attr-defined]


def _place(name: str, own: str) -> tuple[str, str]:
    """Schema and table. Django puts backticks around ``db_table``, so one may say ``schema`.`table``."""
    schema, separator, table = name.strip("`").partition("`.`")
    return (schema, table) if separator else (own, schema)


# From the payload to what the driver would have returned


def _decoder(connection: BaseDatabaseWrapper, field: MirroredField, column_type: str) -> Callable[[Any], Any]:
    kind = kind_of(column_type)
    if kind in {"date", "time", "datetime"}:
        return _conversion(kind)
    if kind == "timestamp":
        return _moments(connection)
    if kind == "bit":
        return _bits(field, column_type)
    return _DECODERS.get(kind, base64.b64decode)


def _nullable(decode: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda raw: None if raw is None else decode(raw)


def _as_it_is(raw: Any) -> Any:
    return raw


def _text(raw: Any) -> Any:
    return raw if isinstance(raw, str) else base64.b64decode(raw["b"]).decode(errors="replace")


def _single(raw: str) -> float:
    """The shortest number that a FLOAT column reads as the same: 0.1, not 0.10000000149011612."""
    exact = float(raw)
    single = struct.pack("f", exact)
    texts = (f"{exact:.{digits}g}" for digits in range(6, 10))
    return float(next((text for text in texts if struct.pack("f", float(text)) == single), raw))


_DECODERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("tinyint", "smallint", "mediumint", "int", "bigint", "year"), _as_it_is),
    **dict.fromkeys(("uuid", "inet4", "inet6"), _as_it_is),
    **dict.fromkeys(TEXTS, _text),
    "decimal": Decimal,
    "double": float,
    "float": _single,
}


def _conversion(kind: str) -> Callable[[Any], Any]:
    from django.db.backends.mysql.base import django_conversions
    from MySQLdb.constants import FIELD_TYPE  # type: ignore[import-untyped]

    convert: Callable[[Any], Any] = django_conversions[getattr(FIELD_TYPE, kind.upper())]
    return convert


def _moments(connection: BaseDatabaseWrapper) -> Callable[[Any], Any]:
    """A TIMESTAMP is a moment; clients get it in the time zone of their session."""
    convert = _conversion("datetime")

    @lru_cache(maxsize=1024)
    def decode(seconds: str) -> Any:
        if not float(seconds):
            return convert(f"0000-00-00 00:00:00{seconds[1:]}")
        with connection.cursor() as cursor:
            cursor.execute("SELECT CONCAT(FROM_UNIXTIME(%s))", [Decimal(seconds)])
            (text,) = cursor.fetchone()
        return convert(text)

    return decode


def _bits(field: MirroredField, column_type: str) -> Callable[[Any], Any]:
    width = int(column_type.partition("(")[2].partition(")")[0])
    # The driver gives bytes, which Django cannot read as a boolean.
    if width == 1 and isinstance(root_of(field.field), models.BooleanField):
        return int
    return lambda raw: raw.to_bytes((width + 7) // 8, "big")

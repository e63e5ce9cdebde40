"""Triggers for PostgreSQL: what is installed, what is wanted, and how to read what they wrote.

Not seen: statements that name a partition or an inheritance child instead of the mirrored table, rows that
a REPEATABLE READ transaction truncates without having been able to read them, and sessions that set
``session_replication_role`` to ``replica``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from mirror.capture.plpgsql import (
    APPLYING,
    MAY_WRITE,
    REFUSING_SETTINGS,
    TRIGGERS,
    escaped,
    function_body,
    function_settings,
    refusing_body,
    rows,
    script,
    short_name,
    whole_table,
)
from mirror.capture.tables import Selection, Table
from mirror.models import Outbox
from mirror.registry import MirroredModel

_COLUMNS = """
    SELECT asked, format('%%I.%%I', n.nspname, c.relname), format('%%I', n.nspname), array(
        SELECT ARRAY[a.attname::text, CASE t.typnamespace WHEN 'pg_catalog'::regnamespace THEN t.typname END]
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ), EXISTS (
        SELECT FROM pg_constraint f WHERE f.conrelid = c.oid AND f.contype = 'f'
        AND (f.confdeltype IN ('c', 'n', 'd') OR f.confupdtype IN ('c', 'n', 'd'))
    )
    FROM unnest(%s::text[]) asked
    JOIN pg_class c ON c.oid = to_regclass(asked) AND c.relkind IN ('r', 'p')
    JOIN pg_namespace n ON n.oid = c.relnamespace
"""

#: Functions are found by their names alone: they must go also when the outbox is gone already.
_INSTALLED = """
    SELECT p.proname, format('%%I', pn.nspname), min(c.relname),
        min(quote_ident(cn.nspname) || '.' || quote_ident(c.relname)), p.prosrc,
        p.proconfig, p.prosecdef AND count(DISTINCT t.tgrelid) = 1 AND %s = array_agg(
            concat_ws(' ', t.tgname, t.tgtype, t.tgenabled, t.tgoldtable, t.tgnewtable) ORDER BY t.tgname
        )
    FROM pg_proc p
    JOIN pg_namespace pn ON pn.oid = p.pronamespace
    LEFT JOIN pg_trigger t ON t.tgfoid = p.oid
    LEFT JOIN pg_class c ON c.oid = t.tgrelid
    LEFT JOIN pg_namespace cn ON cn.oid = c.relnamespace
    WHERE starts_with(p.proname, %s) AND p.prorettype = 'trigger'::regtype AND pg_function_is_visible(p.oid)
    GROUP BY p.oid, pn.nspname
"""

_TYPES = """
    SELECT a.attname, CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""


class Postgresql:
    PREFIX = "livemirror_"
    IN_PLACE = True

    @contextmanager
    def alone(self, connection: BaseDatabaseWrapper) -> Iterator[None]:
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [self.PREFIX])
            yield

    def tables(self, connection: BaseDatabaseWrapper, names: Iterable[str]) -> dict[str, Table]:
        """Views are left out: they have no transition tables."""
        quoted = {connection.ops.quote_name(name): name for name in names}
        with connection.cursor() as cursor:
            cursor.execute(_COLUMNS, [list(quoted)])
            return {
                quoted[asked]: Table(
                    name=name,
                    schema=schema,
                    columns={escaped(column): kind or "" for column, kind in columns},
                    cascaded=cascaded,
                )
                for asked, name, schema, columns, cascaded in cursor.fetchall()
            }

    def triggers(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel, tables: Mapping[str, Table]
    ) -> dict[str, str]:
        table, outbox = tables[mirrored.table], tables[Outbox._meta.db_table]
        if not all(field.column in table.columns for field in mirrored.key):
            return {}
        quote = connection.ops.quote_name
        name = short_name(self.PREFIX, mirrored.table)
        body = function_body(quote, mirrored, tables)
        settings = function_settings(mirrored, tables)
        return {name: script(f"{outbox.schema}.{quote(name)}", table.name, settings, body)}

    def refusals(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel, tables: Mapping[str, Table]
    ) -> dict[str, str]:
        quote, outbox = connection.ops.quote_name, tables[Outbox._meta.db_table]
        name = short_name(f"{self.PREFIX}refuse_", mirrored.table)
        function, body = f"{outbox.schema}.{quote(name)}", refusing_body(quote, mirrored, tables)
        return {name: script(function, tables[mirrored.table].name, REFUSING_SETTINGS, body)}

    @contextmanager
    def writable(self, connection: BaseDatabaseWrapper) -> Iterator[None]:
        with transaction.atomic(using=connection.alias, savepoint=False):
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config(%s, pg_current_xact_id()::text, true)", [MAY_WRITE])
            yield
            # After an error the rollback takes it back.
            if connection.connection.info.transaction_status.name == "INTRANS":
                with connection.cursor() as cursor:
                    cursor.execute("SELECT set_config(%s, '', true)", [MAY_WRITE])

    def installed(self, connection: BaseDatabaseWrapper) -> dict[str, tuple[str, str]]:
        """A function whose triggers are not all in force has another SQL than any that is wanted."""
        triggers = [
            " ".join([name, str(kind), "O", *re.findall(r"\w+_rows", tables)])
            for name, kind, _event, tables in TRIGGERS
        ]
        quote = connection.ops.quote_name
        with connection.cursor() as cursor:
            cursor.execute(_INSTALLED, [triggers, self.PREFIX])
            return {
                name: (
                    table or "",
                    script(f"{schema}.{quote(name)}", of, _settings(given), body) if whole else "",
                )
                for name, schema, table, of, body, given, whole in cursor.fetchall()
            }

    def drop(self, connection: BaseDatabaseWrapper, name: str) -> str:
        return f"DROP FUNCTION IF EXISTS {connection.ops.quote_name(name)}() CASCADE"

    def record_all(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel, tables: Mapping[str, Table]
    ) -> str:
        return whole_table(connection.ops.quote_name, mirrored, tables)

    def selection(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel, tables: Mapping[str, Table]
    ) -> Selection:
        return rows(connection.ops.quote_name, mirrored, tables)

    def decoders(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel
    ) -> dict[str, Callable[[Any], Any]]:
        """psycopg's own loaders, as Django has set them up on this connection."""
        with connection.cursor() as cursor:
            cursor.execute(_TYPES, [connection.ops.quote_name(mirrored.table)])
            types = cursor.fetchall()
        load = _loaders(connection)
        return {escaped(column): load(oid) for column, oid in types}

    @contextmanager
    def silenced(self, connection: BaseDatabaseWrapper) -> Iterator[None]:
        # The name of the transaction, not just a sign: one that a pooled connection forgot silences nobody.
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config(%s, pg_current_xact_id()::text, true)", [APPLYING])
        try:
            yield
        finally:
            # After an error the rollback takes the setting back, and nothing else would be accepted.
            if connection.connection.info.transaction_status.name == "INTRANS":
                with connection.cursor() as cursor:
                    cursor.execute("SELECT set_config(%s, '', true)", [APPLYING])


def _settings(given: list[str] | None) -> dict[str, str]:
    return dict(sorted((name, value) for name, _, value in (entry.partition("=") for entry in given or [])))


# From the payload to what the driver would have returned


def _loaders(connection: BaseDatabaseWrapper) -> Callable[[int], Callable[[Any], Any]]:
    from psycopg import DataError
    from psycopg.adapt import AdaptersMap, Transformer
    from psycopg.pq import Format
    from psycopg.types.datetime import TimestamptzLoader

    zone = ZoneInfo(connection.timezone_name)

    class InZone(TimestamptzLoader):
        """Django's own takes the session's offset for granted; here it is always UTC."""

        def load(self, data: Any) -> Any:
            moment = super().load(data)
            # The last hours of year 9999 are the year 10000 elsewhere, which Python does not have.
            return moment if connection.timezone is not None else moment.astimezone(zone).replace(tzinfo=None)

    adapters = AdaptersMap(connection.connection.adapters)
    adapters.register_loader("timestamptz", InZone)
    # Without the connection: its output formats are not those of the payload.
    context: Any = SimpleNamespace(adapters=adapters, connection=None)
    transformer = Transformer(context)

    def loader(oid: int) -> Callable[[Any], Any]:
        load = transformer.get_loader(oid, Format.TEXT).load

        def decode(raw: Any) -> Any:
            try:
                return load(raw.encode()) if isinstance(raw, str) else raw
            except DataError as error:
                raise ValueError(str(error)) from error

        return decode

    return loader

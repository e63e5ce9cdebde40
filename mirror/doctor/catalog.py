"""What only one kind of database has, or does: asked of its own catalog. One function per vendor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from mirror.registry import MirroredModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Of the tables that are mirrored, named as Django names them. What a database does not have is empty."""

    #: Table, and what it is instead: a view for instance, which can have no triggers of ours.
    no_tables: tuple[tuple[str, str], ...] = ()
    #: Trigger, table and how it is switched off, in SQL's own words.
    disabled: tuple[tuple[str, str, str], ...] = ()
    #: Where ``session_replication_role`` keeps triggers from being called.
    deaf: tuple[str, ...] = ()
    #: Table, and its partitions and heirs: writes that name one of those call no trigger of the table.
    children: tuple[tuple[str, tuple[str, ...]], ...] = ()
    #: Emptied by the database itself after a crash.
    unlogged: tuple[str, ...] = ()
    #: Table, constraint, parent and rule of foreign keys that the database follows without triggers.
    cascades: tuple[tuple[str, str, str, str], ...] = ()
    #: Table, and what must be unique beside its key: REPLACE may delete a row for that, unseen.
    evicting: tuple[tuple[str, tuple[str, ...]], ...] = ()
    #: True where TRUNCATE calls no trigger.
    truncates_unseen: bool = False


def read_catalog(connection: BaseDatabaseWrapper, models: Iterable[MirroredModel]) -> Catalog:
    readers: dict[str, Callable[[BaseDatabaseWrapper, dict[str, MirroredModel]], Catalog]] = {
        "mysql": _mysql,
        "postgresql": _postgresql,
        "sqlite": _sqlite,
    }
    reader = readers.get(connection.vendor)
    by_table = {mirrored.table: mirrored for mirrored in sorted(models, key=lambda mirrored: mirrored.table)}
    return reader(connection, by_table) if reader and by_table else Catalog()


_CLASSES = """
    WITH RECURSIVE asked AS (
        SELECT asked, c.oid, c.relkind, c.relpersistence
        FROM unnest(%s::text[]) asked JOIN pg_class c ON c.oid = to_regclass(asked)
    ), below AS (
        SELECT a.oid AS above, i.inhrelid AS oid FROM asked a JOIN pg_inherits i ON i.inhparent = a.oid
        UNION SELECT b.above, i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.oid
    )
    SELECT a.asked, CASE a.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
        WHEN 'f' THEN 'foreign table' END, a.relpersistence = 'u', array(
        SELECT format('%%I.%%I', n.nspname, c.relname) FROM below b JOIN pg_class c ON c.oid = b.oid
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE b.above = a.oid ORDER BY 1
    )
    FROM asked a ORDER BY a.asked
"""

_DISABLED = """
    SELECT t.tgname, c.relname, CASE t.tgenabled
        WHEN 'D' THEN 'DISABLE TRIGGER' ELSE 'ENABLE REPLICA TRIGGER' END
    FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_class c ON c.oid = t.tgrelid
    WHERE starts_with(p.proname, 'livemirror_') AND t.tgenabled IN ('D', 'R') ORDER BY 2, 1
"""

_DEAF = """
    SELECT concat_ws(' in ', 'the role ' || r.rolname, 'the database ' || d.datname)
    FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole
    LEFT JOIN pg_database d ON d.oid = s.setdatabase
    WHERE 'session_replication_role=replica' = ANY (s.setconfig)
    AND (s.setdatabase = 0 OR d.datname = current_database())
    UNION ALL SELECT 'this session' WHERE current_setting('session_replication_role') = 'replica'
"""


def _postgresql(connection: BaseDatabaseWrapper, models: dict[str, MirroredModel]) -> Catalog:
    quoted = {connection.ops.quote_name(table): table for table in models}
    classes = _rows(connection, _CLASSES, [list(quoted)])
    return Catalog(
        no_tables=tuple((quoted[asked], kind) for asked, kind, *_ in classes if kind),
        disabled=tuple((trigger, table, how) for trigger, table, how in _rows(connection, _DISABLED)),
        deaf=tuple(where or "everybody" for (where,) in _rows(connection, _DEAF)),
        children=tuple((quoted[asked], tuple(below)) for asked, _, _, below in classes if below),
        unlogged=tuple(quoted[asked] for asked, _, unlogged, _ in classes if unlogged),
    )


_RULES = """
    SELECT r.table_name, r.constraint_name, r.referenced_table_name, r.delete_rule, r.update_rule
    FROM information_schema.referential_constraints r
    WHERE r.constraint_schema = DATABASE() AND r.table_name IN %s ORDER BY 1, 2
"""

_KINDS = """
    SELECT table_name, LOWER(table_type) FROM information_schema.tables
    WHERE table_schema = DATABASE() AND table_type NOT IN ('BASE TABLE', 'SYSTEM VERSIONED')
    AND table_name IN %s ORDER BY 1
"""


def _mysql(connection: BaseDatabaseWrapper, models: dict[str, MirroredModel]) -> Catalog:
    return Catalog(
        no_tables=tuple((table, kind) for table, kind in _rows(connection, _KINDS, [tuple(models)])),
        cascades=tuple(
            (table, constraint, parent, f"ON {event} {rule}")
            for table, constraint, parent, *rules in _rows(connection, _RULES, [tuple(models)])
            for event, rule in zip(("DELETE", "UPDATE"), rules, strict=True)
            if rule in {"CASCADE", "SET NULL", "SET DEFAULT"}
        ),
        truncates_unseen=True,
    )


_OTHERS = """
    SELECT name, CASE type WHEN 'view' THEN 'view' ELSE 'virtual table' END FROM sqlite_master
    WHERE type = 'view' OR type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%' ORDER BY name
"""

#: Table, index and column of everything that must be unique; no column for an expression.
_UNIQUES = """
    WITH tables AS (
        SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL TABLE%'
    )
    SELECT tables.name, '', columns.name FROM tables JOIN pragma_table_info(tables.name) AS columns
    WHERE columns.pk
    UNION ALL SELECT tables.name, indexes.name, columns.name
    FROM tables JOIN pragma_index_list(tables.name) AS indexes JOIN pragma_index_info(indexes.name) AS columns
    WHERE indexes."unique" AND indexes.origin <> 'pk'
    ORDER BY 1, 2
"""


def _sqlite(connection: BaseDatabaseWrapper, models: dict[str, MirroredModel]) -> Catalog:
    uniques: dict[tuple[str, str], list[str | None]] = {}
    for table, index, column in _rows(connection, _UNIQUES):
        if table in models:
            uniques.setdefault((table, index), []).append(column)
    evicting: dict[str, list[str]] = {}
    for (table, index), columns in uniques.items():
        # Who has the same key is told as saved: nothing is missed.
        if not {field.column for field in models[table].key}.issubset(columns):
            names = [column for column in columns if column is not None]
            evicting.setdefault(table, []).append(", ".join(names) if len(names) == len(columns) else index)
    return Catalog(
        no_tables=tuple((name, kind) for name, kind in _rows(connection, _OTHERS) if name in models),
        evicting=tuple((table, tuple(names)) for table, names in evicting.items()),
    )


def _rows(connection: BaseDatabaseWrapper, sql: str, parameters: Any = None) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())

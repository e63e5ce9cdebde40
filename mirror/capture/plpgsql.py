"""The function that PostgreSQL's triggers call, one for each table, once for each statement.

It finds a statement's rows in transition tables, so that 10,000 rows cost one call. What it writes must
not depend on the session that happens to call it: it brings its own search path, its own rights and its own
output formats. Values whose JSON form would lose something are stored as the text that the server sends to
its clients.

A transition table can be older than what was captured already. Where another AFTER ROW trigger writes to
the same table, or a function that the statement calls, that write is captured before ours: such a transaction
is marked by the inner call. Where foreign keys cascade, one call may be made for two updates and after a
deletion that came between them. In both cases rows are read back from the table instead.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping

from mirror.capture.tables import Selection, Table, refusal
from mirror.changes import Op
from mirror.models import Outbox
from mirror.registry import MirroredField, MirroredModel

_NAME_BYTES = 63

#: ``json_build_object`` takes 100 arguments.
_PAIRS_PER_OBJECT = 50

#: Types that JSON holds as they are, or as the string that clients get; times of day and dates always in ISO.
_AS_JSON = frozenset(
    {"bool", "int2", "int4", "int8", "text", "varchar", "bpchar", "uuid", "interval", "date", "time"}
    | {"timetz", "timestamp", "timestamptz", "inet", "cidr", "macaddr"}
)
#: Types whose cast to text is their output; ``bool`` and ``inet`` for instance have another.
_AS_TEXT = frozenset({"numeric", "float4", "float8", "json", "jsonb"})

#: Epoch microseconds. As a numeric, which ``extract`` gives, it costs more and says no more.
_NOW = "date_part('epoch', clock_timestamp()) * 1000000"

APPLYING = "livemirror.applying"
_NESTED = "livemirror.nested"

#: Has the name of the transaction that may write to tables that are read-only.
MAY_WRITE = "livemirror.may_write"

#: Settings of the session that would change what is written, where there is a column of the type. All of
#: them for every table doubled what the call of the function costs.
_FLOATS = {"extra_float_digits": "1"}
_SETTINGS = {
    **{kind: {} for kind in _AS_JSON | {"numeric", "json", "jsonb", "bytea"}},
    # Not for the offset: the last day of year 9999 is the year 10000 somewhere.
    "timestamptz": {"TimeZone": "utc"},
    "interval": {"IntervalStyle": "postgres"},
    "float4": _FLOATS,
    "float8": _FLOATS,
}
#: Arrays, ranges, types of somebody's.
_EVERY_SETTING = {
    "TimeZone": "utc",
    "DateStyle": "iso, ymd",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    **_FLOATS,
}
_SEARCH_PATH = {"search_path": "pg_catalog, pg_temp"}
REFUSING_SETTINGS = {**_FLOATS, **_SEARCH_PATH}

#: Name, type as the catalog has it, and definition of each trigger.
TRIGGERS = (
    ("livemirror_delete", 8, "AFTER DELETE", "REFERENCING OLD TABLE AS old_rows"),
    ("livemirror_insert", 4, "AFTER INSERT", "REFERENCING NEW TABLE AS new_rows"),
    ("livemirror_truncate", 34, "BEFORE TRUNCATE", ""),
    ("livemirror_update", 16, "AFTER UPDATE", "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows"),
)


def function_body(quote: Callable[[str], str], mirrored: MirroredModel, tables: Mapping[str, Table]) -> str:
    table = tables[mirrored.table].name
    outdated = " := true" if tables[mirrored.table].cascaded else ""
    marked = " OR ".join(f"current_setting('{name}', true) <> ''" for name in (APPLYING, _NESTED))
    keys = [quote(field.column) for field in mirrored.key]
    row = _payload(quote, mirrored, tables)
    insert = f"INSERT INTO {tables[Outbox._meta.db_table].name} (op, model, captured_at, payload)"

    def record(op: Op) -> str:
        return f"{insert} SELECT '{op}', {_literal(mirrored.label)}, {_NOW}, {row}"

    def same(one: str, other: str) -> str:
        return " AND ".join(f"{one}.{key} = {other}.{key}" for key in keys)

    # With their table: alone, the name of a column that is also one of our variables would be the variable.
    before, after = (", ".join(f"{rows}.{key}" for key in keys) for rows in ("old_rows", "new_rows"))
    gone = f"FROM old_rows n WHERE NOT EXISTS (SELECT FROM {table} t WHERE {same('t', 'n')})"
    here = f"FROM new_rows w JOIN {table} n ON {same('n', 'w')}"
    # One row may have the key that another had, and its unique values: all are deleted before one is saved.
    touched = (
        f"FROM (SELECT {before} FROM old_rows UNION SELECT {after} FROM new_rows) w "
        f"JOIN {table} n ON {same('n', 'w')}"
    )
    return f"""
#variable_conflict use_variable
DECLARE
    outdated boolean{outdated};
    callers text;
    this text;
BEGIN
    GET DIAGNOSTICS callers = PG_CONTEXT;
    IF pg_trigger_depth() > 1 OR strpos(callers, E'\\n') > 0 OR {marked} THEN
        this := pg_current_xact_id();
        IF current_setting('{APPLYING}', true) = this THEN
            RETURN NULL;
        END IF;
        outdated := outdated IS TRUE OR current_setting('{_NESTED}', true) IS NOT DISTINCT FROM this;
        IF pg_trigger_depth() > 1 OR strpos(callers, E'\\n') > 0 THEN
            PERFORM set_config('{_NESTED}', this, true);
        END IF;
    END IF;
    IF TG_OP = 'INSERT' THEN
        IF outdated THEN
            {record(Op.SAVE)} {here};
        ELSE
            {record(Op.SAVE)} FROM new_rows n;
        END IF;
    ELSIF TG_OP = 'UPDATE' THEN
        IF EXISTS (SELECT {before} FROM old_rows EXCEPT SELECT {after} FROM new_rows) THEN
            {record(Op.DELETE)} FROM old_rows n;
            {record(Op.SAVE)} {touched};
        ELSIF outdated THEN
            {record(Op.SAVE)} {here};
        ELSE
            {record(Op.SAVE)} FROM new_rows n;
        END IF;
    ELSIF TG_OP = 'DELETE' THEN
        IF outdated THEN
            {record(Op.DELETE)} {gone};
        ELSE
            {record(Op.DELETE)} FROM old_rows n;
        END IF;
    ELSE
        {record(Op.DELETE)} FROM {table} n;
    END IF;
    RETURN NULL;
END
"""


def refusing_body(quote: Callable[[str], str], mirrored: MirroredModel, tables: Mapping[str, Table]) -> str:
    """The function of the triggers that refuse what is written to a table that is read-only."""
    present = tables[mirrored.table].columns
    columns = [quote(field.column) for field in mirrored.fields if field.column in present]
    # As text: JSON has no equality.
    before, after = (f"ROW({', '.join(f'{rows}.{name}' for name in columns)})::text" for rows in ("o", "n"))
    return f"""
BEGIN
    IF current_setting('{MAY_WRITE}', true) = pg_current_xact_id()::text THEN
        RETURN NULL;
    ELSIF TG_OP = 'INSERT' THEN
        IF NOT EXISTS (SELECT FROM new_rows) THEN RETURN NULL; END IF;
    ELSIF TG_OP = 'DELETE' THEN
        IF NOT EXISTS (SELECT FROM old_rows) THEN RETURN NULL; END IF;
    ELSIF TG_OP = 'UPDATE' THEN
        IF NOT EXISTS (SELECT {before} FROM old_rows o EXCEPT SELECT {after} FROM new_rows n) THEN
            RETURN NULL;
        END IF;
    END IF;
    RAISE read_only_sql_transaction USING MESSAGE = {_literal(refusal(mirrored.table))};
END
"""


def function_settings(mirrored: MirroredModel, tables: Mapping[str, Table]) -> dict[str, str]:
    table = tables[mirrored.table]
    settings = dict(_SEARCH_PATH)
    if table.cascaded or any(field.reference for field in mirrored.fields):
        # A plan that was made, and kept, while a table was small is still right when it is large.
        settings["enable_seqscan"] = "off"
    for field in mirrored.fields:
        if field.column in table.columns:
            settings |= _SETTINGS.get(table.columns[field.column], _EVERY_SETTING)
    return dict(sorted(settings.items()))


def script(function: str, table: str, settings: Mapping[str, str], body: str) -> str:
    formats = _set(settings)
    # With the owner's rights it writes to the outbox; nobody else may hang it on a table of his own.
    create = f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
    statements = [
        f"{create} {formats} AS {_literal(body)}",
        f"REVOKE ALL ON FUNCTION {function}() FROM PUBLIC",
    ]
    statements += [
        f"CREATE OR REPLACE TRIGGER {name} {event} ON {table} {rows} FOR EACH STATEMENT "
        f"EXECUTE FUNCTION {function}()"
        for name, _kind, event, rows in TRIGGERS
    ]
    return ";\n".join(statements)


def whole_table(quote: Callable[[str], str], mirrored: MirroredModel, tables: Mapping[str, Table]) -> str:
    """The SQL that records every row as saved, in the formats that the triggers write."""
    table, outbox = tables[mirrored.table].name, tables[Outbox._meta.db_table].name
    formats = function_settings(mirrored, tables)
    formats.pop("enable_seqscan", None)
    row = _payload(quote, mirrored, tables)
    body = (
        f"BEGIN LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE; "
        f"INSERT INTO {outbox} (op, model, captured_at, payload) SELECT '{Op.SAVE}', "
        f"{_literal(mirrored.label)}, {_NOW}, {row} "
        f"FROM {table} n; END"
    )
    function = "pg_temp.livemirror_record_all()"
    return (
        f"CREATE FUNCTION {function} RETURNS void LANGUAGE plpgsql {_set(formats)} AS {_literal(body)};\n"
        f"SELECT {function};\nDROP FUNCTION {function}"
    )


def rows(quote: Callable[[str], str], mirrored: MirroredModel, tables: Mapping[str, Table]) -> Selection:
    """Within a transaction: the settings are those of the triggers, and only for the query."""
    # Until PostgreSQL has looked what a table holds, it would read and sort all of it for every page.
    settings = dict.fromkeys(("enable_seqscan", "enable_bitmapscan", "enable_sort"), "off")
    settings |= function_settings(mirrored, tables)
    table = tables[mirrored.table].name
    return Selection(
        table=table,
        sql=f"SELECT {_payload(quote, mirrored, tables)} FROM {table} n",
        row="n",
        before=("SAVEPOINT livemirror", *(f"SET LOCAL {name} TO {to}" for name, to in settings.items())),
        after=("ROLLBACK TO SAVEPOINT livemirror",),
    )


def _set(formats: Mapping[str, str]) -> str:
    return " ".join(f"SET {name} TO {value}" for name, value in formats.items())


def _payload(quote: Callable[[str], str], mirrored: MirroredModel, tables: Mapping[str, Table]) -> str:
    columns = tables[mirrored.table].columns
    pairs = [
        f"{_literal(name)}, {expression}"
        for field in mirrored.fields
        if field.column in columns
        for name, expression in _expressions(quote, field, columns[field.column], tables)
    ]
    objects = [
        f"json_build_object({', '.join(pairs[start : start + _PAIRS_PER_OBJECT])})"
        for start in range(0, len(pairs), _PAIRS_PER_OBJECT)
    ]
    whole = objects[0] if len(objects) == 1 else f"json_build_array({', '.join(objects)})"
    return f"{whole}::text"


def _expressions(
    quote: Callable[[str], str], field: MirroredField, kind: str, tables: Mapping[str, Table]
) -> Iterator[tuple[str, str]]:
    column = f"n.{quote(field.column)}"
    yield field.column, _json(column, kind)
    reference = field.reference
    if reference is not None and reference.table in tables:
        parent = tables[reference.table]
        uuid = (
            f"(SELECT p.{quote(reference.uuid_column)} FROM {parent.name} p "
            f"WHERE p.{quote(reference.pk_column)} = {column})"
        )
        yield f"{field.column}>", uuid


def _json(column: str, kind: str) -> str:
    if kind in _AS_JSON:
        return column
    if kind == "bytea":
        return f"'\\x' || encode({column}, 'hex')"
    if kind in _AS_TEXT or kind.startswith("_") or kind.endswith("range"):
        return f"{column}::text"
    # A type of somebody's may have any cast to text or JSON; ``format`` asks for its output.
    return f"CASE WHEN {column} IS NOT NULL THEN format('%s', {column}) END"


# Names


def short_name(prefix: str, table: str) -> str:
    name = prefix + table
    if '"' not in table and len(name.encode()) <= _NAME_BYTES:
        return name
    digest = hashlib.blake2b(table.encode(), digest_size=6).hexdigest()
    readable = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"{readable[: _NAME_BYTES - 1 - len(digest)]}_{digest}"


def escaped(name: str) -> str:
    """A name from the catalog, as Django has it between its quotes."""
    return name.replace('"', '""')


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"

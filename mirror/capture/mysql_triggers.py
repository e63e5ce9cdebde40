"""The triggers of MariaDB and MySQL: three for each table, called for each row.

What they write must not depend on the session that happens to write. A trigger keeps the SQL mode and the
collation it was made with and runs with its maker's rights, but the time zone, the clock (``SET timestamp``)
and the isolation level are the session's. Measured on MariaDB 10.11:

- A function's result larger than ``max_allowed_packet`` is NULL, and in strict mode an error. Then the row
  cannot be captured, and is not written. After one such error ``JSON_OBJECT`` gives NULL to everybody who
  writes to the table, until it is opened anew; ``CONCAT`` does not, so the object is put together by hand.
- ``INSERT IGNORE`` makes an empty text of a NULL for a column that takes none; only SIGNAL stops it.
- Base64 needs a third more than a BLOB has, hex twice as much. A double is printed so that the same double is
  read again, a FLOAT with 6 digits.
- ``UNIX_TIMESTAMP`` of a TIMESTAMP column is what is stored, whatever the time zone of the session.
- Reading a parent's row locks it until the transaction ends, but not where each statement has a snapshot of
  its own. A lock that nobody asked for can end in a deadlock, so with other isolation levels the UUID of the
  parent is left to the sequencer.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from itertools import groupby

from mirror.capture.tables import Selection, Table, refusal
from mirror.changes import Op
from mirror.models import Outbox
from mirror.registry import MirroredField, MirroredModel

PREFIX = "livemirror_"
_NAME_LENGTH = 64
_MESSAGE_LENGTH = 128

#: What a trigger is made with: an error instead of a shortened value, and literals as in standard SQL.
SQL_MODE = "STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES"
COLLATION = "utf8mb4_bin"

#: While it is set, what is captured bears its number, so that it can be taken away again before the commit.
#: To ask here whether somebody applies, in the outbox for instance, would cost every write a tenth.
APPLYING = "@livemirror_applying"

#: While it is set, this session writes to tables that are read-only.
MAY_WRITE = "@livemirror_may_write"

_NUMBERS = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint", "year"})
TEXTS = frozenset({"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "json", "enum", "set"})
#: Types whose text has nothing that JSON would escape.
_WORDS = frozenset({"uuid", "inet4", "inet6", "decimal", "double", "date", "time", "datetime"})

#: Bytes of a payload; no server that anybody runs has a smaller max_allowed_packet.
_SURELY_FITS = 32768

#: Types that JSON_QUOTE takes as they are, in the character sets that JSON is written in.
_CHARACTERS = frozenset({"char", "varchar", "tinytext", "text", "mediumtext", "longtext"})
_UNICODE = re.compile(r" (utf8|utf8mb3|utf8mb4) ")

_REFUSED = "django-livemirror cannot capture this row: it needs more than max_allowed_packet"

#: Epoch microseconds, when the statement began. ``SET timestamp`` moves it; the sequencer lets no time be
#: later than its own, and none be earlier than the change before. A clock that cannot be moved has to be
#: turned from the session's time zone to UTC, which took a tenth of what a captured write costs.
_NOW = "@@timestamp * 1000000"

#: What a column's type says after its character set.
NOT_NULL = "not null"


def kind_of(column_type: str) -> str:
    """``bigint`` of ``bigint(20) unsigned``."""
    return re.split(r"\W", column_type, maxsplit=1)[0].lower()


def scripts(mirrored: MirroredModel, tables: Mapping[str, Table], isolation: str) -> dict[str, str]:
    """Name and SQL of each trigger. ``isolation`` is what the server calls the session's isolation level.

    The name has its schema, as ``installed`` has it, where that is not the outbox's.

    A name ends with a digest of what its trigger does: the next version stands beside it until it goes,
    so that no write slips through between two of them.
    """
    table, outbox = tables[mirrored.table], tables[Outbox._meta.db_table]
    # Without its schema where that is the table's own: a dump is often restored under another name.
    into = outbox.name.removeprefix(f"{table.schema}.")

    # Asking costs as much as the insertion, so it is left out where the answer is known.
    doubtful = sum(map(_longest, table.columns.values())) > _SURELY_FITS

    def record(op: Op, row: str) -> str:
        payload = _payload(mirrored, tables, row, isolation)
        insert = (
            f"INSERT INTO {into} (op, model, captured_at, payload) "
            f"VALUES ('{op}', {_literal(mirrored.label)}, COALESCE(-{APPLYING}, {_NOW}), "
        )
        if not doubtful:
            return f"{insert}{payload});"
        return (
            f"SET payload = {payload}; "
            f"IF payload IS NULL THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{_REFUSED}'; END IF; "
            f"{insert}payload);"
        )

    moved = " OR ".join(_differs(field.column, table.columns[field.column]) for field in mirrored.key)
    save, delete = record(Op.SAVE, "NEW"), record(Op.DELETE, "OLD")
    bodies = {
        "insert": save,
        "update": f"IF {moved} THEN {delete} END IF; {save}",
        "delete": delete,
    }
    made = {}
    for event, body in bodies.items():
        declared = "DECLARE payload LONGTEXT CHARACTER SET utf8mb4; " if doubtful else ""
        whole = f"BEGIN {declared}{body} END"
        name = _name(mirrored.table, event, whole)
        key = name if table.schema == outbox.schema else f"{table.schema.strip('`')}`.`{name}"
        made[key] = script(table.schema, name, event, table.name, whole)
    return made


def refusals(mirrored: MirroredModel, tables: Mapping[str, Table]) -> dict[str, str]:
    """Name and SQL of each trigger that refuses what is written to a table that is read-only."""
    table = tables[mirrored.table]
    changed = " OR ".join(
        _differs(field.column, table.columns[field.column])
        for field in mirrored.fields
        if field.column in table.columns
    )
    made = {}
    for event, condition in {"insert": "TRUE", "update": changed, "delete": "TRUE"}.items():
        message = _literal(refusal(mirrored.table.replace("`", ""))[:_MESSAGE_LENGTH])
        body = (
            f"BEGIN IF {MAY_WRITE} IS NULL AND ({condition}) THEN "
            f"SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = {message}; END IF; END"
        )
        name = _name(mirrored.table, event, body)
        made[name] = script(table.schema, name, event, table.name, body)
    return made


def whole_table(mirrored: MirroredModel, tables: Mapping[str, Table], isolation: str) -> str:
    """The SQL that records every row as saved. Its locks hold up whoever is writing to one of them."""
    table, outbox = tables[mirrored.table], tables[Outbox._meta.db_table]
    payload = _payload(mirrored, tables, "`NEW`", isolation)
    return (
        f"INSERT INTO {outbox.name} (op, model, captured_at, payload) "
        f"SELECT '{Op.SAVE}', {_literal(mirrored.label)}, {_NOW}, {payload} "
        f"FROM {table.name} AS `NEW` LOCK IN SHARE MODE"
    )


def rows(mirrored: MirroredModel, tables: Mapping[str, Table]) -> Selection:
    table, payload = tables[mirrored.table].name, _payload(mirrored, tables, "`NEW`", None)
    return Selection(table=table, sql=f"SELECT {payload} FROM {table} AS `NEW`", row="`NEW`")


def script(schema: str, name: str, event: str, table: str, body: str) -> str:
    return f"CREATE TRIGGER {schema}.{_quoted(name)} AFTER {event.upper()} ON {table} FOR EACH ROW {body}"


def _payload(mirrored: MirroredModel, tables: Mapping[str, Table], row: str, isolation: str | None) -> str:
    """``isolation`` is None where nothing is locked, whatever the isolation level."""
    columns = tables[mirrored.table].columns
    pieces: list[str | _Sql] = []
    for field in mirrored.fields:
        if field.column in columns:
            for name, value in _values(field, columns[field.column], row, tables, isolation):
                pieces += [", " if pieces else "{", f"{json.dumps(name, ensure_ascii=False)}: ", *value]
    pieces.append("}")
    # Each argument that there is costs something each time.
    parts = []
    for is_sql, group in groupby(pieces, key=lambda piece: isinstance(piece, _Sql)):
        together = list(group)
        parts += together if is_sql else [_literal("".join(together))]
    return f"CONCAT({', '.join(parts)})"


class _Sql(str):
    """An expression, among pieces of JSON."""

    __slots__ = ()


def _values(
    field: MirroredField, column_type: str, row: str, tables: Mapping[str, Table], isolation: str | None
) -> Iterator[tuple[str, list[str | _Sql]]]:
    column = f"{row}.{_quoted(field.column)}"
    yield field.column, _json(column, column_type)
    reference = field.reference
    if reference is not None and reference.table in tables:
        uuid = (
            f"(SELECT {_in_quotes(f'p.{_quoted(reference.uuid_column)}')} "
            f"FROM {tables[reference.table].name} p WHERE p.{_quoted(reference.pk_column)} = {column})"
        )
        if isolation is not None:
            uuid = f"IF({isolation} LIKE 'READ-%', {uuid}, NULL)"
        yield f"{field.column}>", [_Sql(f"COALESCE({uuid}, 'null')")]


def _json(column: str, column_type: str) -> list[str | _Sql]:
    """Should a column that took no NULL take one since, the row is refused until the next ``migrate``."""
    kind = kind_of(column_type)
    never_null = column_type.endswith(NOT_NULL)
    if kind in _NUMBERS:
        # A sum is a number also where the column has become one of bits since.
        return [_Sql(f"{column} + 0" if never_null else f"COALESCE({column} + 0, 'null')")]
    if kind in TEXTS:
        if never_null and kind in _CHARACTERS and _UNICODE.search(column_type):
            return [_Sql(f"JSON_QUOTE({column})")]
        quoted = f"JSON_QUOTE(CONCAT({column}))"
        # NULL also where a character of the column's set is none of Unicode's.
        bytes_ = f"CONCAT('{{\"b\": \"', {_base64(column)}, '\"}}')"
        return [_Sql(f"COALESCE({quoted}, {bytes_}, 'null')")]
    if kind == "bit":
        return [_Sql(f"COALESCE({column} + 0, 'null')")]
    text = _text(column, kind)
    return ['"', _Sql(text), '"'] if never_null else [_Sql(f"COALESCE({_in_quotes(text)}, 'null')")]


def _text(column: str, kind: str) -> str:
    """What has nothing that JSON would escape."""
    if kind in _WORDS:
        return column
    if kind == "float":
        return f"{column} + 0e0"
    if kind == "timestamp":
        # The date that is all zeros has none; as a number it is zero.
        return f"COALESCE(UNIX_TIMESTAMP({column}), {column} + 0)"
    return _base64(column)


def _base64(column: str) -> str:
    return f"REPLACE(TO_BASE64({column}), CHAR(10 USING ascii), '')"


def _in_quotes(expression: str) -> str:
    return f"CONCAT('\"', {expression}, '\"')"


def _differs(column: str, column_type: str) -> str:
    old, new = f"OLD.{_quoted(column)}", f"NEW.{_quoted(column)}"
    if kind_of(column_type) in _NUMBERS | {"uuid"}:
        return f"NOT {old} <=> {new}"
    return f"NOT CAST({old} AS BINARY) <=> CAST({new} AS BINARY)"


def _longest(column_type: str) -> float:
    """The bytes that a value can have in the payload, at most."""
    kind = kind_of(column_type)
    if kind in {"char", "varchar", "binary", "varbinary"}:
        # A control character becomes six, and four bytes in base64 no more than that.
        return 6 * int(column_type.partition("(")[2].partition(")")[0])
    return 100 if kind in _NUMBERS | _WORDS | {"float", "timestamp", "bit"} else math.inf


def _name(table: str, event: str, body: str) -> str:
    digest = hashlib.blake2b(f"{table}\0{body}".encode(), digest_size=5).hexdigest()
    readable = re.sub(r"\W", "_", PREFIX + table, flags=re.ASCII)
    end = f"_{event}_{digest}"
    return readable[: _NAME_LENGTH - len(end)] + end


def _quoted(name: str) -> str:
    """As Django quotes it on MySQL: a name that holds a backtick is a name in two parts."""
    return name if name.startswith("`") and name.endswith("`") else f"`{name}`"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"

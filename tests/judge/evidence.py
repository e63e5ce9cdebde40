"""What the tables hold: as the database has it, and as it would travel if a trigger had told it now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from mirror.apply.plans import key_text
from mirror.capture import WRITERS
from mirror.changes import Change, Op, encode_change
from mirror.registry import MirroredModel, Reference, travels_by_name
from mirror.rows import RowReader
from tests.judge.fold import State, travelled

#: The rows of each model: its mirrored columns, then those that the database computes.
Rows = dict[str, list[tuple[Any, ...]]]


class Evidence:
    """Reads below Django's cursors: nobody's count of queries changes."""

    def __init__(self, connection: BaseDatabaseWrapper, models: Mapping[str, MirroredModel]) -> None:
        self.connection = connection
        self._models = models
        #: Where rows are read as triggers write them; elsewhere the driver's values are what those decode to.
        self._as_text = connection.vendor == "postgresql"
        #: Models whose primary keys mean nothing elsewhere.
        self.numbered_here = {label for label, mirrored in models.items() if mirrored.local_pk}
        self._left_out = {label: _numbered_here(mirrored) for label, mirrored in models.items()}

    def rows(self, connection: BaseDatabaseWrapper) -> Rows:
        """PostgreSQL's as its own text; SQLite's as stored, and as its triggers see it."""
        quote = connection.ops.quote_name
        # What comes straight from a column of dates, SQLite's driver converts.
        prefix = "+" if connection.vendor == "sqlite" else ""
        rows: Rows = {}
        with closing(connection.create_cursor()) as cursor, _in_utc(cursor, connection.vendor):
            for label, mirrored in self._models.items():
                names = ", ".join(prefix + quote(column) for column in _columns(mirrored))
                cursor.execute(f"SELECT {names} FROM {quote(mirrored.table)}")
                rows[label] = sorted(_texts(cursor) if self._as_text else cursor.fetchall(), key=repr)
        return rows

    def travelling(self, labels: Iterable[str], rows: Rows) -> State:
        """As if a trigger told them now; the names of content types are those of now."""
        writer = WRITERS[self.connection.vendor]
        state: State = {}
        for label in labels:
            mirrored = self._models[label]
            decoders = writer.decoders(self.connection, mirrored) if self._as_text else {}
            reader = RowReader(mirrored, self.connection, decoders, self._resolve)
            columns = [column.column for column in mirrored.fields]
            state[label] = {}
            for values in rows.get(label, []):
                row = reader.read(dict(zip(columns, values, strict=False)))
                change = Change(ts=0, op=Op.SAVE, model=label, pk=row.pk, fields=row.fields)
                change, text = travelled(encode_change(change), self.numbered_here)
                state[label][self.key(change)] = text
        return state

    def key(self, change: Change) -> str:
        """What the applying side takes for the identity of a row."""
        return key_text(self._models.get(change.model), change)

    def comparable(self, label: str, rows: Rows) -> Counter[str]:
        """Rows without the columns whose numbers are each server's own."""
        left_out = self._left_out[label]
        return Counter(
            repr([value for place, value in enumerate(row) if place not in left_out]) for row in rows[label]
        )

    def write(self, labels: Iterable[str], rows: Rows, connection: BaseDatabaseWrapper) -> None:
        """Let these tables of another database hold these rows, without any codec."""
        quote = connection.ops.quote_name
        labels = list(labels)
        with closing(connection.create_cursor()) as cursor:
            for label in labels:
                cursor.execute(f"DELETE FROM {quote(self._models[label].table)}")
            for label in labels:
                columns = [quote(column.column) for column in self._models[label].fields]
                names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
                for row in rows[label]:
                    cursor.execute(
                        f"INSERT INTO {quote(self._models[label].table)} ({names}) VALUES ({marks})",
                        row[: len(columns)],
                    )

    def _resolve(self, reference: Reference, pk: Any) -> Any:
        quote = self.connection.ops.quote_name
        with closing(self.connection.create_cursor()) as cursor:
            cursor.execute(
                f"SELECT {quote(reference.uuid_column)} FROM {quote(reference.table)} "
                f"WHERE {quote(reference.pk_column)} = %s",
                [pk],
            )
            found = cursor.fetchone()
        return found[0] if found else None


def _columns(mirrored: MirroredModel) -> list[str]:
    computed = [
        str(field.column)
        for field in mirrored.model._meta.local_concrete_fields
        if getattr(field, "generated", False)
    ]
    return [field.column for field in mirrored.fields] + computed


def _numbered_here(mirrored: MirroredModel) -> set[int]:
    return {
        place
        for place, field in enumerate(mirrored.fields)
        if field.reference or travels_by_name(field.field) or (field is mirrored.pk and mirrored.local_pk)
    }


@contextmanager
def _in_utc(cursor: Any, vendor: str) -> Iterator[None]:
    """As triggers write moments, whatever the session's zone."""
    if vendor != "postgresql":
        yield
        return
    cursor.execute("SELECT current_setting('TimeZone'), set_config('TimeZone', 'UTC', false)")
    (zone, _utc) = cursor.fetchone()
    yield
    cursor.execute("SELECT set_config('TimeZone', %s, false)", [zone])


def _texts(cursor: Any) -> list[tuple[str | None, ...]]:
    """Past psycopg's loaders: what each connection has registered differs."""
    result = cursor.pgresult
    return [
        tuple(
            None if (value := result.get_value(row, column)) is None else value.decode()
            for column in range(result.nfields)
        )
        for row in range(result.ntuples)
    ]

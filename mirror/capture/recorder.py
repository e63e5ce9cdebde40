"""Reads the rows of one mirrored table as they are now, and writes what became of them to the outbox."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from operator import or_
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F, Field, Func, Model, OuterRef, Q, QuerySet, Subquery, TextField
from django.db.models.functions import Cast

from mirror.capture import parents, postgresql, told
from mirror.changes import Op
from mirror.models import Outbox
from mirror.registry import MirroredField, MirroredModel, Reference, reference_to_rows, root_of
from mirror.rows import Row, RowReader
from mirror.rows.kinds import kind_of

__all__ = ["Image", "Key", "Recorder", "chunks"]

#: The values of a row's primary-key columns, as a model has them.
Key = tuple[Any, ...]

_ROWS_AT_A_TIME = 500


@dataclass(frozen=True, slots=True)
class Image:
    """A row at one moment."""

    key: Key
    row: Row


class Recorder:
    """For one connection and one table. ``columns`` are those that the table has, where a migration of
    long ago has other ones than the model of today."""

    def __init__(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel, columns: Collection[str] | None = None
    ) -> None:
        self.connection = connection
        self.mirrored = mirrored
        self.pk_fields: list[Field[Any, Any]] = list(mirrored.model._meta.pk_fields)
        #: Fields that make a row another row, or have it found elsewhere.
        self.identity = {field.name for field in [*self.pk_fields, *(key.field for key in mirrored.key)]}
        fields = [field for field in mirrored.fields if columns is None or field.column in columns]
        texts = {field.column for field in fields if _has_text_only(connection, field)}
        decoders = self._decoders(texts)
        self._reader = RowReader(mirrored, connection, decoders, self._find)
        self._names, self._select, self._parameters, selected = _select(
            connection, mirrored.model, fields, texts
        )
        self._pk_places = [self._names.index(str(field.column)) for field in self.pk_fields]
        self._pk_converters = [
            decoders[str(field.column)]
            if _is_interval(connection, field)
            else _converter(connection, selected[place])
            for field, place in zip(self.pk_fields, self._pk_places, strict=True)
        ]
        quote = connection.ops.quote_name
        outbox = quote(Outbox._meta.db_table)
        names = ", ".join(map(quote, ("op", "model", "captured_at", "payload")))
        self._insert = f"INSERT INTO {outbox} ({names}) VALUES (%s, %s, %s, %s)"

    def _decoders(self, texts: Collection[str]) -> Mapping[str, Callable[[Any], Any]]:
        if not texts:
            return {}
        decoders = postgresql.Postgresql().decoders(self.connection, self.mirrored)
        return {column: decoders[column] for column in texts}

    def _find(self, reference: Reference, pk: Any) -> Any:
        """The UUID of a row that a GenericForeignKey refers to, or of one that was not there just before."""
        return parents.uuid_of(self.connection, reference, pk)

    def read(self, keys: Iterable[Key], *, lock: bool = False) -> Iterator[Image]:
        """Those of the rows that exist, in the order of the keys. ``lock`` where they may be another's."""
        for chunk in chunks(keys, _ROWS_AT_A_TIME):
            images = [self._image(raw) for raw in self._fetch(chunk, lock=lock)]
            if len(images) > 1:
                places = {key: place for place, key in enumerate(chunk)}
                # A key that was given as a text, say, is not what the database returns.
                images.sort(key=lambda image: places.get(image.key, len(chunk)))
            yield from images

    def referring(self, label: str, pks: Iterable[Any]) -> Iterator[Key]:
        """The keys of the rows that refer to one of these rows of another model, or of this one."""
        references = [
            one.field.attname
            for one in self.mirrored.fields
            if one.reference and one.reference.label == label
        ]
        generic = [(one.number.field.attname, one.kind.field.attname) for one in self.mirrored.generic]
        kinds = self._kinds(label) if generic else []
        for chunk in chunks(pks, _ROWS_AT_A_TIME) if references or kinds else ():
            conditions = [Q(**{f"{name}__in": chunk}) for name in references]
            conditions += [Q(**{f"{number}__in": chunk, f"{kind}__in": kinds}) for number, kind in generic]
            rows = _all(self.mirrored.model, self.connection).filter(reduce(or_, conditions))
            yield from rows.values_list(*(field.attname for field in self.pk_fields))

    def _kinds(self, label: str) -> list[Any]:
        """The content types whose rows are rows of this model: its own, and its multi-table children's."""
        return [
            kind.pk
            for kind in _all(ContentType, self.connection)
            if (reference := reference_to_rows(kind.natural_key())) is not None and reference.label == label
        ]

    def record_all(self) -> None:
        """Every row of the table as saved, in a transaction of its own."""
        names = [field.attname for field in self.pk_fields]
        with transaction.atomic(using=self.connection.alias):
            keys = _all(self.mirrored.model, self.connection).order_by(*names).values_list(*names)
            self.record(Op.SAVE, self.read(keys.iterator(_ROWS_AT_A_TIME), lock=True))

    def record_difference(self, before: Iterable[Image], after: Sequence[Image]) -> None:
        """Rows before and after a write that may have made them others."""
        told = {image.row.key for image in after}
        self.record(Op.DELETE, [image for image in before if image.row.key not in told])
        self.record(Op.SAVE, after)

    def record(self, op: Op, images: Iterable[Image], clock: Callable[[], int] = time.time_ns) -> None:
        """Write changes to the outbox, in the transaction that is open."""
        moment = clock() // 1000
        for chunk in chunks(images, _ROWS_AT_A_TIME):
            rows = [
                [op.value, self.mirrored.label, moment, told.encode(image.row, self.mirrored)]
                for image in chunk
            ]
            with self.connection.cursor() as cursor:
                cursor.executemany(self._insert, rows)

    def _fetch(self, keys: Sequence[Key], *, lock: bool) -> list[Sequence[Any]]:
        quote, features = self.connection.ops.quote_name, self.connection.features
        columns = [f"{quote(self.mirrored.table)}.{quote(str(field.column))}" for field in self.pk_fields]
        if len(columns) == 1:
            where = f"{columns[0]} IN ({', '.join(['%s'] * len(keys))})"
        else:
            one = " AND ".join(f"{column} = %s" for column in columns)
            where = " OR ".join([f"({one})"] * len(keys))
        hold = self.connection.ops.for_update_sql() if lock and features.has_select_for_update else ""
        parts = [hold, f"WHERE {where}"] if features.for_update_after_from else [f"WHERE {where}", hold]
        with self.connection.cursor() as cursor:
            cursor.execute(" ".join([self._select, *parts]), [*self._parameters, *self._bound(keys)])
            rows: list[Sequence[Any]] = cursor.fetchall()
        return rows

    def _bound(self, keys: Iterable[Key]) -> Iterator[Any]:
        for key in keys:
            for field, value in zip(self.pk_fields, key, strict=True):
                yield field.get_db_prep_value(value, self.connection)

    def _image(self, raw: Sequence[Any]) -> Image:
        places = zip(self._pk_places, self._pk_converters, strict=True)
        key = tuple(convert(raw[place]) for place, convert in places)
        return Image(key, self._reader.read(dict(zip(self._names, raw, strict=True))))


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk


def _has_text_only(connection: BaseDatabaseWrapper, field: MirroredField) -> bool:
    """Arrays, ranges, types of somebody's: PostgreSQL's own text of them is the form that travels."""
    root = root_of(field.field)
    unknown = kind_of(root) is None and root.get_internal_type() != "JSONField"
    return connection.vendor == "postgresql" and (unknown or _is_interval(connection, root))


def _is_interval(connection: BaseDatabaseWrapper, field: Any) -> bool:
    """PostgreSQL's has months, and days that are not 24 hours; the driver's value has neither."""
    return connection.vendor == "postgresql" and root_of(field).get_internal_type() == "DurationField"


def _select(
    connection: BaseDatabaseWrapper,
    model: type[Model],
    fields: Iterable[MirroredField],
    texts: Collection[str],
) -> tuple[list[str], str, Sequence[Any], list[Any]]:
    """Names of the columns as triggers name them, the SELECT of all rows, its parameters, its expressions."""
    names: list[str] = []
    asked: list[str] = []
    extra: dict[str, Any] = {}
    for field in fields:
        names.append(field.column)
        if field.column in texts:
            asked.append(f"livemirror_{len(names)}")
            extra[asked[-1]] = Cast(field.field.attname, TextField())
        elif connection.vendor == "sqlite":
            # Its driver makes dates, times and booleans of what columns of such names hold, whatever it is.
            asked.append(f"livemirror_{len(names)}")
            output: Any = root_of(field.field)
            extra[asked[-1]] = Func(F(field.field.attname), template="+%(expressions)s", output_field=output)
        else:
            asked.append(field.field.attname)
        reference = field.reference
        if reference is not None:
            names.append(f"{field.column}>")
            asked.append(f"livemirror_{len(names)}")
            parents = _all(reference.uuid_field.model, connection).filter(pk=OuterRef(field.field.attname))
            extra[asked[-1]] = Subquery(parents.values(reference.uuid_field.attname))
    query = _all(model, connection).annotate(**extra).values_list(*asked).query
    compiler = query.get_compiler(connection.alias)
    sql, parameters = compiler.as_sql()
    return names, sql, parameters, [expression for expression, _sql, _alias in compiler.select]


def _converter(connection: BaseDatabaseWrapper, expression: Any) -> Callable[[Any], Any]:
    """From what the driver returns of a key's column to what a model has."""
    converters = [
        *connection.ops.get_db_converters(expression),
        *expression.output_field.get_db_converters(connection),
    ]

    def convert(value: Any) -> Any:
        for converter in converters:
            value = converter(value, expression, connection)
        return value

    return convert


def _all(model: type[Model], connection: BaseDatabaseWrapper) -> QuerySet[Any]:
    """Not by a manager of the project, which may leave rows out."""
    return QuerySet(model, using=connection.alias).order_by()

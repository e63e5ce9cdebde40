"""Where the ORM writes: the three compilers that hand INSERT, UPDATE and DELETE to the database.

Django's signals are sent for ``save()`` and ``delete()`` of instances, after the statement and, in
autocommit, after its commit. Every write of the ORM, with or without signals, is the execution of one of
three kinds of query (Django 5.2 and 6.1): those of ``save``, ``bulk_create``, the parents of a multi-table
row, ``update``, ``bulk_update``, ``_raw_delete``, the deletion collector with its fast deletes, and the rows
of a many-to-many. The compiler of such a query for a mirrored table runs its statement, reads the rows again
and writes the outbox, in one atomic block.

An UPDATE or DELETE by a condition is run for exactly the rows that were read, and locked, under this
condition: a row that begins to match between the two statements would be written and not be told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from operator import or_
from typing import Any

from django.db.models import AutoField, Model, Q, QuerySet
from django.db.models.constants import OnConflict
from django.db.models.lookups import Exact, In
from django.db.models.sql import Query
from django.db.models.sql.compiler import SQLDeleteCompiler, SQLInsertCompiler, SQLUpdateCompiler
from django.db.models.sql.constants import NO_RESULTS, ROW_COUNT

from mirror.capture.recorder import Image, Key, Recorder, chunks
from mirror.changes import Op

__all__ = ["capturing"]

#: Rows of one narrowed statement, where the database sets no limit to its parameters.
_ROWS_AT_A_TIME = 10_000


@cache
def capturing(compiler: type) -> type:
    """The compiler of some vendor, which also captures what its ``recorder`` is for."""
    (mixin,) = [mixin for base, mixin in _CAPTURING.items() if issubclass(compiler, base)]
    return type(compiler.__name__, (mixin, compiler), {})


class _Capturing:
    """Before a compiler of Django's. The three first are set on the instance."""

    recorder: Recorder
    #: Of every mirrored table.
    recorders: Callable[[], Iterator[Recorder]]
    #: Opens the atomic block in which a statement and its changes are written.
    recording: Callable[[], Any]
    #: Django's.
    query: Any
    connection: Any
    returning_fields: Any

    def _keys(self, *, extra: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The keys of the rows that the query means, locked, each followed by the extra expressions."""
        query: Any = self.query.clone()
        query.__class__ = Query
        base = query.get_initial_alias()
        names = [field.name for field in self.recorder.pk_fields]
        plain = query.count_active_tables() == 1 and query.group_by is None and not query.distinct
        query.clear_select_clause()
        query.extra = {}
        if not plain or any(alias != base for alias in query.alias_map):
            query.clear_ordering(force=True)
        query.add_fields(names)
        if not plain:
            # No database locks the rows of a join or a grouping; as Django, by a subquery.
            inner = query
            query = Query(self.query.model)
            query.add_filter("pk__in", inner)
            query.clear_select_clause()
            query.add_fields(names)
        query.annotations = {
            **query.annotations,
            **{f"livemirror_{n}": value for n, value in enumerate(extra)},
        }
        query.set_annotation_mask({f"livemirror_{n}" for n in range(len(extra))})
        query.select_for_update = self.connection.features.has_select_for_update
        compiler = query.get_compiler(self.connection.alias)
        return [tuple(row) for row in compiler.results_iter(tuple_expected=True)]

    def _named_keys(self) -> list[Key] | None:
        """The keys that the query names: None where it has any other condition, or names none."""
        where, (field, *others) = self.query.where, self.recorder.pk_fields
        if others or where.negated or len(where.children) != 1:
            return None
        (lookup,) = where.children
        if not isinstance(lookup, Exact | In) or getattr(lookup.lhs, "target", None) is not field:
            return None
        values = lookup.rhs if isinstance(lookup, In) else [lookup.rhs]
        if not isinstance(values, list | tuple | set) or any(not _plain(value) for value in values):
            return None
        return [(value,) for value in dict.fromkeys(values)]

    def _run(self, write: Callable[[], Any], keys: Sequence[Key]) -> list[Any]:
        """The statement, for these rows only."""
        query = self.query
        limit = self.connection.features.max_query_params
        results = []
        for chunk in chunks(keys, limit // 2 if limit else _ROWS_AT_A_TIME):
            self.query = _narrowed(query, chunk)
            results.append(write())
        self.query = query
        return results

    def _referring(self, images: Iterable[Image]) -> list[tuple[Recorder, list[Image]]]:
        """Rows that travel otherwise when the UUIDs of these rows change, as they are before that.

        A mirror gives the new UUID the key of the old one, which serves what it has already. A change of the
        same group names the old UUID, which has no row any more when the mirror comes to write it.
        """
        mirrored = self.recorder.mirrored
        if not mirrored.local_pk or len(self.recorder.pk_fields) > 1:
            return []
        pks = [image.key[0] for image in images]
        found = []
        for recorder in self.recorders() if pks else ():
            rows = list(recorder.read(recorder.referring(mirrored.label, pks), lock=True))
            if rows:
                found.append((recorder, rows))
        return found


def _tell_again(referring: Iterable[tuple[Recorder, list[Image]]]) -> None:
    for recorder, before in referring:
        recorder.record_difference(before, list(recorder.read([image.key for image in before])))


def _plain(value: Any) -> bool:
    return value is not None and not hasattr(value, "resolve_expression")


def _narrowed(query: Any, keys: Sequence[Key]) -> Any:
    narrowed = query.clone()
    base = narrowed.get_initial_alias()
    narrowed.clear_where()
    narrowed.group_by = None
    narrowed.alias_refcount = {alias: int(alias == base) for alias in narrowed.alias_refcount}
    narrowed.add_filter("pk__in", [key[0] if len(key) == 1 else key for key in keys])
    return narrowed


# INSERT


class _Inserting(_Capturing):
    def execute_sql(self, returning_fields: Sequence[Any] | None = None) -> list[Any]:
        write = super().execute_sql  # type: ignore[misc]
        with self.recording():
            replaced = self._replaced()
            referring = self._referring(replaced)
            result, keys, ours = self._write(write, returning_fields)
            images = list(self.recorder.read(keys, lock=not ours))
            self.recorder.record_difference(replaced, images)
            _tell_again(referring)
        return result

    def _replaced(self) -> list[Image]:
        """Rows that a conflict may turn into rows of another identity."""
        query = self.query
        changed = {field.name for field in query.update_fields}
        if query.on_conflict != OnConflict.UPDATE or not changed & self.recorder.identity:
            return []
        return list(self.recorder.read(self._conflicting(query.objs), lock=True))

    def _write(
        self, write: Callable[..., Any], returning: Sequence[Any] | None
    ) -> tuple[list[Any], list[Key], bool]:
        """What the caller is to get, the keys of the rows, and whether they are all of this statement's."""
        query, features, fields = self.query, self.connection.features, self.recorder.pk_fields
        known = [tuple(getattr(obj, field.attname) for field in fields) for obj in query.objs]
        if query.on_conflict is None and all(_plain(value) for key in known for value in key):
            return write(returning), known, True
        if features.can_return_rows_from_bulk_insert or (
            features.can_return_columns_from_insert and len(query.objs) == 1
        ):
            asked = list(returning or ())
            columns = [*asked, *(field for field in fields if field not in asked)]
            rows = self._ignoring(columns) if query.on_conflict == OnConflict.IGNORE else write(columns)
            places = [columns.index(field) for field in fields]
            keys = [tuple(row[place] for place in places) for row in rows]
            return [row[: len(asked)] for row in rows] if asked else [], keys, True
        return self._write_one_by_one(write, returning)

    def _ignoring(self, columns: list[Any]) -> list[Any]:
        """Only the rows that were inserted come back; Django does not ask for them."""
        self.returning_fields = columns
        rows: list[Any] = []
        with self.connection.cursor() as cursor:
            for sql, parameters in self.as_sql():  # type: ignore[attr-defined]
                cursor.execute(sql, parameters)
                rows += cursor.fetchall()
        expressions = [field.get_col(self.recorder.mirrored.table) for field in columns]
        converters = self.get_converters(expressions)  # type: ignore[attr-defined]
        return list(self.apply_converters(rows, converters))  # type: ignore[attr-defined]

    def _write_one_by_one(
        self, write: Callable[..., Any], returning: Sequence[Any] | None
    ) -> tuple[list[Any], list[Key], bool]:
        """Where the database names only the last key it gave: MySQL, and Oracle for several rows."""
        query, (field, *others) = self.query, self.recorder.pk_fields
        objs = query.objs
        result: list[Any] = []
        keys: list[Key] = []
        for obj in objs:
            query.objs = [obj]
            if others or not isinstance(field, AutoField) or getattr(obj, field.attname) is not None:
                result += write(returning)
            elif query.on_conflict is not None:
                keys += self._last_key(field)
            else:
                asked = [field, *(one for one in returning or () if one is not field)]
                rows = write(asked)
                keys += [(row[0],) for row in rows]
                result += rows if returning else []
        query.objs = objs
        if query.on_conflict is None:
            known = [tuple(getattr(obj, one.attname) for one in [field, *others]) for obj in objs]
            return result, [*keys, *(key for key in known if all(map(_plain, key)))], True
        return result, list(dict.fromkeys([*keys, *self._conflicting(objs)])), False

    def _last_key(self, field: Any) -> Iterator[Key]:
        """Django asks for no key where there may be a conflict, and would write that statement wrong."""
        self.returning_fields = None
        table = self.recorder.mirrored.table
        with self.connection.cursor() as cursor:
            for sql, parameters in self.as_sql():  # type: ignore[attr-defined]
                cursor.execute(sql, parameters)
            key = self.connection.ops.last_insert_id(cursor, table, field.column)
        if key:  # MySQL says 0 where nothing was inserted
            yield (key,)

    def _conflicting(self, objs: Sequence[Model]) -> list[Key]:
        """The keys of the rows that agree with an object in something unique."""
        model = self.recorder.mirrored.model
        meta = model._meta
        names = [
            (field.name for field in self.recorder.pk_fields),
            *((field.name,) for field in meta.local_concrete_fields if field.unique),
            *meta.unique_together,
            *(constraint.fields for constraint in meta.total_unique_constraints),
        ]
        unique: list[list[Any]] = [[meta.get_field(name) for name in together] for together in names]
        conditions = []
        for obj in objs:
            for fields in unique:
                values = {field.attname: getattr(obj, field.attname) for field in fields}
                if all(map(_plain, values.values())):
                    conditions.append(Q(**values))
        keys: list[Key] = []
        for chunk in chunks(conditions, 100):
            condition = chunk[0]
            for more in chunk[1:]:
                condition = or_(condition, more)
            found: QuerySet[Any] = QuerySet(model, using=self.connection.alias).filter(condition).order_by()
            keys += found.values_list(*(field.attname for field in self.recorder.pk_fields))
        return keys


# UPDATE


class _Updating(_Capturing):
    #: True while Django's own method, which may call the other one, does the work.
    _entered = False

    def execute_sql(self, result_type: Any) -> Any:
        write = super().execute_sql  # type: ignore[misc]
        if self._entered or result_type not in {ROW_COUNT, NO_RESULTS}:
            return write(result_type)
        counts = self._update(lambda: write(ROW_COUNT), int)
        return sum(counts) if result_type == ROW_COUNT else 0

    def execute_returning_sql(self, returning_fields: Sequence[Any]) -> list[Any]:
        """Of Django 6."""
        write = super().execute_returning_sql  # type: ignore[misc]
        rows = self._update(lambda: write(returning_fields), len)
        return [row for some in rows for row in some]

    def _update(self, write: Callable[[], Any], count: Callable[[Any], int]) -> list[Any]:
        """What each statement returned."""
        self._entered = True
        if not self.query.values:
            return [write()]  # only columns of the parents, whose own queries follow
        with self.recording():
            written = {field.name for field, *_ in self.query.values}
            if not written & self.recorder.identity:
                return self._update_staying(write, count)
            return self._update_moving(write, {field.name for field in self.recorder.pk_fields} & written)

    def _update_staying(self, write: Callable[[], Any], count: Callable[[Any], int]) -> list[Any]:
        named = self._named_keys()
        if named is None:
            keys = self._keys()
            results = self._run(write, keys)
            self.recorder.record(Op.SAVE, self.recorder.read(keys))
            return results
        result = write()
        updated = count(result)
        if updated:
            self.recorder.record(Op.SAVE, self.recorder.read(named, lock=updated != len(named)))
        return [result]

    def _update_moving(self, write: Callable[[], Any], changed: set[str]) -> list[Any]:
        """Rows that may become other rows, or get another primary key (``changed`` are those columns)."""
        keys = moved = None if changed else self._named_keys()
        if keys is None or moved is None:
            keys, moved = self._moves()
        before = list(self.recorder.read(keys, lock=True))
        referring = self._referring(self._renamed(before))
        results = self._run(write, keys)
        self.recorder.record_difference(before, list(self.recorder.read(moved)))
        _tell_again(referring)
        return results

    def _renamed(self, images: Sequence[Image]) -> list[Image]:
        """Those that get another UUID; save() writes the one that they have."""
        identity = self.recorder.mirrored.key[0].field
        new = next((value for field, _model, value in self.query.values if field is identity), None)
        if new is None:
            return []
        if not _plain(new):
            return list(images)
        told = str(identity.to_python(_value(new)))
        return [image for image in images if image.row.key != told]

    def _moves(self) -> tuple[list[Key], list[Key]]:
        """The keys of the rows as they are, and as they will be."""
        fields = self.recorder.pk_fields
        new = {field.name: value for field, _model, value in self.query.values}
        computed = [field.name for field in fields if hasattr(new.get(field.name), "resolve_expression")]
        rows = self._keys(extra=[new[name] for name in computed])
        keys, moved = [], []
        for row in rows:
            key, values = row[: len(fields)], dict(zip(computed, row[len(fields) :], strict=True))
            keys.append(key)
            moved.append(
                tuple(
                    _value(values.get(field.name, new.get(field.name, old)))
                    for field, old in zip(fields, key, strict=True)
                )
            )
        return keys, moved


def _value(value: Any) -> Any:
    return value.pk if isinstance(value, Model) else value


# DELETE


class _Deleting(_Capturing):
    def execute_sql(self, result_type: Any) -> Any:
        write = super().execute_sql  # type: ignore[misc]
        with self.recording():
            keys = self._named_keys()
            if keys is None:
                keys = self._keys()
            present = list(self._record(keys))
            results = self._run(lambda: write(result_type), present)
            return results[0] if len(results) == 1 else sum(results)

    def _record(self, keys: Sequence[Key]) -> Iterator[Key]:
        # A few at a time in memory, however many there are.
        for chunk in chunks(keys, _ROWS_AT_A_TIME):
            images = list(self.recorder.read(chunk, lock=True))
            self.recorder.record(Op.DELETE, images)
            yield from (image.key for image in images)


_CAPTURING: dict[type, type] = {
    SQLDeleteCompiler: _Deleting,
    SQLInsertCompiler: _Inserting,
    SQLUpdateCompiler: _Updating,
}

"""``CAPTURE: "signals"``: the changes are written by this process, for every write of its ORM.

Nothing in it is of one vendor. What it cannot see (raw SQL, other programs, cascades of the database) is in
docs/signals.md; ``holes`` lists what of it is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from django.apps import apps
from django.core.signals import setting_changed
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.models import Model
from django.db.models.sql import Query
from django.db.models.sql.subqueries import DeleteQuery, InsertQuery, UpdateQuery

from mirror.capture.holes import KnownHole, Watch, known_holes, report
from mirror.capture.orm import capturing
from mirror.capture.recorder import Recorder
from mirror.conf import conf
from mirror.errors import ConfigurationError
from mirror.models import Outbox
from mirror.registry import MirroredModel, describe, mirrored_models

__all__ = ["KnownHole", "holes", "silenced", "switch"]

_QUERIES = (DeleteQuery, InsertQuery, UpdateQuery)


def switch(**kwargs: Any) -> None:
    """Begin or end to capture, as MIRROR asks for: at the start of a process, and when a test changes it."""
    try:
        wanted = conf().capture == "signals"
    except ConfigurationError:
        wanted = False  # the system check says why
    for query in _QUERIES:
        if wanted:
            query.get_compiler = _get_compiler  # type: ignore[method-assign,assignment]
        elif "get_compiler" in vars(query):
            del query.get_compiler
    (connection_created.connect if wanted else connection_created.disconnect)(_watch, dispatch_uid="mirror")
    for connection in connections.all(initialized_only=True):
        _unwatch(connection)
        if wanted:
            _watch(connection=connection)


def silenced(connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
    return _state(connection).silence()


def holes(connection: BaseDatabaseWrapper) -> list[KnownHole]:
    """What is not, or was not, captured: from the models, and from the raw SQL that was seen."""
    return known_holes(connection)


# The ORM


def _get_compiler(
    query: Any,
    using: str | None = None,
    connection: BaseDatabaseWrapper | None = None,
    elide_empty: bool = True,
) -> Any:
    """Takes the place of Query.get_compiler in the queries that write."""
    compiler: Any = Query.get_compiler(query, using, connection, elide_empty)
    recorder = _recorder(query.model, compiler.connection)
    if recorder is not None:
        vendors: Any = type(compiler)
        compiler.__class__ = capturing(vendors)
        compiler.recorder = recorder
        compiler.recorders = lambda: _recorders(query.model, compiler.connection)
        compiler.recording = _state(compiler.connection).recording
    return compiler


def _recorder(model: type[Model], connection: BaseDatabaseWrapper) -> Recorder | None:
    """None for what is not captured."""
    if connection.alias != conf().database:
        return None
    concrete = model._meta.concrete_model or model
    mirrored = _mirrored(concrete)
    state = _state(connection)
    if mirrored is None or state.silent or not state.prepared():
        return None
    if concrete is mirrored.model:
        return state.recorder(mirrored)
    columns = {str(field.column) for field in concrete._meta.local_concrete_fields}
    identifying: list[Any] = [*mirrored.key, *mirrored.model._meta.pk_fields]
    if not {str(field.column) for field in identifying} <= columns:
        report(connection, mirrored.label, "keys", f"{concrete._meta.label} without the columns of its key")
        return None
    if concrete._meta.apps is not apps:
        # As a migration knows it: with columns that today's has no longer, or under other names.
        return state.recorder(_past(concrete))
    return Recorder(connection, mirrored, columns)  # another model of the same table


def _recorders(model: type[Model], connection: BaseDatabaseWrapper) -> Iterator[Recorder]:
    """Of every mirrored table, with the columns that are known where this model is from."""
    for mirrored in mirrored_models().values():
        try:
            known = model._meta.apps.get_model(mirrored.label)
        except LookupError:
            continue  # a migration comes before it, and so do its rows
        recorder = _recorder(known, connection)
        if recorder is not None:
            yield recorder


def _past(model: Any) -> MirroredModel:
    # On the class, which is made anew with every step of a migration.
    if "_livemirror" not in vars(model):
        model._livemirror = describe(model)
    past: MirroredModel = model._livemirror
    return past


def _mirrored(model: type[Model]) -> MirroredModel | None:
    mirrored = mirrored_models().get(model._meta.label_lower)
    if mirrored is not None and mirrored.table == model._meta.db_table:
        return mirrored
    if model._meta.app_label == "mirror":
        return None
    return next((one for one in mirrored_models().values() if one.table == model._meta.db_table), None)


class _State:
    """What is known of one connection."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection
        #: How many of our blocks are open in which nothing is captured, or in which raw SQL is our own.
        self.silent = 0
        self.covered = 0
        self._recorders: dict[str, Recorder] = {}
        self._prepared = False

    def recorder(self, mirrored: MirroredModel) -> Recorder:
        kept = self._recorders.get(mirrored.label)
        if kept is None or kept.mirrored is not mirrored:
            kept = self._recorders[mirrored.label] = Recorder(self.connection, mirrored)
        return kept

    def prepared(self) -> bool:
        """Capture begins with the ``migrate`` that makes the outbox."""
        if not self._prepared:
            self._prepared = Outbox._meta.db_table in self.connection.introspection.table_names()
        return self._prepared

    @contextmanager
    def recording(self) -> Iterator[None]:
        self.covered += 1
        try:
            with transaction.atomic(using=self.connection.alias, savepoint=False):
                yield
        finally:
            self.covered -= 1

    @contextmanager
    def silence(self) -> Iterator[None]:
        self.silent += 1
        self.covered += 1
        try:
            yield
        finally:
            self.silent -= 1
            self.covered -= 1


def _state(connection: BaseDatabaseWrapper) -> _State:
    # On the connection itself: it belongs to one thread and goes with it.
    state: _State | None = vars(connection).get("_livemirror")
    if state is None:
        state = vars(connection)["_livemirror"] = _State(connection)
    return state


# Raw SQL


def _watch(*, connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    if connection.alias == conf().database:
        _unwatch(connection)
        state = _state(connection)
        connection.execute_wrappers.insert(0, Watch(connection, lambda: bool(state.covered)))


def _unwatch(connection: BaseDatabaseWrapper) -> None:
    wrappers: list[Callable[..., Any]] = connection.execute_wrappers
    wrappers[:] = [wrapper for wrapper in wrappers if not isinstance(wrapper, Watch)]


setting_changed.connect(switch, dispatch_uid="mirror.capture.signals")

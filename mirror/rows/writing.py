"""From a row that travelled to the parameters of a statement."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

from mirror.errors import WrongValue
from mirror.registry import MirroredField, MirroredModel, root_of, travels_by_name
from mirror.rows import documents
from mirror.rows.columns import column
from mirror.rows.kinds import kind_of
from mirror.rows.limits import Limit, limits
from mirror.rows.stored import as_read, from_plain, is_wrapped, unwrap

#: How a kind, or the lookup of a natural key, says that it does not take a value.
_REFUSALS = (ValidationError, ValueError, TypeError, ArithmeticError, LookupError, ObjectDoesNotExist)

Load = Callable[[Any], Any]


class RowWriter:
    """The values of one model's rows, for one database. Nothing is bound that it would not give back."""

    def __init__(self, mirrored: MirroredModel, connection: BaseDatabaseWrapper) -> None:
        self.mirrored = mirrored
        found = limits(mirrored, connection)
        self._loaders = {
            field.name: _loader(field, connection, found.get(field.column)) for field in mirrored.fields
        }
        #: The same for many rows at once, by field.
        self.columns = {
            field.name: column(
                "" if travels_by_name(field.field) else root_of(field.field).get_internal_type(),
                connection,
                found.get(field.column),
                functools.partial(self.load, field.name),
            )
            for field in mirrored.fields
        }

    def load(self, name: str, value: Any) -> Any:
        """Return the value to bind. Raises WrongValue."""
        if value is None:
            return None
        try:
            return self._loaders[name](value)
        except _REFUSALS as error:
            reason = ", ".join(error.messages) if isinstance(error, ValidationError) else error
            raise WrongValue(
                f"{self.mirrored.label}.{name} does not take {value!r:.200}: {reason}"
            ) from error


def _loader(field: MirroredField, connection: BaseDatabaseWrapper, limit: Limit | None) -> Load:
    root: Any = root_of(field.field)
    if travels_by_name(field.field):
        return _name_loader(root.model, connection)
    if isinstance(root, models.JSONField):
        return _document_loader(connection, limit)
    kind = kind_of(root)
    if kind is None:
        return _unknown_loader(connection)
    load, bind = kind.load, kind.bind

    def loaded(value: Any) -> Any:
        value = as_read(value, connection)
        if is_wrapped(value):
            return unwrap(value, connection)
        taken = load(value)
        _respect(limit, taken)
        return bind(taken, connection, root)

    return loaded


def _document_loader(connection: BaseDatabaseWrapper, limit: Limit | None) -> Load:
    def loaded(value: Any) -> Any:
        inner: Any = value.get(documents.TEXT) if isinstance(value, dict) and len(value) == 1 else None
        if is_wrapped(inner):
            return unwrap(inner, connection)
        text = documents.load(value)
        _respect(limit, text)
        return text

    return loaded


def _unknown_loader(connection: BaseDatabaseWrapper) -> Load:
    return lambda value: unwrap(value, connection) if is_wrapped(value) else from_plain(value)


def _name_loader(model: Any, connection: BaseDatabaseWrapper) -> Load:
    manager = model.objects.db_manager(connection.alias)

    def loaded(value: Any) -> Any:
        if not isinstance(value, list):
            raise ValueError(f"not the natural key of a {model._meta.verbose_name}")
        return manager.get_by_natural_key(*value).pk

    return loaded


def _respect(limit: Limit | None, value: Any) -> None:
    reason = limit(value) if limit is not None else None
    if reason is not None:
        raise ValueError(reason)

"""Which models are mirrored, which of their columns, and what identifies a row: decided here only.

Rows of a UUIDModel match on ``id``; its ``pkid`` is each server's own. A row without a UUID of its own
whose primary key or both ends are such a ``pkid`` (a multi-table child, an automatic many-to-many row)
matches by its parents' UUIDs. Everything else matches on its primary key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from django.apps import apps
from django.core.signals import setting_changed
from django.db import models
from django.db.models import Field, Model

from mirror.conf import conf


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A column that holds another table's local ``pkid`` and travels as that row's UUID."""

    label: str
    table: str
    pk_column: str
    uuid_column: str
    uuid_field: Field[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class MirroredField:
    """A column that is captured. ``name`` is what Django's serializers call it."""

    name: str
    column: str
    field: Field[Any, Any]
    reference: Reference | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MirroredModel:
    label: str
    model: type[Model]
    table: str
    fields: tuple[MirroredField, ...]
    pk: MirroredField | None
    key: tuple[MirroredField, ...]

    @property
    def local_pk(self) -> bool:
        """True where the primary key's value means nothing to another server."""
        if any(field.reference for field in self.key):
            return True
        return self.pk is not None and self.pk not in self.key

    @property
    def merges(self) -> bool:
        """True where rows of several sources cannot collide."""
        return all(
            field.reference or isinstance(root_of(field.field), models.UUIDField) for field in self.key
        )

    def by_name(self) -> dict[str, MirroredField]:
        return {field.name: field for field in self.fields}


def matches(label: str, patterns: Iterable[str]) -> bool:
    """Whether ``app_label.Model`` is meant by one of the patterns; case does not matter."""
    return any(fnmatchcase(label.lower(), pattern.lower()) for pattern in patterns)


def listed(model: type[Model]) -> bool:
    """Whether MIRROR["MODELS"] means this model; automatic m2m rows follow their two ends."""
    meta = model._meta
    if meta.proxy or meta.abstract or meta.app_label == "mirror" or meta.swapped:
        return False
    if matches(meta.label, conf().models):
        return True
    if not meta.auto_created:
        return False
    ends = [field.related_model for field in meta.fields if field.is_relation]
    return bool(ends) and all(
        isinstance(end, type) and matches(end._meta.label, conf().models) for end in ends
    )


@cache
def mirrored_models() -> dict[str, MirroredModel]:
    """Every mirrored model by its lower-case label."""
    return {
        model._meta.label_lower: _describe(model)
        for model in apps.get_models(include_auto_created=True)
        if listed(model)
    }


def excluded(model: type[Model], field: Field[Any, Any]) -> bool:
    name = f"{model._meta.label}.{field.name}".lower()
    return any(name == entry.lower() for entry in conf().exclude_fields)


def _describe(model: type[Model]) -> MirroredModel:
    fields = tuple(
        MirroredField(name=field.name, column=str(field.column), field=field, reference=_reference(field))
        for field in model._meta.local_concrete_fields
        if not excluded(model, field) and not getattr(field, "generated", False)
    )
    by_name = {field.name: field for field in fields}
    pk = by_name.get(model._meta.pk.name)
    return MirroredModel(
        label=model._meta.label_lower,
        model=model,
        table=model._meta.db_table,
        fields=fields,
        pk=pk,
        key=tuple(by_name[name] for name in _key_names(model)),
    )


def _key_names(model: type[Model]) -> tuple[str, ...]:
    uuid_field = _uuid_field(model)
    if uuid_field is not None:
        return (uuid_field.name,)
    if model._meta.auto_created:
        ends = [field for field in model._meta.local_concrete_fields if field.is_relation]
        if any(_reference(end) for end in ends):
            return tuple(end.name for end in ends)
    pk_fields = getattr(model._meta, "pk_fields", None) or [model._meta.pk]
    return tuple(field.name for field in pk_fields)


def _uuid_field(model: type[Model]) -> Field[Any, Any] | None:
    """The ``id`` of a UUIDModel, recognised by its shape: projects brought their own before ours."""
    if not isinstance(model._meta.pk, models.AutoField | models.BigAutoField | models.SmallAutoField):
        return None
    for field in model._meta.local_concrete_fields:
        if field.name == "id" and isinstance(field, models.UUIDField) and field.unique and not field.null:
            return field
    return None


def root_of(field: Field[Any, Any]) -> Field[Any, Any]:
    """The field that gives a column its type: a foreign key's target, and its target's, to the end."""
    root: Any = field
    while root.is_relation:
        root = root.target_field
    return root  # type: ignore[no-any-return]


def _reference(field: Field[Any, Any]) -> Reference | None:
    root: Any = root_of(field)
    if root is field or not root.primary_key:
        return None
    uuid_field = _uuid_field(root.model)
    if uuid_field is None or not listed(root.model):
        return None
    meta = root.model._meta
    return Reference(
        label=meta.label_lower,
        table=meta.db_table,
        pk_column=str(root.column),
        uuid_column=str(uuid_field.column),
        uuid_field=uuid_field,
    )


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in {"MIRROR", "INSTALLED_APPS"}:
        mirrored_models.cache_clear()


setting_changed.connect(_forget, dispatch_uid="mirror.registry")

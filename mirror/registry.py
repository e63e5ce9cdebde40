"""Which models are mirrored, which of their columns, and what identifies a row: decided here only.

Rows of a UUIDModel match on ``id``; its ``pkid`` is each server's own. A row without a UUID of its own
whose primary key or both ends are such a ``pkid`` (a multi-table child, an automatic many-to-many row)
matches by its parents' UUIDs. Content types and permissions match by name. Everything else matches on its
primary key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from django.apps import apps
from django.apps.registry import Apps
from django.contrib.contenttypes.fields import GenericForeignKey
from django.core.signals import setting_changed
from django.db import models
from django.db.migrations.loader import MigrationLoader
from django.db.models import Field, Model

from mirror.conf import conf

CONTENT_TYPE = "contenttypes.contenttype"

#: Rows that ``migrate`` makes on every server, numbered as they come there, and what identifies them instead.
_MADE_BY_MIGRATE = {
    "auth.permission": ("content_type", "codename"),
    CONTENT_TYPE: ("app_label", "model"),
}


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
class GenericReference:
    """A column that holds the key of a row of the table that another column names: a GenericForeignKey."""

    kind: MirroredField
    number: MirroredField


@dataclass(frozen=True, slots=True, kw_only=True)
class MirroredModel:
    label: str
    model: type[Model]
    table: str
    fields: tuple[MirroredField, ...]
    pk: MirroredField | None
    key: tuple[MirroredField, ...]
    generic: tuple[GenericReference, ...] = ()

    @property
    def local_pk(self) -> bool:
        """True where the primary key's value means nothing to another server."""
        if any(field.reference for field in self.key):
            return True
        return self.pk is not None and self.pk not in self.key

    @property
    def merges(self) -> bool:
        """True where rows of several sources cannot collide."""
        return self.label in _MADE_BY_MIGRATE or all(
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
    return described(apps)


def described(registry: Apps) -> dict[str, MirroredModel]:
    """The same of other models than those of the code: of the past, which ``migrate`` hands out.

    Its models of apps without migrations have no relations: those of the code are taken for them.
    """
    unmigrated = set() if registry is apps else MigrationLoader(None).unmigrated_apps
    models = [
        model
        for origin, current in ((registry, False), (apps, True))
        for model in origin.get_models(include_auto_created=True)
        if (model._meta.app_label in unmigrated) is current
    ]
    return {model._meta.label_lower: describe(model) for model in _one_a_table(models)}


def _one_a_table(models: Iterable[type[Model]]) -> list[type[Model]]:
    """Those that are listed; of several with one table (an unmanaged twin) the one that knows most of it.

    A row is told once, with all its columns.
    """
    chosen: dict[str, type[Model]] = {}
    for model in filter(listed, models):
        table = model._meta.db_table
        chosen[table] = max(chosen.get(table, model), model, key=_knowledge)
    return list(chosen.values())


def _knowledge(model: type[Model]) -> tuple[bool, int]:
    return model._meta.managed, len(model._meta.local_concrete_fields)


def excluded(model: type[Model], field: Field[Any, Any]) -> bool:
    name = f"{model._meta.label}.{field.name}".lower()
    return any(name == entry.lower() for entry in conf().exclude_fields)


def describe(model: type[Model]) -> MirroredModel:
    """Also of a model as ``migrate`` hands it out."""
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
        generic=tuple(
            GenericReference(kind=by_name[field.ct_field], number=by_name[field.fk_field])
            for field in model._meta.private_fields
            if isinstance(field, GenericForeignKey) and {field.ct_field, field.fk_field} <= by_name.keys()
        ),
    )


def _key_names(model: type[Model]) -> tuple[str, ...]:
    if model._meta.label_lower in _MADE_BY_MIGRATE:
        return _MADE_BY_MIGRATE[model._meta.label_lower]
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


def travels_by_name(field: Field[Any, Any]) -> bool:
    """Content types and permissions are numbered differently on every server: their natural key travels."""
    if not field.is_relation:
        return False
    root = root_of(field)
    return root.primary_key and root.model._meta.label_lower in _MADE_BY_MIGRATE


def _reference(field: Field[Any, Any]) -> Reference | None:
    root = root_of(field)
    return None if root is field or not root.primary_key else _reference_to(root)


def reference_to_rows(natural_key: Any) -> Reference | None:
    """How rows of a content type are referred to; None where their primary key is the same everywhere."""
    try:
        model = apps.get_model(*natural_key)._meta.concrete_model
    except (LookupError, TypeError, ValueError):
        return None
    return None if model is None else _reference_to(root_of(model._meta.pk))


def _reference_to(root: Any) -> Reference | None:
    uuid_field = _uuid_field(root.model)
    if uuid_field is None or not listed(root.model):
        return None
    meta = root.model._meta
    sharing = [m for m in meta.apps.get_models() if m._meta.db_table == meta.db_table]
    return Reference(
        label=_one_a_table(sharing)[0]._meta.label_lower,
        table=meta.db_table,
        pk_column=str(root.column),
        uuid_column=str(uuid_field.column),
        uuid_field=uuid_field,
    )


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in {"MIRROR", "INSTALLED_APPS"}:
        mirrored_models.cache_clear()


setting_changed.connect(_forget, dispatch_uid="mirror.registry")

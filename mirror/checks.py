"""System checks: every mistake in MIRROR and around it, found before it costs data. Ids are stable.

While MIRROR itself cannot be read only E001 speaks; the other checks wait for a setting to judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.sessions.base_session import AbstractBaseSession
from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004
from django.db import connections, router
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Field, Model

from mirror import capture, registry
from mirror.conf import Conf, conf, decode_conf, known_keys
from mirror.errors import ConfigurationError

TAG = "mirror"

_SQLITE_OPTIONS = (
    '"OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20, '
    '"init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;"}'
)

#: The layer that waits in Redis for up to so many seconds.
_REDIS_LAYER, _REDIS_WAITS = "channels_redis.core.RedisChannelLayer", 5

_PATTERN = re.compile(r"[^.\s]+\.[^.\s]+")


def _judges(check: Callable[[Conf], Iterator[CheckMessage]]) -> Callable[..., list[CheckMessage]]:
    """Register a check of a MIRROR that can be read."""

    @register(TAG)
    def run(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
        return [] if check_setting(None) else list(check(conf()))

    return run


# The setting itself


@register(TAG)
def check_setting(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    value = getattr(settings, "MIRROR", {})
    if not isinstance(value, dict):
        return [
            _error(
                "E001", f"MIRROR is a {type(value).__name__}.", 'Make it a dict: MIRROR = {"MODELS": [...]}'
            )
        ]
    return [error for key, item in value.items() for error in _key_errors(key, item)]


def _key_errors(key: Any, item: Any) -> Iterator[CheckMessage]:
    if key not in known_keys():
        hint = _meant(str(key).upper(), known_keys()) or f"Known keys: {', '.join(known_keys())}."
        yield _error("E001", f"MIRROR has an unknown key {key!r}.", hint)
        return
    try:
        decode_conf({key: item})
    except ConfigurationError as error:
        default = getattr(Conf(), key.lower())
        yield _error(
            "E001", f"MIRROR[{key!r}]: {error}.", f"Correct it, or leave it out for the default, {default!r}."
        )


@_judges
def check_something_is_mirrored(setting: Conf) -> Iterator[CheckMessage]:
    if not setting.models:
        yield Warning(
            "MIRROR lists no models: nothing is captured, and nothing is accepted from a source.",
            hint='Add to the settings: MIRROR = {"MODELS": ["your_app.*"]}',
            obj="MIRROR",
            id="mirror.W004",
        )


@_judges
def check_retention(setting: Conf) -> Iterator[CheckMessage]:
    if setting.oplog_days is None:
        return
    if setting.keep_days is None or setting.oplog_days < setting.keep_days:
        yield _error(
            "E008",
            f"MIRROR['OPLOG_DAYS'] is {setting.oplog_days:g}, but KEEP_DAYS asks to keep "
            f"{'everything' if setting.keep_days is None else f'{setting.keep_days:g} days'}.",
            "OPLOG_DAYS is a limit for what mirrors lack: make it more than KEEP_DAYS, or leave it out.",
        )


# What it names


@_judges
def check_models(setting: Conf) -> Iterator[CheckMessage]:
    for pattern in setting.models:
        if not _PATTERN.fullmatch(pattern):
            hint = 'Write it as "app_label.Model", or "app_label.*" for all of an app.'
            yield _error("E002", f"MIRROR['MODELS']: {pattern!r} is no pattern of models.", hint)
        elif not any(registry.matches(model._meta.label, [pattern]) for model in _models()):
            yield _error(
                "E002", f"MIRROR['MODELS']: {pattern!r} matches no installed model.", _model_hint(pattern)
            )


def _model_hint(pattern: str) -> str:
    for model in apps.get_models():
        concrete = model._meta.concrete_model
        if concrete is not None and concrete is not model and registry.matches(model._meta.label, [pattern]):
            return f"{model._meta.label} is a proxy: list {concrete._meta.label}."
    labels = [model._meta.label for model in _models()]
    ways = [*labels, *sorted({f"{label.partition('.')[0]}.*" for label in labels})]
    return _meant(pattern, ways) or "Is its app in INSTALLED_APPS?"


@_judges
def check_fields(setting: Conf) -> Iterator[CheckMessage]:
    known = {
        _path(model, field).lower(): _path(model, field) for model in _models() for field in _columns(model)
    }
    named = {"EXCLUDE_FIELDS": setting.exclude_fields, "ALLOW_SENSITIVE": setting.allow_sensitive}
    for key, entries in named.items():
        for entry in entries:
            if entry.lower() in known:
                continue
            hint = 'Write it as "app_label.Model.field"; there are no patterns here.'
            if entry.count(".") == 2:
                hint = _meant(entry, known.values()) or hint
            yield _error("E003", f"MIRROR[{key!r}]: {entry!r} names no field of an installed model.", hint)


@_judges
def check_sensitive(setting: Conf) -> Iterator[CheckMessage]:
    allowed = {entry.lower() for entry in setting.allow_sensitive}
    for model in _mirrored():
        for field in _columns(model):
            path = _path(model, field)
            if not _sensitive(model, field) or registry.excluded(model, field) or path.lower() in allowed:
                continue
            hint = f'Add "{path}" to MIRROR["EXCLUDE_FIELDS"], or to "ALLOW_SENSITIVE" if it must be sent.'
            if issubclass(model, AbstractBaseSession):
                hint = 'Take the sessions out of MIRROR["MODELS"]: who has them is logged in as everybody.'
            yield _error("E004", f"{path} would leave this server.", hint)


@_judges
def check_own_tables(setting: Conf) -> Iterator[CheckMessage]:
    for pattern in setting.models:
        apps_meant = {
            model._meta.app_label for model in _models() if registry.matches(model._meta.label, [pattern])
        }
        # A pattern for everything is understood as everything else.
        if apps_meant == {"mirror"}:
            hint = 'Take it out of MIRROR["MODELS"]: every mirror keeps its own.'
            yield _error(
                "E004", f"{pattern!r} names the mirror's own tables, which never leave a server.", hint
            )


def _sensitive(model: type[Model], field: Field[Any, Any]) -> bool:
    if issubclass(model, AbstractBaseSession):
        return True
    return issubclass(model, AbstractBaseUser) and field.name == "password"


@_judges
def check_keys(setting: Conf) -> Iterator[CheckMessage]:
    for model in _mirrored():
        keys = {*registry._key_names(model), *(field.name for field in model._meta.pk_fields)}
        for field in _columns(model):
            if field.name in keys and registry.excluded(model, field):
                hint = f'Take "{_path(model, field)}" out of MIRROR["EXCLUDE_FIELDS"].'
                yield _error("E005", f"{_path(model, field)} is excluded, but identifies the row.", hint)


@_judges
def check_references(setting: Conf) -> Iterator[CheckMessage]:
    for model in _mirrored():
        for field in _columns(model):
            target = _target(field)
            if target is None or registry.excluded(model, field) or registry.listed(target):
                continue
            label = target._meta.label
            hint = f'Add "{label}" to MIRROR["MODELS"]'
            hint += "." if field.primary_key else f', or "{_path(model, field)}" to "EXCLUDE_FIELDS".'
            yield Warning(
                f"It refers to {label}, which is not mirrored: the row would point at nothing at the centre.",
                hint=hint,
                obj=field,
                id="mirror.W001",
            )


def _target(field: Field[Any, Any]) -> type[Model] | None:
    """The table that a foreign key refers to. Content types are excepted: they travel by name."""
    target = field.related_model
    if not isinstance(target, type) or target._meta.label_lower == "contenttypes.contenttype":
        return None
    return target._meta.concrete_model


# The database


@_judges
def check_database(setting: Conf) -> Iterator[CheckMessage]:
    alias = setting.database
    if alias not in connections.settings:
        hint = _meant(alias, connections.settings) or f"Configured: {', '.join(connections.settings)}."
        yield _error("E006", f"MIRROR['DATABASE']: {alias!r} is not in DATABASES.", hint)
        return
    vendor = connections[alias].vendor
    if setting.capture == "triggers" and not capture.supported(vendor):
        hint = (
            f'There are for {", ".join(capture.WRITERS)}. Elsewhere: "CAPTURE": "signals" (docs/signals.md). '
            'On a server that only mirrors: "CAPTURE": None.'
        )
        yield _error("E007", f"MIRROR['CAPTURE']: there are no triggers for {vendor} yet.", hint)


@_judges
def check_read_only(setting: Conf) -> Iterator[CheckMessage]:
    if setting.read_only == "triggers" and setting.capture == "triggers":
        hint = '"READ_ONLY": True refuses without triggers; on a server that only mirrors: "CAPTURE": None.'
        yield _error("E040", "MIRROR has triggers capture what READ_ONLY has triggers refuse.", hint)
    elif setting.read_only in {True, "triggers"} and setting.capture is not None:
        yield Warning(
            "MIRROR captures the writes to tables that READ_ONLY lets nobody write to.",
            hint='Leave out "READ_ONLY" where people write; "CAPTURE": None is for servers that only mirror.',
            obj="MIRROR",
            id="mirror.W040",
        )
    if setting.read_only == "triggers" and setting.database in connections.settings:
        vendor = connections[setting.database].vendor
        if not capture.supported(vendor):
            hint = f'There are for {", ".join(capture.WRITERS)}. "READ_ONLY": True refuses what Django sends.'
            yield _error("E041", f"MIRROR['READ_ONLY']: there are no triggers for {vendor} yet.", hint)


@_judges
def check_routers(setting: Conf) -> Iterator[CheckMessage]:
    if setting.capture is None or setting.database not in connections.settings:
        return
    ours = connections[setting.database]
    for model in _mirrored():
        alias = router.db_for_write(model)
        if alias == setting.database:
            continue
        # Triggers do not ask by what name their database was called.
        if setting.capture == "triggers" and same_database(connections[alias], ours):
            continue
        yield Warning(
            f"Its rows are written to the database {alias!r} (DATABASE_ROUTERS), but MIRROR records "
            f"{setting.database!r} alone: they are not captured.",
            hint=f'Set MIRROR["DATABASE"] to {alias!r} if all listed models are written there, let the '
            f"router send {model._meta.label} to {setting.database!r}, or do not list it.",
            obj=model,
            id="mirror.W005",
        )


def same_database(one: BaseDatabaseWrapper, other: BaseDatabaseWrapper) -> bool:
    """Whether two aliases lead to one place, as far as their settings say it."""
    keys = ("ENGINE", "HOST", "PORT", "NAME")
    return all(str(one.settings_dict.get(key, "")) == str(other.settings_dict.get(key, "")) for key in keys)


@_judges
def check_sqlite(setting: Conf) -> Iterator[CheckMessage]:
    if setting.database not in connections.settings:
        return
    connection: Any = connections[setting.database]
    if connection.vendor != "sqlite" or connection.is_in_memory_db():
        return
    missing = _missing_options(connection.settings_dict.get("OPTIONS", {}))
    if missing:
        yield Warning(
            f"The SQLite database {setting.database!r} will fail with 'database is locked' when the "
            f"application and the mirror write at once: {', '.join(missing)}.",
            hint=f"Add to DATABASES[{setting.database!r}]: {_SQLITE_OPTIONS}",
            obj="DATABASES",
            id="mirror.W002",
        )


def _missing_options(options: dict[str, Any]) -> Iterable[str]:
    missing = []
    if str(options.get("transaction_mode", "")).upper() not in {"IMMEDIATE", "EXCLUSIVE"}:
        missing.append("transactions do not take the write lock when they begin")
    if not re.search(r"journal_mode\W+wal\b", str(options.get("init_command", "")), re.IGNORECASE):
        missing.append("readers block writers without write-ahead logging")
    if "timeout" not in options:
        missing.append("waiting for the lock ends after 5 seconds")
    return missing


# Hints between processes


@_judges
def check_layer(setting: Conf) -> Iterator[CheckMessage]:
    layers, alias = getattr(settings, "CHANNEL_LAYERS", {}), setting.channel_layer
    if alias is None:
        return
    if alias not in layers:
        if "CHANNEL_LAYER" in getattr(settings, "MIRROR", {}):
            hint = _meant(alias, layers) or f"Configured: {', '.join(layers) or 'none'}."
            hint += ' "CHANNEL_LAYER": None does without hints.'
            yield _error("E030", f"MIRROR['CHANNEL_LAYER']: {alias!r} is not in CHANNEL_LAYERS.", hint)
        return
    hosts = layers[alias].get("CONFIG", {}).get("hosts") or [None]
    if (
        layers[alias].get("BACKEND") == _REDIS_LAYER
        and _major_version("redis") >= 8
        and not all(_lets_wait(host) for host in hosts)
    ):
        yield Warning(
            f"CHANNEL_LAYERS[{alias!r}]: redis-py 8 gives up after 5 seconds, for which channels_redis "
            "waits: consumers that use the layer are closed whenever nothing is sent for so long.",
            hint='Write each of "hosts" as {"address": "redis://...", "socket_timeout": None}.',
            obj="CHANNEL_LAYERS",
            id="mirror.W030",
        )


def _major_version(distribution: str) -> int:
    """0 if it is not installed."""
    try:
        return int(version(distribution).partition(".")[0])
    except PackageNotFoundError:
        return 0


def _lets_wait(host: Any) -> bool:
    if not isinstance(host, dict) or "socket_timeout" not in host:
        return False
    timeout = host["socket_timeout"]
    return timeout is None or timeout > _REDIS_WAITS


# What they share


def _models() -> list[type[Model]]:
    return [model for model in apps.get_models(include_auto_created=True) if not model._meta.proxy]


def _mirrored() -> list[type[Model]]:
    return [model for model in _models() if registry.listed(model)]


def _columns(model: type[Model]) -> list[Field[Any, Any]]:
    return list(model._meta.local_concrete_fields)


def _path(model: type[Model], field: Field[Any, Any]) -> str:
    return f"{model._meta.label}.{field.name}"


def _meant(word: str, options: Iterable[str]) -> str:
    by_lower = {option.lower(): option for option in options}
    close = get_close_matches(word.lower(), by_lower, n=1)
    return f"Did you mean {by_lower[close[0]]!r}?" if close else ""


def _error(number: str, text: str, hint: str) -> CheckMessage:
    return Error(text, hint=hint, obj="MIRROR", id=f"mirror.{number}")

"""A source and a centre with the zoo's tables, on any two engines; and what their rows are, exactly."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import MAX_PREC, Context, Decimal
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F
from django.db.utils import DatabaseError
from django.test import override_settings

from mirror import oplogger
from mirror.apply import Applier
from mirror.errors import ApplyError
from mirror.models import Source, Stream
from tests import mysql_driver
from tests.end_to_end.databases import served
from tests.fakes import Centre, Recorded
from tests.mirror.conftest import attached, sqlite

ENGINES = ["sqlite", "postgresql", "mariadb"]
_MARKS = {"postgresql": pytest.mark.postgresql, "mariadb": pytest.mark.mariadb}
#: Every ordered pair, as the parameters of a test.
PAIRS = [
    pytest.param(
        (source, centre),
        id=f"{source}-{centre}",
        marks=[_MARKS[engine] for engine in dict.fromkeys((source, centre)) if engine in _MARKS],
    )
    for source in ENGINES
    for centre in ENGINES
]

_KEPT = {"django_migrations", "django_content_type", "auth_permission"}
#: A content type has another number at the centre.
_SHIFT = 1000


@dataclass
class Pair:
    source: Recorded
    centre: Centre
    engines: tuple[str, str]

    def follow(self) -> None:
        self.centre.follow(self.source)

    def restart(self) -> None:
        """As a mirror that is started again, which looks at the centre's tables anew."""
        self.centre.applier = Applier(self.centre.source.pk, fence=0, using="centre")

    def refuses(self, *named: str) -> str:
        """The centre takes nothing of what the source did, and says which value it is; return its reason."""
        with pytest.raises(ApplyError) as caught:
            self.follow()
        text = str(caught.value)
        assert caught.value.code in {"wrong_value", "constraint_failed", "missing_parent"}
        assert all(name in text for name in named), text
        self.skip()
        return text

    def skip(self) -> None:
        """Go on behind what was refused, as if somebody had parked it."""
        stream = self.source.stream
        self.centre.cursor, self.centre.position = stream.head, stream.position
        Source.objects.using("centre").filter(pk=self.centre.source.pk).update(
            cursor=stream.head, position=stream.position
        )

    def values(self, model: type[models.Model]) -> tuple[list[Any], list[Any]]:
        """Every row of both sides as Django reads it."""
        return tuple(rows(model, alias, self.engines) for alias in ("default", "centre"))  # type: ignore[return-value]

    def assert_same(self, *compared: type[models.Model]) -> None:
        for model in compared:
            mine, theirs = self.values(model)
            assert theirs == mine
            if len(set(self.engines)) == 1:
                kept, copied = stored(model, "default"), stored(model, "centre")
                assert copied == kept


def rows(model: type[models.Model], alias: str, engines: tuple[str, ...]) -> list[Any]:
    local = {"pkid"} if hasattr(model, "pkid") else set()
    fields = [field for field in model._meta.local_concrete_fields if field.attname not in local]
    portable = [field for field in fields if not _is_local(field)]
    found = model._base_manager.using(alias).values_list(*(field.attname for field in portable))
    within = [(*engines, "json") if isinstance(field, models.JSONField) else engines for field in portable]
    return sorted([tuple(map(exact, row, within)) for row in found], key=repr)


def _is_local(field: Any) -> bool:
    """A reference whose number is each server's own; the tests of references follow them instead."""
    if not field.is_relation:
        return False
    target = field.target_field
    while target.is_relation:
        target = target.target_field
    return target.name == "pkid" or target.model is ContentType


def exact(value: Any, engines: tuple[str, ...] = ()) -> Any:
    """A value with its type, such that only the very same is equal."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float) and {"json", "postgresql"} <= set(engines):
        # jsonb writes out 1e300, which Python then reads as an integer.
        return "number", str(Decimal(repr(value)).normalize(Context(prec=MAX_PREC)))
    if isinstance(value, float):
        # SQLite and jsonb have no negative zero.
        return "float", struct.pack(">d", value + 0.0 if set(engines) & {"sqlite", "json"} else value).hex()
    if isinstance(value, Decimal):
        return "decimal", str(value)
    if isinstance(value, datetime):
        return "datetime", value.tzinfo is not None, str(value.astimezone(UTC) if value.tzinfo else value)
    if isinstance(value, bytes | memoryview | bytearray):
        return "bytes", bytes(value)
    if isinstance(value, list | tuple):
        return [exact(item, (*engines, "json")) for item in value]
    if isinstance(value, dict):
        return {key: exact(item, (*engines, "json")) for key, item in value.items()}
    return type(value).__name__, str(value) if isinstance(value, models.Model) else repr(value)


def stored(model: type[models.Model], alias: str) -> list[Any]:
    """Every row as its engine prints what it stores, past Django and most of the driver."""
    connection = connections[alias]
    quote = connection.ops.quote_name
    forms = {
        "sqlite": "typeof({0}), CASE typeof({0}) WHEN 'real' THEN printf('%!.20g', {0}) ELSE {0} END",
        "postgresql": "{0}::text",
        "mysql": "HEX(CAST({0} AS BINARY))",
    }
    columns = [
        forms[connection.vendor].format(quote(field.column))
        for field in model._meta.local_concrete_fields
        if field.attname != "pkid" and not _is_local(field)
    ]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(columns)} FROM {quote(model._meta.db_table)}")
        return sorted(cursor.fetchall(), key=repr)


# Databases


@contextmanager
def zoo(*more_apps: str) -> Iterator[None]:
    labels = ["zoo.*", *(f"{app.rpartition('.')[2]}.*" for app in more_apps if app.startswith("tests."))]
    with override_settings(
        INSTALLED_APPS=[*settings.INSTALLED_APPS, "tests.zoo", *more_apps], MIRROR={"MODELS": labels}
    ):
        yield


@contextmanager
def migrated(engine: str, role: str, directory: Path, *more_apps: str) -> Iterator[dict[str, Any]]:
    """A database of this run's own, made by ``migrate``; triggers only at the source."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    name = f"livemirror_zoo{len(more_apps)}_{role}_{worker}_{os.getpid()}"
    with ExitStack() as stack:
        if engine == "sqlite":
            database = sqlite(directory / f"{role}.sqlite3")
        else:
            if engine == "mariadb":
                mysql_driver.install()
            database = stack.enter_context(served(engine, name))
        alias = "default" if role == "source" else "centre"
        if more_apps and engine == "postgresql":
            with attached(alias, database) as connection, connection.cursor() as cursor:
                cursor.execute("CREATE EXTENSION hstore; CREATE EXTENSION citext")
        if role == "source":
            with attached("default", database):
                _migrate("default")
        else:
            setting = {**settings.MIRROR, "CAPTURE": None, "DATABASE": "centre"}
            with attached("centre", database), override_settings(MIRROR=setting):
                _migrate("centre")
        yield database


def _migrate(alias: str) -> None:
    # The zoo, which has no migrations, comes second: it refers to content types, which have.
    call_command("migrate", database=alias, verbosity=0)
    call_command("migrate", database=alias, run_syncdb=True, verbosity=0)


def empty(connection: BaseDatabaseWrapper) -> None:
    tables = sorted(set(connection.introspection.table_names()) - _KEPT)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET session_replication_role = replica")
            cursor.execute(f"TRUNCATE {', '.join(map(connection.ops.quote_name, tables))} RESTART IDENTITY")
            cursor.execute("SET session_replication_role = origin")
            return
        switch = (
            "PRAGMA foreign_keys = {}" if connection.vendor == "sqlite" else "SET foreign_key_checks = {}"
        )
        cursor.execute(switch.format(0))
        for table in [*tables, "mirror_outbox"]:
            cursor.execute(f"DELETE FROM {connection.ops.quote_name(table)}")
        cursor.execute(switch.format(1))


@contextmanager
def paired(source: dict[str, Any], centre: dict[str, Any], engines: tuple[str, str]) -> Iterator[Pair]:
    """Both databases attached and empty; content types are numbered differently at the centre."""
    oplogger.forget()
    ContentType.objects.clear_cache()
    with attached("default", source) as default, attached("centre", centre) as other:
        empty(default)
        empty(other)
        Stream.objects.create(local=True)
        types = ContentType.objects.using("centre")
        if types.filter(pk__lt=_SHIFT).exists():
            with other.constraint_checks_disabled(), transaction.atomic(using="centre"):
                types.update(id=F("id") + _SHIFT)
                Permission.objects.using("centre").update(content_type_id=F("content_type_id") + _SHIFT)
        yield Pair(source=Recorded("default"), centre=Centre("centre"), engines=engines)
    ContentType.objects.clear_cache()


def refused_by_source() -> tuple[type[Exception], ...]:
    """How a source says that it does not take a value; PyMySQL has errors of its own for infinity."""
    errors: tuple[type[Exception], ...] = (DatabaseError, ValueError, ArithmeticError, TypeError)
    if connections["default"].vendor == "mysql":
        import pymysql

        # The same, but loaded a second time under this name.
        from MySQLdb.err import Error  # type: ignore[import-untyped]

        errors = (*errors, pymysql.Error, Error)
    return errors


def nested(depth: int) -> Any:
    return json.loads("[" * depth + "]" * depth)

"""The centre is read-only: a write to a mirrored table that apply did not make is refused, by name.

An execute wrapper on each connection of MIRROR["DATABASE"] looks at what Django sends, from the ORM or as raw
SQL. ``migrate`` may write; people may in ``mirror.maintenance``; columns that are not mirrored are this
server's own.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import asgiref
import django
from django.apps import apps
from django.core.signals import setting_changed
from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from mirror.capture import writable
from mirror.capture.holes import report, sample_of, text_of
from mirror.conf import conf, read_only
from mirror.errors import ConfigurationError, ReadOnly
from mirror.permits import Permit, permit
from mirror.registry import MirroredModel, mirrored_models
from mirror.statements import Write, bare_name, writes

__all__ = ["Guard", "WriteRefused", "let_people_log_in", "switch", "update_last_login"]


class WriteRefused(ReadOnly, DatabaseError):
    """Also a DatabaseError, as from a database that refuses: nothing was sent, the transaction is usable."""

    def __init__(self, mirrored: MirroredModel, write: Write, offender: str) -> None:
        self.model = mirrored.model._meta.label
        self.table = mirrored.table
        self.operation = write.operation
        #: File, line and function that is neither Django's nor the mirror's; empty where the stack has none.
        self.offender = offender
        super().__init__(
            f"{self.model} is read-only here: {write.operation} on {mirrored.table} was refused"
            f"{f', asked for by {offender}' if offender else ''}. Write to it at the source. "
            'To repair something here: with mirror.maintenance("why"). See docs/readonly.md.'
        )


class Guard:
    """An execute wrapper of one connection."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self.connection = connection
        self._models: dict[str, MirroredModel] | None = None
        self._by_table: dict[str, MirroredModel] = {}

    def __call__(
        self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]
    ) -> Any:
        # Nearly every statement leaves here, for the price of a look at its beginning.
        if isinstance(sql, str) and sql.startswith("SELECT") and ";" not in sql:
            return execute(sql, params, many, context)
        given = permit()
        if given is not None and given.reason is None:
            return execute(sql, params, many, context)
        text = text_of(sql, self.connection)
        refused = list(self._refused(text))
        if not refused:
            return execute(sql, params, many, context)
        if given is None:
            self._refuse_unless_migrating(refused)
        # No trigger stands in the way of ALTER TABLE, which may not want a transaction around it.
        defines = all(write.defines for _mirrored, write in refused)
        with nullcontext() if defines else writable(self.connection):
            result = execute(sql, params, many, context)
        if given is not None:
            self._count(given, refused, text)
        return result

    def _refused(self, sql: str) -> Iterator[tuple[MirroredModel, Write]]:
        for write in writes(sql, self.connection.vendor):
            mirrored = self._mirrored(write.table)
            if mirrored is not None and not _only_own_columns(mirrored, write):
                yield mirrored, write

    def _mirrored(self, table: str) -> MirroredModel | None:
        models = mirrored_models()
        if models is not self._models:
            self._by_table = {bare_name(one.table): one for one in models.values()}
            self._models = models
        return self._by_table.get(table)

    def _refuse_unless_migrating(self, refused: list[tuple[MirroredModel, Write]]) -> None:
        offender = ""
        for frame in _frames(sys._getframe(1)):
            if frame.f_globals.get("__name__") in _MIGRATING:
                return
            code = frame.f_code
            if not offender and not _inside(code.co_filename):
                offender = f"{code.co_filename}:{frame.f_lineno} ({code.co_qualname})"
        raise WriteRefused(*refused[0], offender)

    def _count(self, given: Permit, refused: list[tuple[MirroredModel, Write]], sql: str) -> None:
        given.statements += 1
        for label in {mirrored.label for mirrored, _write in refused}:
            report(self.connection, label, "maintenance", f"{given.reason}: {sample_of(sql)}")


def _only_own_columns(mirrored: MirroredModel, write: Write) -> bool:
    """Whether nothing is set but columns that are not mirrored, such as a password or a last login."""
    if write.columns is None:
        return False
    columns = {str(field.column).lower() for field in mirrored.model._meta.local_concrete_fields}
    return write.columns <= columns - {field.column.lower() for field in mirrored.fields}


# Who asked

_MIGRATING = frozenset({"django.core.management.commands.migrate", "django.db.migrations.executor"})
_STANDARD = sysconfig.get_path("stdlib") + "/"
_INSTALLED = ("/site-packages/", "/dist-packages/")
_HERE = Path(__file__).resolve().parent
_INSIDE = tuple(
    f"{path}/"
    for path in (
        *(Path(str(package.__file__)).resolve().parent for package in (django, asgiref)),
        _HERE,
        _HERE.parent / "streamer",
        _HERE.parent / "client",
    )
)


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _inside(file: str) -> bool:
    if file.startswith(("<frozen", *_INSIDE)):
        return True
    return file.startswith(_STANDARD) and not any(part in file for part in _INSTALLED)


# Where


def switch(**kwargs: Any) -> None:
    """Put the guard where MIRROR asks for it: at the start of a process, and when a test changes it."""
    try:
        wanted = read_only()
    except ConfigurationError:
        wanted = False  # the system check says why
    (connection_created.connect if wanted else connection_created.disconnect)(
        _protect, dispatch_uid="mirror.readonly"
    )
    for connection in connections.all(initialized_only=True):
        _release(connection)
        if wanted:
            _protect(connection=connection)


def _protect(*, connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    if connection.alias == conf().database and not any(map(_is_guard, connection.execute_wrappers)):
        # In front: connection.execute_wrapper() takes away whatever is last.
        connection.execute_wrappers.insert(0, Guard(connection))


def _release(connection: BaseDatabaseWrapper) -> None:
    wrappers: list[Callable[..., Any]] = connection.execute_wrappers
    wrappers[:] = [wrapper for wrapper in wrappers if not _is_guard(wrapper)]


def _is_guard(wrapper: object) -> bool:
    return isinstance(wrapper, Guard)


setting_changed.connect(switch, dispatch_uid="mirror.readonly")


# Logging in


def update_last_login(sender: Any, user: Any, **kwargs: Any) -> None:
    """Takes the place of Django's: where that column is mirrored, who logs in here leaves no trace in it."""
    from django.contrib.auth import models

    mirrored = mirrored_models().get(user._meta.get_field("last_login").model._meta.label_lower)
    if not read_only() or mirrored is None or "last_login" not in mirrored.by_name():
        models.update_last_login(sender, user, **kwargs)


def let_people_log_in() -> None:
    if not apps.is_installed("django.contrib.auth"):
        return
    from django.contrib.auth import get_user_model
    from django.contrib.auth.signals import user_logged_in

    if not any(field.name == "last_login" for field in get_user_model()._meta.get_fields()):
        return
    connected = user_logged_in.disconnect(dispatch_uid="update_last_login")
    names = list(apps.app_configs)
    # One that comes later will find its name taken; one that came and is not there, the project took away.
    if connected or names.index("auth") > names.index("mirror"):
        user_logged_in.connect(update_last_login, dispatch_uid="update_last_login")

"""What ``CAPTURE: "signals"`` does not see: told from the models, and noticed when it happens.

Raw SQL that Django runs is noticed, not captured: whoever knows which rows it wrote is the database. It is
counted in memory once its transaction is committed, and kept in the database now and then.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import DatabaseError, IntegrityError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import F
from django.utils import timezone

from mirror.models import Hole
from mirror.registry import mirrored_models
from mirror.statements import bare_name, writes

__all__ = ["KnownHole", "Watch", "known_holes", "report", "sample_of", "seen_holes", "text_of"]

logger = logging.getLogger("mirror.capture")

#: Seconds between two writes of one hole: a count must not become what everybody waits for.
_KEEP_EVERY = 5.0
_SAMPLE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownHole:
    """Something that is not captured, or was not. Times and ``count`` are of what was seen."""

    #: "statement" (raw SQL), "keys" (a row of an old migration), "cascade", "maintenance" (if read-only).
    kind: str
    model: str
    text: str
    mend: str
    #: At least so many.
    count: int = 0
    first_seen: datetime | None = None
    last_seen: datetime | None = None


_MENDS = {
    "statement": "Write through the ORM, or save the rows once more through it: save() of each tells them.",
    "keys": "Save the rows once more: save() of each tells them.",
    "maintenance": "Make the rows the same as the source's again, and delete the entry of mirror_hole.",
}
_WORDS = {"maintenance": "written here in maintenance"}


def known_holes(connection: BaseDatabaseWrapper) -> list[KnownHole]:
    return [*_cascades(), *seen_holes(connection)]


def _cascades() -> Iterator[KnownHole]:
    """Foreign keys that the database itself follows when it deletes (Django 6.1)."""
    for mirrored in mirrored_models().values():
        for one in mirrored.fields:
            remote: Any = one.field.remote_field
            on_delete = getattr(remote, "on_delete", None)
            if on_delete is None or not hasattr(on_delete, "on_delete_sql"):
                continue
            name = f"{mirrored.label}.{one.name}"
            yield KnownHole(
                kind="cascade",
                model=mirrored.label,
                text=f"{name}: rows that the database changes for {on_delete} are not seen.",
                mend=f'Use {str(on_delete).removeprefix("DB_")} there, or CAPTURE: "triggers".',
            )


def seen_holes(connection: BaseDatabaseWrapper) -> Iterator[KnownHole]:
    """Those that were noticed when they were made, whatever is captured now."""
    for hole in Hole.objects.using(connection.alias).order_by("-last_seen"):
        yield KnownHole(
            kind=hole.kind,
            model=hole.model,
            text=f"{hole.model}: {_how(hole.kind)}, for instance by {hole.sample}",
            mend=_MENDS.get(hole.kind, ""),
            count=hole.count,
            first_seen=hole.first_seen,
            last_seen=hole.last_seen,
        )


def _how(kind: str) -> str:
    return _WORDS.get(kind, "written past the capture")


# Noticing


_LITERAL = re.compile(r"'(?:[^'\\]|''|\\.)*'|\$(\w*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w\"`$.])\d+(?:\.\d+)?")


class Watch:
    """An execute wrapper that notices raw SQL which writes to a mirrored table."""

    def __init__(self, connection: BaseDatabaseWrapper, covered: Callable[[], bool]) -> None:
        self.connection = connection
        self._covered = covered

    def __call__(
        self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]
    ) -> Any:
        result = execute(sql, params, many, context)
        if not self._covered():
            self._look(text_of(sql, self.connection))
        return result

    def _look(self, sql: str) -> None:
        tables = {write.table for write in writes(sql, self.connection.vendor) if not write.defines}
        for mirrored in mirrored_models().values() if tables else ():
            if bare_name(mirrored.table) in tables:
                report(self.connection, mirrored.label, "statement", sample_of(sql))


def text_of(sql: Any, connection: BaseDatabaseWrapper) -> str:
    """Drivers also take bytes, and objects of their own."""
    if isinstance(sql, bytes):
        return sql.decode(errors="replace")
    as_string = getattr(sql, "as_string", None)
    return str(as_string(connection.connection) if as_string else sql)


def sample_of(sql: str) -> str:
    """A statement without its values."""
    return " ".join(_NUMBER.sub("?", _LITERAL.sub("?", sql)).split())


# Keeping


@dataclass(slots=True)
class _Tally:
    count: int = 0
    kept_at: float | None = None


_tallies: dict[tuple[str, str, str, str], _Tally] = {}
_lock = threading.Lock()


def report(connection: BaseDatabaseWrapper, model: str, kind: str, sample: str) -> None:
    """Count a hole when the transaction that made it is committed."""

    def committed() -> None:
        _count(connection.alias, model, kind, sample[:_SAMPLE])

    if connection.in_atomic_block or connection.get_autocommit():
        connection.on_commit(committed, robust=True)
    else:
        committed()  # the project commits by itself, and nobody is told when


def _count(
    alias: str, model: str, kind: str, sample: str, clock: Callable[[], float] = time.monotonic
) -> None:
    connection = connections[alias]
    key = alias, str(connection.settings_dict["NAME"]), kind, model
    now = clock()
    with _lock:
        tally = _tallies.setdefault(key, _Tally())
        tally.count += 1
        first = tally.kept_at is None
        due = tally.kept_at is None or now - tally.kept_at >= _KEEP_EVERY
        if not due or connection.in_atomic_block or not connection.get_autocommit():
            return
        count, tally.count, tally.kept_at = tally.count, 0, now
    if first:
        logger.warning("%s was %s (%s): %s", model, _how(kind), kind, sample)
    try:
        _keep(alias, model, kind, sample, count)
    except DatabaseError as error:
        with _lock:
            tally.count += count
        logger.warning("a hole in the capture of %s could not be noted: %s", model, error)


def _keep(alias: str, model: str, kind: str, sample: str, count: int) -> None:
    holes = Hole.objects.using(alias).filter(kind=kind, model=model)
    now = timezone.now()

    def raised() -> int:
        return holes.update(count=F("count") + count, last_seen=now, sample=sample)

    if raised():
        return
    try:
        Hole.objects.using(alias).create(
            kind=kind, model=model, sample=sample, count=count, first_seen=now, last_seen=now
        )
    except IntegrityError:  # another process was first
        raised()

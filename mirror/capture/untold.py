"""The marks of models whose rows the oplog does not all tell of, kept where capture begins and ends.

A mark is set before the first trigger is there and taken back after it, where the table turned out
to be empty: whoever is interrupted leaves one that is not needed, never one that is missing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from mirror.models import Oplog, Outbox, Stream, Untold
from mirror.registry import mirrored_models

__all__ = ["acquit", "mark", "mark_what_no_entry_tells", "rename"]


def mark(using: str, labels: Collection[str]) -> set[str]:
    """Return those that had no mark."""
    if not labels:
        return set()
    now = timezone.now()
    marks = Untold.objects.using(using)
    known = set(marks.filter(model__in=labels).values_list("model", flat=True))
    marks.filter(model__in=known).update(since=now)
    marks.bulk_create([Untold(model=label, since=now) for label in labels if label not in known])
    return set(labels) - known


def acquit(connection: BaseDatabaseWrapper, tables: Mapping[str, str]) -> None:
    """Take back the marks of models without rows; ``tables`` are quoted, by label."""
    empty = [label for label, table in tables.items() if not _has_rows(connection, table)]
    if empty:
        Untold.objects.using(connection.alias).filter(model__in=empty).delete()


def rename(using: str, old: str, new: str) -> None:
    marks = Untold.objects.using(using)
    if marks.filter(model=new).exists():
        marks.filter(model=old).delete()
    else:
        marks.filter(model=old).update(model=new)


def mark_what_no_entry_tells(connection: BaseDatabaseWrapper) -> None:
    """Where no trigger says when capture began: what has rows, and never had a change."""
    using = connection.alias
    stream = Stream.objects.using(using).filter(local=True).first()
    if stream is not None and stream.anchor:
        return  # of what was pruned nobody knows, and nobody begins at its start
    present = set(connection.introspection.table_names())
    known = set(Untold.objects.using(using).values_list("model", flat=True))
    for label, mirrored in mirrored_models().items():
        if label in known or mirrored.table not in present:
            continue
        logs = (Outbox.objects.using(using), Oplog.objects.using(using).filter(stream=stream))
        if _has_rows(connection, connection.ops.quote_name(mirrored.table)) and not any(
            log.filter(model=label).exists() for log in logs
        ):
            mark(using, [label])


def _has_rows(connection: BaseDatabaseWrapper, table: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT 1 FROM {table} LIMIT 1")
        return cursor.fetchone() is not None

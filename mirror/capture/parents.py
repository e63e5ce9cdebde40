"""The UUIDs of rows that others refer to by a number of this database: what they are, and what they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID

import msgspec
from django.db.backends.base.base import BaseDatabaseWrapper

from mirror.capture import told
from mirror.changes import Op
from mirror.models import Outbox
from mirror.registry import MirroredModel, Reference, mirrored_models
from mirror.rows import Row, merge_payload

__all__ = ["as_told", "deleted", "identity", "uuid_of", "waiting_deletions"]

_PAGE = 1000


def uuid_of(connection: BaseDatabaseWrapper, reference: Reference, pk: Any) -> Any:
    """As the driver has it; None where there is no such row now."""
    quote = connection.ops.quote_name
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {quote(reference.uuid_column)} FROM {quote(reference.table)} "
            f"WHERE {quote(reference.pk_column)} = %s",
            [pk],
        )
        found = cursor.fetchone()
    return found[0] if found else None


def as_told(uuid: Any) -> str | None:
    """A driver's UUID as it travels."""
    return None if uuid is None else str(uuid if isinstance(uuid, UUID) else UUID(uuid))


def identity(mirrored: MirroredModel, row: Row | dict[str, Any]) -> tuple[Any, Any]:
    """The key and the UUID of a row that others refer to by the one and that travels as the other."""
    assert mirrored.pk is not None, mirrored.label
    if isinstance(row, Row):
        return msgspec.json.decode(row.pk), row.key
    return row.get(mirrored.pk.column), row.get(mirrored.key[0].column)


def waiting_deletions(label: str, using: str) -> Iterator[str]:
    """The payloads of deletions that have no place in the order yet."""
    deletes = Outbox.objects.using(using).filter(op=Op.DELETE, model=label).order_by("id")
    return deletes.values_list("payload", flat=True).iterator(_PAGE)


def deleted(label: str, payloads: Iterable[str]) -> dict[Any, Any]:
    """By key: the UUID of each row at its first deletion."""
    mirrored = mirrored_models()[label]
    found: dict[Any, Any] = {}
    if mirrored.pk is None:  # the settings leave it out
        return found
    for payload in payloads:
        row = told.decode(payload, mirrored) or merge_payload(msgspec.json.decode(payload))
        pk, uuid = identity(mirrored, row)
        found.setdefault(pk, uuid)
    return found

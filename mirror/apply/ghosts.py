"""Rows that are here: which of them can only have come from one source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db.backends.base.base import BaseDatabaseWrapper

from mirror.apply.plans import ModelPlan
from mirror.models import ModelOwner, Oplog, Source
from mirror.oplog import of_row, row_number
from mirror.registry import CONTENT_TYPE, MirroredModel

__all__ = ["Ghosts"]


class Ghosts:
    def __init__(self, connection: BaseDatabaseWrapper, source_id: int) -> None:
        self._connection = connection
        self._source_id = source_id

    def exist(self, plan: ModelPlan) -> bool:
        """Whether rows here come from sources: content types and what they name are each server's own."""
        return not plan.keyed_by_name and plan.mirrored.label != CONTENT_TYPE

    def tellable(self, plan: ModelPlan) -> bool:
        """Whether it can be said which of the rows here came from the source."""
        return plan.by_uuid is not None or self.alone(plan)

    def alone(self, plan: ModelPlan) -> bool:
        """Whether only the source's rows are here."""
        return not self._shared(plan.mirrored)

    def of_source(self, plan: ModelPlan, keys: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
        """Those of the rows that came from the source, as far as anybody can tell."""
        if self.alone(plan):
            return list(keys)
        return [key for key in keys if self._told(plan.mirrored.label, key)]

    def page(
        self, plan: ModelPlan, after: Sequence[Any], limit: int
    ) -> tuple[list[Sequence[Any]], Sequence[Any]]:
        """Keys of rows here, as the driver shows them, and what to go on after."""
        own = [self._quoted(str(one.column)) for one in plan.mirrored.model._meta.pk_fields]
        columns = [self._quoted(one.column) for one in plan.mirrored.key]
        names, marks = ", ".join(own), ", ".join(["%s"] * len(own))
        where = f"WHERE ({names}) > ({marks})" if after else ""
        with self._connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {names}, {', '.join(columns)} FROM {self._quoted(plan.mirrored.table)} {where} "
                f"ORDER BY {names} LIMIT {limit:d}",
                list(after),
            )
            found = cursor.fetchall()
        last: Sequence[Any] = found[-1][: len(own)] if found else ()
        return [row[len(own) :] for row in found], last

    def _shared(self, mirrored: MirroredModel) -> bool:
        using = self._connection.alias
        owner = None
        if not mirrored.merges:
            owner = ModelOwner.objects.using(using).filter(model=mirrored.label).first()
        if owner is not None:
            return owner.source_id != self._source_id
        return Source.objects.using(using).count() > 1

    def _told(self, label: str, key: Sequence[Any]) -> bool:
        """Whether the copied log says that the row is this source's."""
        text = str(UUID(str(key[0])))
        return (
            Oplog.objects.using(self._connection.alias)
            .filter(of_row(label, text, row_number(label, text)))
            .filter(stream__source=self._source_id)
            .exists()
        )

    def _quoted(self, name: str) -> str:
        return str(self._connection.ops.quote_name(name))

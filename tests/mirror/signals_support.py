"""Sources that signals tell of: with no trigger at all, or with triggers that tell of every write as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.test import override_settings

from mirror import oplogger
from mirror.capture import holes
from mirror.changes import Change
from mirror.models import Hole, Outbox, Stream
from mirror.registry import mirrored_models
from tests.fakes import Recorded
from tests.mirror.conftest import attached
from tests.zoo import models
from tests.zoo.pairs import ENGINES, empty, zoo

SIGNALS = {"MODELS": ["zoo.*"], "CAPTURE": "signals"}
_MARKS = {"postgresql": pytest.mark.postgresql, "mariadb": pytest.mark.mariadb}


def engines(*names: str) -> Any:
    return pytest.mark.parametrize(
        "engine", [pytest.param(name, marks=_MARKS.get(name, ())) for name in names or ENGINES]
    )


@contextmanager
def signalled(database: dict[str, Any], mirror: dict[str, Any] | None = None) -> Iterator[Recorded]:
    """The default database, with the tables of the zoo and without rows, while signals tell of it."""
    with zoo(), attached("default", database), override_settings(MIRROR=mirror or SIGNALS):
        oplogger.forget()
        empty(connection)
        Stream.objects.create(local=True)
        Hole.objects.all().delete()
        holes._tallies.clear()
        ContentType.objects.clear_cache()
        yield Recorded("default")
    ContentType.objects.clear_cache()


def both(source: Recorded) -> tuple[list[Change], list[Change]]:
    """The news that signals tell, and those that triggers tell, without their times."""
    entries = list(Outbox.objects.order_by("id").values_list("payload", flat=True))
    parts: tuple[list[Change], list[Change]] = [], []
    for payload, change in zip(entries, source.news(), strict=True):
        by_trigger = not payload.startswith('{"$told":')
        parts[by_trigger].append(msgspec.structs.replace(change, ts=0))
    return parts


def tables(alias: str) -> dict[str, list[dict[str, Any]]]:
    """Every mirrored table; rows that are known by a UUID stand under it wherever they are referred to."""
    uuids = {
        model: dict(model.objects.using(alias).values_list("pkid", "id"))
        for model in (models.Animal, models.Keeper, models.Note)
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for label, mirrored in mirrored_models().items():
        rows = []
        fields = mirrored.model._meta.local_concrete_fields
        for row in mirrored.model._base_manager.using(alias).values(*(field.attname for field in fields)):
            for field in fields:
                target: Any = field
                while target.is_relation:
                    target = target.target_field
                if target is not field and target.name == "pkid" and row[field.attname] is not None:
                    row[field.attname] = uuids[target.model][row[field.attname]]
            if {"kind_id", "object_id"} <= row.keys():  # of animals, in all that the tests write
                row["kind_id"] = ContentType.objects.using(alias).get(pk=row["kind_id"]).natural_key()
                row["object_id"] = uuids[models.Animal][int(row["object_id"])]
            local = {"pkid", "id"} if mirrored.model._meta.auto_created else {"pkid"}
            rows.append({name: value for name, value in row.items() if name not in local})
        found[label] = sorted(rows, key=repr)
    return found


def told(changes: list[Change], *fields: str) -> list[tuple[Any, ...]]:
    return [
        (change.op, change.model.removeprefix("zoo."), *(change.fields.get(name) for name in fields))
        for change in changes
    ]


def execute(sql: str, parameters: Any = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)

"""Streams, changes and sources as the mirror writes them, for the dashboard's tests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.contrib.auth.models import Permission, User

from mirror.changes import Change, Op, encode_change, to_datetime
from mirror.models import Oplog, Source, Stream

#: 2026-01-01, in epoch microseconds; on the edge of a bucket.
NOW = 1_767_225_600_000_000
SECOND = 1_000_000


def moment(ts: int) -> datetime:
    return to_datetime(ts)


def local_stream() -> Stream:
    """The stream that migrate made, empty."""
    return Stream.objects.get_or_create(local=True)[0]


def record(
    stream: Stream,
    fields: Mapping[str, Any],
    *,
    ts: int | None = None,
    op: Op = Op.SAVE,
    model: str = "shop.brand",
    key: str = "k1",
) -> Oplog:
    """Append one change, as the sequencer does."""
    stream.head = ts if ts is not None else max(stream.head, NOW) + 1
    stream.position += 1
    body = encode_change(Change(ts=stream.head, op=op, model=model, pk=1, fields=dict(fields)))
    entry = Oplog.objects.create(
        stream=stream,
        ts=stream.head,
        position=stream.position,
        op=op,
        model=model,
        key=key,
        ends_group=True,
        body=body,
    )
    stream.save()
    return entry


def record_many(
    stream: Stream, count: int, *, first: int = NOW + 1, step: int = 1, model: str = "shop.brand"
) -> None:
    entries = []
    for index in range(count):
        stream.head = first + index * step
        stream.position += 1
        change = Change(ts=stream.head, op=Op.SAVE, model=model, pk=index, fields={"name": f"Brand {index}"})
        entries.append(
            Oplog(
                stream=stream,
                ts=change.ts,
                position=stream.position,
                op=change.op,
                model=model,
                key=str(index),
                ends_group=True,
                body=encode_change(change),
            )
        )
    Oplog.objects.bulk_create(entries)
    stream.save()


def follow(name: str, *, stream: Stream | None = None, **state: Any) -> Source:
    """A source that is mirrored here and level, unless ``state`` says otherwise."""
    stream = stream or Stream.objects.create()
    level: dict[str, Any] = {
        "url": "ws://x",
        "token": "t",
        "cursor": stream.head,
        "head": stream.head,
        "position": stream.position,
        "head_position": stream.position,
        "state": "live",
        "heard_at": moment(NOW),
    }
    return Source.objects.create(name=name, stream=stream, **{**level, **state})


def staff(name: str = "ada", *, allowed: bool = True) -> User:
    user = User.objects.create_user(name, password="pw", is_staff=True)
    if allowed:
        user.user_permissions.add(Permission.objects.get(codename="view_oplog"))
    return user

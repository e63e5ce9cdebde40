"""The mirrors that follow the streams kept here: written down for the sake of what they still need."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connections
from django.db.models import Exists, OuterRef, QuerySet

from mirror.changes import from_datetime
from mirror.conf import conf
from mirror.models import Mirror, Oplog, Stream, Token
from mirror.retention import DAY, Reader, awaited

#: Mirrors that one token may have of one stream. Each of them holds changes back, and each may call itself
#: what it likes.
_MOST = 100

_NAME = Mirror._meta.get_field("mirror").max_length


@dataclass(frozen=True, slots=True)
class Heard:
    """What a connected mirror has told: the newest cursor that it has committed."""

    stream: str
    token: str
    mirror: str
    cursor: int


def note(heard: Collection[Heard], now: datetime, using: str) -> None:
    """Write down who follows and how far each has come. A stream that is gone is passed over."""
    streams = Stream.objects.using(using).filter(uuid__in={one.stream for one in heard})
    known = {str(stream.uuid): stream for stream in streams}
    # By name: a statement of PostgreSQL's may not touch a row twice.
    rows = {
        (one.stream, one.token, name): Mirror(
            stream=known[one.stream],
            token=one.token,
            mirror=name,
            cursor=one.cursor,
            position=_position(known[one.stream], one.cursor),
            first_seen=now,
            last_seen=now,
        )
        for one, name in ((one, _fit_name(one.mirror)) for one in heard)
        if one.stream in known
    }
    named = connections[using].features.supports_update_conflicts_with_target
    Mirror.objects.using(using).bulk_create(
        rows.values(),
        update_conflicts=True,
        update_fields=["cursor", "position", "last_seen"],
        unique_fields=["stream", "token", "mirror"] if named else None,
    )


def _fit_name(name: str) -> str:
    """What a mirror calls itself, as every database takes it: they differ in what they call a text."""
    return ascii(name)[1:-1][:_NAME]


def bound(heard: Heard, using: str) -> None:
    """Forget those mirrors of a token that were not seen for longest, where they are too many."""
    same = Mirror.objects.using(using).filter(stream__uuid=heard.stream, token=heard.token)
    surplus = same.order_by("-last_seen", "-id").values_list("pk", flat=True)[_MOST:]
    if pks := list(surplus):
        Mirror.objects.using(using).filter(pk__in=pks).delete()


def _position(stream: Stream, cursor: int) -> int:
    """How many changes a cursor has behind it. A mirror may name any time that was sent, and no change's."""
    changes = Oplog.objects.using(stream._state.db).filter(stream=stream, ts__gt=stream.anchor)
    found = changes.filter(ts__lte=cursor).order_by("-ts").values_list("position", flat=True).first()
    return stream.anchor_position if found is None else found


def registered(using: str) -> QuerySet[Any]:
    """All mirrors, with ``revoked``: whether their token does not let them in any more."""
    revoked = Token.objects.using(using).filter(name=OuterRef("token"), revoked_at__isnull=False)
    mirrors = Mirror.objects.using(using).select_related("stream").annotate(revoked=Exists(revoked))
    return mirrors.order_by("token", "mirror", "stream")


def readers(stream: Stream, using: str) -> list[Reader]:
    """The mirrors of a stream that may come again."""
    return [
        Reader(name=f"mirror {mirror}", cursor=mirror.cursor, seen=from_datetime(mirror.last_seen))
        for mirror in registered(using).filter(stream=stream, revoked=False)
    ]


def is_awaited(mirror: Any, now: datetime) -> bool:
    """Whether what a registered mirror lacks is kept for it."""
    return not mirror.revoked and awaited(from_datetime(mirror.last_seen), wait_micros(), from_datetime(now))


def wait_micros() -> int:
    return round(conf().wait_days * DAY)


def forget(name: str) -> list[Mirror]:
    """Forget a mirror, by what it calls itself or by its token's name. Raises ValidationError.

    Return what was forgotten: one and the same mirror may follow several streams.
    """
    every = list(registered(conf().database))
    found = [mirror for mirror in every if mirror.mirror == name]
    found = found or [mirror for mirror in every if mirror.token == name]
    if not found:
        raise ValidationError(f"No mirror {name!r} follows this server; see `manage.py mirrorfollower list`.")
    if len({mirror.mirror for mirror in found}) > 1:
        several = ", ".join(sorted({mirror.mirror for mirror in found}))
        raise ValidationError(f"Several mirrors use the token {name!r}. Say which one: {several}.")
    for mirror in found:
        mirror.delete()
    return found

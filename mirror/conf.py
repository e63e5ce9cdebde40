"""The MIRROR setting: one dict, decoded strictly, read when it is needed."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

import msgspec
from django.apps import apps
from django.conf import settings
from django.core.signals import setting_changed

from mirror.errors import ConfigurationError

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Bytes = Annotated[int, msgspec.Meta(ge=4096)]


class Conf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="upper"):
    """Every key of MIRROR with its default. Times are seconds, sizes are bytes."""

    #: Patterns of ``app_label.Model``; nothing else is captured or accepted.
    models: list[str] = []
    #: ``app_label.Model.field`` that never leave the source.
    exclude_fields: list[str] = []
    #: ``app_label.Model.field`` that may leave although they look like secrets.
    allow_sensitive: list[str] = []
    #: How writes are noticed; None on a server that only mirrors.
    capture: Literal["triggers", "signals"] | None = "triggers"
    #: Whether mirrored tables are refused to all but apply: "auto" where sources are followed and nothing is
    #: captured; "triggers" has the database refuse as well.
    read_only: bool | Literal["auto", "triggers"] = "auto"
    #: The database alias that is recorded or written to.
    database: str = "default"
    #: Which of CHANNEL_LAYERS carries hints between the processes that serve one database; None: none.
    channel_layer: str | None = "default"
    #: How often a process looks for newly committed changes while there are some.
    poll_interval: Seconds = 0.002
    #: Pause of the sequencer between two passes, which leaves the write lock to the application.
    sequencer_pause: Annotated[float, msgspec.Meta(ge=0)] = 0.005
    #: Unacknowledged bytes that one subscriber may have outstanding.
    window_bytes: Bytes = 4 * 1024 * 1024
    #: Bytes that a mirror takes in beyond the window while its database is at work.
    ahead_bytes: Annotated[int, msgspec.Meta(ge=0)] = 4 * 1024 * 1024
    #: Largest frame that is sent or accepted. daphne and websockets stop at 1 MiB.
    frame_bytes: Annotated[int, msgspec.Meta(ge=4096, le=1_000_000)] = 256 * 1024
    #: Whether frames may travel compressed: a mirror offers it, and a source does it always, or with "auto"
    #: once a line proves slow.
    compression: bool | Literal["auto"] = "auto"
    #: Largest single change that is sent or accepted.
    change_bytes: Bytes = 64 * 1024 * 1024
    #: Encoded frames kept in memory for subscribers that are level; what they compress to comes on top.
    ring_bytes: Bytes = 8 * 1024 * 1024
    #: Seconds between two heartbeats, of either side.
    heartbeat: Seconds = 5.0
    #: Silence after which the other side is given up.
    deadline: Seconds = 15.0
    #: Longest first and longest possible delay before a reconnect; the actual one is random below it.
    backoff_first: Seconds = 0.2
    backoff_longest: Seconds = 10.0
    #: How many changes one transaction of the mirror takes at most, beyond its first group; it takes fewer
    #: where so many would take longer than half a second.
    apply_changes: Annotated[int, msgspec.Meta(ge=1)] = 30_000
    #: What a mirror does when the source goes on with another history: load its rows anew, or halt.
    on_fork: Literal["resync", "halt"] = "resync"
    #: Days between two comparisons of the rows with the source's; None: only on request.
    verify_days: Annotated[float, msgspec.Meta(gt=0)] | None = 7.0
    #: Days for which changes are kept whoever has them; None: all are kept, up to the two limits below.
    keep_days: Annotated[float, msgspec.Meta(ge=0)] | None = None
    #: Days for which a mirror that does not come is waited for: what it lacks is kept.
    wait_days: Annotated[float, msgspec.Meta(gt=0)] = 90.0
    #: Bytes and days of changes that one oplog holds at most, whoever lacks them; None: no such limit.
    oplog_bytes: Bytes | None = 4 * 1024 * 1024 * 1024
    oplog_days: Annotated[float, msgspec.Meta(gt=0)] | None = None
    #: Seconds between two looks whether there is something to prune.
    prune_interval: Seconds = 60.0


@cache
def conf() -> Conf:
    """The decoded MIRROR setting. Raises ConfigurationError."""
    return decode_conf(getattr(settings, "MIRROR", {}))


def decode_conf(value: Any) -> Conf:
    """Raises ConfigurationError, whose text names the key."""
    try:
        return msgspec.convert(value, Conf)
    except msgspec.ValidationError as error:
        raise ConfigurationError(_explain(str(error))) from error


def read_only() -> bool:
    """Whether mirrored tables are written to by apply alone. Raises ConfigurationError."""
    chosen = conf()
    if chosen.read_only == "auto":
        return chosen.capture is None and apps.is_installed("client")
    return bool(chosen.read_only)


def known_keys() -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(Conf)]


def _explain(message: str) -> str:
    return message.replace("Object contains unknown field", "unknown key").replace(
        " - at `$.", " - at `MIRROR."
    )


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "MIRROR":
        conf.cache_clear()


setting_changed.connect(_forget, dispatch_uid="mirror.conf")

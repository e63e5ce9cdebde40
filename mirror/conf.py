"""The MIRROR setting: one dict, decoded strictly, read when it is needed."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

import msgspec
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
    #: The database alias that is recorded or written to.
    database: str = "default"
    #: How often a process looks for newly committed changes while there are some.
    poll_interval: Seconds = 0.002
    #: Pause of the sequencer between two passes, which leaves the write lock to the application.
    sequencer_pause: Annotated[float, msgspec.Meta(ge=0)] = 0.005
    #: Unacknowledged bytes that one subscriber may have outstanding.
    window_bytes: Bytes = 4 * 1024 * 1024
    #: Largest frame that is sent or accepted. daphne and websockets stop at 1 MiB.
    frame_bytes: Annotated[int, msgspec.Meta(ge=4096, le=1_000_000)] = 256 * 1024
    #: Largest single change that is sent or accepted.
    change_bytes: Bytes = 64 * 1024 * 1024
    #: Encoded frames kept in memory for subscribers that are level.
    ring_bytes: Bytes = 8 * 1024 * 1024
    #: Seconds between two heartbeats, of either side.
    heartbeat: Seconds = 5.0
    #: Silence after which the other side is given up.
    deadline: Seconds = 15.0
    #: Longest first and longest possible delay before a reconnect; the actual one is random below it.
    backoff_first: Seconds = 0.2
    backoff_longest: Seconds = 10.0
    #: How many changes one transaction of the mirror takes at most, beyond its first group.
    apply_changes: Annotated[int, msgspec.Meta(ge=1)] = 5000


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

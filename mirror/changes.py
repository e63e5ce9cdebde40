"""A change and what can be said of it without a database: its JSON, its log line, its mark, its time.

A change is the article's serialized object with its time and its operation; times are epoch
microseconds in one integer, the cursor of everything that follows an oplog.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import msgspec

__all__ = [
    "Change",
    "Count",
    "Op",
    "decode_change",
    "encode_change",
    "format_ts",
    "from_datetime",
    "log_line",
    "mark_of",
    "parse_ts",
    "stamp",
    "to_datetime",
]


#: What every table here can hold: a peer's larger number must not get as far as a database driver.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Op(StrEnum):
    SAVE = "SAVE"
    DELETE = "DELETE"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One row-level change: the row after a SAVE, the row as it last was for a DELETE."""

    ts: Count
    op: Op
    #: ``app_label.modelname``, lower case, as Django's serializers write it.
    model: str
    pk: Any
    fields: dict[str, Any]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Change)


def encode_change(change: Change) -> str:
    """Return the JSON object that travels and is stored. Floats must be finite: JSON has no others."""
    return _encoder.encode(change).decode()


def decode_change(body: str | bytes) -> Change:
    """Inverse of encode_change. Raises msgspec.DecodeError or msgspec.ValidationError."""
    return _decoder.decode(body)


def mark_of(body: str) -> str:
    """Return 16 hex digits that identify this change's content.

    A cursor alone cannot tell two histories apart when a clock stood still: a restored source
    stamps ``last + 1`` again. The mark of the change at the cursor can.
    """
    return hashlib.blake2b(body.encode(), digest_size=8).hexdigest()


def stamp(last: int, captured_at: int) -> int:
    """Return the next timestamp of an oplog: the time of capture, but always after ``last``."""
    return max(last + 1, captured_at)


def format_ts(ts: int) -> str:
    """``1698395500971553`` as the article wrote it: ``1698395500.971553``."""
    return f"{ts // 1_000_000}.{ts % 1_000_000:06d}"


def parse_ts(text: str) -> int:
    """Inverse of format_ts; exact, never through a float. Raises ValueError."""
    seconds, _, fraction = text.partition(".")
    return int(seconds) * 1_000_000 + int(fraction.ljust(6, "0")[:6] or 0)


def to_datetime(ts: int) -> datetime:
    """The aware UTC datetime of a timestamp, exact to the microsecond."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ts)


def from_datetime(moment: datetime) -> int:
    """The timestamp of an aware datetime."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def log_line(body: str) -> str:
    """Return the line of ``oplog.log`` for a change: time, operation, Django JSON of one object."""
    logged = json.loads(body)
    ts, op = logged.pop("ts"), logged.pop("op")
    return f"{format_ts(ts)} {op} {json.dumps([logged], ensure_ascii=False)}"

"""The messages of ``livemirror.v1`` and their JSON text.

The mirror speaks Subscribe and Ack; the source speaks Subscribed, Batch, Fragment and Heartbeat;
either may say Error, and closes after it. A Frame is a Batch or Fragment already encoded, so that one
encoding serves every subscriber; stored changes are spliced into it as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from mirror.changes import Count
from mirror.errors import Malformed

__all__ = [
    "SUBPROTOCOL",
    "Ack",
    "Batch",
    "Entry",
    "Error",
    "Fragment",
    "Frame",
    "Heartbeat",
    "Message",
    "Segment",
    "Subscribe",
    "Subscribed",
    "decode",
    "encode",
    "segments",
]

SUBPROTOCOL = "livemirror.v1"

_HEX = "[0-9a-f]"
Uuid = Annotated[str, msgspec.Meta(pattern=f"^{_HEX}{{8}}(-{_HEX}{{4}}){{3}}-{_HEX}{{12}}\\Z")]
#: As mark_of writes it; empty where there is no change.
Mark = Annotated[str, msgspec.Meta(pattern=f"^({_HEX}{{16}})?\\Z")]

#: Room for the envelope of a frame around the changes it carries.
_ENVELOPE = 512


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    pass


class Subscribe(_Message, frozen=True, tag="subscribe"):
    """Ask for a stream: after ``cursor`` (whose change has this ``mark``), or from a place to seek."""

    mirror: Annotated[str, msgspec.Meta(max_length=100)]
    window: Count
    stream: Uuid | None = None
    cursor: Count | None = None
    mark: Mark | None = None
    #: "start", "now", or the epoch microseconds since when.
    seek: Literal["start", "now"] | Count = "start"


class Subscribed(_Message, frozen=True, tag="subscribed"):
    """The stream begins after ``cursor``, whose change has this ``mark``; ``position`` counts up to it."""

    stream: Uuid
    outcome: Literal["resumed", "started"]
    cursor: Count
    position: Count
    mark: Mark
    head: Count
    head_position: Count
    now: Count


class Batch(_Message, frozen=True, tag="batch"):
    """Consecutive changes: after ``prev``, up to and including ``last``.

    ``ends`` are the timestamps at which a group ends: either the last of them is ``last``, or there are
    none and the group goes on in the next frame. ``position`` counts the stream's changes up to ``last``.
    """

    prev: Count
    last: Count
    position: Count
    head: Count
    head_position: Count
    ends: list[Count]
    changes: list[msgspec.Raw]


class Fragment(_Message, frozen=True, tag="fragment"):
    """A piece of one change that is larger than a frame; ``index`` counts from 0."""

    prev: Count
    ts: Count
    position: Count
    head: Count
    head_position: Count
    index: Count
    last: bool
    ends: bool
    text: str


class Heartbeat(_Message, frozen=True, tag="heartbeat"):
    """Nothing new: the head, and the source's clock in epoch microseconds."""

    head: Count
    head_position: Count
    now: Count


class Ack(_Message, frozen=True, tag="ack"):
    """``taken``: bytes of frames taken in since the connection began; ``cursor``: committed."""

    taken: Count
    cursor: Count


class Error(_Message, frozen=True, tag="error"):
    """Why the connection is about to be closed."""

    code: str
    message: str


Message = Subscribe | Subscribed | Batch | Fragment | Heartbeat | Ack | Error

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def encode(message: Message) -> str:
    return _encoder.encode(message).decode()


def decode(text: str | bytes) -> Message:
    """Raises Malformed."""
    try:
        # As text: the raw changes in it are not looked at before they are applied.
        return _decoder.decode(text if isinstance(text, str) else text.decode())
    except (msgspec.DecodeError, RecursionError, UnicodeError, ValueError) as error:
        raise Malformed(f"not a message of {SUBPROTOCOL}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A change as an oplog holds it."""

    ts: int
    position: int
    ends_group: bool
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """An encoded Batch or Fragment. ``end`` is the last group end in it, or None."""

    text: str
    size: int
    last: int
    end: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of a stream after ``prev`` up to ``last``, as the frames that carry it."""

    prev: int
    last: int
    position: int
    frames: tuple[Frame, ...]
    size: int


def segments(
    prev: int, entries: Sequence[Entry], *, head: int, head_position: int, frame_bytes: int
) -> Iterator[Segment]:
    """Cut consecutive entries after ``prev`` into segments whose frames are within ``frame_bytes``."""
    room = frame_bytes - _ENVELOPE
    run: list[Entry] = []
    size = 0
    for entry in entries:
        cost = len(entry.body.encode()) + 24
        if run and size + cost > room:
            for part in _at_last_end(run):
                yield _batch(prev, part, head, head_position)
                prev = part[-1].ts
            run, size = [], 0
        if cost > room:
            yield _fragments(prev, entry, head, head_position, room)
            prev = entry.ts
        else:
            run.append(entry)
            size += cost
    for part in _at_last_end(run):
        yield _batch(prev, part, head, head_position)
        prev = part[-1].ts


def _at_last_end(run: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """The whole groups of a run, and what follows them: a receiver never has to split a batch."""
    whole = max((place for place, entry in enumerate(run, start=1) if entry.ends_group), default=0)
    if whole:
        yield run[:whole]
    if whole < len(run):
        yield run[whole:]


def _batch(prev: int, run: Sequence[Entry], head: int, head_position: int) -> Segment:
    last, position = run[-1].ts, run[-1].position
    ends = [entry.ts for entry in run if entry.ends_group]
    text = (
        f'{{"type":"batch","prev":{prev},"last":{last},"position":{position},"head":{max(head, last)},'
        f'"head_position":{max(head_position, position)},"ends":[{",".join(map(str, ends))}],'
        f'"changes":[{",".join(entry.body for entry in run)}]}}'
    )
    frame = Frame(text=text, size=len(text.encode()), last=last, end=ends[-1] if ends else None)
    return Segment(prev=prev, last=last, position=position, frames=(frame,), size=frame.size)


def _fragments(prev: int, entry: Entry, head: int, head_position: int, room: int) -> Segment:
    # As JSON text inside JSON a character costs at most four bytes: control characters are escaped
    # in the body already, and only quotes and backslashes double.
    step = max(1, room // 4)
    pieces = [entry.body[start : start + step] for start in range(0, len(entry.body), step)]
    frames = tuple(
        _fragment_frame(prev, entry, head, head_position, index, piece, index == len(pieces) - 1)
        for index, piece in enumerate(pieces)
    )
    return Segment(prev=prev, last=entry.ts, position=entry.position, frames=frames, size=_total(frames))


def _fragment_frame(
    prev: int, entry: Entry, head: int, head_position: int, index: int, piece: str, last: bool
) -> Frame:
    text = encode(
        Fragment(
            prev=prev,
            ts=entry.ts,
            position=entry.position,
            head=max(head, entry.ts),
            head_position=max(head_position, entry.position),
            index=index,
            last=last,
            ends=entry.ends_group,
            text=piece,
        )
    )
    return Frame(
        text=text,
        size=len(text.encode()),
        last=entry.ts if last else prev,
        end=entry.ts if last and entry.ends_group else None,
    )


def _total(frames: Iterable[Frame]) -> int:
    return sum(frame.size for frame in frames)

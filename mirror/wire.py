"""The messages of ``livemirror.v1`` and their JSON text.

The mirror speaks Subscribe, Ack and Fetch; the source speaks Subscribed, Batch, Fragment, Piece and
Heartbeat; either may say Error, and closes after it. A Frame is a Batch, Fragment or Piece already encoded,
so that one encoding serves every subscriber; stored changes are spliced into it as they are.

Every message is a text message of the WebSocket, but for one: a frame may travel compressed, as a binary
message, to a mirror that offered it in Subscribe and was told so in Subscribed. Peers that know nothing
of this leave both fields out and get plain frames.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from mirror.changes import Count
from mirror.errors import Corrupt, Malformed, Oversized

__all__ = [
    "COMPRESSIONS",
    "SUBPROTOCOL",
    "Ack",
    "Batch",
    "Chunk",
    "Compression",
    "Entry",
    "Error",
    "Fetch",
    "Fragment",
    "Frame",
    "Heartbeat",
    "Message",
    "Piece",
    "Segment",
    "Subscribe",
    "Subscribed",
    "chosen",
    "decode",
    "deflate",
    "encode",
    "inflate",
    "pieces",
    "segments",
]

SUBPROTOCOL = "livemirror.v1"

#: "deflate" is the zlib format (RFC 1950): each frame by itself, so that one compression serves all.
Compression = Literal["deflate"]
COMPRESSIONS: tuple[Compression, ...] = ("deflate",)

_HEX = "[0-9a-f]"
Uuid = Annotated[str, msgspec.Meta(pattern=f"^{_HEX}{{8}}(-{_HEX}{{4}}){{3}}-{_HEX}{{12}}\\Z")]
#: As mark_of writes it; empty where there is no change.
Mark = Annotated[str, msgspec.Meta(pattern=f"^({_HEX}{{16}})?\\Z")]

#: Room for the envelope of a frame around the changes it carries.
_ENVELOPE = 512

#: 4.3 times smaller at 107 MB/s; level 6 makes it 4.7 times at 58 MB/s, level 1 4.1 times at 120 MB/s.
_LEVEL = 3
#: Bytes below which a frame stays as it is: it goes in one packet of the network anyway.
_SMALL = 1024


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    pass


class Subscribe(_Message, frozen=True, tag="subscribe", omit_defaults=True):
    """Ask for a stream: after ``cursor`` (whose change has this ``mark``), or from a place to seek.

    ``compression`` offers ways to compress, by name; the source ignores those that it does not know.
    ``loads``: the mirror would load what the log does not tell.
    """

    mirror: Annotated[str, msgspec.Meta(max_length=100)]
    window: Count
    stream: Uuid | None = None
    cursor: Count | None = None
    mark: Mark | None = None
    #: "start", "now", or the epoch microseconds since when.
    seek: Literal["start", "now"] | Count = "start"
    compression: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=20)]], msgspec.Meta(max_length=10)
    ] = []
    loads: bool = False


class Subscribed(_Message, frozen=True, tag="subscribed", omit_defaults=True):
    """The stream begins after ``cursor``, whose change has this ``mark``; ``position`` counts up to it.

    ``compression``, one of those offered: from here on frames may come compressed. ``untold``: models of
    which the log does not tell all rows, and since when (to a mirror that loads).
    """

    stream: Uuid
    outcome: Literal["resumed", "started"]
    cursor: Count
    position: Count
    mark: Mark
    head: Count
    head_position: Count
    now: Count
    compression: Compression | None = None
    untold: dict[str, Count] = {}


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


class Fetch(_Message, frozen=True, tag="fetch", omit_defaults=True):
    """Ask for rows as they are now: those of a model after a primary key, or those with these keys.

    Primary keys are the source's own, as they travel in a change's ``pk``. ``number`` comes again in the
    answer. The next may be asked when the answer is there. ``digests``: not the rows, but what they come to;
    and if the source's rows are in this ``order`` by what identifies them, what all of them together come to:
    ``after`` is such an identity then.
    """

    number: Count
    model: Annotated[str, msgspec.Meta(max_length=200)]
    after: Any = None
    keys: Annotated[list[Any], msgspec.Meta(max_length=1000)] | None = None
    digests: bool = False
    order: Annotated[str, msgspec.Meta(max_length=20)] = ""


class Piece(_Message, frozen=True, tag="piece"):
    """A piece of the JSON text of a Chunk; ``index`` counts from 0. It comes right after change ``at``."""

    number: Count
    at: Count
    index: Count
    last: bool
    text: str


class Chunk(_Message, frozen=True, tag="chunk", omit_defaults=True):
    """Rows exactly as they were after the change ``at``, each as a SAVE of that time.

    It travels in Pieces, and is the last message of them once they are together. Where digests were asked
    for there are no ``rows`` but ``told``: for each a list of its ``pk``, of what it has in the fields
    ``key``, and of the digest of its fields ``names``. Or there is but their ``sum``, modulo 2^64 in
    hexadecimal digits, over ``count`` rows; ``pending`` and ``next`` are identities then.
    """

    number: Count
    model: str
    at: Count
    rows: list[msgspec.Raw] = []
    told: list[msgspec.Raw] = []
    key: list[str] = []
    names: list[str] = []
    sum: Annotated[str, msgspec.Meta(max_length=16)] = ""
    count: Count = 0
    #: Primary keys of rows that are left out: they have changes that come after ``at``.
    pending: list[Any] = []
    #: Where to go on; None when nothing is left.
    next: Any = None
    #: How many rows the model has, told once at its beginning.
    total: Count | None = None
    #: The code of what forbids to tell rows of this model.
    refused: str = ""


class Heartbeat(_Message, frozen=True, tag="heartbeat"):
    """Nothing new: the head, and the source's clock in epoch microseconds."""

    head: Count
    head_position: Count
    now: Count


class Ack(_Message, frozen=True, tag="ack"):
    """``taken``: bytes of frames taken in since the connection began; ``cursor``: committed.

    A compressed frame counts with its plain size: credit bounds memory, and that is what it takes there.
    """

    taken: Count
    cursor: Count


class Error(_Message, frozen=True, tag="error"):
    """Why the connection is about to be closed."""

    code: str
    message: str


Message = Subscribe | Subscribed | Batch | Fragment | Heartbeat | Ack | Fetch | Piece | Chunk | Error

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


def chosen(offered: Collection[str]) -> Compression | None:
    """The best that both sides know, if there is any."""
    return next((name for name in COMPRESSIONS if name in offered), None)


def deflate(text: str) -> str | bytes:
    """The text compressed; or as it is, where that saves nothing."""
    plain = text.encode()
    if len(plain) < _SMALL:
        return text
    packed = zlib.compress(plain, _LEVEL)
    return packed if len(packed) < len(plain) else text


def inflate(packed: bytes, limit: int) -> bytes:
    """Inverse of deflate, never making more than ``limit`` bytes and one. Raises Corrupt or Oversized."""
    unpacking = zlib.decompressobj()
    try:
        plain = unpacking.decompress(packed, limit + 1)
    except zlib.error as error:
        raise Corrupt(f"a compressed frame is broken: {error}") from error
    if len(plain) > limit:
        raise Oversized(f"a compressed frame holds more than {limit} bytes")
    if not unpacking.eof:
        raise Corrupt("a compressed frame is not whole")
    if unpacking.unused_data:
        raise Corrupt(f"{len(unpacking.unused_data)} bytes follow a compressed frame")
    return plain


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A change as an oplog holds it."""

    ts: int
    position: int
    ends_group: bool
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """An encoded Batch, Fragment or Piece. ``end`` is the last group end in it, or None."""

    text: str
    size: int
    last: int
    end: int | None
    #: What goes to those who take it compressed; None until ``pack``.
    packed: str | bytes | None = field(default=None, init=False, compare=False, repr=False)

    def pack(self) -> None:
        """Compress it, once for all who want it so."""
        if self.packed is None:
            object.__setattr__(self, "packed", deflate(self.text))


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


def pieces(
    *,
    number: int,
    model: str,
    at: int,
    rows: Sequence[str] = (),
    told: Sequence[str] = (),
    key: Sequence[str] = (),
    names: Sequence[str] = (),
    sum_: str = "",
    count: int = 0,
    pending: Sequence[Any] = (),
    after: Any = None,
    total: int | None = None,
    refused: str = "",
    frame_bytes: int,
) -> Iterator[Frame]:
    """A Chunk, cut into frames; ``rows`` and ``told`` are spliced into it, ``after`` is its ``next``."""
    text = encode(
        Chunk(
            number=number,
            model=model,
            at=at,
            rows=[msgspec.Raw(row.encode()) for row in rows],
            told=[msgspec.Raw(row.encode()) for row in told],
            key=list(key),
            names=list(names),
            sum=sum_,
            count=count,
            pending=list(pending),
            next=after,
            total=total,
            refused=refused,
        )
    )
    step = max(1, (frame_bytes - _ENVELOPE) // 4)
    count = -(-len(text) // step)
    for index in range(count):
        part = text[index * step : (index + 1) * step]
        piece = encode(Piece(number=number, at=at, index=index, last=index == count - 1, text=part))
        yield Frame(text=piece, size=len(piece.encode()), last=at, end=None)


def _total(frames: Iterable[Frame]) -> int:
    return sum(frame.size for frame in frames)

"""The protocol as a table: which message may follow which, and what it does to cursor and credit.

Two rules. Every change of state is made in this file. This file knows no socket, clock, database or
Django, nor who dialled.

    IDLE ── subscribe ──► ASKED ── subscribed ──► STREAMING ── error ──► CLOSED
                            └────── error ───────────────────────────────►┘

Between two groups the mirror may ask for rows, one question at a time. The answer comes in its place in the
stream: right after the change ``at``, whose state it tells, and before the next one.

The source may send frames while fewer than ``window`` bytes of them are not yet acknowledged as taken
in. The mirror acknowledges two things at once: bytes taken in, which is credit, and the cursor it has
committed.

Credit is counted in the plain size of frames, however they travelled. It bounds memory, and a compressed
frame takes its plain size in the mirror's inbox; at the source it takes less, so that the bound holds there
too. Nor can a source send the mirror more than a window by packing it well.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import overload

import msgspec

from mirror.errors import AckBeyondSent, Gap, LocalProtocolError, Malformed, Oversized, Unexpected
from mirror.wire import (
    Ack,
    Batch,
    Chunk,
    Compression,
    Error,
    Fetch,
    Fragment,
    Frame,
    Heartbeat,
    Message,
    Piece,
    Subscribe,
    Subscribed,
    decode,
    encode,
    inflate,
)

__all__ = ["TRANSITIONS", "Limits", "Role", "Session", "State"]


#: Bytes in a chunk beside one row as large as a change may be: a page of others, and keys of rows that wait.
_BESIDE = 2 * 1024 * 1024


class Role(Enum):
    SOURCE = "source"
    MIRROR = "mirror"


class State(Enum):
    IDLE = "idle"
    ASKED = "asked"
    STREAMING = "streaming"
    CLOSED = "closed"


S, M = Role.SOURCE, Role.MIRROR

#: What each side may say in each state, and the state that follows.
TRANSITIONS: dict[State, dict[tuple[Role, type], State]] = {
    State.IDLE: {(M, Subscribe): State.ASKED, (M, Error): State.CLOSED, (S, Error): State.CLOSED},
    State.ASKED: {(S, Subscribed): State.STREAMING, (M, Error): State.CLOSED, (S, Error): State.CLOSED},
    State.STREAMING: {
        (S, Batch): State.STREAMING,
        (S, Fragment): State.STREAMING,
        (S, Heartbeat): State.STREAMING,
        (S, Piece): State.STREAMING,
        (M, Ack): State.STREAMING,
        (M, Fetch): State.STREAMING,
        (M, Error): State.CLOSED,
        (S, Error): State.CLOSED,
    },
    # What was under way when the other side closed.
    State.CLOSED: {
        (S, Batch): State.CLOSED,
        (S, Fragment): State.CLOSED,
        (S, Heartbeat): State.CLOSED,
        (S, Piece): State.CLOSED,
        (S, Subscribed): State.CLOSED,
        (S, Error): State.CLOSED,
        (M, Subscribe): State.CLOSED,
        (M, Ack): State.CLOSED,
        (M, Fetch): State.CLOSED,
        (M, Error): State.CLOSED,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bytes. ``window`` bounds what is unacknowledged, ``frame`` one message, ``change`` one change.

    All three hold for the plain size; what is compressed is unpacked no further than ``frame``.
    """

    window: int
    frame: int
    change: int


class Session:
    """One side of one connection. ``send`` and ``receive`` are all there is to it."""

    def __init__(self, role: Role, limits: Limits) -> None:
        self.role = role
        self.limits = limits
        self.state = State.IDLE
        #: The last change sent (source) or received whole (mirror), and its position.
        self.cursor = 0
        self.position = 0
        #: Bytes of frames sent or received so far, and how many of them the mirror has taken in.
        self.carried = 0
        self.taken = 0
        #: The newest committed cursor that the mirror told (source).
        self.acked = 0
        #: How frames may travel, once both sides have said so.
        self.compression: Compression | None = None
        self._offered: list[str] = []
        self._window = limits.window
        self._end = 0
        self._pieces: list[str] = []
        self._pieces_size = 0
        self._rows: list[str] = []
        #: The number of the question that is not answered yet.
        self.asked: int | None = None

    # The source's credit

    @property
    def outstanding(self) -> int:
        return self.carried - self.taken

    @property
    def ready(self) -> bool:
        """Whether the source may send a frame now."""
        return self.state is State.STREAMING and self.outstanding < self._window

    # Sending

    @overload
    def send(self, message: Message) -> str: ...
    @overload
    def send(self, message: Message | Frame) -> str | bytes: ...

    def send(self, message: Message | Frame) -> str | bytes:
        """Return what to put on the wire: text, or bytes for a frame that goes compressed.

        Raises LocalProtocolError.
        """
        if isinstance(message, Frame):
            return self._send_frame(message)
        if isinstance(message, Batch | Fragment | Piece | Chunk):
            raise LocalProtocolError("changes and rows are sent as Frames, which have a size")
        self._step(self.role, type(message), LocalProtocolError)
        if isinstance(message, Subscribe):
            self._asked(message, LocalProtocolError)
        elif isinstance(message, Subscribed):
            self._answered(message, LocalProtocolError)
        elif isinstance(message, Ack):
            self._check_ack(message, LocalProtocolError)
        elif isinstance(message, Fetch):
            self._ask(message, LocalProtocolError)
        return encode(message)

    def answered(self) -> None:
        """The source has sent the last piece of what was asked for."""
        self.asked = None

    def _send_frame(self, frame: Frame) -> str | bytes:
        self._step(self.role, Batch, LocalProtocolError)
        if not self.ready and self.state is State.STREAMING:
            raise LocalProtocolError("no credit for another frame")
        self.carried += frame.size
        self.cursor = frame.last
        if frame.end is not None:
            self._end = frame.end
        return frame.text if self.compression is None or frame.packed is None else frame.packed

    # Receiving

    def receive(self, payload: str | bytes) -> Message:
        """Return the message of a text, or of bytes, which are a compressed frame.

        A change that came in fragments returns as a Batch with the last of them, and rows that came in pieces
        as a Chunk. Raises a RemoteProtocolError; the caller answers with its code and closes.
        """
        size = _size(payload)
        if size > self.limits.frame:
            raise Oversized(f"a frame of {size} bytes; the limit is {self.limits.frame}")
        if isinstance(payload, bytes):
            payload = self._unpack(payload)
            size = len(payload)
            message = decode(payload)
            if not isinstance(message, Batch | Fragment | Piece):
                raise Malformed(f"{type(message).__name__} came compressed; only frames do")
        else:
            message = decode(payload)
        closed = self.state is State.CLOSED
        self._step(S if self.role is M else M, type(message), Unexpected)
        if closed:
            return message
        match message:
            case Subscribe():
                self._asked(message, Malformed)
            case Subscribed():
                self._answered(message, Unexpected)
            case Batch():
                self._receive_batch(message, size)
            case Fragment():
                return self._receive_fragment(message, size)
            case Piece():
                return self._receive_piece(message, size)
            case Ack():
                self._check_ack(message, AckBeyondSent)
            case Fetch():
                self._ask(message, Malformed)
            case Heartbeat() | Error():
                pass
        return message

    def _unpack(self, payload: bytes) -> bytes:
        if self.role is S or self.compression is None:
            raise Malformed("a binary message, though no compression was agreed upon")
        return inflate(payload, self.limits.frame)

    def _receive_batch(self, batch: Batch, size: int) -> None:
        self._carry(size)
        if self._pieces or self._rows:
            raise Gap("a batch came in the middle of a change's fragments, or of rows")
        self._follow(batch.prev, batch.last, batch.position, len(batch.changes))
        ends = batch.ends
        ordered = all(before < after for before, after in pairwise(ends))
        if not ordered or (ends and not batch.prev < ends[0] <= ends[-1] == batch.last):
            raise Gap("the ends of groups are not among the changes")
        self._end = ends[-1] if ends else self._end

    def _receive_fragment(self, piece: Fragment, size: int) -> Message:
        self._carry(size)
        if piece.index != len(self._pieces) or piece.prev != self.cursor or self._rows:
            raise Gap(f"fragment {piece.index} after {piece.prev} does not follow")
        if not piece.text:
            raise Malformed("an empty fragment")  # any number of them would be within the limit
        self._pieces.append(piece.text)
        self._pieces_size += _size(piece.text)
        if self._pieces_size > self.limits.change:
            raise Oversized(f"a change of more than {self.limits.change} bytes")
        if not piece.last:
            return piece
        self._follow(piece.prev, piece.ts, piece.position, 1)
        body = "".join(self._pieces).encode()
        self._pieces, self._pieces_size = [], 0
        self._end = piece.ts if piece.ends else self._end
        return Batch(
            prev=piece.prev,
            last=piece.ts,
            position=piece.position,
            head=piece.head,
            head_position=piece.head_position,
            ends=[piece.ts] if piece.ends else [],
            changes=[msgspec.Raw(body)],
        )

    def _receive_piece(self, piece: Piece, size: int) -> Message:
        self._carry(size)
        if piece.number != self.asked or piece.index != len(self._rows):
            raise Gap(f"piece {piece.index} of {piece.number} does not follow")
        if self._pieces or not piece.at == self.cursor == self._end:
            raise Gap(f"rows as of {piece.at} came after {self.cursor}, or within a group")
        if not piece.text:
            raise Malformed("an empty piece")  # any number of them would be within the limit
        self._rows.append(piece.text)
        self._pieces_size += _size(piece.text)
        if self._pieces_size > self.limits.change + _BESIDE:
            raise Oversized(f"rows of more than {self.limits.change + _BESIDE} bytes")
        if not piece.last:
            return piece
        text = "".join(self._rows)
        self._rows, self._pieces_size, self.asked = [], 0, None
        chunk = decode(text)
        if not isinstance(chunk, Chunk) or (chunk.number, chunk.at) != (piece.number, piece.at):
            raise Malformed("the pieces make no chunk that was asked for")
        return chunk

    def _carry(self, size: int) -> None:
        # The window may be overrun by one frame: credit is asked before a frame, not within it.
        self.carried += size
        if self.outstanding >= self._window + self.limits.frame:
            raise Oversized("more was sent than the window allows")

    def _follow(self, prev: int, last: int, position: int, count: int) -> None:
        if prev != self.cursor or last <= prev or count < 1:
            raise Gap(f"changes after {prev} do not follow {self.cursor}")
        if position != self.position + count:
            raise Gap(f"position {position} does not follow {self.position} by {count}")
        self.cursor, self.position = last, position

    # What both sides do alike

    def _step(self, speaker: Role, kind: type, error: type[LocalProtocolError] | type[Unexpected]) -> None:
        try:
            self.state = TRANSITIONS[self.state][speaker, kind]
        except KeyError:
            raise error(f"the {speaker.value} may not say {kind.__name__} when {self.state.value}") from None

    def _asked(self, message: Subscribe, error: type[LocalProtocolError] | type[Malformed]) -> None:
        if message.window < 1:
            raise error("the window must be positive")
        self._window = min(self.limits.window, message.window)
        self._offered = message.compression

    def _answered(self, message: Subscribed, error: type[LocalProtocolError] | type[Unexpected]) -> None:
        if message.compression not in (None, *self._offered):
            raise error(f"the compression {message.compression} was not offered")
        self.compression = message.compression
        self.cursor = self._end = self.acked = message.cursor
        self.position = message.position

    def _ask(self, message: Fetch, error: type[LocalProtocolError] | type[Malformed]) -> None:
        if self.asked is not None:
            raise error("one question at a time")
        if message.keys is not None and (message.after is not None or not message.keys):
            raise error("rows are asked for by a place or by keys")
        self.asked = message.number

    def _check_ack(self, ack: Ack, error: type[LocalProtocolError] | type[AckBeyondSent]) -> None:
        if not self.taken <= ack.taken <= self.carried:
            raise error(f"taken {ack.taken} is not between {self.taken} and {self.carried}")
        if not self.acked <= ack.cursor <= self._end:
            raise error(f"cursor {ack.cursor} is not between {self.acked} and {self._end}")
        self.taken, self.acked = ack.taken, ack.cursor


def _size(text: str | bytes) -> int:
    # Half a surrogate pair is no text, but that is for decode to say.
    return len(text.encode(errors="surrogatepass")) if isinstance(text, str) else len(text)

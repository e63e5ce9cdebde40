"""The protocol as a table: which message may follow which, and what it does to cursor and credit.

Two rules. Every change of state is made in this file. This file knows no socket, clock, database or
Django, nor who dialled.

    IDLE ── subscribe ──► ASKED ── subscribed ──► STREAMING ── error ──► CLOSED
                            └────── error ───────────────────────────────►┘

The source may send frames while fewer than ``window`` bytes of them are not yet acknowledged as taken
in. The mirror acknowledges two things at once: bytes taken in, which is credit, and the cursor it has
committed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

import msgspec

from mirror.errors import AckBeyondSent, Gap, LocalProtocolError, Malformed, Oversized, Unexpected
from mirror.wire import (
    Ack,
    Batch,
    Error,
    Fragment,
    Frame,
    Heartbeat,
    Message,
    Subscribe,
    Subscribed,
    decode,
    encode,
)

__all__ = ["TRANSITIONS", "Limits", "Role", "Session", "State"]


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
        (M, Ack): State.STREAMING,
        (M, Error): State.CLOSED,
        (S, Error): State.CLOSED,
    },
    # What was under way when the other side closed.
    State.CLOSED: {
        (S, Batch): State.CLOSED,
        (S, Fragment): State.CLOSED,
        (S, Heartbeat): State.CLOSED,
        (S, Subscribed): State.CLOSED,
        (S, Error): State.CLOSED,
        (M, Subscribe): State.CLOSED,
        (M, Ack): State.CLOSED,
        (M, Error): State.CLOSED,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bytes. ``window`` bounds what is unacknowledged, ``frame`` one message, ``change`` one change."""

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
        self._window = limits.window
        self._end = 0
        self._pieces: list[str] = []
        self._pieces_size = 0

    # The source's credit

    @property
    def outstanding(self) -> int:
        return self.carried - self.taken

    @property
    def ready(self) -> bool:
        """Whether the source may send a frame now."""
        return self.state is State.STREAMING and self.outstanding < self._window

    # Sending

    def send(self, message: Message | Frame) -> str:
        """Return the text to put on the wire. Raises LocalProtocolError."""
        if isinstance(message, Frame):
            return self._send_frame(message)
        if isinstance(message, Batch | Fragment):
            raise LocalProtocolError("changes are sent as Frames, which have a size")
        self._step(self.role, type(message), LocalProtocolError)
        if isinstance(message, Subscribe):
            self._asked(message, LocalProtocolError)
        elif isinstance(message, Subscribed):
            self._answered(message)
        elif isinstance(message, Ack):
            self._check_ack(message, LocalProtocolError)
        return encode(message)

    def _send_frame(self, frame: Frame) -> str:
        self._step(self.role, Batch, LocalProtocolError)
        if not self.ready and self.state is State.STREAMING:
            raise LocalProtocolError("no credit for another frame")
        self.carried += frame.size
        self.cursor = frame.last
        if frame.end is not None:
            self._end = frame.end
        return frame.text

    # Receiving

    def receive(self, text: str | bytes) -> Message:
        """Return the message. A change that came in fragments returns as a Batch with its last piece.

        Raises a RemoteProtocolError; the caller answers with its code and closes.
        """
        size = _size(text)
        if size > self.limits.frame:
            raise Oversized(f"a frame of {size} bytes; the limit is {self.limits.frame}")
        message = decode(text)
        closed = self.state is State.CLOSED
        self._step(S if self.role is M else M, type(message), Unexpected)
        if closed:
            return message
        match message:
            case Subscribe():
                self._asked(message, Malformed)
            case Subscribed():
                self._answered(message)
            case Batch():
                self._receive_batch(message, size)
            case Fragment():
                return self._receive_fragment(message, size)
            case Ack():
                self._check_ack(message, AckBeyondSent)
            case Heartbeat() | Error():
                pass
        return message

    def _receive_batch(self, batch: Batch, size: int) -> None:
        self._carry(size)
        if self._pieces:
            raise Gap("a batch came in the middle of a change's fragments")
        self._follow(batch.prev, batch.last, batch.position, len(batch.changes))
        ends = batch.ends
        ordered = all(before < after for before, after in pairwise(ends))
        if not ordered or (ends and not batch.prev < ends[0] <= ends[-1] == batch.last):
            raise Gap("the ends of groups are not among the changes")
        self._end = ends[-1] if ends else self._end

    def _receive_fragment(self, piece: Fragment, size: int) -> Message:
        self._carry(size)
        if piece.index != len(self._pieces) or piece.prev != self.cursor:
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

    def _answered(self, message: Subscribed) -> None:
        self.cursor = self._end = self.acked = message.cursor
        self.position = message.position

    def _check_ack(self, ack: Ack, error: type[LocalProtocolError] | type[AckBeyondSent]) -> None:
        if not self.taken <= ack.taken <= self.carried:
            raise error(f"taken {ack.taken} is not between {self.taken} and {self.carried}")
        if not self.acked <= ack.cursor <= self._end:
            raise error(f"cursor {ack.cursor} is not between {self.acked} and {self._end}")
        self.taken, self.acked = ack.taken, ack.cursor


def _size(text: str | bytes) -> int:
    # Half a surrogate pair is no text, but that is for decode to say.
    return len(text.encode(errors="surrogatepass")) if isinstance(text, str) else len(text)

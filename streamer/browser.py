"""What a browser and the live dashboard's server say to each other, and what waits for a slow browser.

The browser says Filter and Seen; the server says Update, or Trouble before it closes. Every update has
a number that the browser acknowledges once the page shows it: no more than two are ever under way, what
happens meanwhile is merged, and only the newest changes are kept. That bounds the server's memory, for
daphne takes whatever is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Annotated, Literal
from urllib.parse import parse_qsl

import msgspec

from mirror.errors import Malformed, Oversized

__all__ = [
    "EMPTY",
    "ROOM",
    "Batch",
    "Filter",
    "Line",
    "Mailbox",
    "Seen",
    "Trouble",
    "Update",
    "decode",
    "encode",
]

#: The most changes that one update shows; the rest is counted.
ROOM = 50
#: The most cards that one update carries: a frame must stay under 1 MiB.
_CARDS = 250
#: Updates under way that the page has not shown yet.
_WINDOW = 2
_MESSAGE_BYTES = 4096

_Word = Annotated[str, msgspec.Meta(max_length=200, pattern=r"^[^\x00-\x1f]*$")]


class Filter(msgspec.Struct, frozen=True, kw_only=True, tag="filter", forbid_unknown_fields=True):
    """Which changes a browser wants to see. Empty means all."""

    source: _Word = ""
    model: _Word = ""
    op: Literal["", "SAVE", "DELETE"] = ""
    text: _Word = ""

    @classmethod
    def from_query(cls, query: bytes) -> Filter:
        """What the page's own address asks for; whatever is not a filter is left out."""
        try:
            asked = dict(parse_qsl(query.decode("ascii", "replace"), max_num_fields=20))
            known = {name: asked[name] for name in cls.__struct_fields__ if name in asked}
            return msgspec.convert({"type": "filter", **known}, cls)
        except (ValueError, msgspec.ValidationError):
            return EMPTY


EMPTY = Filter()


class Seen(msgspec.Struct, frozen=True, kw_only=True, tag="seen", forbid_unknown_fields=True):
    """The page shows everything up to this update."""

    n: Annotated[int, msgspec.Meta(ge=1)]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A change as the feed lists it."""

    stream: str
    ts: int
    source: str
    op: str
    kind: str
    model: str
    key: str
    summary: str


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Changes in order, oldest first, and how many more there were."""

    lines: Sequence[Line] = ()
    skipped: int = 0


class Update(msgspec.Struct, frozen=True, kw_only=True, tag="update"):
    """The cards that are new or different, the names of those that are gone, and the newest changes.

    ``reset``: forget the changes listed so far; these are the newest that pass the filter. ``problem``:
    why what is shown may be old, in words.
    """

    n: int
    now: int
    reset: bool
    sources: list[msgspec.Raw]
    gone: list[str]
    changes: Sequence[Line]
    skipped: int
    problem: str


class Trouble(msgspec.Struct, frozen=True, kw_only=True, tag="error"):
    """Why the connection is about to be closed."""

    code: str
    message: str


_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Filter | Seen] = msgspec.json.Decoder(Filter | Seen)


def encode(message: Update | Trouble) -> str:
    return _encoder.encode(message).decode()


def decode(text: str | None) -> Filter | Seen:
    """Raises Malformed or Oversized."""
    if text is None:
        raise Malformed("only text frames are understood")
    if len(text.encode(errors="replace")) > _MESSAGE_BYTES:
        raise Oversized(f"a message may have {_MESSAGE_BYTES} bytes")
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Malformed(str(error)) from error


class Mailbox:
    """What one browser has not been sent yet: bounded, whatever happens. Any thread may put."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._cards: Mapping[str, bytes] = {}
        self._sent: dict[str, bytes] = {}
        self._lines: list[Line] = []
        self._skipped = 0
        self._reset = False
        self._problem = self._told = ""
        self._n = 0
        self._seen = 0

    @property
    def has_room(self) -> bool:
        return self._n - self._seen < _WINDOW

    @property
    def has_news(self) -> bool:
        with self._lock:
            changed = self._cards != self._sent or self._problem != self._told
            return changed or bool(self._lines or self._skipped or self._reset)

    def put(self, cards: Mapping[str, bytes], batch: Batch, *, reset: bool) -> bool:
        """Merge what is new into what waits; return whether anything waits now."""
        with self._lock:
            self._problem = ""
            self._cards = cards
            if reset:
                self._lines, self._skipped, self._reset = [], 0, True
            lines = [*self._lines, *batch.lines]
            self._skipped += batch.skipped + max(0, len(lines) - ROOM)
            self._lines = lines[-ROOM:]
        return self.has_news

    def complain(self, problem: str) -> bool:
        """Say why nothing new can come; return whether that is news."""
        with self._lock:
            self._problem = problem
        return self.has_news

    def take(self, now: int) -> Update:
        """The next update, to be sent at once; what does not fit into it waits for the one after."""
        with self._lock:
            changed = [name for name, card in self._cards.items() if self._sent.get(name) != card][:_CARDS]
            gone = [name for name in self._sent if name not in self._cards]
            self._n += 1
            update = Update(
                n=self._n,
                now=now,
                reset=self._reset,
                sources=[msgspec.Raw(self._cards[name]) for name in changed],
                gone=gone,
                changes=self._lines,
                skipped=self._skipped,
                problem=self._problem,
            )
            self._told = self._problem
            self._sent.update({name: self._cards[name] for name in changed})
            for name in gone:
                del self._sent[name]
            self._lines, self._skipped, self._reset = [], 0, False
        return update

    def seen(self, n: int) -> None:
        """Raises Malformed for an update that was never sent."""
        if n > self._n:
            raise Malformed(f"update {n} was not sent yet")
        self._seen = max(self._seen, n)

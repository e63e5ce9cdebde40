"""Stand-ins for what lies outside the part under test."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import msgspec
from django.db import connections

from mirror import oplog
from mirror.apply import Applied, Applier
from mirror.changes import Change, Op, decode_change, encode_change
from mirror.models import Source, Stream
from mirror.sequencer import Sequencer
from mirror.session import Limits, Role, Session, State
from mirror.wire import (
    COMPRESSIONS,
    Ack,
    Batch,
    Chunk,
    Entry,
    Fetch,
    Fragment,
    Frame,
    Message,
    Piece,
    Subscribe,
    Subscribed,
    chosen,
    pieces,
    segments,
)


@dataclass
class SessionPair:
    """Both sides of one connection, and a line between them that delivers when it is told to.

    The source sends from ``log`` as its credit allows; the mirror keeps what it committed in ``applied``,
    which outlives the connection. Rows that it asks for are those that the newest change has written.
    """

    limits: Limits
    log: list[Entry]
    applied: list[str]
    #: How many entries of the log the mirror had committed when it connected.
    committed: int = 0
    #: Whether the mirror offers to take frames compressed.
    compression: bool = False
    to_mirror: deque[str | bytes] = field(default_factory=deque)
    to_source: deque[str] = field(default_factory=deque)
    pending: list[tuple[Batch, int]] = field(default_factory=list)
    taken: int = 0
    acks: list[Ack] = field(default_factory=list)
    #: How often the mirror has asked for rows, and what it was answered.
    asked: int = 0
    chunks: list[Chunk] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.source = Session(Role.SOURCE, self.limits)
        self.mirror = Session(Role.MIRROR, self.limits)
        self.cursor = self.log[self.committed - 1].ts if self.committed else 0
        self.sent = self.cursor
        self.to_source.append(
            self.mirror.send(
                Subscribe(
                    mirror="m",
                    window=self.limits.window,
                    cursor=self.cursor,
                    compression=[*COMPRESSIONS] if self.compression else [],
                )
            )
        )

    @property
    def head(self) -> int:
        return self.log[-1].ts if self.log else 0

    # The source

    def deliver_to_source(self) -> Message:
        message = self.source.receive(self.to_source.popleft())
        if isinstance(message, Subscribe):
            self.to_mirror.append(self.source.send(self.answer(message)))
        elif isinstance(message, Ack):
            self.acks.append(message)
        elif isinstance(message, Fetch):
            self._question = message
        return message

    def answer(self, message: Subscribe) -> Subscribed:
        return Subscribed(
            stream="00000000-0000-0000-0000-000000000000",
            outcome="resumed",
            cursor=message.cursor or 0,
            position=self.committed,
            mark="",
            head=self.head,
            head_position=len(self.log),
            now=1,
            compression=chosen(message.compression),
        )

    def pump(self) -> int:
        """Send while there is credit and something to send; return how many frames."""
        count = 0
        while self.source.ready and (frames := self._next_frames()):
            for frame in frames[self._partly :]:
                if not self.source.ready:
                    break
                frame.pack()
                self.to_mirror.append(self.source.send(frame))
                self._partly += 1
                count += 1
            else:
                self.sent, self._partly = frames[-1].last, 0
                if self._answer:
                    self._question, self._answer = None, ()
                    self.source.answered()
        return count

    #: Fragments of the next change, or pieces of the answer, that were sent already.
    _partly: int = 0
    _question: Fetch | None = None
    _answer: tuple[Frame, ...] = ()

    def _next_frames(self):
        if self._question is not None and not self._partly and self._between_groups():
            rows = self.rows_at(self.sent)
            self._answer = tuple(
                pieces(
                    number=self._question.number,
                    model=self._question.model,
                    at=self.sent,
                    rows=rows,
                    total=len(rows),
                    frame_bytes=self.limits.frame,
                )
            )
        if self._answer:
            return self._answer
        waiting = [entry for entry in self.log if entry.ts > self.sent]
        cut = segments(
            self.sent, waiting, head=self.head, head_position=len(self.log), frame_bytes=self.limits.frame
        )
        # Once begun, a change's fragments are finished, whatever is logged meanwhile.
        return next((segment.frames for segment in cut), ())

    def _between_groups(self) -> bool:
        return all(entry.ends_group for entry in self.log if entry.ts == self.sent)

    def rows_at(self, at: int) -> list[str]:
        return [entry.body for entry in self.log if entry.ts <= at][-1:]

    # The mirror

    def ask(self) -> None:
        self.asked += 1
        self.to_source.append(self.mirror.send(Fetch(number=self.asked, model="m")))

    def deliver_to_mirror(self) -> Message:
        before = self.mirror.carried
        message = self.mirror.receive(self.to_mirror.popleft())
        size = self.mirror.carried - before
        if isinstance(message, Batch):
            self.pending.append((message, size))
        elif isinstance(message, Fragment | Piece | Chunk):
            self.taken += size
        if isinstance(message, Chunk):
            self.chunks.append(message)
        return message

    def commit(self) -> bool:
        """Commit up to the last end of a group, as one transaction; return whether there was one."""
        ends = [place for place, (batch, _) in enumerate(self.pending, start=1) if batch.ends]
        if not ends:
            return False
        done, self.pending = self.pending[: ends[-1]], self.pending[ends[-1] :]
        for batch, size in done:
            self.applied += [bytes(raw).decode() for raw in batch.changes]
            self.taken += size
        self.cursor = done[-1][0].last
        return True

    def set_aside(self) -> None:
        """Take in what cannot be committed yet: a group may be larger than the window."""
        for place, (batch, size) in enumerate(self.pending):
            self.taken += size
            self.pending[place] = batch, 0

    def acknowledge(self) -> None:
        self.to_source.append(self.mirror.send(Ack(taken=self.taken, cursor=self.cursor)))

    @property
    def streaming(self) -> bool:
        return self.mirror.state is State.STREAMING


class Lines(logging.Handler):
    """A logging handler that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Recorded:
    """A source: what its triggers and its sequencer made of what was written."""

    def __init__(self, using: str) -> None:
        self.using = using
        self.sequencer = Sequencer(using)

    @property
    def stream(self) -> Stream:
        return Stream.objects.using(self.using).get(local=True)

    def step(self) -> int:
        return self.sequencer.step()

    def entries(self, after: int = 0) -> list[Entry]:
        return list(oplog.read(self.stream.pk, after, self.using, limit=10**9, max_bytes=10**12))

    def changes(self) -> list[Change]:
        """Everything that was ever written, in its order."""
        self.step()
        return [decode_change(entry.body) for entry in self.entries()]

    def news(self) -> list[Change]:
        """What was written since the last look."""
        after = self.stream.head
        self.step()
        return [decode_change(entry.body) for entry in self.entries(after)]


class Centre:
    """A mirror without a line: changes go in as batches. ``cursor`` is what it says it committed."""

    #: What to read it by with the plain driver, where a test has told.
    database: dict[str, Any]

    def __init__(self, using: str, name: str = "paris", fence: int = 0) -> None:
        self.using = using
        self.stream = Stream.objects.using(using).create()
        self.source = Source.objects.using(using).create(
            name=name, url="ws://localhost/mirror/stream/", token="t", stream=self.stream, fence=fence
        )
        self.applier = Applier(self.source.pk, fence=fence, using=using)
        self.cursor = self.position = 0

    def batch(self, *changes: Change, ends: bool = True, prev: tuple[int, int] | None = None) -> Batch:
        """One group; changes without a time get the next."""
        cursor, position = prev or (self.cursor, self.position)
        stamped, ts = [], cursor
        for change in changes:
            ts = change.ts or ts + 1
            stamped.append(msgspec.structs.replace(change, ts=ts))
        return Batch(
            prev=cursor,
            last=ts,
            position=position + len(stamped),
            head=ts,
            head_position=position + len(stamped),
            ends=[ts] if ends else [],
            changes=[msgspec.Raw(encode_change(change).encode()) for change in stamped],
        )

    def apply(self, *changes: Change) -> Applied:
        return self.take(self.batch(*changes))

    def take(self, *batches: Batch) -> Applied:
        applied = self.applier.apply(batches)
        self.cursor, self.position = applied.cursor, applied.position
        return applied

    def follow(self, source: Recorded) -> None:
        """Apply all that the source has recorded since."""
        source.step()
        entries = source.entries(self.cursor)
        if not entries:
            return
        batch = Batch(
            prev=self.cursor,
            last=entries[-1].ts,
            position=entries[-1].position,
            head=entries[-1].ts,
            head_position=entries[-1].position,
            ends=[entry.ts for entry in entries if entry.ends_group],
            changes=[msgspec.Raw(entry.body.encode()) for entry in entries],
        )
        self.take(batch)

    def rows(self, table: str, *columns: str) -> list[tuple[Any, ...]]:
        """By plain SQL, past every conversion of Django's."""
        connection = connections[self.using]
        quote = connection.ops.quote_name
        names = ", ".join(map(quote, columns)) or "*"
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {names} FROM {quote(table)} ORDER BY 1")
            return [tuple(row) for row in cursor.fetchall()]


def save(model: str, pk: Any = None, **fields: Any) -> Change:
    return Change(ts=0, op=Op.SAVE, model=model, pk=pk, fields=fields)


def delete(model: str, pk: Any = None, **fields: Any) -> Change:
    return Change(ts=0, op=Op.DELETE, model=model, pk=pk, fields=fields)

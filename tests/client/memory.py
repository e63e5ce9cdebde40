"""A source in memory: the protocol's own session over two queues, with every fault at hand."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from client.follower import World
from client.link import LineLost, Link
from mirror.changes import Change, Op, encode_change, mark_of
from mirror.conf import Conf, conf
from mirror.errors import CODES, RemoteProtocolError, UnknownStream
from mirror.session import Limits, Role, Session
from mirror.wire import (
    Ack,
    Entry,
    Error,
    Fetch,
    Frame,
    Heartbeat,
    Subscribe,
    Subscribed,
    chosen,
    pieces,
    segments,
)


class MemoryLink:
    def __init__(self) -> None:
        self.to_source: asyncio.Queue[str] = asyncio.Queue()
        self.to_mirror: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        self.cut = False
        self.carried = 0

    async def send(self, text: str) -> None:
        if self.cut:
            raise LineLost
        await self.to_source.put(text)

    async def receive(self) -> str | bytes:
        payload = await self.to_mirror.get()
        if payload is None:
            self.cut = True
            raise LineLost
        self.carried += len(payload)
        return payload


@dataclass
class MemorySource:
    """Serves ``entries``. ``frames_until_cut``: how many frames each connection carries before it breaks."""

    entries: list[Entry] = field(default_factory=list)
    stream: str = field(default_factory=lambda: str(uuid.uuid4()))
    frames_until_cut: list[int] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    mute: bool = False
    #: How often the source lets others run before each frame.
    hesitation: Callable[[], int] = int
    spoil: Callable[[str | bytes], str | bytes] = lambda payload: payload
    #: Bytes that come of each frame ten times, a quarter of a second apart, before it is whole.
    drip: int = 0
    #: A source of before refuses an offer as a field that it does not know.
    knows_compression: bool = True
    #: Nor does it know how to tell what rows come to. Others here do not tell it either.
    knows_digests: bool = True
    #: Frames that went compressed.
    packed: int = 0
    #: What is older than ``entries``: the rows of each model, by their keys. All of them come at once.
    rows: dict[str, dict[int, dict[str, object]]] = field(default_factory=dict)
    fetches: list[Fetch] = field(default_factory=list)
    frame_bytes: int = 4096
    window: int = 1_000_000
    connections: int = 0
    asked: list[Subscribe] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)
    errors: list[Error] = field(default_factory=list)
    most_outstanding: int = 0
    grown: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, *changes: tuple[Op, str, object, dict[str, object]], ts: int | None = None) -> None:
        """One group: (op, model, pk, fields) of each change."""
        for place, (op, model, pk, fields) in enumerate(changes):
            at = (self.entries[-1].ts if self.entries else 1_000_000) + 1 if ts is None else ts + place
            self.entries.append(
                Entry(
                    ts=at,
                    position=len(self.entries) + 1,
                    ends_group=place == len(changes) - 1,
                    body=encode_change(Change(ts=at, op=op, model=model, pk=pk, fields=dict(fields))),
                )
            )
        self.grown.set()

    @property
    def head(self) -> int:
        return self.entries[-1].ts if self.entries else 0

    @contextlib.asynccontextmanager
    async def connect(self, url: str, token: str) -> AsyncIterator[Link]:
        self.connections += 1
        link = MemoryLink()
        serving = asyncio.create_task(self._serve(link))
        try:
            yield link
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    async def _serve(self, link: MemoryLink) -> None:
        session = Session(Role.SOURCE, Limits(window=self.window, frame=300_000, change=1 << 26))
        request = session.receive(await link.to_source.get())
        assert isinstance(request, Subscribe)
        self.asked.append(request)
        if (request.compression or request.loads) and not self.knows_compression:
            await link.to_mirror.put(session.send(Error(code="malformed", message="unknown field")))
            return
        if self.refusals:
            code = self.refusals.pop(0)
            await link.to_mirror.put(session.send(Error(code=code, message=str(CODES[code]()))))
            return
        await link.to_mirror.put(session.send(self._answer(request)))
        listening = asyncio.create_task(self._listen(link, session))
        try:
            await self._pump(link, session)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    def _answer(self, request: Subscribe) -> Subscribed:
        at = next((entry for entry in self.entries if entry.ts == request.cursor), None)
        if request.cursor is None and request.seek == "now" and self.entries:
            at = self.entries[-1]
        return Subscribed(
            stream=self.stream,
            outcome="resumed" if request.cursor else "started",
            cursor=at.ts if at else 0,
            position=at.position if at else 0,
            mark=mark_of(at.body) if at else "",
            head=self.head,
            head_position=len(self.entries),
            now=1,
            compression=chosen(request.compression),
        )

    async def _pump(self, link: MemoryLink, session: Session) -> None:
        left = self.frames_until_cut.pop(0) if self.frames_until_cut else -1
        while True:
            self.grown.clear()
            rest = [entry for entry in self.entries if entry.ts > session.cursor]
            for segment in segments(
                session.cursor,
                rest,
                head=self.head,
                head_position=len(self.entries),
                frame_bytes=self.frame_bytes,
            ):
                for frame in segment.frames:
                    while not session.ready:
                        await self.grown.wait()
                        self.grown.clear()
                    if left == 0:
                        await link.to_mirror.put(None)
                        return
                    left -= 1
                    for _ in range(self.hesitation()):
                        await asyncio.sleep(0)
                    if session.compression:
                        frame.pack()
                    payload = session.send(frame)
                    self.packed += isinstance(payload, bytes)
                    for _ in range(10 if self.drip else 0):
                        await asyncio.sleep(0.25)
                        link.carried += self.drip
                    await link.to_mirror.put(self.spoil(payload))
                    self.most_outstanding = max(self.most_outstanding, session.outstanding)
            if session.asked is not None:
                for frame in self._rows(session):
                    while not session.ready:
                        await self.grown.wait()
                        self.grown.clear()
                    await link.to_mirror.put(session.send(frame))
                session.answered()
                continue
            if not self.mute:
                beat = Heartbeat(head=self.head, head_position=len(self.entries), now=1)
                await link.to_mirror.put(session.send(beat))
            await self.grown.wait()

    def _rows(self, session: Session) -> Iterator[Frame]:
        fetch = self.fetches[-1]
        rows = self.rows.get(fetch.model, {})
        at = session.cursor
        if fetch.digests:
            return pieces(
                number=fetch.number,
                model=fetch.model,
                at=at,
                refused=UnknownStream.code,
                frame_bytes=self.frame_bytes,
            )
        return pieces(
            number=fetch.number,
            model=fetch.model,
            at=at,
            rows=[
                encode_change(Change(ts=at, op=Op.SAVE, model=fetch.model, pk=pk, fields=fields))
                for pk, fields in rows.items()
                if fetch.keys is None or pk in fetch.keys
            ],
            total=len(rows),
            frame_bytes=self.frame_bytes,
        )

    async def _listen(self, link: MemoryLink, session: Session) -> None:
        while True:
            try:
                message = session.receive(await link.to_source.get())
            except RemoteProtocolError as error:
                self.errors.append(Error(code=error.code, message=str(error)))
                await link.to_mirror.put(None)
                return
            if isinstance(message, Ack):
                self.acks.append(message)
            elif isinstance(message, Fetch) and message.digests and not self.knows_digests:
                await link.to_mirror.put(session.send(Error(code="malformed", message="unknown field")))
                return
            elif isinstance(message, Fetch):
                self.fetches.append(message)
            elif isinstance(message, Error):
                self.errors.append(message)
            self.grown.set()


def world(source: MemorySource) -> World:
    """No delays, and a clock that stands still: the loops are driven by messages alone."""
    return World(connect=source.connect, clock=lambda: 0.0, now=lambda: 1, uniform=lambda low, high: 0.0)


def settings(**changes: object) -> Conf:
    return msgspec.structs.replace(conf(), **changes)

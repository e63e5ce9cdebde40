"""The machine route: a shell around ``mirror.session`` that takes in, asks the hub, and puts out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from asgiref.sync import sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer

from mirror import oplog, tokens
from mirror.conf import conf
from mirror.errors import (
    Busy,
    ConfigurationError,
    MirrorError,
    RemoteProtocolError,
    Silent,
    Superseded,
    Unauthorized,
    UnsupportedProtocol,
)
from mirror.models import Stream
from mirror.session import Limits, Role, Session
from mirror.wire import (
    SUBPROTOCOL,
    Ack,
    Error,
    Fetch,
    Frame,
    Heartbeat,
    Message,
    Segment,
    Subscribe,
    Subscribed,
    chosen,
    pieces,
)
from streamer.hub import Hub, Tail, hub
from streamer.linespeed import LineSpeed
from streamer.presence import Presence, present

logger = logging.getLogger("mirror.streamer")

#: Seconds between two looks whether the token still holds.
_ASK_AGAIN = 10.0

#: Seconds for which the sequencer may go on before rows are read.
_BUSY_PAUSE = 0.05

#: Who follows which stream in this process: a mirror that comes again takes its own place.
_following: dict[tuple[str, str, str], StreamConsumer] = {}


class StreamConsumer(AsyncWebsocketConsumer):
    """One mirror's connection. Dispatch is serial, so the long work is a task of its own."""

    # No layer: a message that fails to arrive from one would close the socket.
    channel_layer_alias = ""

    async def connect(self) -> None:
        settings = conf()
        self.hub: Hub = hub()
        self.session = Session(
            Role.SOURCE,
            Limits(window=settings.window_bytes, frame=settings.frame_bytes, change=settings.change_bytes),
        )
        self.work: asyncio.Task[None] | None = None
        self.presence: Presence | None = None
        #: What rows the mirror asks for, and what wakes whoever may answer.
        self.question: Fetch | None = None
        self.grown: asyncio.Event | None = None
        self.heard = asyncio.get_running_loop().time()
        self.ask_at = self.heard + _ASK_AGAIN
        self.acked = asyncio.Event()
        self.line_speed = LineSpeed()
        self.token = await self._authenticate()
        if self.token is None:
            await self.close()
            return
        if SUBPROTOCOL not in self.scope["subprotocols"]:
            await self.accept()
            await self._refuse(UnsupportedProtocol())
            return
        await self.accept(SUBPROTOCOL)
        try:
            await sync_to_async(self.hub.start)()
        except ConfigurationError as error:
            logger.error("nothing is streamed: %s", error)
            await self._refuse(ConfigurationError("the source's settings are wrong; its log says how"))
            return
        self._begin(self._expect_subscribe())

    async def _authenticate(self) -> str | None:
        headers = dict(self.scope["headers"])
        # A browser always says where its page came from; this route is for machines.
        if b"origin" in headers:
            return None
        scheme, _, secret = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return None
        token = await self.hub.call(lambda: tokens.authenticate(secret.strip()))
        return token.name if token else None

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        self.heard = asyncio.get_running_loop().time()
        try:
            message = self.session.receive(text_data if text_data is not None else bytes_data or b"")
            if isinstance(message, Subscribe):
                self._begin(self._stream(message))
            elif isinstance(message, Ack):
                self.line_speed.hears(taken=self.session.taken, now=self.heard)
                self.acked.set()
                self._note()
            elif isinstance(message, Fetch):
                self.question = message
                if self.grown is not None:
                    self.grown.set()
            elif isinstance(message, Error):
                logger.info("mirror %s leaves: %s %s", self.token, message.code, message.message)
                await self.close()
        except RemoteProtocolError as error:
            await self._refuse(error)

    async def disconnect(self, code: int) -> None:
        await self._end()

    # The task

    def _begin(self, work: Awaitable[None]) -> None:
        if self.work is not None:
            self.work.cancel()
        self.work = asyncio.ensure_future(self._guard(work))

    async def _guard(self, work: Awaitable[None]) -> None:
        try:
            await work
        except MirrorError as error:
            await self._refuse(error)
        except Exception:
            logger.exception("the stream to mirror %s failed", self.token)
            await self._refuse(MirrorError("the source failed; its log says why"))

    async def _end(self) -> None:
        work, self.work = self.work, None
        if work is not None and work is not asyncio.current_task():
            work.cancel()
            await asyncio.wait([work])

    async def _expect_subscribe(self) -> None:
        await asyncio.sleep(conf().deadline)
        raise Silent("nothing was asked for")

    async def _stream(self, request: Subscribe) -> None:
        stream = await self.hub.call(lambda: oplog.stream_for(request.stream, self.hub.using))
        place = (self.token or "", str(stream.uuid), request.mirror)
        await self._take_place(place)
        try:
            with self.hub.listen(stream) as (tail, grown):
                # What is committed but not in order yet belongs to the head that is told.
                await self.hub.look(at_most=conf().heartbeat)
                await self._answer(request, stream, tail)
                self.presence = Presence(
                    token=place[0],
                    stream=place[1],
                    mirror=place[2],
                    since=time.time(),
                    cursor=self.session.cursor,
                )
                with present(self.presence):
                    self.hub.note_soon()
                    self.grown = grown
                    await self._pump(tail, grown)
        finally:
            if _following.get(place) is self:
                del _following[place]

    async def _take_place(self, place: tuple[str, str, str]) -> None:
        former = _following.get(place)
        _following[place] = self
        if former is not None:
            await former.superseded()

    async def superseded(self) -> None:
        await self._refuse(Superseded("the same mirror has connected again"))

    async def _answer(self, request: Subscribe, stream: Stream, tail: Tail) -> None:
        def place() -> tuple[int, int, str]:
            if request.cursor is None:
                return oplog.seek(stream, request.seek)
            mark = request.mark or ""
            return request.cursor, oplog.resume(stream, request.cursor, mark), mark

        cursor, position, mark = await self.hub.call(place)
        untold = {}
        if request.loads and stream.local:
            untold = await self.hub.call(lambda: oplog.untold(self.hub.using))
        await self._say(
            Subscribed(
                stream=str(stream.uuid),
                outcome="started" if request.cursor is None else "resumed",
                cursor=cursor,
                position=position,
                mark=mark,
                head=max(tail.head, stream.head),
                head_position=max(tail.head_position, stream.position),
                now=_now(),
                compression=chosen(request.compression) if conf().compression else None,
                untold=untold,
            )
        )

    async def _pump(self, tail: Tail, grown: asyncio.Event) -> None:
        with _Ahead(self.hub, tail, self.session.position) as ahead:
            while True:
                await self._still_allowed()
                grown.clear()
                if self.question is not None:
                    await self._give_rows(self.question, tail, ahead)
                for segment in (found := await ahead.segments(self.session.cursor)):
                    await self._put_out(segment.frames, tail)
                self._note()
                if not found:
                    await self._idle(grown, tail)

    async def _give_rows(self, question: Fetch, tail: Tail, ahead: _Ahead) -> None:
        """What was asked for, right after the change up to which it was read."""
        try:
            answer = await self.hub.call(lambda: self.hub.rows(tail, question))
        except Busy:
            await asyncio.sleep(_BUSY_PAUSE)
            return
        self.question = None
        while self.session.cursor < answer.at:
            for segment in await ahead.segments(self.session.cursor, upto=answer.at):
                await self._put_out(segment.frames, tail)
        await self._put_out(
            pieces(
                number=question.number,
                model=question.model,
                at=answer.at,
                rows=answer.rows,
                told=answer.told,
                key=answer.key,
                names=answer.names,
                sum_=answer.sum,
                count=answer.count,
                pending=answer.pending,
                after=answer.next,
                total=answer.total,
                refused=answer.refused,
                frame_bytes=conf().frame_bytes,
            ),
            tail,
        )
        self.session.answered()

    async def _put_out(self, frames: Iterable[Frame], tail: Tail) -> None:
        for frame in frames:
            await self._await_line(tail)
            if self._compresses():
                await self.hub.pack(frame)
            await self._await_credit(tail)
            self.line_speed.sends(
                outstanding=self.session.outstanding,
                taken=self.session.taken,
                now=asyncio.get_running_loop().time(),
            )
            await self._say(frame)

    def _compresses(self) -> bool:
        if self.session.compression is None:
            return False
        return conf().compression is True or self.line_speed.slow

    async def _still_allowed(self) -> None:
        """Called at least with every heartbeat. Raises Unauthorized."""
        now = asyncio.get_running_loop().time()
        if now < self.ask_at:
            return
        self.ask_at = now + _ASK_AGAIN
        if not await self.hub.call(lambda: tokens.holds(self.token or "")):
            raise Unauthorized("the token was revoked")

    async def _await_line(self, tail: Tail) -> None:
        """Until it is known whether what is next should go compressed."""
        if self.session.compression is not None and conf().compression == "auto":
            await self._await_ack(tail, lambda: self.line_speed.lets(outstanding=self.session.outstanding))

    async def _await_credit(self, tail: Tail) -> None:
        await self._await_ack(tail, lambda: self.session.ready)

    async def _await_ack(self, tail: Tail, enough: Callable[[], bool]) -> None:
        while not enough():
            self.acked.clear()
            self._note()
            await self._idle(self.acked, tail)
            await self._still_allowed()

    async def _idle(self, event: asyncio.Event, tail: Tail) -> None:
        """Wait for something to do; say that we live; notice when the other side does not."""
        try:
            async with asyncio.timeout(conf().heartbeat):
                await event.wait()
        except TimeoutError:
            silence = asyncio.get_running_loop().time() - self.heard
            if silence > conf().deadline:
                raise Silent(f"nothing was heard for {silence:.0f} s") from None
            await self._say(Heartbeat(head=tail.head, head_position=tail.head_position, now=_now()))

    def _note(self) -> None:
        if self.presence is not None:
            self.presence.cursor = self.session.acked
            self.presence.outstanding = self.session.outstanding

    # Putting out

    async def _say(self, message: Message | Frame) -> None:
        payload = self.session.send(message)
        if isinstance(payload, str):
            await self.send(text_data=payload)
        else:
            await self.send(bytes_data=payload)

    async def _refuse(self, error: MirrorError) -> None:
        """The code goes in a message: daphne passes no close reason."""
        logger.warning("mirror %s refused: %s: %s", self.token, error.code, error)
        await self._end()
        await self.send(text_data=self.session.send(Error(code=error.code, message=str(error))))
        await self.close(error.close_code)


class _Ahead:
    """What follows a cursor: from the ring, or pages of the oplog, the next read while one is sent.

    ``position`` is the first cursor's.
    """

    def __init__(self, hub: Hub, tail: Tail, position: int) -> None:
        self._hub = hub
        self._tail = tail
        self._position = position
        self._next: tuple[int, asyncio.Task[list[Segment]]] | None = None

    def __enter__(self) -> _Ahead:
        return self

    def __exit__(self, *error: object) -> None:
        if self._next is not None:
            self._next[1].cancel()

    async def segments(self, cursor: int, *, upto: int | None = None) -> list[Segment]:
        """Nothing after ``upto``, the last of a group. Raises Pruned."""
        segment = self._tail.after(cursor)
        if upto is not None and (segment is None or segment.last > upto):
            found = await self._hub.page(self._tail, cursor, self._position, upto=upto)
        else:
            found = [segment] if segment else await self._page(cursor)
        if found:
            self._position = found[-1].position
        return found

    async def _page(self, cursor: int) -> list[Segment]:
        if cursor >= self._tail.head:
            return []
        if self._next is None or self._next[0] != cursor:
            self._begin(cursor, self._position)
        assert self._next is not None
        found = await self._next[1]
        self._next = None
        if found and found[-1].last < self._tail.head and not self._tail.after(found[-1].last):
            self._begin(found[-1].last, found[-1].position)
        return found

    def _begin(self, cursor: int, position: int) -> None:
        self._next = cursor, asyncio.ensure_future(self._hub.page(self._tail, cursor, position))


def _now() -> int:
    return time.time_ns() // 1000


class NoSuchRoute(AsyncWebsocketConsumer):
    """Refuses any other path with 403; without it daphne would answer 500, which looks like a fault."""

    channel_layer_alias = ""

    async def connect(self) -> None:
        await self.close()

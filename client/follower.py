"""Follows one source: connect, subscribe, apply, acknowledge; and again, whatever happens.

One connection is three loops: one reads the line into an inbox, one applies what is whole there, one
repeats the acknowledgement, which is the mirror's heartbeat. What is in the inbox is bounded by the
window, because only what was applied or spooled is acknowledged as taken in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from django.db.utils import DatabaseError, InterfaceError

from client.backoff import Backoff
from client.books import Books, Place
from client.link import Link
from client.spool import Spool
from mirror.apply import Applied, Applier
from mirror.conf import Conf
from mirror.errors import (
    CODES,
    ApplyError,
    ConfigurationError,
    Forked,
    MirrorError,
    Pruned,
    Refusal,
    RemoteProtocolError,
    Silent,
    Superseded,
)
from mirror.models import SourceState
from mirror.session import Limits, Role, Session
from mirror.wire import Ack, Batch, Error, Fragment, Heartbeat, Message, Subscribe, Subscribed

logger = logging.getLogger("mirror.client")

T = TypeVar("T")
Connect = Callable[[str, str], AbstractAsyncContextManager[Link]]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a follower needs of the world, so that a test can be the world.

    ``clock`` is monotonic seconds, ``now`` epoch microseconds.
    """

    connect: Connect
    clock: Callable[[], float]
    now: Callable[[], int]
    uniform: Callable[[float, float], float]


@dataclass(slots=True)
class Connection:
    """What one connection knows. ``inbox`` holds batches and the bytes that carried them."""

    link: Link
    session: Session
    committed: int
    position: int
    head_position: int
    inbox: list[tuple[Batch, int]] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    taken: int = 0


class Follower:
    """``run`` returns when asked to stop, or raises Superseded when another process took over."""

    def __init__(self, source_id: int, name: str, settings: Conf, world: World) -> None:
        self.name = name
        self.settings = settings
        self.world = world
        self.books = Books(source_id)
        self.level = asyncio.Event()
        self.hopeless = asyncio.Event()
        self._backoff = Backoff(settings.backoff_first, settings.backoff_longest, world.uniform)
        self._stop = asyncio.Event()
        self._answered = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"mirror-{name}")
        self._spool = Spool(settings.window_bytes)
        self._applier: Applier | None = None
        self._told: tuple[SourceState, str, str] | None = None
        self._since = datetime.now(UTC)

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        try:
            await self._call(self.books.take_over)
            while not self._stop.is_set():
                error = await self._attempt()
                if self._stop.is_set():
                    break
                await self._wait(error)
            await self._tell(SourceState.STOPPED)
        finally:
            await self._call(self.books.close)
            self._thread.shutdown()
            self._spool.close()

    async def _attempt(self) -> MirrorError:
        """One connection, from dialling to its end; return why it ended."""
        try:
            await self._connection_or_stop()
        except Superseded:
            # Said by our database it is the end; said by the source it may be our own older connection.
            await self._call(self.books.place)
            return Superseded("the source saw this mirror connect again")
        except MirrorError as error:
            return error
        except (DatabaseError, InterfaceError) as error:
            await self._call(self.books.close)
            return MirrorError(f"the database is not available: {error}")
        return MirrorError("stopped")

    async def _connection_or_stop(self) -> None:
        """Before the source has answered there is nothing to finish, and it may never answer."""
        self._answered = False
        connection = asyncio.create_task(self._connection())
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait([connection, stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not connection.done() and not self._answered:
            connection.cancel()
            await asyncio.wait([connection])
            if connection.cancelled():
                return
        await connection

    async def _wait(self, error: MirrorError) -> None:
        self.level.clear()
        if error.retryable:
            delay = self._backoff.next_delay()
        else:
            delay = self._backoff.longest_delay()
            self.hopeless.set()
        await self._tell(_state_after(error), error, delay)
        try:
            async with asyncio.timeout(delay):
                await self._stop.wait()
        except TimeoutError:
            return

    # One connection

    async def _connection(self) -> None:
        place = await self._call(self.books.place)
        # On the source's own thread, because it holds that thread's database connection.
        self._applier = await self._call(lambda: Applier(self.books.source_id, fence=self.books.fence))
        self._spool.clear()
        if self._told is None:
            await self._tell(SourceState.CONNECTING)
        async with self.world.connect(place.url, place.token) as link:
            connection = await self._subscribe(link, place)
            self._answered = True
            reader = asyncio.create_task(self._read(connection))
            beater = asyncio.create_task(self._beat(connection))
            applier = asyncio.create_task(self._apply(connection))
            stopper = asyncio.create_task(self._stop.wait())
            tasks = [reader, beater, applier, stopper]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                await self._finish(connection, applier)
                for task in done:
                    task.result()
            except MirrorError as error:
                await self._excuse(connection, error)
                raise
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _finish(self, connection: Connection, applier: asyncio.Task[None]) -> None:
        """The batch that is being applied is finished and acknowledged; nothing new is begun."""
        connection.inbox.clear()
        if applier.done():
            return
        applier.cancel()
        await asyncio.wait([applier])
        if self._stop.is_set():
            await self._acknowledge(connection)

    async def _excuse(self, connection: Connection, error: MirrorError) -> None:
        """Tell a source that broke the protocol why we leave; the line may be gone already."""
        if not isinstance(error, RemoteProtocolError):
            return
        try:
            text = connection.session.send(Error(code=error.code, message=str(error)))
            await connection.link.send(text)
        except MirrorError as lost:
            logger.debug("%s: could not say goodbye: %s", self.name, lost)

    async def _subscribe(self, link: Link, place: Place) -> Connection:
        settings = self.settings
        session = Session(
            Role.MIRROR,
            Limits(window=settings.window_bytes, frame=settings.frame_bytes, change=settings.change_bytes),
        )
        await link.send(session.send(_request(place, settings.window_bytes)))
        answer = await self._hear(link, session)
        if not isinstance(answer, Subscribed):
            raise _refusal(answer)
        await self._call(lambda: self.books.bind(place, answer))
        connection = Connection(
            link=link,
            session=session,
            committed=answer.cursor,
            position=answer.position,
            head_position=answer.head_position,
        )
        await self._note_head(connection, answer)
        await self._settle(connection)
        return connection

    async def _hear(self, link: Link, session: Session) -> Message:
        """The next message. Raises Silent on the monotonic clock: a half-open line says nothing at all."""
        try:
            async with asyncio.timeout(self.settings.deadline):
                return session.receive(await link.receive())
        except TimeoutError:
            raise Silent(f"the source said nothing for {self.settings.deadline:g} s") from None

    async def _read(self, connection: Connection) -> None:
        session = connection.session
        while True:
            before = session.carried
            message = await self._hear(connection.link, session)
            size = session.carried - before
            if isinstance(message, Error):
                raise _refusal(message)
            if isinstance(message, Batch):
                connection.head_position = max(connection.head_position, message.head_position)
                connection.inbox.append((message, size))
                connection.arrived.set()
            elif isinstance(message, Fragment):
                # Assembling is taking in: a change may be larger than the window.
                connection.taken += size
                await self._acknowledge(connection)
            elif isinstance(message, Heartbeat):
                await self._note_head(connection, message)

    async def _beat(self, connection: Connection) -> None:
        while True:
            await asyncio.sleep(self.settings.heartbeat)
            await self._acknowledge(connection)

    async def _acknowledge(self, connection: Connection) -> None:
        text = connection.session.send(Ack(taken=connection.taken, cursor=connection.committed))
        await connection.link.send(text)

    # Applying

    async def _apply(self, connection: Connection) -> None:
        while True:
            await connection.arrived.wait()
            connection.arrived.clear()
            while batches := self._take(connection):
                # Once begun it is finished: a cancelled wait must not leave the thread at work alone.
                await _finished(self._commit(connection, batches))
            # Before anything else can run: what comes now may be the end of the group.
            aside, connection.inbox = connection.inbox, []
            if aside:
                await _finished(self._set_aside(connection, aside))

    def _take(self, connection: Connection) -> list[Batch]:
        """Batches from the inbox that end with a group, as many as one transaction should take."""
        ready = changes = 0
        for place, (batch, _size) in enumerate(connection.inbox, start=1):
            changes += len(batch.changes)
            if batch.ends:
                ready = place
                if changes >= self.settings.apply_changes:
                    break
        taken = connection.inbox[:ready]
        del connection.inbox[:ready]
        connection.taken += sum(size for _, size in taken)
        return [batch for batch, _ in taken]

    async def _set_aside(self, connection: Connection, aside: list[tuple[Batch, int]]) -> None:
        """An unfinished group: to the spool, so that it gets credit to go on."""
        await self._call(lambda: self._spool.add(*(batch for batch, _ in aside)))
        connection.taken += sum(size for _, size in aside)
        await self._acknowledge(connection)

    async def _commit(self, connection: Connection, batches: list[Batch]) -> None:
        applied = await self._call(lambda: self._commit_now(batches))
        connection.committed, connection.position = applied.cursor, applied.position
        self._backoff.reset()
        await self._acknowledge(connection)
        await self._settle(connection)

    def _commit_now(self, batches: list[Batch]) -> Applied:
        assert self._applier is not None
        applied = self._applier.apply(_Chain(self._spool, batches))
        if len(self._spool):
            self._spool.clear()
        return applied

    # Telling

    async def _settle(self, connection: Connection) -> None:
        """Catching up, until the first time we are level; from then on the numbers say the rest."""
        level = connection.position >= connection.head_position
        if level:
            self._backoff.reset()
            self.level.set()
            await self._tell(SourceState.LIVE)
        elif not self.level.is_set():
            await self._tell(SourceState.CATCHING_UP)

    async def _note_head(self, connection: Connection, message: Subscribed | Heartbeat) -> None:
        """What the source says of itself; with changes the same comes with their transaction."""
        connection.head_position = max(connection.head_position, message.head_position)
        offset = message.now - self.world.now()
        await self._call(lambda: self.books.heard(message.head, message.head_position, offset))

    async def _tell(self, state: SourceState, error: MirrorError | None = None, delay: float = 0.0) -> None:
        """Store the state; log it when it is another than before."""
        code, text = (error.code, str(error)) if error else ("", "")
        if error is None and self._told == (state, code, text):
            return
        if self._told is None or self._told[0] is not state:
            self._since = datetime.now(UTC)
        if self._told != (state, code, text):
            _log(self.name, state, error)
        self._told = (state, code, text)
        next_try = datetime.fromtimestamp(self.world.now() / 1e6 + delay, UTC) if error else None
        await self._call(
            lambda: self.books.report(
                state,
                self._since,
                error_code=code,
                error_text=text,
                attempts=self._backoff.attempts,
                next_try_at=next_try,
            )
        )

    async def _call(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)


class _Chain:
    """What was spooled, then what has come since; may be read again."""

    def __init__(self, spool: Spool, batches: list[Batch]) -> None:
        self._spool = spool
        self._batches = batches

    def __iter__(self) -> Any:
        yield from self._spool
        yield from self._batches


async def _finished(work: Any) -> None:
    """Await work to its end even when cancelled meanwhile; then be cancelled."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        task.result()
        raise


def _request(place: Place, window: int) -> Subscribe:
    if place.stream is not None:
        return Subscribe(
            mirror=place.mirror, window=window, stream=place.stream, cursor=place.cursor, mark=place.mark
        )
    seek: Any = place.begin if place.begin in {"start", "now"} else int(place.begin)
    return Subscribe(mirror=place.mirror, window=window, seek=seek)


def _refusal(answer: Message) -> MirrorError:
    if not isinstance(answer, Error):
        return MirrorError(f"the source answered {type(answer).__name__}")
    error = CODES.get(answer.code, MirrorError)(answer.message)
    error.code = answer.code
    return error


def _state_after(error: MirrorError) -> SourceState:
    if isinstance(error, ApplyError | Pruned | Forked):
        return SourceState.HALTED
    if isinstance(error, Refusal | ConfigurationError) and not isinstance(error, Superseded):
        return SourceState.REFUSED
    if isinstance(error, Silent):
        return SourceState.STALLED
    return SourceState.CONNECTING


def _log(name: str, state: SourceState, error: MirrorError | None) -> None:
    if error is None:
        logger.info("%s: %s", name, state.label)
    else:
        logger.warning("%s: %s: %s: %s", name, state.label, error.code, error)

"""Follows one source: connect, subscribe, apply, acknowledge; and again, whatever happens.

One connection is three loops: one reads the line into an inbox, one applies what is whole there, one
repeats the acknowledgement, which is the mirror's heartbeat. While the database is at work, what comes is
decoded already.
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

import msgspec
from django.db.utils import DatabaseError, InterfaceError

from client.backoff import Backoff
from client.books import Books, Place
from client.inbox import Inbox
from client.link import Link
from client.pace import Pace
from client.spool import Spool
from mirror.apply import Applied, Applier, Pause, Prepared, Question, Verifier
from mirror.conf import Conf
from mirror.errors import (
    CODES,
    ApplyError,
    ConfigurationError,
    Doubled,
    Forked,
    Incomplete,
    Malformed,
    MirrorError,
    Pruned,
    Refusal,
    RemoteProtocolError,
    Resync,
    Silent,
    Superseded,
)
from mirror.models import SourceState
from mirror.session import Limits, Role, Session
from mirror.wire import (
    COMPRESSIONS,
    Ack,
    Batch,
    Chunk,
    Error,
    Fetch,
    Fragment,
    Heartbeat,
    Message,
    Piece,
    Subscribe,
    Subscribed,
)

logger = logging.getLogger("mirror.client")

#: Bytes taken in are told at least so often while a window flows.
_ACKS_IN_WINDOW = 8
#: Bytes within the deadline: whoever lets fall single ones does not keep a line that way.
_COMES_ON = 1024

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
    """What one connection knows."""

    link: Link
    session: Session
    committed: int
    position: int
    head_position: int
    inbox: Inbox
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    #: Bytes taken in, as last acknowledged.
    acknowledged: int = 0
    #: Whether the database is at work.
    busy: bool = False
    #: Rows that the source was asked for and that are not written yet, and how often it was asked.
    asked: list[Question] = field(default_factory=list)
    questions: int = 0
    #: Until when nothing is asked (monotonic seconds); None where nothing is to be loaded.
    ask_at: float | None = 0.0
    #: The same of what is to be compared, once nothing is to be loaded.
    compare_at: float | None = 0.0
    asked_at: float = 0.0

    @property
    def next_at(self) -> float | None:
        """When to ask for rows; None when there is nothing to ask, or an answer under way."""
        if self.asked:
            return None
        return self.compare_at if self.ask_at is None else self.ask_at


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
        #: The source took an offer to compress for a mistake: it is older than the offer.
        self._old_source = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"mirror-{name}")
        self._spool = Spool(settings.window_bytes)
        self._pace = Pace(settings.apply_changes)
        self._applier: Applier | None = None
        #: Kept from one connection to the next: what it knows no database does.
        self._verifier: Verifier | None = None
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
        except (Pruned, Incomplete, Forked) as error:
            return await self._start_over(error)
        except MirrorError as error:
            return error
        except (DatabaseError, InterfaceError) as error:
            await self._call(self.books.close)
            return MirrorError(f"the database is not available: {error}")
        return MirrorError("stopped")

    async def _start_over(self, error: MirrorError) -> MirrorError:
        """Where the log does not lead on, rows are loaded as they are, unless somebody should look first."""
        halts = isinstance(error, Doubled) or (isinstance(error, Forked) and self.settings.on_fork == "halt")
        if halts:
            return error
        logger.warning("%s: %s: %s", self.name, error.code, error)
        await self._call(self.books.start_over)
        return Resync(f"rows are loaded anew, for the log does not lead here: {error}")

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
        self._applier = await self._call(self._begin_to_apply)
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
                if isinstance(error, Malformed) and any(one.compares for one in connection.asked):
                    # One of us does not know the question, or the answer: to ask again would end as this did.
                    await self._give_up_comparing(error.code)
                raise
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _begin_to_apply(self) -> Applier:
        books = self.books
        applier = Applier(books.source_id, fence=books.fence, using=books.using, verifier=self._verifier)
        self._verifier = applier.verifier
        return applier

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
        request = _request(place, settings.window_bytes)
        if not self._old_source:
            offer: list[str] = [*COMPRESSIONS] if settings.compression else []
            request = msgspec.structs.replace(request, compression=offer, loads=True)
        await link.send(session.send(request))
        answer = await self._hear(link, session)
        # Whether it still is, the next connection asks anew.
        self._old_source = (
            not self._old_source and isinstance(answer, Error) and answer.code == Malformed.code
        )
        if not isinstance(answer, Subscribed):
            raise _refusal(answer)
        await self._call(lambda: self.books.bind(place, answer))
        if not self._old_source:
            await self._call(lambda: self.books.cover(answer))
            assert self._applier is not None
            await self._call(self._applier.loader.refresh)
        connection = Connection(
            link=link,
            session=session,
            committed=answer.cursor,
            position=answer.position,
            head_position=answer.head_position,
            inbox=Inbox(settings.ahead_bytes),
        )
        await self._note_head(connection, answer)
        await self._settle(connection)
        return connection

    async def _hear(self, link: Link, session: Session) -> Message:
        """The next message. Raises Silent on the monotonic clock: a half-open line says nothing at all.

        A large message may take longer, if only it comes on.
        """
        while True:
            before = link.carried
            try:
                async with asyncio.timeout(self.settings.deadline):
                    return session.receive(await link.receive())
            except TimeoutError:
                if link.carried - before < _COMES_ON:
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
                await self._put(connection, message, size)
            elif isinstance(message, Chunk):
                connection.inbox.put_chunk(message, size)
                connection.arrived.set()
            elif isinstance(message, Fragment | Piece):
                # Assembling is taking in: a change may be larger than the window.
                connection.inbox.pass_by(size)
                await self._acknowledge(connection)
            elif isinstance(message, Heartbeat):
                await self._note_head(connection, message)

    async def _put(self, connection: Connection, batch: Batch, size: int) -> None:
        if connection.busy:
            assert self._applier is not None
            connection.inbox.put(self._applier.prepare(batch), size, ahead=True)
        else:
            connection.inbox.put(batch, size)
        connection.arrived.set()
        untold = connection.inbox.taken - connection.acknowledged
        if untold >= self.settings.window_bytes // _ACKS_IN_WINDOW:
            await self._acknowledge(connection)

    async def _beat(self, connection: Connection) -> None:
        while True:
            await asyncio.sleep(self.settings.heartbeat)
            await self._acknowledge(connection)
            if connection.ask_at is None:
                await self._look_for_work(connection)

    async def _acknowledge(self, connection: Connection) -> None:
        connection.acknowledged = connection.inbox.taken
        text = connection.session.send(Ack(taken=connection.acknowledged, cursor=connection.committed))
        await connection.link.send(text)

    # Applying

    async def _apply(self, connection: Connection) -> None:
        while True:
            await self._ask(connection)
            await self._arrived(connection)
            while True:
                # Once begun it is finished: a cancelled wait must not leave the thread at work alone.
                if batches := connection.inbox.take(self._pace.limit):
                    await _finished(self._commit(connection, batches))
                elif chunk := connection.inbox.take_chunk():
                    await _finished(self._load(connection, chunk))
                    await self._ask(connection)
                else:
                    break
            # Before anything else can run: what comes now may be the end of the group.
            if aside := connection.inbox.take_rest():
                await _finished(self._set_aside(connection, aside))

    async def _set_aside(self, connection: Connection, aside: list[Batch]) -> None:
        """An unfinished group: to the spool, so that it gets credit to go on."""
        await self._call(lambda: self._spool.add(*aside))
        await self._acknowledge(connection)

    async def _commit(self, connection: Connection, batches: list[Batch | Prepared]) -> None:
        connection.busy = True
        began = self.world.clock()
        try:
            applied = await self._call(lambda: self._commit_now(batches))
        finally:
            connection.busy = False
        self._pace.took(applied.changes, self.world.clock() - began)
        connection.committed, connection.position = applied.cursor, applied.position
        self._backoff.reset()
        await self._acknowledge(connection)
        await self._settle(connection)

    # Rows that no log tells of

    async def _arrived(self, connection: Connection) -> None:
        """Until something came, or it is time to ask for rows."""
        pause = None
        if connection.next_at is not None:
            pause = max(0.0, connection.next_at - self.world.clock())
        try:
            async with asyncio.timeout(pause):
                await connection.arrived.wait()
        except TimeoutError:
            return
        connection.arrived.clear()

    async def _ask(self, connection: Connection) -> None:
        if connection.next_at is None or self.world.clock() < connection.next_at:
            return
        if connection.ask_at is not None:
            await self._ask_to_load(connection)
        else:
            await self._ask_to_compare(connection)

    async def _ask_to_load(self, connection: Connection) -> None:
        assert self._applier is not None
        question = await self._call(self._applier.question)
        if question is None:
            connection.ask_at, connection.compare_at = None, 0.0
            await self._settle(connection)
        elif isinstance(question, Pause):
            connection.ask_at = self.world.clock() + question.seconds
        else:
            await self._tell(SourceState.LOADING)
            await self._fetch(connection, question)

    async def _ask_to_compare(self, connection: Connection) -> None:
        assert self._applier is not None
        question = await self._call(self._applier.comparison)
        if self._applier.loader.active:
            connection.ask_at = 0.0
        if question is None:
            connection.compare_at = None
        elif isinstance(question, Pause):
            connection.compare_at = self.world.clock() + question.seconds
        else:
            await self._fetch(connection, question)

    async def _give_up_comparing(self, code: str) -> None:
        verifier = self._verifier
        assert verifier is not None
        await self._call(lambda: verifier.give_up(code))

    async def _fetch(self, connection: Connection, question: Question) -> None:
        connection.asked.append(question)
        connection.questions += 1
        connection.asked_at = self.world.clock()
        await connection.link.send(connection.session.send(_fetch(connection.questions, question)))

    async def _load(self, connection: Connection, chunk: Chunk) -> None:
        question, applier = connection.asked[0], self._applier
        assert applier is not None
        if (
            question.keys is None
            and chunk.next is not None
            and len(connection.asked) == 1
            and not question.compares
        ):
            # The source reads the next while these are written.
            await self._fetch(connection, Question(model=question.model, after=chunk.next))
        connection.busy = True
        try:
            await self._call(lambda: applier.load(question, chunk))
        finally:
            connection.busy = False
        connection.asked.pop(0)
        if question.compares:
            # As long as it took: half of the time belongs to others.
            connection.compare_at = 2 * self.world.clock() - connection.asked_at
        self._backoff.reset()
        await self._acknowledge(connection)

    async def _look_for_work(self, connection: Connection) -> None:
        """Somebody may have asked for rows to be loaded or compared."""
        applier = self._applier
        assert applier is not None

        def look() -> None:
            if self.level.is_set():
                self.books.schedule()
            applier.loader.refresh()
            applier.verifier.refresh()

        await self._call(look)
        if applier.loader.active:
            connection.ask_at = 0.0
        elif applier.verifier.active and connection.compare_at is None:
            connection.compare_at = 0.0
        if connection.next_at is not None:
            connection.arrived.set()

    def _commit_now(self, batches: list[Batch | Prepared]) -> Applied:
        assert self._applier is not None
        applied = self._applier.apply(_Chain(self._spool, batches))
        if len(self._spool):
            self._spool.clear()
        return applied

    # Telling

    async def _settle(self, connection: Connection) -> None:
        """Catching up, until the first time we are level; from then on the numbers say the rest."""
        level = connection.position >= connection.head_position
        if connection.ask_at is not None:
            return  # what is loaded is level when all of it is here
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

    def __init__(self, spool: Spool, batches: list[Batch | Prepared]) -> None:
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


def _fetch(number: int, question: Question) -> Fetch:
    keys = None if question.keys is None else list(question.keys)
    return Fetch(
        number=number,
        model=question.model,
        after=question.after,
        keys=keys,
        digests=question.digests,
        order=question.order,
    )


def _request(place: Place, window: int) -> Subscribe:
    if place.stream is not None:
        return Subscribe(
            mirror=place.mirror, window=window, stream=place.stream, cursor=place.cursor, mark=place.mark
        )
    seek: Any = place.begin if place.begin in {"start", "now"} else int(place.begin)
    return Subscribe(mirror=place.mirror, window=window, seek="now" if place.loads else seek)


def _refusal(answer: Message) -> MirrorError:
    if not isinstance(answer, Error):
        return MirrorError(f"the source answered {type(answer).__name__}")
    error = CODES.get(answer.code, MirrorError)(answer.message)
    error.code = answer.code
    return error


def _state_after(error: MirrorError) -> SourceState:
    if isinstance(error, Resync):
        return SourceState.LOADING
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

"""One per process: a thread with its own connection that sequences, reads the oplog once for everybody
and wakes the consumers.

New changes are kept as encoded segments in a bounded ring per stream. A subscriber that is level takes
them from there; one that is not reads pages until its cursor meets the ring. What wakes it is only a
hint: the cursor decides what comes next.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from typing import TypeVar

from django.core.checks import ERROR, run_checks
from django.db import connections
from django.db.utils import DatabaseError, InterfaceError

from mirror import oplog, oplogger, snapshot
from mirror.checks import TAG
from mirror.conf import conf
from mirror.doorbell import Doorbell, Patience, doorbell_for
from mirror.errors import ConfigurationError, Pruned, Refusal, UnknownModel, UnknownStream
from mirror.models import Stream
from mirror.sequencer import Sequencer, guarded_step
from mirror.snapshot import Rows
from mirror.wire import Entry, Fetch, Frame, Segment, segments
from streamer.hints import Hinted, Hints, hints_for
from streamer.keeper import keeping

logger = logging.getLogger("mirror.streamer")

_READERS = 2
_PAGE = 2000
_PAGE_BYTES = 1024 * 1024
#: After an unforeseen error the thread looks again, but not at once.
_AFTER_ERROR = 1.0

#: Seconds after which subscribers are no longer waited for: their loop may have ended.
_SENDING_AT_MOST = 1.0
#: Bytes that are compressed in less time than a thread takes to be asked.
_PACKED_AT_ONCE = 8192
#: Under a steady load the log lines are told every so many turns.
_TURNS_UNTOLD = 20

T = TypeVar("T")
Listener = tuple[asyncio.AbstractEventLoop, asyncio.Event]


class Tail:
    """The newest segments of one stream, by the cursor they follow. Written by one thread only."""

    def __init__(self, stream_id: int, head: int, head_position: int, ring_bytes: int) -> None:
        self.stream_id = stream_id
        self.head = head
        self.head_position = head_position
        self._ring_bytes = ring_bytes
        self._ring: OrderedDict[int, Segment] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def push(self, segment: Segment) -> None:
        with self._lock:
            self._ring[segment.prev] = segment
            self._size += segment.size
            while self._size > self._ring_bytes and len(self._ring) > 1:
                self._size -= self._ring.popitem(last=False)[1].size
            self.head, self.head_position = segment.last, segment.position

    def restart(self, entry: Entry) -> None:
        """Go on after a change that does not follow the head: what lay between is pruned."""
        with self._lock:
            self._ring.clear()
            self._size = 0
            self.head, self.head_position = entry.ts, entry.position

    def after(self, cursor: int) -> Segment | None:
        with self._lock:
            return self._ring.get(cursor)

    def joins_after(self, cursor: int) -> int | None:
        """The oldest cursor beyond this one from which the ring goes on."""
        with self._lock:
            return next((prev for prev in self._ring if prev > cursor), None)


class Hub:
    """Sequencer, tails and listeners of this process."""

    def __init__(self, using: str, *, sequencer: Sequencer | None, hints: Hints | None = None) -> None:
        self.using = using
        self._sequencer = sequencer
        self._hints = hints
        self._tails: dict[int, Tail] = {}
        self._listeners: dict[int, set[Listener]] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._asked = threading.Event()
        self._thread: threading.Thread | None = None
        self._awaited: list[Listener] = []
        self._patience = Patience()
        self._untold = 0
        #: Loops that were woken and have not sent to everybody yet, and until when that counts.
        self._sending = 0
        self._sending_until = 0.0
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="mirror-reader")
        #: One: a frame is compressed once, and however many want that, it takes no more than a core.
        self._packer = ThreadPoolExecutor(1, thread_name_prefix="mirror-packer")
        self._keeper = keeping(using)

    # For the consumers

    def start(self) -> None:
        """Raises ConfigurationError: daphne runs no system checks, and what they forbid must not leave."""
        with self._lock:
            if self._thread is None:
                _check()
                self._thread = threading.Thread(target=self._run, name="mirror-hub", daemon=True)
                self._thread.start()
                self._keeper.start()
                if self._hints is not None:
                    self._hints.start()

    def stop(self) -> None:
        self._stopped.set()
        self._keeper.stop()
        if self._thread is not None:
            self._thread.join()
            if self._hints is not None:
                self._hints.stop()
        together = threading.Barrier(_READERS)
        for _ in range(_READERS):
            self._readers.submit(_close_connections, together)
        self._readers.shutdown()
        self._packer.shutdown()

    async def call(self, function: Callable[[], T]) -> T:
        """Run database work on a reader thread, never on the one that every consumer shares."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, _own_connections(function))

    async def pack(self, frame: Frame) -> None:
        """Compress a frame; nothing to do when another subscriber had it compressed before."""
        if frame.packed is not None:
            return
        if frame.size <= _PACKED_AT_ONCE:
            frame.pack()
        else:
            await asyncio.get_running_loop().run_in_executor(self._packer, frame.pack)

    @contextmanager
    def listen(self, stream: Stream) -> Iterator[tuple[Tail, asyncio.Event]]:
        """The stream's tail, and an event that is set when it grew."""
        listener = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            tail = self._tails.get(stream.pk)
            if tail is None:
                tail = Tail(stream.pk, stream.head, stream.position, conf().ring_bytes)
                self._tails[stream.pk] = tail
            self._listeners.setdefault(stream.pk, set()).add(listener)
        self._asked.set()  # what was committed since the stream's row was read rings no bell
        try:
            yield tail, listener[1]
        finally:
            with self._lock:
                self._listeners[stream.pk].discard(listener)
                if not self._listeners[stream.pk]:
                    del self._listeners[stream.pk], self._tails[stream.pk]

    async def look(self, *, at_most: float) -> None:
        """Return once the thread has looked at everything that is committed by now, or after so long."""
        loop, looked = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            self._awaited.append((loop, looked))
        self._asked.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(at_most):
                await looked.wait()

    def note_soon(self) -> None:
        """A mirror has come: write it down before anything is pruned that it may need."""
        self._keeper.hurry()

    async def page(self, tail: Tail, cursor: int, position: int, *, upto: int | None = None) -> list[Segment]:
        """Segments after a cursor, up to where the ring goes on, or up to the change ``upto``.

        Raises Pruned when the change after the cursor's ``position`` is gone.
        """
        joins = tail.joins_after(cursor) if upto is None else upto
        return await self.call(lambda: self._read_page(tail, cursor, position, joins))

    def rows(self, tail: Tail, question: Fetch) -> Rows:
        """What a mirror asked for, on a reader thread. Raises Busy, Malformed."""
        stream = Stream.objects.using(self.using).get(pk=tail.stream_id)
        if not stream.local:
            return Rows(at=stream.head, refused=UnknownStream.code)
        try:
            rows = snapshot.read(
                self.using,
                question.model,
                after=question.after,
                keys=question.keys,
                digests=question.digests,
                order=question.order,
                limit=_PAGE,
                max_bytes=_PAGE_BYTES,
            )
            return rows if question.keys is None else rows.within(conf().change_bytes // 4)
        except (Refusal, UnknownModel) as error:
            return Rows(at=stream.head, refused=error.code)

    def _read_page(self, tail: Tail, cursor: int, position: int, joins: int | None) -> list[Segment]:
        entries = oplog.read(tail.stream_id, cursor, self.using, limit=_PAGE, max_bytes=_PAGE_BYTES)
        if entries and entries[0].position != position + 1:
            raise Pruned(f"what follows {cursor} was pruned while this mirror was catching up")
        if joins is not None:
            entries = [entry for entry in entries if entry.ts <= joins]
        return list(
            segments(
                cursor,
                entries,
                head=tail.head,
                head_position=tail.head_position,
                frame_bytes=conf().frame_bytes,
            )
        )

    # The thread

    def _run(self) -> None:
        bell = doorbell_for(connections[self.using])
        doorbell = bell if self._hints is None else self._hints.hinted(bell)
        while not self._stopped.is_set():
            try:
                # Not an event's wait: its wake-up costs several times as much, hundreds of times a second.
                time.sleep(self._turn(doorbell))
            except (DatabaseError, InterfaceError) as error:
                logger.warning("the database is not available to the streamer: %s", error)
                connections[self.using].close()
                self._stopped.wait(_AFTER_ERROR)
            except Exception:
                # Whatever it is, the stream must go on when its cause is gone.
                logger.exception("the streamer's thread failed and goes on")
                self._stopped.wait(_AFTER_ERROR)
        doorbell.close()
        connections[self.using].close()

    def _turn(self, doorbell: Doorbell) -> float:
        """One look; return the seconds until the next."""
        asked = self._asked.is_set()
        if not asked and not doorbell.rang():
            return self._patience.pause(doorbell.interval)
        by_hint = not asked and isinstance(doorbell, Hinted) and doorbell.by_hint
        self._asked.clear()
        with self._lock:
            awaited, self._awaited = self._awaited, []
        try:
            # Who gives a hint has put in order what there was. Whoever asks may not have been seen by him.
            return self._look(doorbell, awaited=bool(awaited), orders=bool(awaited) or not by_hint)
        finally:
            _set_events(awaited)

    def _look(self, doorbell: Doorbell, *, awaited: bool, orders: bool) -> float:
        moved = guarded_step(self._sequencer) if self._sequencer is not None and orders else 0
        if self._hints is not None and orders:
            self._hints.looked(moved=moved)
        if self._still_sending() and not awaited:
            # Many subscribers take longer than a pass: what comes meanwhile goes to them as one.
            self._asked.set()
            return conf().sequencer_pause
        self.step()
        # The lines can wait until the consumers, who share the interpreter's lock, have sent the changes.
        self._untold += 1
        if orders and (not moved or self._untold >= _TURNS_UNTOLD):
            oplogger.tell(self.using)
            self._untold = 0
        if moved:
            self._patience.stir()
        return conf().sequencer_pause if moved else doorbell.interval

    def step(self) -> None:
        """Read what every tail lacks, and wake those who wait for it."""
        with self._lock:
            tails = list(self._tails.values())
        for tail in tails:
            while self._extend(tail):
                self._wake(tail.stream_id)

    def _extend(self, tail: Tail) -> bool:
        entries = oplog.read(tail.stream_id, tail.head, self.using, limit=_PAGE, max_bytes=_PAGE_BYTES)
        if not entries:
            return False
        if entries[0].position != tail.head_position + 1:
            # This thread was away for long. Whoever needs what is gone reads a page, and is told so.
            tail.restart(entries[0])
            return True
        last = entries[-1]
        for segment in segments(
            tail.head,
            entries,
            head=last.ts,
            head_position=last.position,
            frame_bytes=conf().frame_bytes,
        ):
            tail.push(segment)
        return True

    def _wake(self, stream_id: int) -> None:
        with self._lock:
            listeners = list(self._listeners.get(stream_id, ()))
            self._sending += len({loop for loop, _event in listeners if not loop.is_closed()})
            self._sending_until = time.monotonic() + _SENDING_AT_MOST
        _set_events(listeners, then=self._sent)

    def _still_sending(self) -> bool:
        with self._lock:
            if time.monotonic() > self._sending_until:
                self._sending = 0
            return self._sending > 0

    def _sent(self) -> None:
        """In a loop, after everybody there who was woken has had a turn: sending takes no more than that."""
        with self._lock:
            self._sending = max(0, self._sending - 1)


def _set_events(listeners: list[Listener], then: Callable[[], object] | None = None) -> None:
    """From the thread: one call into each loop, however many wait there.

    ``then`` is called in each of them after those who were woken have run.
    """
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Event]] = {}
    for loop, event in listeners:
        by_loop.setdefault(loop, []).append(event)
    for loop, events in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_set_all, events, loop, then)


def _check() -> None:
    problems = [message for message in run_checks(tags=[TAG]) if message.level >= ERROR]
    if problems:
        raise ConfigurationError("; ".join(f"{problem.id}: {problem.msg}" for problem in problems))


def _set_all(
    events: list[asyncio.Event], loop: asyncio.AbstractEventLoop, then: Callable[[], object] | None
) -> None:
    for event in events:
        event.set()
    if then is not None:
        loop.call_soon(then)


def _close_connections(together: threading.Barrier) -> None:
    together.wait()  # so that every thread of the pool takes one of these calls
    connections.close_all()


def _own_connections(function: Callable[[], T]) -> Callable[[], T]:
    def call() -> T:
        for connection in connections.all(initialized_only=True):
            # CONN_MAX_AGE is how long a request's connection lives. A thread of ours keeps its own.
            connection.close_at = None
            connection.close_if_unusable_or_obsolete()
        return function()

    return call


@cache
def hub() -> Hub:
    """This process's hub, not yet started."""
    using = conf().database
    return Hub(using, sequencer=Sequencer(using) if conf().capture else None, hints=hints_for(using))

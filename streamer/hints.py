"""Hints between the processes that serve one database, over a channel layer.

One process watches the database and tells the others when to look; they look now and then although nobody
told them to. The log is the only carrier: a hint that is lost, late, doubled or forged costs a look, or at
most a quarter of a second, never a change.

Nobody is appointed. Who watches says so, and whoever hears that from a process that has run for longer
rests; when he hears nothing for a while he watches again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from channels.layers import channel_layers
from django.db import connections
from django.utils.crypto import salted_hmac

from mirror.conf import conf
from mirror.doorbell import Doorbell

__all__ = ["Hint", "Hinted", "Hints", "Layer", "Watch", "hints_for"]

logger = logging.getLogger("mirror.streamer")

#: Seconds after which one who rests looks although nobody told it to: what a lost hint costs.
_LOOK_ANYWAY = 0.2
#: Seconds for which one rests after it heard that another watches, and between two times of saying so.
_REST, _SAY_SO = 1.0, 0.3
#: Seconds that one who rests waits for a hint at a time: whoever asks the hub for a look waits as long.
_WAIT = 0.05

#: Seconds between two hints: under a steady load a few changes share one.
_SPACING = 0.02
#: Seconds after which a process says something to hear itself, and of silence that mean the layer is gone.
_ECHO, _SILENCE = 1.0, 3.0
#: Seconds that the layer may take to do anything, and until it is tried again.
_PATIENCE, _AGAIN = 2.0, 1.0
#: Seconds between two times of joining: a layer forgets its members after a day, or when it is emptied.
_JOIN_AGAIN = 600.0

_IN_MEMORY = "channels.layers.InMemoryChannelLayer"


class Hint(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="mirror.hint"):
    """``by`` names a process and sorts by how long it runs. Nothing of the data travels here."""

    by: str
    #: Whether that process watches the database.
    watching: bool = False
    #: Whether there is something to look for.
    look: bool = False


class Watch:
    """Whether this process watches the database or rests, and when it looks anyway."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._clock = clock
        self._rests_until = -math.inf
        self._looked = -math.inf

    @property
    def rests(self) -> bool:
        return self._clock() < self._rests_until

    @property
    def due(self) -> float:
        """Seconds until this process looks although nobody told it to."""
        return self._looked + _LOOK_ANYWAY - self._clock()

    def heard(self, hint: Hint) -> bool:
        """Return whether to look."""
        if hint.watching and hint.by < self.name:
            self._rests_until = self._clock() + _REST
        return hint.look and hint.by != self.name

    def looked(self) -> None:
        self._looked = self._clock()

    def alone(self) -> None:
        """Nobody can be heard any more."""
        self._rests_until = -math.inf


class Hinted:
    """A doorbell that is asked only while this process watches; otherwise a hint rings.

    ``wait`` waits so many seconds for a hint; ``says_so`` tells the others that this process watches.
    """

    def __init__(
        self, bell: Doorbell, watch: Watch, *, wait: Callable[[float], bool], says_so: Callable[[], None]
    ) -> None:
        self._bell = bell
        self._watch = watch
        self._wait = wait
        self._says_so = says_so
        #: Whether it rang for a hint: what there was is in order then, and need only be read.
        self.by_hint = False

    @property
    def interval(self) -> float:
        return 0.0 if self._watch.rests else self._bell.interval

    def rang(self) -> bool:
        self.by_hint = False
        if not self._watch.rests:
            self._says_so()
            return self._bell.rang()
        if (due := self._watch.due) <= 0:
            self._watch.looked()
            return True
        self.by_hint = self._wait(min(_WAIT, due))
        return self.by_hint

    def close(self) -> None:
        self._bell.close()


class Layer(Protocol):
    """What is used of a channel layer."""

    async def new_channel(self) -> str: ...
    async def group_add(self, group: str, channel: str) -> None: ...
    async def group_discard(self, group: str, channel: str) -> None: ...
    async def group_send(self, group: str, message: dict[str, Any]) -> None: ...
    async def receive(self, channel: str) -> dict[str, Any]: ...


class Hints:
    """This process's part in the hints: a thread with a loop and a layer of its own.

    The project's layer object is not used: two loops cannot receive from one, and it would lose room to us.
    """

    def __init__(
        self, group: str, make_layer: Callable[[], Layer], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.watch = Watch(f"{time.time_ns():020d}.{secrets.token_hex(4)}", clock)
        self._group = group
        self._make_layer = make_layer
        self._clock = clock
        self._said_so = -math.inf
        self._hinted = threading.Event()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._line: _Line | None = None
        self._channel: str | None = None
        self._away = False
        self._thread: threading.Thread | None = None

    # For the hub

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="mirror-hints", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._say(look=False)
        if self._thread is not None:
            self._thread.join()

    def hinted(self, bell: Doorbell) -> Hinted:
        return Hinted(bell, self.watch, wait=self._wait, says_so=self._say_so)

    def looked(self, *, moved: int) -> None:
        """This process has looked: others, who rest, shall read what it put in order or found."""
        if moved or not self.watch.rests:
            self._say(look=True)

    def _wait(self, seconds: float) -> bool:
        hinted = self._hinted.wait(seconds)
        self._hinted.clear()
        return hinted

    def _say_so(self) -> None:
        if self._clock() - self._said_so >= _SAY_SO:
            self._said_so = self._clock()
            self._say(look=False)

    def _say(self, *, look: bool) -> None:
        with self._lock:
            if self._line is not None:
                self._line.say(Hint(by=self.watch.name, watching=not self.watch.rests, look=look))

    # The thread

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                # A loop each time: that is how layers of Redis close their connections.
                asyncio.run(self._take_part())
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a layer is anybody's code
                self._lost(error)
                self._stopped.wait(_AGAIN)

    async def _take_part(self) -> None:
        line = _Line(self._make_layer(), self._group, self._heard)
        former, self._channel = self._channel, await line.join()
        try:
            if former is not None:
                await line.leave(former)
            with self._lock:
                self._line = line
            await line.carry(Hint(by=self.watch.name), until=self._stopped.is_set)
            await line.leave(self._channel)
        finally:
            with self._lock:
                self._line = None
            self.watch.alone()

    def _heard(self, hint: Hint) -> None:
        if self._away:
            self._away = False
            logger.info("hints between processes come again")
        if self.watch.heard(hint):
            self._hinted.set()

    def _lost(self, error: BaseException) -> None:
        if not self._away:
            self._away = True
            reason = str(error) or type(error).__name__
            logger.warning("no hints between processes, so each looks for itself: %s", reason)


class _Line:
    """One time of being connected, in one loop. Whatever is wrong with the layer is raised."""

    def __init__(self, layer: Layer, group: str, heard: Callable[[Hint], None]) -> None:
        self._layer = layer
        self._group = group
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._next: Hint | None = None
        self._heard_at = self._loop.time()
        self._channel = ""

    async def join(self) -> str:
        async with asyncio.timeout(_PATIENCE):
            self._channel = await self._layer.new_channel()
            await self._layer.group_add(self._group, self._channel)
        return self._channel

    async def leave(self, channel: str) -> None:
        async with asyncio.timeout(_PATIENCE):
            await self._layer.group_discard(self._group, channel)

    def say(self, hint: Hint) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(self._put, hint)

    def _put(self, hint: Hint) -> None:
        if self._next is not None and self._next.look:
            hint = msgspec.structs.replace(hint, look=True)
        self._next = hint
        self._wake.set()

    async def carry(self, echo: Hint, *, until: Callable[[], bool]) -> None:
        """Take in what the others say, and put out what this process says, or an ``echo`` for itself."""
        receiving = asyncio.ensure_future(self._receive())
        receiving.add_done_callback(lambda _: self._wake.set())
        join_again = self._loop.time() + _JOIN_AGAIN
        try:
            while not until():
                hint, self._next = self._next or echo, None
                async with asyncio.timeout(_PATIENCE):
                    if self._loop.time() >= join_again:
                        await self._layer.group_add(self._group, self._channel)
                        join_again = self._loop.time() + _JOIN_AGAIN
                    await self._layer.group_send(self._group, msgspec.to_builtins(hint))
                await asyncio.sleep(_SPACING)
                await self._until_woken()
                if receiving.done():
                    receiving.result()
                if self._loop.time() - self._heard_at > _SILENCE:
                    raise TimeoutError(f"nothing came back for {_SILENCE:g} s")
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def _until_woken(self) -> None:
        try:
            async with asyncio.timeout(_ECHO):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _receive(self) -> None:
        while True:
            message = await self._layer.receive(self._channel)
            try:
                hint = msgspec.convert(message, Hint)
            except msgspec.ValidationError as error:
                logger.debug("not a hint: %s", error)
                continue
            self._heard_at = self._loop.time()
            self._heard(hint)


def hints_for(using: str) -> Hints | None:
    """None where nobody else could hear them."""
    alias = conf().channel_layer
    if alias is None or alias not in channel_layers:
        return None
    if channel_layers.configs[alias].get("BACKEND") == _IN_MEMORY:
        return None
    return Hints(_group(using), lambda: channel_layers.make_backend(alias))


def _group(using: str) -> str:
    """A name that processes of one site share and no others, whoever else uses the same Redis."""
    place = connections[using].settings_dict
    told = "|".join(str(place.get(key, "")) for key in ("ENGINE", "HOST", "PORT", "NAME"))
    name = salted_hmac("streamer.hints", told, algorithm="sha256").hexdigest()
    return f"livemirror.{name[:24]}"

"""Follows several sources at once, each on its own; sources may be added and removed meanwhile."""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import signal
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from client.follower import Follower, World
from client.link import connect
from client.workers import Share, Workers, start_worker
from mirror.conf import Conf, conf
from mirror.errors import Superseded
from mirror.models import Source

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

logger = logging.getLogger("mirror.client")

#: Seconds between two looks at the table of sources.
_LOOK_EVERY = 2.0

_ALL = Share(0, of=1)


def real_world(settings: Conf) -> World:
    return World(
        connect=functools.partial(connect, frame_bytes=settings.frame_bytes, timeout=settings.deadline),
        clock=time.monotonic,
        now=lambda: time.time_ns() // 1000,
        uniform=random.uniform,
    )


class Runner:
    """``names`` empty means every registered source; of those, the ones of the share."""

    def __init__(self, names: Collection[str], settings: Conf, world: World, share: Share = _ALL) -> None:
        self._names = set(names)
        self._settings = settings
        self._world = world
        self._share = share
        self._stop = asyncio.Event()
        self._followers: dict[int, tuple[Follower, asyncio.Task[None]]] = {}
        self._waiting = False
        self.superseded = False

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        """Until ``stop``, or until every source is followed by another process."""
        while not self._stop.is_set():
            await self.step()
            if self.superseded and not self._followers:
                break
            await self._pause(_LOOK_EVERY)
        await self._end_all()

    async def run_until_level(self) -> bool:
        """Until each source is level with its head; False when one of them cannot be."""
        await self.step()
        for follower, task in self._followers.values():
            level = asyncio.create_task(follower.level.wait())
            stop = asyncio.create_task(self._stop.wait())
            hopeless = asyncio.create_task(follower.hopeless.wait())
            await asyncio.wait([level, task, stop, hopeless], return_when=asyncio.FIRST_COMPLETED)
            reached = level.done()
            for waiting in (level, stop, hopeless):
                waiting.cancel()
            if not reached:
                await self._end_all()
                return False
        await self._end_all()
        return True

    async def step(self) -> None:
        """Begin to follow what is registered, leave what is not, notice what ended."""
        for source_id, (follower, task) in list(self._followers.items()):
            if task.done():
                del self._followers[source_id]
                self._account(follower, task)
        wanted = await self._registered()
        for source_id, name in wanted.items():
            if source_id not in self._followers and not self.superseded:
                follower = Follower(source_id, name, self._settings, self._world)
                self._followers[source_id] = follower, asyncio.create_task(follower.run())
        for source_id in self._followers.keys() - wanted.keys():
            self._followers[source_id][0].stop()
        if not wanted and not self._waiting:
            logger.info(
                "no source is registered; add one with `manage.py mirrorsource add NAME URL --token T`"
            )
        self._waiting = not wanted

    def _account(self, follower: Follower, task: asyncio.Task[None]) -> None:
        error = task.exception()
        if isinstance(error, Superseded):
            logger.warning("%s: %s", follower.name, error)
            self.superseded = self.superseded or follower.name in self._names or not self._names
        elif error is not None:
            logger.error("%s: failed and begins again", follower.name, exc_info=error)

    async def _registered(self) -> dict[int, str]:
        sources = Source.objects.using(conf().database).order_by("name")
        if self._names:
            sources = sources.filter(name__in=self._names)
        registered = await sync_to_async(lambda: list(sources.values_list("pk", "name")))()
        return {source_id: name for source_id, name in registered if self._share.includes(source_id)}

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    async def _end_all(self) -> None:
        for follower, _task in self._followers.values():
            follower.stop()
        tasks = [task for _follower, task in self._followers.values()]
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                logger.error("a source ended badly: %s", result)


def missing(names: Collection[str]) -> list[str]:
    """Those of the names that are not registered."""
    known = set(Source.objects.using(conf().database).values_list("name", flat=True))
    return sorted(set(names) - known)


def stop_on_signal(stop: Callable[[], None]) -> None:
    """SIGINT and SIGTERM, in the loop that runs."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


def run(runner: Runner, *, until_level: bool, on_signal: Callable[[Callable[[], None]], None]) -> bool:
    """Run to the end; ``on_signal`` is given what a signal should call. True if the aim was reached."""

    async def main() -> bool:
        on_signal(runner.stop)
        if until_level:
            return await runner.run_until_level()
        await runner.run()
        return not runner.superseded

    return asyncio.run(main())


def follow(
    names: Collection[str], workers: int, *, until_level: bool, output: Connection[Any, Any] | None = None
) -> bool:
    """Follow these sources, or all, in so many processes until a signal; True if the aim was reached.

    ``output`` is where worker processes write what they would write to a terminal.
    """
    if workers > 1:
        return asyncio.run(_share_out(names, workers, until_level=until_level, output=output))
    return run(Runner(names, conf(), real_world(conf())), until_level=until_level, on_signal=stop_on_signal)


async def _share_out(
    names: Collection[str], count: int, *, until_level: bool, output: Connection[Any, Any] | None
) -> bool:
    workers = Workers(
        [Share(number, of=count) for number in range(count)],
        functools.partial(start_worker, names, until_level=until_level, output=output),
        until_level=until_level,
    )
    stop_on_signal(workers.stop)
    return await workers.run()

"""Several processes that share the sources: one interpreter decodes and applies for one core only.

Each worker follows the sources that fall to its share. The fence of a source admits one process, whatever
is started how often, so two workers never apply the same one.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import sys
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

logger = logging.getLogger("mirror.client")

#: What a worker exits with when it cannot get level, or another process follows its sources now.
MISSED = 3

#: Seconds until a worker that died begins again.
_REST = 1.0


@dataclass(frozen=True, slots=True)
class Share:
    """The sources of worker ``number``, from 0, of so many."""

    number: int
    of: int

    def includes(self, source_id: int) -> bool:
        return source_id % self.of == self.number


class Process(Protocol):
    """A process that was started, as multiprocessing has it."""

    @property
    def sentinel(self) -> int: ...
    @property
    def exitcode(self) -> int | None: ...
    def join(self) -> None: ...
    def terminate(self) -> None: ...


class Workers:
    """``run`` returns when all have ended: as asked to, or because one of them missed its aim."""

    def __init__(
        self,
        shares: Collection[Share],
        start: Callable[[Share], Process],
        *,
        until_level: bool,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._shares = shares
        self._start = start
        self._until_level = until_level
        self._pause = pause
        self._stopping = False
        self._running: dict[Share, Process] = {}

    def stop(self) -> None:
        self._stopping = True
        for process in self._running.values():
            process.terminate()

    async def run(self) -> bool:
        """True if the aim was reached."""
        codes = await asyncio.gather(*map(self._keep, self._shares))
        return not any(codes) if self._until_level else MISSED not in codes

    async def _keep(self, share: Share) -> int:
        """Start it, and again when it dies; return its last exit code."""
        while True:
            process = self._running[share] = self._start(share)
            code = await _end_of(process)
            del self._running[share]
            if code == MISSED:
                self.stop()
            if self._stopping or (code == 0 and self._until_level):
                return code
            logger.error("worker %d ended with exit code %d and begins again", share.number + 1, code)
            await self._pause(_REST)
            if self._stopping:
                return code


async def _end_of(process: Process) -> int:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(process.sentinel, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(process.sentinel)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def start_worker(
    names: Collection[str], share: Share, *, until_level: bool, output: Connection[Any, Any] | None = None
) -> Process:
    # Not forked: a copy of this process would share its database connection.
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_work, args=(list(names), share, until_level, output))
    process.start()
    return process


def _work(
    names: Collection[str], share: Share, until_level: bool, output: Connection[Any, Any] | None
) -> None:
    import django

    if output is not None:
        _write_to(output)
    django.setup()
    from client.runner import Runner, real_world, run, stop_on_signal
    from mirror.conf import conf

    runner = Runner(names, conf(), real_world(conf()), share)
    if not run(runner, until_level=until_level, on_signal=partial(_stop_with_the_parent, stop_on_signal)):
        sys.exit(MISSED)


def _write_to(output: Connection[Any, Any]) -> None:
    """Instead of the terminal, where the parent shows something."""
    for standard in (sys.stdout, sys.stderr):
        if standard.isatty():
            os.dup2(output.fileno(), standard.fileno())
    output.close()


def _stop_with_the_parent(
    stop_on_signal: Callable[[Callable[[], None]], None], stop: Callable[[], None]
) -> None:
    """Nobody could stop a worker whose parent was killed."""
    stop_on_signal(stop)
    parent = multiprocessing.parent_process()
    assert parent is not None
    loop = asyncio.get_running_loop()

    def orphaned() -> None:
        loop.remove_reader(parent.sentinel)
        stop()

    loop.add_reader(parent.sentinel, orphaned)

"""A line that can fail: a TCP proxy with its own thread.

What it can do to a line: end it (FIN) or reset it (RST), now or after so many bytes, let nothing through
while it stays open, refuse to open it, and make it slow, each direction by itself.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tests.end_to_end.processes import free_port, stream_url
from tests.end_to_end.throttle import Throttle

T = TypeVar("T")

#: SO_LINGER with no time to linger: close() resets.
_RESET = struct.pack("ii", 1, 0)
_CHUNK = 65_536
#: Pieces that a line with latency holds at once.
_UNDER_WAY = 1024


class Proxy:
    """A line to a local port. A context manager; its methods may be called from any thread."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        #: How many connections were ever opened through it.
        self.opened = 0
        #: How many bytes came from the target.
        self.carried = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._lines: set[_Line] = set()
        self._handlers: set[asyncio.Task[Any]] = set()
        self._dark = False
        self._up = self._down = Throttle()
        self._fate: Callable[[], tuple[int, bool] | None] = lambda: None

    def __enter__(self) -> Proxy:
        self._thread.start()
        self.open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return stream_url(self.port)

    # What can be done to the line

    def open(self) -> None:
        """Accept connections."""
        self._call(self._listen())

    def close(self, *, reset: bool = False) -> None:
        """The cable is pulled: whoever dials is refused."""
        self._call(self._unlisten(reset))

    def cut(self, *, reset: bool = False) -> None:
        """End every connection; new ones are welcome."""
        self._call(self._cut(reset))

    def darken(self) -> None:
        """Connections stay open and say nothing any more, nor do new ones: no FIN, no RST."""
        self._call(self._set_dark(True))

    def lighten(self) -> None:
        """What was held back goes on."""
        self._call(self._set_dark(False))

    def doom(self, dice: random.Random, *, at_most: int) -> None:
        """Until ``spare``, every second new connection breaks after at most so many bytes from the target."""

        def fate() -> tuple[int, bool] | None:
            return (dice.randrange(at_most), dice.random() < 0.5) if dice.random() < 0.5 else None

        self._fate = fate

    def break_after(self, count: int) -> None:
        """Until ``spare``, every connection breaks after so many bytes; those that are open, now."""
        self._fate = lambda: (count, True)
        self.cut(reset=True)

    def spare(self) -> None:
        self._fate = lambda: None

    def throttle(self, *, up: Throttle | None = None, down: Throttle | None = None) -> None:
        """From now on, also for connections that are open: ``up`` to the target, ``down`` from it.

        What is left out is as fast as the machine.
        """
        self._call(self._set_throttle(up or Throttle(), down or Throttle()))

    # On the thread

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def _unlisten(self, reset: bool) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut(reset)

    async def _cut(self, reset: bool) -> None:
        for line in list(self._lines):
            line.end(reset=reset)

    async def _set_dark(self, dark: bool) -> None:
        self._dark = dark
        for line in self._lines:
            line.dark(dark)

    async def _set_throttle(self, up: Throttle, down: Throttle) -> None:
        self._up, self._down = up, down

    def way(self, *, down: bool) -> Throttle:
        return self._down if down else self._up

    async def _end(self) -> None:
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        self.opened += 1
        line = _Line(self, writer, self._fate())
        line.dark(self._dark)
        self._lines.add(line)
        try:
            await line.carry(reader, self.target)
        except asyncio.CancelledError:
            return
        finally:
            self._lines.discard(line)
            self._handlers.discard(handler)


#: What is on the line: when it arrives, and what it is.
_UnderWay = asyncio.Queue[tuple[float, bytes]]


class _Line:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, near: asyncio.StreamWriter, fate: tuple[int, bool] | None) -> None:
        self._proxy = proxy
        self._near = near
        self._far: asyncio.StreamWriter | None = None
        self._fate = fate
        self._light = asyncio.Event()

    def dark(self, dark: bool) -> None:
        if dark:
            self._light.clear()
        else:
            self._light.set()

    async def carry(self, near: asyncio.StreamReader, target: int) -> None:
        try:
            far, self._far = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            self.end(reset=True)
            return
        pumps = [
            asyncio.ensure_future(self._pump(near, self._far, counted=False)),
            asyncio.ensure_future(self._pump(far, self._near, counted=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.end(reset=False)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool
    ) -> None:
        under_way: _UnderWay = asyncio.Queue(_UNDER_WAY)
        ends = [
            asyncio.ensure_future(self._take_in(reader, under_way, counted=counted)),
            asyncio.ensure_future(self._put_out(under_way, writer)),
        ]
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in done:
                end.result()
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    async def _take_in(self, reader: asyncio.StreamReader, under_way: _UnderWay, *, counted: bool) -> None:
        """Until the end of what comes, or of the line; what was under way has arrived by then."""
        passed, clock = 0, asyncio.get_running_loop().time
        doomed = False
        while not doomed:
            await self._light.wait()
            piece = await reader.read(self._proxy.way(down=counted).piece(_CHUNK))
            if not piece:
                break
            await self._light.wait()
            way = self._proxy.way(down=counted)
            if counted:
                self._proxy.carried += len(piece)
                doomed = self._fate is not None and passed + len(piece) > self._fate[0]
                if self._fate is not None and doomed:
                    piece = piece[: self._fate[0] - passed]
            passed += len(piece)
            leaves = way.leaves(len(piece), clock())
            await asyncio.sleep(leaves - clock())
            await under_way.put((leaves + way.latency, piece))
            if not way.latency:
                await under_way.join()
        await under_way.join()
        if self._fate is not None and doomed:
            self.end(reset=self._fate[1])

    async def _put_out(self, under_way: _UnderWay, writer: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            arrives, piece = await under_way.get()
            await asyncio.sleep(arrives - clock())
            await self._light.wait()
            writer.write(piece)
            await writer.drain()
            under_way.task_done()

    def end(self, *, reset: bool) -> None:
        for writer in (self._near, self._far):
            if writer is None:
                continue
            if reset:
                raw: socket.socket = writer.get_extra_info("socket")
                if raw.fileno() != -1:
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
            else:
                writer.close()

"""The browser route: a consumer that carries the feed to one dashboard."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer
from django.db import Error as DatabaseError

from mirror.errors import MirrorError
from streamer.access import check_session
from streamer.audience import Audience, Viewer, audience, epoch_micros
from streamer.browser import Filter, Mailbox, Seen, Trouble, decode, encode

__all__ = ["LiveConsumer"]

logger = logging.getLogger("mirror.dashboard")

#: daphne closes with no lower code: it raises instead.
_OWN_CODES = 4000
#: The page may try again.
_FAILED = 4500


class LiveConsumer(AsyncWebsocketConsumer):
    """Lets in whoever may look, and out again when that ends. Origins are checked by the routing."""

    # No layer: a message that fails to arrive from one would close the socket.
    channel_layer_alias = ""

    def __init__(
        self,
        *,
        audience: Callable[[], Audience] = audience,
        spacing: float = 0.25,
        heartbeat: float = 4.5,
        recheck: float = 10.0,
    ) -> None:
        super().__init__()
        self._audience = audience
        self._spacing = spacing
        self._heartbeat = heartbeat
        self._recheck = recheck
        self._viewer: Viewer | None = None
        self._serving: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Neither a kill of the server nor a defect leads through disconnect().
            await self._leave()

    async def connect(self) -> None:
        try:
            await check_session(self._session_key())
        except MirrorError:
            await self.close()
            return
        await self.accept()
        loop = asyncio.get_running_loop()
        wanted = Filter.from_query(self.scope.get("query_string", b""))
        self._viewer = Viewer(wanted, partial(loop.call_soon_threadsafe, self._changed.set))
        self._audience().join(self._viewer)
        self._serving = asyncio.create_task(self._serve(self._viewer))

    async def disconnect(self, code: int) -> None:
        await self._leave()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if self._viewer is None:
            return
        try:
            match decode(text_data):
                case Filter() as wanted:
                    self._audience().change(self._viewer, wanted)
                case Seen(n=n):
                    self._viewer.mailbox.seen(n)
                    self._changed.set()
        except MirrorError as error:
            await self._leave()
            await self._refuse(error)

    def _session_key(self) -> str | None:
        session = self.scope.get("session")
        return session.session_key if session is not None else None

    # While it is open

    async def _serve(self, viewer: Viewer) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(viewer.mailbox))
                tasks.create_task(self._watch_session())
        except* MirrorError as errors:
            self._audience().leave(viewer)
            for error in errors.exceptions:
                if isinstance(error, MirrorError):
                    await self._refuse(error)
        except* DatabaseError as errors:
            logger.warning("a dashboard is closed, for its session cannot be read: %s", errors.exceptions[0])
            await self.close(code=_FAILED)
        except* Exception:
            logger.exception("a dashboard is closed after a defect")
            await self.close(code=_FAILED)

    async def _watch_session(self) -> None:
        """Raises Unauthorized or Forbidden once the user may not look any more."""
        while True:
            await asyncio.sleep(self._recheck)
            await check_session(self._session_key())

    async def _write(self, mailbox: Mailbox) -> None:
        while True:
            try:
                async with asyncio.timeout(self._heartbeat):
                    await self._until(lambda: mailbox.has_room and mailbox.has_news)
            except TimeoutError:
                await self._until(lambda: mailbox.has_room)
            try:
                await self.send(text_data=encode(mailbox.take(epoch_micros())))
            except (OSError, RuntimeError) as error:
                # What servers raise for a socket that is closing; disconnect() follows.
                logger.debug("a dashboard left while it was written to: %r", error)
                return
            await asyncio.sleep(self._spacing)

    async def _until(self, ready: Callable[[], bool]) -> None:
        while not ready():
            self._changed.clear()
            await self._changed.wait()

    async def _refuse(self, error: MirrorError) -> None:
        await self.send(text_data=encode(Trouble(code=error.code, message=str(error))))
        await self.close(code=max(error.close_code, _OWN_CODES))

    async def _leave(self) -> None:
        if self._viewer is not None:
            self._audience().leave(self._viewer)
            self._viewer = None
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])
            self._serving = None

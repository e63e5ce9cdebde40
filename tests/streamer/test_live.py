from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
from asgiref.sync import sync_to_async
from channels.auth import AuthMiddlewareStack
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db.utils import OperationalError
from django.test import Client

from mirror.errors import CODES
from streamer.audience import Audience, Viewer, look
from streamer.browser import ROOM, Batch, Filter, Line
from streamer.feed import Feed
from streamer.live import LiveConsumer
from streamer.routing import websocket_urlpatterns
from tests.streamer.records import NOW, local_stream, record, staff

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.asyncio]

PATH = "/mirror/live/"


class Hall(Audience):
    """An audience whose reader is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.viewers: list[Viewer] = []

    def join(self, viewer: Viewer) -> None:
        self.viewers.append(viewer)

    def leave(self, viewer: Viewer) -> None:
        if viewer in self.viewers:
            self.viewers.remove(viewer)

    def put(self, *lines: Line, reset: bool = False, cards: dict[str, bytes] | None = None) -> None:
        for viewer in self.viewers:
            viewer.mailbox.put(cards or {}, Batch(lines=lines), reset=reset)
            viewer.notify()


@pytest.fixture
def hall() -> Hall:
    return Hall()


Open = Callable[..., Awaitable[WebsocketCommunicator]]


@pytest.fixture
async def opened(hall: Hall) -> AsyncIterator[Open]:
    """Opens sockets to a consumer without pauses, as a user of the staff unless told otherwise."""
    sockets: list[WebsocketCommunicator] = []

    async def connect(cookie: str | None = None, query: str = "", **pauses: float) -> WebsocketCommunicator:
        consumer = LiveConsumer.as_asgi(audience=lambda: hall, **{"spacing": 0.0, **pauses})
        socket = WebsocketCommunicator(
            AuthMiddlewareStack(consumer),
            PATH + query,
            headers=_headers(cookie if cookie is not None else await log_in(await sync_to_async(staff)())),
        )
        sockets.append(socket)
        connected, _ = await socket.connect(timeout=5)
        assert connected
        return socket

    yield connect
    for socket in sockets:
        if not socket.future.done():
            await socket.disconnect()


@sync_to_async
def log_in(user: User) -> str:
    client = Client()
    client.force_login(user)
    return client.cookies[settings.SESSION_COOKIE_NAME].value


def _headers(cookie: str | None, origin: str | None = "http://testserver") -> list[tuple[bytes, bytes]]:
    headers = [(b"host", b"testserver")]
    if cookie:
        headers.append((b"cookie", f"{settings.SESSION_COOKIE_NAME}={cookie}".encode()))
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    return headers


async def said(socket: WebsocketCommunicator) -> dict[str, Any]:
    message: dict[str, Any] = msgspec.json.decode(await socket.receive_from(timeout=5))
    return message


async def closed(socket: WebsocketCommunicator) -> int:
    code: int = (await socket.receive_output(timeout=5))["code"]
    return code


def line(ts: int) -> Line:
    return Line(stream="s", ts=ts, source="paris", op="SAVE", kind="changed", model="m", key="k", summary="")


# Who is let in: the routes as a project serves them


async def answered(cookie: str | None, origin: str | None = "http://testserver") -> bool:
    routes = URLRouter(websocket_urlpatterns)
    socket = WebsocketCommunicator(routes, PATH, headers=_headers(cookie, origin))
    connected, _ = await socket.connect(timeout=5)
    await socket.disconnect()
    return connected


@pytest.fixture
def _no_reader(monkeypatch: pytest.MonkeyPatch, hall: Hall) -> None:
    monkeypatch.setattr("streamer.audience.hub", Mock)
    monkeypatch.setattr("streamer.audience.Audience.join", hall.join)


@pytest.mark.usefixtures("_no_reader")
async def test_staff_with_the_permission_are_let_in() -> None:
    assert await answered(await log_in(await sync_to_async(staff)()))


@pytest.mark.parametrize("cookie", [None, "", "not-a-session"])
async def test_a_visitor_is_refused_before_accept(cookie: str | None) -> None:
    assert not await answered(cookie)


async def test_a_user_who_is_no_staff_is_refused() -> None:
    assert not await answered(await log_in(await sync_to_async(User.objects.create_user)("eve")))


async def test_staff_without_the_permission_are_refused() -> None:
    assert not await answered(await log_in(await sync_to_async(staff)(allowed=False)))


async def test_an_inactive_superuser_is_refused() -> None:
    root = await sync_to_async(User.objects.create_superuser)("root")
    cookie = await log_in(root)
    await User.objects.filter(pk=root.pk).aupdate(is_active=False)
    assert not await answered(cookie)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", None])
async def test_a_page_from_elsewhere_is_refused_whoever_is_logged_in(origin: str | None) -> None:
    cookie = await log_in(await sync_to_async(staff)())
    assert not await answered(cookie, origin)


# What is said


async def test_what_the_feed_finds_is_pushed(opened: Open, hall: Hall) -> None:
    socket = await opened()
    hall.put(line(1), line(2), reset=True, cards={"paris": b'{"name":"paris"}'})
    update = await said(socket)
    assert (update["type"], update["n"], update["reset"]) == ("update", 1, True)
    assert [change["ts"] for change in update["changes"]] == [1, 2]
    assert update["sources"] == [{"name": "paris"}]


async def test_a_change_in_the_oplog_reaches_the_page(opened: Open, hall: Hall) -> None:
    socket = await opened()
    feed = Feed()
    await sync_to_async(look)(feed, hall.viewers, NOW)
    assert (await said(socket))["changes"] == []

    def save() -> None:
        record(local_stream(), {"name": "A"})

    await sync_to_async(save)()
    await sync_to_async(look)(feed, hall.viewers, NOW)
    (change,) = (await said(socket))["changes"]
    assert (change["model"], change["summary"]) == ("shop.brand", "name A")


async def test_the_page_s_own_address_filters_from_the_beginning(opened: Open, hall: Hall) -> None:
    await opened(query="?model=shop&op=DELETE")
    assert [viewer.wanted for viewer in hall.viewers] == [Filter(model="shop", op="DELETE")]


async def test_a_page_can_change_its_filter(opened: Open, hall: Hall) -> None:
    socket = await opened()
    await socket.send_to(text_data='{"type":"filter","text":"lamp"}')
    assert await socket.receive_nothing()
    assert [viewer.wanted for viewer in hall.viewers] == [Filter(text="lamp")]


async def test_an_idle_line_says_that_it_lives(opened: Open) -> None:
    socket = await opened(heartbeat=0.01)
    first, second = await said(socket), await said(socket)
    assert (second["n"], second["changes"], second["sources"]) == (2, [], [])
    assert second["now"] > first["now"]


async def test_a_page_that_acknowledges_nothing_has_two_updates_under_way_and_no_more(
    opened: Open, hall: Hall
) -> None:
    socket = await opened(heartbeat=0.01)
    for ts in range(1000):
        hall.put(line(ts))
        await asyncio.sleep(0)
    first, second = await said(socket), await said(socket)
    assert await socket.receive_nothing(timeout=0.2)
    await socket.send_to(text_data='{"type":"seen","n":2}')
    rest = await said(socket)
    assert len(rest["changes"]) <= ROOM
    told = sum(len(update["changes"]) + update["skipped"] for update in (first, second, rest))
    assert (told, rest["changes"][-1]["ts"]) == (1000, 999)


async def test_updates_keep_their_distance(opened: Open, hall: Hall) -> None:
    socket = await opened(spacing=30.0)
    hall.put(line(1))
    await said(socket)
    hall.put(line(2))
    assert await socket.receive_nothing(timeout=0.2)


# What is refused


@pytest.mark.parametrize(
    ("text", "binary", "code"),
    [
        ("{", None, "malformed"),
        ('{"type":"filter","colour":"red"}', None, "malformed"),
        ('{"type":"seen","n":1}', None, "malformed"),  # nothing was sent yet
        (None, b"\x00", "malformed"),
        ('{"type":"filter","text":"' + "x" * 4096 + '"}', None, "oversized"),
    ],
)
async def test_bad_input_is_answered_with_a_code_and_the_end(
    opened: Open, hall: Hall, text: str | None, binary: bytes | None, code: str
) -> None:
    socket = await opened()
    await socket.send_to(text_data=text, bytes_data=binary)
    trouble = await said(socket)
    assert (trouble["type"], trouble["code"]) == ("error", code)
    # daphne raises on a code below 3000.
    assert await closed(socket) == max(CODES[code].close_code, 4000)
    assert hall.viewers == []


async def test_what_comes_after_the_end_is_ignored(opened: Open) -> None:
    socket = await opened()
    await socket.send_to(text_data="{")
    await socket.send_to(text_data="{")
    await said(socket)
    await closed(socket)
    assert await socket.receive_nothing()


# While it is open


async def test_a_session_that_ends_closes_its_page(opened: Open, hall: Hall) -> None:
    socket = await opened(recheck=0.01)
    await Session.objects.all().adelete()
    assert (await said(socket))["code"] == "unauthorized"
    assert await closed(socket) == 4401
    assert hall.viewers == []


async def test_a_changed_password_closes_the_page(opened: Open) -> None:
    socket = await opened(recheck=0.01)
    user = await User.objects.aget()
    user.set_password("new")
    await user.asave()
    assert (await said(socket))["code"] == "unauthorized"
    assert await closed(socket) == 4401


@pytest.mark.parametrize("taken", ["permission", "staff"])
async def test_a_right_that_is_taken_away_closes_the_page(opened: Open, taken: str) -> None:
    socket = await opened(recheck=0.01)
    user = await User.objects.aget()
    if taken == "permission":
        await user.user_permissions.aclear()
    else:
        await User.objects.aupdate(is_staff=False)
    assert (await said(socket))["code"] == "forbidden"
    assert await closed(socket) == 4403


async def test_a_user_who_still_may_look_stays(opened: Open, hall: Hall) -> None:
    socket = await opened(recheck=0.01)
    assert await socket.receive_nothing(timeout=0.3)
    hall.put(line(1))
    assert (await said(socket))["changes"]


async def test_a_session_that_cannot_be_read_closes_the_page_for_another_try(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = await opened(recheck=0.05)

    async def fail(key: str | None) -> None:
        raise OperationalError("gone")

    monkeypatch.setattr("streamer.live.check_session", fail)
    assert await closed(socket) == 4500


async def test_a_page_that_leaves_is_forgotten(opened: Open, hall: Hall) -> None:
    socket = await opened()
    assert len(hall.viewers) == 1
    await socket.disconnect()
    assert hall.viewers == []


async def test_a_server_that_is_killed_leaves_no_task_behind(opened: Open, hall: Hall) -> None:
    socket = await opened()
    before = asyncio.all_tasks()
    socket.future.cancel()
    await asyncio.wait([socket.future])
    assert hall.viewers == []
    assert len(asyncio.all_tasks()) < len(before)

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from channels.layers import InMemoryChannelLayer, channel_layers
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from hypothesis import given
from hypothesis import strategies as st

from mirror import tokens
from mirror.wire import SUBPROTOCOL
from streamer.consumers import NoSuchRoute
from streamer.hints import Hint, Hinted, Hints, Watch, hints_for
from streamer.hub import hub
from streamer.routing import websocket_urlpatterns
from tests.redis_server import RedisServer, redis_server


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# Who watches


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_process_that_hears_nobody_watches(clock: Clock):
    assert not Watch("1", clock).rests


def test_the_one_that_runs_for_longer_watches_and_the_other_rests(clock: Clock):
    older, younger = Watch("1", clock), Watch("2", clock)
    older.heard(Hint(by="2", watching=True))
    younger.heard(Hint(by="1", watching=True))
    assert (older.rests, younger.rests) == (False, True)


def test_who_rests_watches_again_when_the_other_is_silent(clock: Clock):
    younger = Watch("2", clock)
    younger.heard(Hint(by="1", watching=True))
    clock.now += 0.9
    assert younger.rests
    younger.heard(Hint(by="1", watching=False))  # it lives, and rests itself
    clock.now += 0.2
    assert not younger.rests


def test_who_is_cut_off_watches_at_once(clock: Clock):
    younger = Watch("2", clock)
    younger.heard(Hint(by="1", watching=True))
    younger.alone()
    assert not younger.rests


def test_nobody_is_led_by_its_own_words(clock: Clock):
    watch = Watch("2", clock)
    assert not watch.heard(Hint(by="2", watching=True, look=True))
    assert not watch.rests


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.floats(0, 0.3)), max_size=60))
def test_somebody_watches_whatever_is_heard_and_lost(heard: list[tuple[int, int, float]]):
    """``heard``: who is heard by whom, and how long after."""
    clock = Clock()
    watches = [Watch(str(place), clock) for place in range(4)]
    for speaker, listener, pause in heard:
        clock.now += pause
        watches[listener].heard(Hint(by=str(speaker), watching=not watches[speaker].rests))
        assert not watches[0].rests
    clock.now += 1.01
    assert not any(watch.rests for watch in watches)


# The doorbell


class Bell:
    """Rings when it is told to; counts who asks."""

    interval = 0.002

    def __init__(self) -> None:
        self.asked = 0
        self.rings = False

    def rang(self) -> bool:
        self.asked += 1
        return self.rings

    def close(self) -> None:
        pass


class Post:
    """Where hints come in: waiting for one takes time, unless it is there."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.hints = 0
        self.said_so = 0

    def wait(self, seconds: float) -> bool:
        assert 0 < seconds <= 0.05
        if self.hints:
            self.hints -= 1
            return True
        self.clock.now += seconds
        return False

    def say_so(self) -> None:
        self.said_so += 1


@pytest.fixture
def post(clock: Clock) -> Post:
    return Post(clock)


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def watch(clock: Clock) -> Watch:
    return Watch("2", clock)


@pytest.fixture
def hinted(bell: Bell, watch: Watch, post: Post) -> Hinted:
    return Hinted(bell, watch, wait=post.wait, says_so=post.say_so)


def test_who_watches_asks_the_bell_and_says_so(hinted: Hinted, bell: Bell, post: Post):
    assert not hinted.rang()
    bell.rings = True
    assert hinted.rang()
    assert not hinted.by_hint
    assert (bell.asked, post.said_so, hinted.interval) == (2, 2, bell.interval)


def test_who_rests_leaves_the_bell_alone_and_looks_when_hinted(
    hinted: Hinted, bell: Bell, post: Post, watch: Watch
):
    watch.heard(Hint(by="1", watching=True))
    watch.looked()
    bell.rings = True
    assert not hinted.rang()
    post.hints = 1
    assert hinted.rang()
    assert hinted.by_hint
    assert not hinted.rang()
    assert (bell.asked, post.said_so, hinted.interval) == (0, 0, 0.0)


@pytest.mark.parametrize("flood", [0, 10_000])
def test_who_rests_looks_four_times_a_second_by_itself(
    hinted: Hinted, post: Post, watch: Watch, clock: Clock, flood: int
):
    """However many hints there are: they say only what the log holds, and it may wait to be put in order."""
    post.hints = flood
    looks: list[float] = []
    end = clock.now + 10
    while clock.now < end:
        watch.heard(Hint(by="1", watching=True))
        if hinted.rang() and not hinted.by_hint:
            looks.append(clock.now)
        clock.now += 0.001
    assert max(after - before for before, after in itertools.pairwise(looks)) < 0.25
    assert len(looks) <= 51


# Through a real layer


def wait_for(condition: Callable[[], object], *, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.01)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


class Party:
    """Hints, and the thread of a hub that asks them for as long as it lives."""

    def __init__(self) -> None:
        self.hints = Hints("livemirror.test", lambda: channel_layers.make_backend("default"))
        self.bell = Bell()
        self.told = 0
        self._hinted = self.hints.hinted(self.bell)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.hints.start()
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.001):
            if self._hinted.rang() and self._hinted.by_hint:
                self.told += 1

    @property
    def rests(self) -> bool:
        return self.hints.watch.rests

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self.hints.stop()


@pytest.fixture
def parties(redis: RedisServer, settings) -> Iterator[list[Party]]:
    settings.CHANNEL_LAYERS = redis.layers()
    made = [Party(), Party(), Party()]
    yield made
    for party in made:
        party.stop()


@pytest.mark.redis
def test_one_watches_and_what_it_tells_rings_at_the_others(parties: list[Party]):
    first, *others = parties
    wait_for(lambda: [party.rests for party in parties] == [False, True, True])
    before = [other.told for other in others]
    first.hints.looked(moved=0)
    wait_for(lambda: all(other.told > told for other, told in zip(others, before, strict=True)))
    assert first.told == 0


@pytest.mark.redis
def test_who_rests_tells_what_it_put_in_order_itself_and_does_not_claim_to_watch(parties: list[Party]):
    wait_for(lambda: [party.rests for party in parties] == [False, True, True])
    told = parties[2].told
    parties[1].hints.looked(moved=1)
    wait_for(lambda: parties[2].told > told)
    assert [party.rests for party in parties] == [False, True, True]


@pytest.mark.parametrize(
    ("rests", "moved", "tells"), [(False, 0, 1), (False, 5, 1), (True, 0, 0), (True, 5, 1)]
)
def test_a_look_in_vain_of_one_who_rests_is_not_told(monkeypatch, rests: bool, moved: int, tells: int):
    hints = Hints("livemirror.test", InMemoryChannelLayer)
    if rests:
        hints.watch.heard(Hint(by="0", watching=True))
    told: list[bool] = []
    monkeypatch.setattr(hints, "_say", lambda *, look: told.append(look))
    hints.looked(moved=moved)
    assert told == [True] * tells


@pytest.mark.redis
def test_the_next_takes_over_when_the_one_that_watched_is_gone(parties: list[Party]):
    wait_for(lambda: [party.rests for party in parties] == [False, True, True])
    parties[0].stop()
    wait_for(lambda: [party.rests for party in parties[1:]] == [False, True])
    parties[0] = Party()  # the youngest now
    wait_for(lambda: [party.rests for party in parties] == [True, False, True])


@pytest.mark.redis
@pytest.mark.parametrize("backend", ["core.RedisChannelLayer", "pubsub.RedisPubSubChannelLayer"])
def test_a_redis_that_stops_and_starts_again_is_said_once_each(
    redis: RedisServer, settings, caplog: pytest.LogCaptureFixture, backend: str
):
    settings.CHANNEL_LAYERS = redis.layers(backend)
    caplog.set_level(logging.INFO, "mirror.streamer")
    first, second = Party(), Party()

    def said(words: str) -> int:
        return sum(record.getMessage().startswith(words) for record in caplog.records)

    try:
        wait_for(lambda: second.rests)
        assert not caplog.records
        for times in (1, 2):
            redis.kill()
            wait_for(lambda: not second.rests)
            wait_for(lambda times=times: said("no hints between processes") == 2 * times)
            redis.start()
            wait_for(lambda: second.rests)
            wait_for(lambda times=times: said("hints between processes come again") == 2 * times)
        told = second.told
        first.hints.looked(moved=1)
        wait_for(lambda: second.told > told)
    finally:
        first.stop()
        second.stop()


@pytest.mark.redis
def test_a_redis_that_forgot_everybody_is_joined_again(parties: list[Party], redis: RedisServer):
    """FLUSHALL, or another who clears his cache."""
    import redis as redis_py

    wait_for(lambda: parties[1].rests)
    with redis_py.Redis(port=redis.port) as client:
        client.flushall()
    wait_for(lambda: not parties[1].rests)
    wait_for(lambda: parties[1].rests)


@pytest.mark.redis
def test_what_is_no_hint_does_no_harm(parties: list[Party], redis: RedisServer, caplog):
    from asgiref.sync import async_to_sync

    wait_for(lambda: parties[1].rests)
    layer = channel_layers.make_backend("default")
    for message in ({"type": "mirror.hint"}, {"type": "x", "by": 1}, {"by": None}, {"look": "yes"}):
        async_to_sync(layer.group_send)("livemirror.test", message)
    told = parties[1].told
    parties[0].hints.looked(moved=1)
    wait_for(lambda: parties[1].told > told)
    assert not caplog.records


# The settings


def test_without_a_layer_that_others_hear_there_are_no_hints(settings):
    assert hints_for("default") is None
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    assert hints_for("default") is None
    layer = {"BACKEND": "channels_redis.core.RedisChannelLayer"}
    settings.CHANNEL_LAYERS = {"default": layer}
    assert hints_for("default") is not None
    settings.MIRROR = {**settings.MIRROR, "CHANNEL_LAYER": "hints"}
    assert hints_for("default") is None
    settings.MIRROR = {**settings.MIRROR, "CHANNEL_LAYER": None}
    assert hints_for("default") is None


def test_sites_that_share_a_redis_do_not_hear_each_other(settings):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels_redis.core.RedisChannelLayer"}}

    def group() -> str:
        hints = hints_for("default")
        assert hints is not None
        assert InMemoryChannelLayer().require_valid_group_name(hints._group)
        return hints._group

    ours = group()
    assert group() == ours
    settings.SECRET_KEY = "another site"
    assert group() != ours


def test_a_hint_names_a_process_and_nothing_else():
    assert set(msgspec.to_builtins(Hint(by="1"))) == {"type", "by", "watching", "look"}


# Consumers need no layer


class Away:
    """A channel layer whose Redis is away."""

    async def new_channel(self) -> str:
        raise ConnectionError("nobody answers")


@pytest.fixture
def no_redis(settings) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"{__name__}.Away"}}


@pytest.mark.django_db(transaction=True)
async def test_a_redis_that_is_away_closes_no_mirrors_connection(no_redis, monkeypatch):
    from asgiref.sync import sync_to_async

    monkeypatch.setattr("streamer.hub.Hub.start", lambda hub: None)
    token = await sync_to_async(tokens.create)("centre")
    socket = WebsocketCommunicator(
        URLRouter(websocket_urlpatterns),
        "/mirror/stream/",
        headers=[(b"authorization", f"Bearer {token}".encode())],
        subprotocols=[SUBPROTOCOL],
    )
    try:
        assert (await socket.connect(timeout=20))[0]
        await socket.disconnect()
    finally:
        await sync_to_async(hub().stop)()
        hub.cache_clear()


async def test_a_redis_that_is_away_is_no_fault_of_a_wrong_address(no_redis):
    socket = WebsocketCommunicator(NoSuchRoute.as_asgi(), "/nowhere/")
    accepted, _ = await socket.connect(timeout=20)
    assert not accepted

"""What mirrors have committed is written down now and then, beside the connections that tell it."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from django.db.utils import OperationalError

from mirror import mirrors
from mirror.chores import Chore
from mirror.models import Mirror, Oplog, Stream
from mirror.pruning import Pruner
from streamer.keeper import Keeper
from streamer.presence import Presence, departed, present

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


class World:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)

    def keeper(self) -> Keeper:
        pruner = Pruner("default", clock=lambda: self.seconds, now=self.now)
        return Keeper(pruner, clock=lambda: self.seconds, now=self.now)


@pytest.fixture
def world() -> World:
    departed()
    return World()


@pytest.fixture
def stream() -> Stream:
    Stream.objects.all().delete()
    return Stream.objects.create(local=True, head=90, position=9)


@contextmanager
def connected(stream: Stream, *, mirror: str = "m", cursor: int = 0):
    presence = Presence(token="office", mirror=mirror, stream=str(stream.uuid), since=0.0, cursor=cursor)
    with present(presence):
        yield presence


def noted() -> dict[str, tuple[int, float]]:
    found = Mirror.objects.values_list("mirror", "cursor", "last_seen")
    return {mirror: (cursor, (seen - NOW).total_seconds()) for mirror, cursor, seen in found}


def test_a_mirror_is_noted_as_soon_as_it_has_come(world, stream):
    keeper = world.keeper()
    with connected(stream, cursor=10):
        keeper.step()
        assert noted() == {"m": (10, 0.0)}


def test_what_it_acknowledges_is_noted_every_few_seconds_and_never_each_time(world, stream):
    keeper = world.keeper()
    with connected(stream) as presence:
        writes = set()
        for tenth in range(200):
            world.seconds = tenth / 10
            presence.cursor = tenth
            keeper.note()
            writes.add(noted()["m"])
        assert writes == {(0, 0.0), (50, 5.0), (100, 10.0), (150, 15.0)}


def test_a_mirror_that_has_nothing_new_is_seen_once_a_minute(world, stream, django_assert_num_queries):
    keeper = world.keeper()
    with connected(stream, cursor=10):
        keeper.step()
        world.seconds = 59.0
        with django_assert_num_queries(0):
            keeper.note()
        world.seconds = 60.0
        keeper.note()
        assert noted() == {"m": (10, 60.0)}


def test_the_last_that_a_mirror_told_before_it_left_is_noted(world, stream):
    keeper = world.keeper()
    with connected(stream) as presence:
        keeper.step()
        presence.cursor = 70
    world.seconds = 1.0
    keeper.step()
    assert noted() == {"m": (70, 1.0)}
    with connected(stream, mirror="brief", cursor=20):
        pass
    keeper.step()
    assert noted()["brief"] == (20, 1.0)


def test_a_mirror_that_comes_again_at_an_older_cursor_is_noted_at_that(world, stream):
    """F12: its database was restored from a backup."""
    keeper = world.keeper()
    with connected(stream, cursor=70):
        keeper.step()
    with connected(stream, cursor=30):
        keeper.step()
    assert noted()["m"][0] == 30


def test_many_are_noted_together(world, stream, django_assert_max_num_queries):
    keeper = world.keeper()
    with ExitStack() as stack:
        for number in range(20):
            stack.enter_context(connected(stream, mirror=f"m{number}", cursor=number))
        keeper.note()
        world.seconds = 60.0
        with django_assert_max_num_queries(1 + 20 + 3):
            keeper.note()
    assert len(noted()) == 20


def test_a_hostile_token_cannot_fill_the_table(world, stream, monkeypatch):
    monkeypatch.setattr(mirrors, "_MOST", 5)
    keeper = world.keeper()
    for number in range(12):
        world.seconds += 1
        with connected(stream, mirror=f"m{number}"):
            keeper.note()
    assert set(noted()) == {f"m{number}" for number in range(7, 12)}


def test_pruning_waits_for_its_interval_and_comes_after_the_notes(world, stream, settings):
    settings.MIRROR = {**settings.MIRROR, "KEEP_DAYS": 0, "PRUNE_INTERVAL": 30}
    for position in range(1, 10):
        Oplog.objects.create(
            stream=stream, ts=position * 10, position=position, op="SAVE", model="a.b", key="1",
            ends_group=True, body="{}",
        )  # fmt: skip
    keeper = world.keeper()
    world.seconds = 29.0
    keeper.step()
    assert Oplog.objects.count() == 9
    world.seconds = 30.0
    with connected(stream, cursor=50):
        keeper.step()
    stream.refresh_from_db()
    assert (Oplog.objects.count(), stream.anchor) == (4, 50)


# The thread


@pytest.mark.django_db(transaction=True)
def test_a_chore_goes_on_after_a_failure_and_ends_when_told(monkeypatch, caplog):
    steps: list[Exception | float] = [OperationalError("away"), ValueError("odd"), 0.0, 3600.0]
    done: list[object] = []

    def step() -> float:
        what = steps.pop(0)
        done.append(what)
        if isinstance(what, Exception):
            raise what
        return what

    monkeypatch.setattr("mirror.chores._AFTER_FAILURE", 0.0)
    chore = Chore("test", step, "default", first=3600.0)
    with chore:
        chore.hurry()
        while steps:
            pass
    assert len(done) == 4
    assert "away" in caplog.text
    assert "odd" in caplog.text

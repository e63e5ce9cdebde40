from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from queue import Queue
from typing import Any

import pytest
from django.db.utils import OperationalError

from streamer.audience import Audience, Viewer, look
from streamer.browser import EMPTY, Batch, Filter
from streamer.feed import Feed, Step

WAIT = 5.0


class Played(Feed):
    """A feed without a database: what a step answers is up to the test."""

    def __init__(self, answer: Callable[[], Batch] = Batch) -> None:
        self.using = "default"
        self.answer = answer
        self.asked: list[tuple[set[Filter], set[Filter]]] = []
        self.threads: set[threading.Thread] = set()

    def step(self, now: int, *, following: Iterable[Filter] = (), starting: Iterable[Filter] = ()) -> Step:
        following, starting = set(following), set(starting)
        self.asked.append((following, starting))
        self.threads.add(threading.current_thread())
        batch = self.answer()
        return Step(
            cards={"paris": b"{}"},
            news=dict.fromkeys(following, batch),
            starts=dict.fromkeys(starting, batch),
        )


@pytest.fixture
def notes() -> Queue[None]:
    return Queue()


def viewer(notes: Queue[None], wanted: Filter = EMPTY) -> Viewer:
    return Viewer(wanted, lambda: notes.put(None))


def ended(feed: Played) -> bool:
    for thread in feed.threads:
        thread.join(WAIT)
    return not any(thread.is_alive() for thread in feed.threads)


def test_the_reader_starts_with_the_first_viewer_and_ends_with_the_last(notes: Queue[None]) -> None:
    feed = Played()
    audience = Audience(lambda: feed, interval=0.01)
    first, second = viewer(notes), viewer(notes)
    audience.join(first)
    audience.join(second)
    notes.get(timeout=WAIT)
    notes.get(timeout=WAIT)
    audience.leave(first)
    audience.leave(second)
    assert len(feed.threads) == 1
    assert ended(feed)


def test_somebody_who_comes_after_the_last_has_left_gets_a_new_reader(notes: Queue[None]) -> None:
    feeds: list[Played] = []

    def make() -> Played:
        feeds.append(Played())
        return feeds[-1]

    audience = Audience(make, interval=0.01)
    for _ in range(2):
        one = viewer(notes)
        audience.join(one)
        notes.get(timeout=WAIT)
        audience.leave(one)
        assert ended(feeds[-1])
    assert len(feeds) == 2


def test_a_database_that_is_away_is_told_once_and_tried_again(
    notes: Queue[None], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.audience._AFTER_FAILURE", 0.01)
    failures = iter([OperationalError("gone"), OperationalError("gone"), ZeroDivisionError()])

    def answer() -> Batch:
        for failure in failures:
            raise failure
        return Batch()

    feed = Played(answer)
    audience = Audience(lambda: feed, interval=0.01)
    one = viewer(notes)
    with caplog.at_level(logging.WARNING, logger="mirror.dashboard"):
        audience.join(one)
        notes.get(timeout=WAIT)
        while not one.mailbox.take(1).sources:
            notes.get(timeout=WAIT)
        audience.leave(one)
        assert ended(feed)
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]


def test_each_filter_is_asked_for_once_and_its_newest_changes_come_first() -> None:
    feed = Played()
    shop = Filter(model="shop")
    viewers = [Viewer(wanted, lambda: None) for wanted in (EMPTY, EMPTY, shop)]
    look(feed, viewers, 1)
    look(feed, viewers, 2)
    assert feed.asked == [(set(), {EMPTY, shop}), ({EMPTY, shop}, set())]
    assert [one.mailbox.take(3).reset for one in viewers] == [True, True, True]
    look(feed, viewers, 4)
    assert [one.mailbox.take(5).reset for one in viewers] == [False, False, False]


def test_a_filter_that_changes_starts_anew_even_while_the_feed_is_being_read() -> None:
    audience = Audience(Played)
    shop = Filter(model="shop")
    one = Viewer(EMPTY, lambda: None)

    def answer() -> Batch:
        if one.wanted == EMPTY:
            audience.change(one, shop)
        return Batch()

    feed = Played(answer)
    look(feed, [one], 1)
    look(feed, [one], 2)
    assert feed.asked == [(set(), {EMPTY}), (set(), {shop})]


def test_nobody_is_notified_of_nothing() -> None:
    notified: list[Any] = []
    feed = Played()
    one = Viewer(EMPTY, lambda: notified.append(1))
    look(feed, [one], 1)
    one.mailbox.take(1)
    look(feed, [one], 2)
    assert len(notified) == 1

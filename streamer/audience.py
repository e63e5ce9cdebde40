"""Who looks at this process's dashboards, and the one thread that reads for all of them.

The thread starts with the first viewer and ends after the last; it has its own database connection. A
database that is away is tried again, and the viewers are told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from threading import Event, Lock, Thread
from time import sleep, time_ns

from django.db import Error as DatabaseError
from django.db import connections

from streamer.browser import Filter, Mailbox
from streamer.feed import Feed, Step
from streamer.hub import hub

__all__ = ["Audience", "Viewer", "audience", "epoch_micros"]

logger = logging.getLogger("mirror.dashboard")

#: Seconds between two looks, and before the next try after one has failed.
_INTERVAL = 0.25
_AFTER_FAILURE = 1.0


class Viewer:
    """One open page: what it wants to see and what waits for it. ``notify`` is called by the reader."""

    def __init__(self, wanted: Filter, notify: Callable[[], object]) -> None:
        self.wanted = wanted
        self.notify = notify
        self.mailbox = Mailbox()
        #: The filter whose newest changes were put into the mailbox.
        self.started: Filter | None = None


class Audience:
    """The viewers of one process. Any thread may call any method."""

    def __init__(self, make_feed: Callable[[], Feed] = Feed, *, interval: float = _INTERVAL) -> None:
        self._make_feed = make_feed
        self._interval = interval
        self._lock = Lock()
        self._viewers: set[Viewer] = set()
        self._thread: Thread | None = None
        self._look = Event()

    def join(self, viewer: Viewer) -> None:
        with self._lock:
            self._viewers.add(viewer)
            if self._thread is None:
                run = Thread(target=self._run, args=[self._make_feed()], name="mirror-dashboard", daemon=True)
                run.start()
                self._thread = run
        self._look.set()

    def leave(self, viewer: Viewer) -> None:
        with self._lock:
            self._viewers.discard(viewer)
        self._look.set()

    def change(self, viewer: Viewer, wanted: Filter) -> None:
        """Show a viewer something else, from the next look on."""
        with self._lock:
            viewer.wanted = wanted
            viewer.started = None
        self._look.set()

    def _run(self, feed: Feed) -> None:
        failure = ""
        try:
            while viewers := self._present():
                failure = self._attempt(feed, viewers, failure)
                self._pause(_AFTER_FAILURE if failure else self._interval)
        finally:
            connections[feed.using].close()

    def _attempt(self, feed: Feed, viewers: list[Viewer], former: str) -> str:
        """Look once; return how that failed, if it did. The same failure is logged once."""
        try:
            look(feed, viewers, epoch_micros())
        except DatabaseError as error:
            failure = str(error)
            if failure != former:
                logger.warning("the dashboard cannot read its database: %s", error)
        except Exception as error:
            failure = repr(error)
            if failure != former:
                logger.exception("the dashboard's reader failed and goes on")
        else:
            return ""
        connections[feed.using].close()
        for viewer in viewers:
            if viewer.mailbox.complain("The database cannot be read just now: what is shown may be old."):
                viewer.notify()
        return failure

    def _present(self) -> list[Viewer]:
        with self._lock:
            if not self._viewers:
                self._thread = None
            return list(self._viewers)

    def _pause(self, seconds: float) -> None:
        """Until the next look is due; sooner for a new viewer or filter, yet never without a rest."""
        rest = self._interval / 5
        sleep(rest)
        self._look.wait(seconds - rest)
        self._look.clear()


def look(feed: Feed, viewers: list[Viewer], now: int) -> None:
    """One step of the feed, and to each viewer what is new to it."""
    asked = [(viewer, viewer.wanted, viewer.started == viewer.wanted) for viewer in viewers]
    step = feed.step(
        now,
        following={wanted for _, wanted, started in asked if started},
        starting={wanted for _, wanted, started in asked if not started},
    )
    for viewer, wanted, started in asked:
        _deliver(viewer, wanted, started, step)


def _deliver(viewer: Viewer, wanted: Filter, started: bool, step: Step) -> None:
    batch = step.news[wanted] if started else step.starts[wanted]
    if viewer.mailbox.put(step.cards, batch, reset=not started):
        viewer.notify()
    if viewer.wanted == wanted:
        viewer.started = wanted


@cache
def audience() -> Audience:
    """This process's audience. Where changes are recorded, looking at them sets the sequencer going."""
    hub().start()
    return Audience()


def epoch_micros() -> int:
    return time_ns() // 1000

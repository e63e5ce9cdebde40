"""Work on the side: a step, again and again, in a thread with its own database connection."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event, Thread
from types import TracebackType

from django.db import connections
from django.db.utils import DatabaseError, InterfaceError

logger = logging.getLogger("mirror.chores")

#: Seconds until the next try after one has failed.
_AFTER_FAILURE = 5.0


class Chore:
    """``step`` returns the seconds until the next one is due; the first is due after ``first``."""

    def __init__(self, name: str, step: Callable[[], float], using: str, *, first: float) -> None:
        self._name = name
        self._step = step
        self._using = using
        self._first = first
        self._stopped = False
        self._look = Event()
        self._thread: Thread | None = None

    def start(self) -> None:
        self._thread = Thread(target=self._run, name=f"mirror-{self._name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return once the running step has ended."""
        self._stopped = True
        self._look.set()
        if self._thread is not None:
            self._thread.join()

    def hurry(self) -> None:
        """Take the next step now."""
        self._look.set()

    def __enter__(self) -> Chore:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        rest = self._first
        while not self._stopped:
            self._look.wait(rest)
            self._look.clear()
            if not self._stopped:
                rest = self._attempt()
        connections[self._using].close()

    def _attempt(self) -> float:
        try:
            return self._step()
        except (DatabaseError, InterfaceError) as error:
            logger.warning("%s: the database is not available: %s", self._name, error)
        except Exception:
            # Whatever it is, the work must go on when its cause is gone.
            logger.exception("%s failed and goes on", self._name)
        connections[self._using].close()
        return _AFTER_FAILURE

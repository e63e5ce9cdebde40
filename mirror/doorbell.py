"""Noticing that somebody else committed. A doorbell only says "look": a missed ring costs one poll."""

from __future__ import annotations

import sqlite3
from typing import Protocol

from django.db.backends.base.base import BaseDatabaseWrapper

from mirror.conf import conf

#: Seconds after which one looks although nothing rang.
_LOOK_ANYWAY = 0.5


class Doorbell(Protocol):
    #: Seconds to wait before asking again.
    interval: float

    def rang(self) -> bool:
        """Whether there may be something new since the last call."""

    def close(self) -> None: ...


class Poll:
    """No sign to be had: always look, but a query costs more than a pragma."""

    def __init__(self, interval: float) -> None:
        self.interval = max(interval, 0.02)

    def rang(self) -> bool:
        return True

    def close(self) -> None:
        pass


class DataVersion:
    """SQLite's ``PRAGMA data_version``: changes when another connection has committed; 3 microseconds.

    Only values of the same connection compare, so this one is kept open and used for nothing else.
    """

    def __init__(self, database: str, interval: float, *, uri: bool) -> None:
        self.interval = interval
        self._connection = sqlite3.connect(
            database, uri=uri, timeout=0, isolation_level=None, check_same_thread=False
        )
        self._seen: int | None = None
        self._missed = 0

    def rang(self) -> bool:
        try:
            (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.OperationalError:
            return True
        self._missed += 1
        rang = version != self._seen or self._missed * self.interval >= _LOOK_ANYWAY
        if rang:
            self._seen, self._missed = version, 0
        return rang

    def close(self) -> None:
        self._connection.close()


def doorbell_for(connection: BaseDatabaseWrapper) -> Doorbell:
    interval = conf().poll_interval
    if connection.vendor != "sqlite" or connection.is_in_memory_db():  # type: ignore[attr-defined]
        return Poll(interval)
    parameters = connection.get_connection_params()
    return DataVersion(str(parameters["database"]), interval, uri=bool(parameters.get("uri")))

"""Noticing that somebody else committed. A doorbell only says "look": a missed ring costs one poll."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable
from typing import Any, Protocol

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import Error, NotSupportedError

from mirror.conf import conf
from mirror.models import Oplog, Outbox

#: Seconds after which one looks although nothing rang.
_LOOK_ANYWAY = 0.5
#: Seconds between two looks where there is no sign.
_BLIND = 0.02


#: After so many looks in vain, how much rarer the next ones are than the first.
_RARER = ((0, 1.0), (500, 2.5), (2500, 8.0))


class Patience:
    """The longer nothing happened, the longer until the next look: an idle source costs next to nothing."""

    def __init__(self) -> None:
        self._vain = 0

    def stir(self) -> None:
        """Something happened."""
        self._vain = 0

    def pause(self, interval: float) -> float:
        """Seconds until the look after one in vain."""
        self._vain += 1
        return interval * next(factor for looks, factor in reversed(_RARER) if self._vain > looks)


class Doorbell(Protocol):
    @property
    def interval(self) -> float:
        """Seconds to wait before asking again."""

    def rang(self) -> bool:
        """Whether there may be something new since the last call. May wait for it a little."""

    def close(self) -> None: ...


class Poll:
    """No sign to be had: always look, but a query costs more than a pragma."""

    def __init__(self, interval: float) -> None:
        self.interval = max(interval, _BLIND)

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


class _Asking:
    """A connection of the bell's own, kept open, on which it asks past Django's cursors and their log."""

    #: Seconds without a sign after an error: away, or behind a pooler that forgets what was prepared.
    _RECOVERY = 1.0

    def __init__(self, connection: BaseDatabaseWrapper, interval: float, clock: Callable[[], float]) -> None:
        self.interval = self._interval = interval
        self._clock = clock
        self._own = connection.copy()
        # Kept for good: a pool would miss it.
        self._own.settings_dict["OPTIONS"].pop("pool", None)
        self._blind_until = -math.inf
        self._newest: int | None = None
        self._looked = -math.inf

    def rang(self) -> bool:
        if self._clock() < self._blind_until:
            return True
        try:
            new = self._own.connection is None
            if new:
                self._own.ensure_connection()
                self._own.set_autocommit(True)
            with self._own.wrap_database_errors:
                if new:
                    self._prepare()
                waiting, newest = self._ask()
        except Error:
            self._own.close()
            self.interval = _BLIND
            self._blind_until = self._clock() + self._RECOVERY
            return True
        self.interval = self._interval
        rang = waiting or newest != self._newest or self._clock() - self._looked >= _LOOK_ANYWAY
        self._newest = newest
        if rang:
            self._looked = self._clock()
        return rang

    def close(self) -> None:
        self._own.close()

    def _prepare(self) -> None:
        """Whatever a new connection needs."""

    def _ask(self) -> tuple[bool, int]:
        """Whether there are committed changes without a place, and the newest row of the oplog."""
        raise NotImplementedError

    def _row(self, sql: str) -> tuple[Any, ...]:
        with self._own.connection.cursor() as cursor:
            cursor.execute(sql)
            row: tuple[Any, ...] = cursor.fetchone()
        return row


class Newest(_Asking):
    """MySQL tells nobody that something was committed, and its sequences only what they once were: ask."""

    def __init__(
        self, connection: BaseDatabaseWrapper, interval: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(connection, max(interval, 0.005), clock)
        outbox, oplog = (connection.ops.quote_name(model._meta.db_table) for model in (Outbox, Oplog))
        self._question = f"SELECT EXISTS (SELECT 1 FROM {outbox}), (SELECT MAX(id) FROM {oplog})"

    def _ask(self) -> tuple[bool, int]:
        waiting, newest = self._row(self._question)
        return bool(waiting), newest or 0


class Sequences(_Asking):
    """PostgreSQL's sequences move when a row is written, before it is committed, and are seen at once.

    The server watches them, a statement a tenth of a second: a round trip for each look would cost four
    times as much, and NOTIFY in the triggers would let only one transaction commit at a time. After a move
    the tables are asked until nothing that could be committed is under way any more; the longer a
    transaction keeps one waiting, the rarer.
    """

    #: Seconds between two looks of the server, also when nothing moved for long, and how long that is.
    _TICK, _SLOW_TICK, _LONG = 0.002, 0.02, 10.0
    #: Seconds for which the server watches at a time.
    _WATCH = 0.1
    #: What it waits for a transaction that has written something and is about to commit.
    _SHORT = 0.0005
    #: A transaction that has not committed is asked for again after a fourth of the time it took so far.
    _PATIENCE = 0.25

    def __init__(
        self, connection: BaseDatabaseWrapper, interval: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(connection, min(interval, self._SHORT), clock)
        self._tables = [connection.ops.quote_name(model._meta.db_table) for model in (Outbox, Oplog)]
        self._places = (0, 0)
        self._moved = self._asked = -math.inf
        self._calm = 0

    def _prepare(self) -> None:
        with self._own.connection.cursor() as cursor:
            # A SERIALIZABLE reader of the outbox would make transactions of the application fail.
            cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED")
            cursor.execute(_SEQUENCES, self._tables)
            sequences = cursor.fetchone()
            if sequences is None:
                raise NotSupportedError("the ids are not taken one by one")
            cursor.execute(_watch(self._tables, sequences, self._SHORT))

    def _ask(self) -> tuple[bool, int]:
        waiting, newest = self._watch()
        if self._asked == -math.inf and not waiting:
            waiting, newest = self._watch()  # something moved: what was it?
        return waiting, newest

    def _watch(self) -> tuple[bool, int]:
        now = self._clock()
        # Twice: what commits between the tables and the locks of one look is in neither.
        pause = _LOOK_ANYWAY if self._calm > 1 else min(_LOOK_ANYWAY, (now - self._moved) * self._PATIENCE)
        due = self._asked + pause
        tick = self._TICK if now - self._moved < self._LONG else self._SLOW_TICK
        ticks = math.ceil((self._WATCH if now >= due else min(self._WATCH, due - now)) / tick)
        places, newest = self._places, self._newest or 0
        taken, logged, waiting, newest, running = self._row(
            f"EXECUTE livemirror_watch ({now >= due}, {newest}, {places[0]}, {places[1]}, {ticks}, {tick})"
        )
        self._places = (taken, logged)
        if self._places != places:
            self._moved, self._asked, self._calm = self._clock(), -math.inf, 0
        elif waiting:
            self._asked = -math.inf  # until somebody has taken it
        elif now >= due:
            self._asked, self._calm = now, 0 if running else self._calm + 1
        return waiting, newest


#: None if an id can be taken without a move.
_SEQUENCES = """
    SELECT outbox.seqrelid, oplog.seqrelid FROM pg_sequence outbox, pg_sequence oplog
    WHERE outbox.seqrelid = pg_get_serial_sequence(%s, 'id')::regclass
    AND oplog.seqrelid = pg_get_serial_sequence(%s, 'id')::regclass AND outbox.seqcache = 1
"""


def _watch(tables: list[str], sequences: tuple[int, int], short: float) -> str:
    """$1 whether to ask the tables, $2 to $4 what is known, $5 how many ticks of $6 seconds to wait."""
    running = "$1 AND running"
    # Not what the snapshot lists: a transaction that is the newest of all is not in it.
    writing = "SELECT FROM pg_locks WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock'"
    outbox, oplog = tables
    places = ", ".join(f"coalesce(pg_sequence_last_value({oid}::regclass), 0)" for oid in sequences)
    return f"""
        PREPARE livemirror_watch (boolean, bigint, bigint, bigint, int, float) AS
        WITH RECURSIVE watch (n, taken, logged, waiting, newest, running) AS (
            SELECT 0, {places}, CASE WHEN $1 THEN EXISTS (SELECT FROM {outbox}) ELSE false END,
                coalesce((SELECT max(id) FROM {oplog}), 0),
                CASE WHEN $1 THEN EXISTS ({writing}) ELSE false END
            UNION ALL
            SELECT n + 1, {places}, waiting, newest, running
            FROM watch, LATERAL pg_sleep(CASE WHEN {running} THEN {short} ELSE $6 END)
            WHERE NOT waiting AND newest = $2 AND taken = $3 AND logged = $4
            AND n < CASE WHEN {running} THEN 1 ELSE $5 END
        )
        SELECT taken, logged, waiting, newest, running FROM watch ORDER BY n DESC LIMIT 1
    """


def doorbell_for(connection: BaseDatabaseWrapper) -> Doorbell:
    interval = conf().poll_interval
    if connection.vendor == "postgresql":
        return Sequences(connection, interval)
    if connection.vendor == "mysql":
        return Newest(connection, interval)
    if connection.vendor != "sqlite" or connection.is_in_memory_db():  # type: ignore[attr-defined]
        return Poll(interval)
    parameters = connection.get_connection_params()
    return DataVersion(str(parameters["database"]), interval, uri=bool(parameters.get("uri")))

"""Judges a database whose tables are captured: are its rows what its changes say, here and at a mirror?

``begin`` remembers the rows. ``judge`` lets the sequencer give what was captured since then its place, folds
it over the remembered rows and compares with the tables; then it applies the same changes to a second
database, which held the remembered rows as well, and compares the two databases' columns. Whatever it writes
is rolled back. It asks below Django's cursors, so that nobody's count of queries changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
from django.apps import AppConfig, apps
from django.contrib.contenttypes.models import ContentType
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from mirror import oplog
from mirror.apply import Applier
from mirror.capture import WRITERS
from mirror.errors import MirrorError
from mirror.models import Outbox, Source, Stream
from mirror.registry import MirroredModel, mirrored_models
from mirror.sequencer import Sequencer
from mirror.wire import Batch
from tests.judge.evidence import Evidence, Rows
from tests.judge.fold import State, differences, fold, travelled

CENTRE = "judge_centre"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found wrong, a line for each row; ``changes`` is how many there were to judge."""

    changes: int
    folded: list[str] = field(default_factory=list)
    mirrored: list[str] = field(default_factory=list)
    #: Why there was nothing to judge by, where there was not.
    unjudged: str = ""


class Court:
    """``using`` is the alias that captures; ``centre`` is a connection to a copy of it, of no alias."""

    def __init__(self, using: str, centre: BaseDatabaseWrapper) -> None:
        self.using = using
        self.connection = connections[using]
        self.centre = centre
        self._apps = apps.app_configs
        self._models = self._captured()
        self._evidence = Evidence(self.connection, self._models)
        self._base: Rows = {}
        self._travelling: State = {}
        self._at_centre: Rows = {}
        with attached(self.centre):
            stream = Stream.objects.using(CENTRE).create()
            self._source = Source.objects.using(CENTRE).create(
                name="judged", url="ws://judged/", stream=stream
            )

    @property
    def models(self) -> list[MirroredModel]:
        """Those whose tables have triggers."""
        return list(self._models.values())

    def uncaptured(self) -> list[str]:
        """Models that are listed, and whose tables are here, without triggers."""
        tables = set(self.connection.introspection.table_names(include_views=True))
        return sorted(
            label
            for label, mirrored in mirrored_models().items()
            if label not in self._models and mirrored.table in tables
        )

    def begin(self) -> None:
        """From here on everything is judged."""
        self.connection.ensure_connection()
        with self._everything_installed():
            Outbox.objects.using(self.using)._raw_delete(self.using)
            Stream.objects.using(self.using).get_or_create(local=True)
            self._remember(self._evidence.rows(self.connection))
            with attached(self.centre):
                self._level()

    def judge(self) -> Verdict:
        """May be asked again: the judged time always began at ``begin``."""
        if not self.connection.in_atomic_block:
            self.connection.ensure_connection()
        if self.connection.connection is None or not self.connection.is_usable():
            return Verdict(changes=0, unjudged="the database takes no more statements in this transaction")
        with self._everything_installed(), self._readable(), transaction.atomic(using=self.using):
            bodies = self._bodies()
            stored = self._evidence.rows(self.connection)
            verdict = Verdict(
                changes=len(bodies),
                folded=self._folded(bodies, stored),
                mirrored=self._mirrored(bodies, stored),
            )
            transaction.set_rollback(True, using=self.using)
        return verdict

    # What the changes tell

    def _bodies(self) -> list[str]:
        Sequencer(self.using).step()
        stream = Stream.objects.using(self.using).get(local=True)
        return [entry.body for entry in oplog.read(stream.pk, 0, self.using, limit=10**9, max_bytes=10**12)]

    def _folded(self, bodies: list[str], stored: Rows) -> list[str]:
        concerned = {travelled(body)[0].model for body in bodies}
        concerned |= {label for label, rows in stored.items() if rows != self._base.get(label)}
        concerned &= stored.keys()
        base = {label: self._travelling[label] for label in concerned}
        told = fold(base, bodies, self._evidence.key, self._evidence.numbered_here)
        now = self._evidence.travelling(concerned, stored)
        return [str(difference) for difference in differences(told, now)]

    # What a mirror makes of them

    def _mirrored(self, bodies: list[str], stored: Rows) -> list[str]:
        if not bodies:
            return []
        with attached(self.centre), transaction.atomic(using=CENTRE):
            found, there = self._applied(bodies)
            transaction.set_rollback(True, using=CENTRE)
        for label in there:
            ours, theirs = (self._evidence.comparable(label, rows) for rows in (stored, there))
            if ours != theirs:
                here, away = list(ours - theirs)[:3], list(theirs - ours)[:3]
                found.append(f"{label}: here {here!s:.600}, at the mirror {away!s:.600}")
        return found

    def _applied(self, bodies: list[str]) -> tuple[list[str], Rows]:
        try:
            Applier(self._source.pk, fence=0, using=CENTRE).apply([_batch(bodies)])
        except MirrorError as error:
            return [f"refused: {type(error).__name__}: {error}"[:600]], {}
        echoed = Outbox.objects.using(CENTRE).count()
        return ([f"{echoed} changes were captured while applying"] if echoed else []), self._evidence.rows(
            self.centre
        )

    def _remember(self, rows: Rows) -> None:
        """How rows travel is asked now: later their content types may have other numbers."""
        named = rows.get("contenttypes.contenttype") == self._base.get("contenttypes.contenttype")
        changed = [label for label in rows if not named or rows[label] != self._base.get(label)]
        self._travelling |= self._evidence.travelling(changed, rows)
        self._base = rows

    def _level(self) -> None:
        """Let the second database hold the remembered rows, without any codec."""
        stale = [label for label, rows in self._base.items() if rows != self._at_centre.get(label)]
        if not stale:
            return
        with transaction.atomic(using=CENTRE), self.centre.constraint_checks_disabled():
            self._evidence.write(stale, self._base, self.centre)
            Outbox.objects.using(CENTRE)._raw_delete(CENTRE)
        self._at_centre = dict(self._base)

    # Databases

    def _captured(self) -> dict[str, MirroredModel]:
        owners = {
            table for table, _sql in WRITERS[self.connection.vendor].installed(self.connection).values()
        }
        return {label: model for label, model in mirrored_models().items() if model.table in owners}

    @contextmanager
    def _everything_installed(self) -> Iterator[None]:
        """A test may see some of the apps only; what it looked up of content types stays its own."""
        looked_up = ContentType.objects._cache
        kept = dict(looked_up)
        looked_up.clear()
        seen = apps.app_configs
        self._install(self._apps)
        try:
            yield
        finally:
            self._install(seen)
            looked_up.clear()
            looked_up.update(kept)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Django refuses queries once a block must be rolled back, though the database may still answer."""
        broken, self.connection.needs_rollback = self.connection.needs_rollback, False
        try:
            yield
        finally:
            self.connection.needs_rollback = broken

    def _install(self, configs: dict[str, AppConfig]) -> None:
        if apps.app_configs is not configs:
            apps.app_configs = configs
            apps.clear_cache()
            mirrored_models.cache_clear()


@contextmanager
def attached(centre: BaseDatabaseWrapper) -> Iterator[None]:
    """Only while it is needed: tests look at the aliases that there are."""
    connections.settings[CENTRE] = centre.settings_dict
    connections[CENTRE] = centre
    for zone in ("timezone", "timezone_name"):  # as Django does for every alias when USE_TZ changes
        vars(centre).pop(zone, None)
    centre.ensure_timezone()
    try:
        yield
    finally:
        del connections[CENTRE], connections.settings[CENTRE]


def _batch(bodies: list[str]) -> Batch:
    last = msgspec.json.decode(bodies[-1])["ts"]
    return Batch(
        prev=0,
        last=last,
        position=len(bodies),
        head=last,
        head_position=len(bodies),
        ends=[last],
        changes=[msgspec.Raw(body.encode()) for body in bodies],
    )

"""What there is to judge: gathered from the settings, the models and the database, and changed by nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from django.apps import apps
from django.core.checks import CheckMessage, run_checks
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.loader import MigrationLoader
from django.db.models import Count, Min
from django.db.utils import Error

from mirror.capture.holes import KnownHole, known_holes, seen_holes
from mirror.capture.triggers import captured, refusals
from mirror.capture.writers import WRITERS
from mirror.checks import TAG, same_database
from mirror.conf import conf
from mirror.doctor.catalog import Catalog, read_catalog
from mirror.errors import ConfigurationError
from mirror.models import Oplog, Outbox, Stream
from mirror.oplog import untold
from mirror.registry import MirroredModel, mirrored_models
from mirror.status import collect

#: Table, and SQL, by the name of the trigger.
Triggers = Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalStream:
    """The oplog that is recorded here. Times are epoch microseconds, 0 where there is none."""

    head: int
    anchor: int
    oldest: int
    #: Whether the newest change is in the log, from where no pruning takes it.
    has_head: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A model whose table, or of whose table a column, is not there."""

    label: str
    table: str
    managed: bool
    column: str = ""
    #: Whether the column is part of what tells one row from another.
    identifies: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    now: datetime
    #: "" where MIRROR cannot be read, or obeyed; then nothing below ``checks`` is known.
    alias: str = ""
    capture: str | None = None
    checks: tuple[CheckMessage, ...] = ()
    installed: Triggers = field(default_factory=dict)
    #: Migrations of ``mirror`` that this database has not had, and tables of its own that are not there;
    #: where there are some, nothing below is known.
    unapplied: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    wanted: Triggers = field(default_factory=dict)
    #: By alias: how many of our triggers other databases have.
    elsewhere: Mapping[str, int] = field(default_factory=dict)
    missing: tuple[Missing, ...] = ()
    catalog: Catalog = field(default_factory=Catalog)
    stream: LocalStream | None = None
    waiting: int = 0
    #: Epoch microseconds.
    waiting_since: int | None = None
    holes: tuple[KnownHole, ...] = ()
    #: Labels of models of which rows were there before their capture began.
    untold: tuple[str, ...] = ()
    #: By the name of a source: how many rows were found to differ from its, and were not repaired.
    differing: Mapping[str, int] = field(default_factory=dict)

    @property
    def prepared(self) -> bool:
        """Whether there is a database that has all of the mirror's own tables."""
        return bool(self.alias) and not self.unapplied and not self.lost


def gather(now: datetime) -> Facts:
    """``now`` is ``timezone.now()``. Raises ``django.db.Error`` where the database cannot be asked."""
    checks = tuple(run_checks(tags=[TAG]))
    # A model without its key cannot be described, let alone compared.
    if any(message.id == "mirror.E005" for message in checks):
        return Facts(now=now, checks=checks)
    try:
        alias, capture = conf().database, conf().capture
    except ConfigurationError:
        return Facts(now=now, checks=checks)
    if alias not in connections.settings:
        return Facts(now=now, checks=checks)
    connection = connections[alias]
    facts = Facts(
        now=now,
        alias=alias,
        capture=capture,
        checks=checks,
        installed=_installed(connection),
        unapplied=_unapplied(connection),
        lost=_lost(connection),
    )
    return _with_what_was_captured(_with_tables(facts, connection)) if facts.prepared else facts


def _with_tables(facts: Facts, connection: BaseDatabaseWrapper) -> Facts:
    facts = replace(facts, wanted=_wanted(connection), elsewhere=_elsewhere(connection, facts.installed))
    maintained = tuple(hole for hole in seen_holes(connection) if hole.kind == "maintenance")
    if facts.capture is None:
        return replace(facts, holes=maintained)
    models = mirrored_models().values()
    return replace(
        facts,
        missing=tuple(_missing(connection, models)),
        catalog=read_catalog(connection, models),
        holes=tuple(known_holes(connection)) if facts.capture == "signals" else maintained,
        untold=tuple(untold(facts.alias)),
    )


def _with_what_was_captured(facts: Facts) -> Facts:
    outbox = Outbox.objects.using(facts.alias).aggregate(waiting=Count("id"), since=Min("captured_at"))
    return replace(
        facts,
        stream=_stream(facts.alias),
        waiting=outbox["waiting"],
        waiting_since=outbox["since"],
        differing=_differing(facts),
    )


def _differing(facts: Facts) -> dict[str, int]:
    sources = collect(facts.now).sources
    return {one.name: count for one in sources if (count := one.verified.unrepaired)}


def _unapplied(connection: BaseDatabaseWrapper) -> tuple[str, ...]:
    loader = MigrationLoader(connection)
    ours = {(app, name) for app, name in loader.graph.nodes if app == "mirror"}
    return tuple(sorted(f"{app}.{name}" for app, name in ours - loader.applied_migrations.keys()))


def _lost(connection: BaseDatabaseWrapper) -> tuple[str, ...]:
    there = connection.introspection.table_names()
    ours = apps.get_app_config("mirror").get_models()
    return tuple(sorted({model._meta.db_table for model in ours} - set(there)))


def _installed(connection: BaseDatabaseWrapper) -> Triggers:
    writer = WRITERS.get(connection.vendor)
    return writer.installed(connection) if writer else {}


def _wanted(connection: BaseDatabaseWrapper) -> Triggers:
    writer = WRITERS.get(connection.vendor)
    if writer is None:
        return {}
    models, tables = captured(connection, {})
    refused = {
        name: (table, sql)
        for table, triggers in refusals(connection).items()
        for name, sql in triggers.items()
    }
    return refused | {
        name: (table, sql)
        for table, mirrored in models.items()
        for name, sql in writer.triggers(connection, mirrored, tables).items()
    }


def _missing(connection: BaseDatabaseWrapper, models: Iterable[MirroredModel]) -> list[Missing]:
    with connection.cursor() as cursor:
        present = {info.name for info in connection.introspection.get_table_list(cursor)}
    writer = WRITERS.get(connection.vendor)
    asked = [mirrored.table for mirrored in models]
    tables = writer.tables(connection, asked) if writer and asked else {}
    found = []
    for mirrored in models:
        whole = Missing(label=mirrored.label, table=mirrored.table, managed=mirrored.model._meta.managed)
        if mirrored.table in tables:
            columns = tables[mirrored.table].columns
            found += [
                replace(whole, column=one.column, identifies=one in mirrored.key)
                for one in mirrored.fields
                if one.column not in columns
            ]
        elif mirrored.table not in present:
            found.append(whole)
    return found


def _elsewhere(connection: BaseDatabaseWrapper, installed: Triggers) -> dict[str, int]:
    ours = {sql for _table, sql in installed.values()}
    counts = {}
    for alias in connections:
        other = connections[alias]
        if same_database(other, connection):
            continue
        try:
            found = _installed(other)
            # On MySQL a mirrored table may stand in another database than the outbox.
            theirs = [sql for _table, sql in found.values() if other.vendor != "mysql" or sql not in ours]
            # The same database by another way, or a replica of it, has our stream.
            if theirs and not _same_stream(connection, other):
                counts[alias] = len(theirs)
        except Error:
            continue  # of no concern to the mirror
    return counts


def _same_stream(one: BaseDatabaseWrapper, other: BaseDatabaseWrapper) -> bool:
    if Stream._meta.db_table not in other.introspection.table_names():
        return False
    ours, theirs = (
        Stream.objects.using(connection.alias).filter(local=True).values_list("uuid", flat=True).first()
        for connection in (one, other)
    )
    return ours is not None and ours == theirs


def _stream(alias: str) -> LocalStream | None:
    stream = Stream.objects.using(alias).filter(local=True).first()
    if stream is None:
        return None
    changes = Oplog.objects.using(alias).filter(stream=stream)
    return LocalStream(
        head=stream.head,
        anchor=stream.anchor,
        oldest=changes.aggregate(oldest=Min("ts"))["oldest"] or 0,
        has_head=changes.filter(ts=stream.head).exists(),
    )

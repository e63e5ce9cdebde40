"""The judgement: from what there is to what is wrong. No database, no clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from django.core.checks import ERROR

from mirror.changes import to_datetime
from mirror.doctor.facts import Facts, Missing
from mirror.models import Outbox

#: A sequencer that runs lets nothing wait for so long.
_WAITING = timedelta(minutes=1)

#: A mirror that was away for longer than the log reaches back has to begin anew.
_SHORT = timedelta(days=1)

#: How many names a finding shows.
_FEW = 5

_MIGRATE = "manage.py migrate"


class Severity(StrEnum):
    """An error loses changes now, or stops them; a warning would; a note says what cannot be helped."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    #: Stable: for whoever reads ``mirrordoctor --json``.
    code: str
    severity: Severity
    what: str
    #: What to do about it.
    mend: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(facts: Facts) -> list[Finding]:
    """Return every finding, the worst first."""
    examinations: tuple[Callable[[Facts], Iterable[Finding]], ...] = (
        _checks,
        _migrations,
        _stream,
        _missing_triggers,
        _stale_triggers,
        _left_triggers,
        _switched_off,
        _elsewhere,
        _tables,
        _unseen,
        _outbox,
        _oplog,
        _untold,
        _holes,
        _differing,
    )
    found = [finding for examination in examinations for finding in examination(facts)]
    return sorted(found, key=lambda finding: list(Severity).index(finding.severity))


# What is set, and what is there


def _checks(facts: Facts) -> Iterator[Finding]:
    for message in facts.checks:
        about = "" if message.obj in (None, "MIRROR", "DATABASES") else f"{message.obj}: "
        severity = Severity.ERROR if message.level >= ERROR else Severity.WARNING
        yield Finding(
            code=str(message.id), severity=severity, what=f"{about}{message.msg}", mend=message.hint or ""
        )


def _migrations(facts: Facts) -> Iterator[Finding]:
    if facts.unapplied:
        yield _error("migrations", f"The database {facts.alias!r} lacks {_named(facts.unapplied)}.", _MIGRATE)
    elif facts.lost:
        yield _error(
            "tables-lost",
            f"{facts.alias!r} has lost the mirror's own {_named(facts.lost)}, although its migrations ran.",
            "Restore it from a backup, or begin anew: docs/uninstall.md, then manage.py migrate.",
        )
    if facts.installed and Outbox._meta.db_table in facts.lost:
        tables = _named(table or name for name, (table, _sql) in facts.installed.items())
        yield _error(
            "trigger-nowhere",
            f"The triggers of {tables} write to an outbox that is not there: whoever writes there fails.",
            f"{_MIGRATE}, or manage.py mirrordoctor --remove-triggers to do without the mirror.",
        )


def _stream(facts: Facts) -> Iterator[Finding]:
    if facts.prepared and facts.capture and facts.stream is None:
        yield _error("stream", "There is no stream to record changes in: nobody can follow.", _MIGRATE)


# Triggers


def _missing_triggers(facts: Facts) -> Iterator[Finding]:
    gone: dict[str, list[str]] = defaultdict(list)
    for name, (table, _sql) in facts.wanted.items():
        if name not in facts.installed:
            gone[table].append(name)
    for table, names in gone.items():
        # A new version has a new name where the old one stands beside it until it goes.
        if table not in _surplus(facts).values():
            yield _error(
                "trigger-missing",
                f"The table {table} lacks {_named(names)}: "
                f"{'changes are lost' if facts.capture else 'others than Django may write to it'}.",
                _MIGRATE,
            )


def _stale_triggers(facts: Facts) -> Iterator[Finding]:
    stale = {
        table or facts.wanted[name][0]
        for name, (table, sql) in facts.installed.items()
        if name in facts.wanted and facts.wanted[name][1] != sql
    }
    wanted = {table for table, _sql in facts.wanted.values()}
    stale |= wanted.intersection(_surplus(facts).values())
    off = {table for _trigger, table, _how in facts.catalog.disabled}
    for table in sorted(stale - off):
        yield _error(
            "trigger-stale",
            f"The triggers of {table} are not those that its model and MIRROR ask for: changes may be lost, "
            "or lack columns.",
            _MIGRATE,
        )


def _left_triggers(facts: Facts) -> Iterator[Finding]:
    wanted = {table for table, _sql in facts.wanted.values()}
    left = [table or name for name, table in _surplus(facts).items() if table not in wanted]
    if not left or not facts.prepared:
        return
    if facts.capture == "triggers":
        why = "for tables that MIRROR['MODELS'] does not list"
    else:
        why = f"although CAPTURE is {facts.capture!r}"
    yield _warning(
        "trigger-left",
        f"There are triggers {why}: {_named(left)}. What they record is for nobody.",
        f"{_MIGRATE}, or manage.py mirrordoctor --remove-triggers",
    )


def _surplus(facts: Facts) -> dict[str, str]:
    """The table of each trigger that is not wanted."""
    return {name: table for name, (table, _sql) in facts.installed.items() if name not in facts.wanted}


def _switched_off(facts: Facts) -> Iterator[Finding]:
    if facts.capture != "triggers":
        return
    by_table: dict[str, list[str]] = defaultdict(list)
    for trigger, table, how in facts.catalog.disabled:
        by_table[table].append(f"{how} {trigger}")
    for table, hows in by_table.items():
        yield _error(
            "trigger-disabled",
            f"Somebody said ALTER TABLE {table} {_named(hows)}: changes are lost.",
            _MIGRATE,
        )
    for where in facts.catalog.deaf:
        yield _error(
            "trigger-deaf",
            f"session_replication_role is replica for {where}: no trigger is called there, changes are lost.",
            "ALTER ROLE or ALTER DATABASE ... RESET session_replication_role, then connect again.",
        )


def _elsewhere(facts: Facts) -> Iterator[Finding]:
    for alias, count in facts.elsewhere.items():
        yield _warning(
            "trigger-elsewhere",
            f"The database {alias!r} has {count} of our triggers, but MIRROR is about {facts.alias!r} alone.",
            f"manage.py mirrordoctor --remove-triggers --database {alias}",
        )


# What would be missed although there are triggers


def _tables(facts: Facts) -> Iterator[Finding]:
    columns: dict[str, list[Missing]] = defaultdict(list)
    for missing in facts.missing:
        if missing.column:
            columns[missing.label].append(missing)
            continue
        mend = _MIGRATE if missing.managed else f"Create it, or do not list {missing.label}."
        what = f"{missing.label} has no table {missing.table}: there is nothing to capture."
        yield _warning("table-missing", what, mend)
    for label, gone in columns.items():
        names = _named(missing.column for missing in gone)
        what = f"The table {gone[0].table} has no column {names}"
        mend = _MIGRATE if gone[0].managed else f"Add it, or take it out of the model {label}."
        if any(missing.identifies for missing in gone):
            lost = "which tells one row from another: no change of it is captured."
            yield _error("column-missing", f"{what}, {lost}", mend)
        else:
            yield _warning("column-missing", f"{what}: changes are captured without it.", mend)
    for table in facts.catalog.unlogged:
        yield _warning(
            "unlogged",
            f"{table} is UNLOGGED: after a crash the server empties it, and tells nobody.",
            f"ALTER TABLE {table} SET LOGGED",
        )


def _unseen(facts: Facts) -> Iterator[Finding]:
    if facts.capture != "triggers":
        return
    catalog = facts.catalog
    for table, kind in catalog.no_tables:
        what = f"{table} is a {kind}, which can have no triggers: nothing is captured under its name."
        mend = "List the models of the tables that it is made of instead, or capture where its rows are."
        yield _warning("no-table", what, mend)
    for table, constraint, parent, rule in catalog.cascades:
        yield _warning(
            "cascade",
            f"{constraint} of {table} has {rule}: rows that the database changes because {parent} changed "
            "call no trigger, and stay as they were at the centre.",
            "Let Django do it (models.CASCADE, SET_NULL), and make the foreign key anew without the rule.",
        )
    for table, below in catalog.children:
        what = f"Statements that name {_few(below)} instead of {table} call no trigger of {table}."
        yield _note("child-table", what, f"Write to {table}.")
    if catalog.evicting:
        uniques = _few([f"{table} ({'; '.join(names)})" for table, names in catalog.evicting])
        what = (
            f"REPLACE calls no trigger for a row that it deletes because of another unique value: {uniques}."
        )
        mend = "INSERT ... ON CONFLICT DO UPDATE, or PRAGMA recursive_triggers = ON in whoever uses REPLACE."
        yield _note("replace", what, mend)
    if catalog.truncates_unseen:
        yield _note(
            "truncate", "TRUNCATE TABLE calls no trigger on MariaDB and MySQL.", "DELETE FROM instead."
        )


# What was captured


def _outbox(facts: Facts) -> Iterator[Finding]:
    if facts.waiting_since is None:
        return
    since = to_datetime(facts.waiting_since)
    if facts.capture is None:
        yield _warning(
            "outbox-left",
            f"{facts.waiting} captured changes wait, but CAPTURE is None: nobody will give them their place.",
            "Set CAPTURE again and run manage.py runsequencer --once, or delete them from mirror_outbox.",
        )
    elif facts.now - since > _WAITING:
        yield _warning(
            "outbox-waits",
            f"{facts.waiting} captured changes wait for their place, the first since {_when(since)}.",
            "Serve the stream (daphne), or run manage.py runsequencer.",
        )


def _oplog(facts: Facts) -> Iterator[Finding]:
    stream = facts.stream
    if stream is None or not stream.head:
        return
    if not stream.has_head:
        yield _error(
            "oplog-cut",
            "The newest change is not in the oplog: somebody deleted it. Mirrors that had it are refused.",
            "Restore mirror_oplog from a backup together with the rest. Prune with manage.py pruneoplog.",
        )
    elif stream.anchor and facts.now - to_datetime(stream.oldest) < _SHORT:
        yield _note(
            "oplog-short",
            f"The oplog begins at {_when(to_datetime(stream.oldest))}: a mirror that was away for longer "
            "has to load all rows anew.",
            "Keep more: MIRROR['KEEP_DAYS'], and OPLOG_BYTES if that is its limit.",
        )


def _untold(facts: Facts) -> Iterator[Finding]:
    if facts.untold:
        yield _note(
            "untold",
            f"Rows of {_few(facts.untold)} were there before their capture began: the oplog does not tell of "
            "them, and nobody can follow it from its start.",
            "A new mirror loads the rows first; mirrorsource add --from now begins without them.",
        )


def _holes(facts: Facts) -> Iterator[Finding]:
    for hole in facts.holes:
        count = f" ({hole.count} times)" if hole.count else ""
        yield _warning(f"hole-{hole.kind}", f"{hole.text}{count}", hole.mend)


# What was mirrored


def _differing(facts: Facts) -> Iterator[Finding]:
    for source, count in facts.differing.items():
        yield _warning(
            "rows-differ",
            f"{count} {'row' if count == 1 else 'rows'} here were found to differ from those of {source!r}.",
            f"manage.py mirrorverify {source} --list names them, --repair loads them again.",
        )


# Words


def _named(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))


def _few(names: Sequence[str]) -> str:
    """The first of them, and how many more."""
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(names[:_FEW]) + more


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _error(code: str, what: str, mend: str) -> Finding:
    return Finding(code=code, severity=Severity.ERROR, what=what, mend=mend)


def _warning(code: str, what: str, mend: str) -> Finding:
    return Finding(code=code, severity=Severity.WARNING, what=what, mend=mend)


def _note(code: str, what: str, mend: str) -> Finding:
    return Finding(code=code, severity=Severity.NOTE, what=what, mend=mend)

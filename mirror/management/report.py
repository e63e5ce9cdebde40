"""What ``mirrorstatus`` shows to people: drawn by rich on a terminal, plain columns elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mirror.changes import to_datetime
from mirror.management.table import one_line, plain_table, when
from mirror.models import SourceState, Stream
from mirror.pruning import Plan
from mirror.retention import Reader
from mirror.status import MirrorState, MirrorStatus, SourceStatus, Status, StreamStatus
from mirror.verifying import Result, Summary, VerifiedState

_NOTHING = (
    "Nothing is recorded here yet, and no source is mirrored. A source records after "
    "`manage.py migrate`; a centre mirrors after `manage.py mirrorsource add`."
)

_STREAM_COLUMNS = ("recorded here", "head", "head time", "changes", "waiting", "kept")

_MIRROR_COLUMNS = ("mirror", "of token", "state", "cursor", "cursor time", "changes behind", "seen")

_SOURCE_COLUMNS = (
    "source",
    "state",
    "cursor",
    "cursor time",
    "head",
    "changes behind",
    "seconds behind",
    "heard",
    "last error",
)

_WRAPPED = {"source", "state", "recorded here", "mirror", "of token"}

_STYLES = {
    SourceState.LIVE: "green",
    SourceState.CATCHING_UP: "cyan",
    SourceState.LOADING: "cyan",
    SourceState.CONNECTING: "yellow",
    SourceState.STALLED: "bold red",
    SourceState.REFUSED: "bold red",
    SourceState.HALTED: "bold red",
}

_MIRROR_STYLES = {MirrorState.GONE: "yellow", MirrorState.PRUNED: "bold red"}


def text_report(status: Status) -> str:
    parts = []
    if status.stream:
        parts.append(plain_table(_STREAM_COLUMNS, [_stream_row(status.stream)]))
    if status.mirrors:
        parts.append(mirror_table(status))
    if status.sources:
        parts.append(plain_table(_SOURCE_COLUMNS, [_source_row(one, status.now) for one in status.sources]))
    parts += [line for one in status.sources for line in _more(one)]
    return "\n\n".join(parts) or _NOTHING


def mirror_table(status: Status) -> str:
    return plain_table(_MIRROR_COLUMNS, [_mirror_row(one, status.now) for one in status.mirrors])


def pruned_report(stream: Stream, plan: Plan, deleted: int | None) -> str:
    """What pruning a stream has done, or would do where ``deleted`` is None; and for whom more is kept."""
    count = plan.changes if deleted is None else deleted
    gone = f"{count} would go" if deleted is None else f"{count} deleted"
    lines = [f"{stream}: {gone}, {plan.kept} kept"]
    if plan.last:
        lines[0] += f", those after {_time(plan.last)}"
    if held := plan.cut.held_by:
        lines.append(f"  more is kept for {one_line(held.name)}, which has the changes {_up_to(held)}")
    lines += [f"  cut off: {one_line(one.name)}, which has the changes {_up_to(one)}" for one in plan.lost]
    return "\n".join(lines)


def _up_to(reader: Reader) -> str:
    seen = f", seen {_time(reader.seen)}" if reader.seen is not None else ""
    return f"up to {_time(reader.cursor) or 'none yet'}{seen}"


def rich_report(status: Status) -> RenderableType:
    tables: list[RenderableType] = []
    if status.stream:
        tables.append(_drawn(_STREAM_COLUMNS, [_stream_row(status.stream)]))
    if status.mirrors:
        tables.append(_mirrors(status.mirrors, status.now))
    if status.sources:
        tables.append(_sources(status.sources, status.now))
    parts: list[RenderableType] = [part for table in tables for part in ("", table)][1:]
    parts += [Text(line) for one in status.sources for line in _more(one)]
    # Beside the numbers a long error would squeeze them.
    parts += [Text(f"{one.name}: {_error(one)}", style=_style(one)) for one in status.sources if _error(one)]
    return Group(*parts) if parts else _NOTHING


def _mirrors(mirrors: Sequence[MirrorStatus], now: datetime) -> Table:
    return _drawn(
        _MIRROR_COLUMNS,
        [
            (*row[:2], Text(row[2], style=_MIRROR_STYLES.get(MirrorState(row[2]), "green")), *row[3:])
            for row in (_mirror_row(one, now) for one in mirrors)
        ],
    )


def _sources(sources: Sequence[SourceStatus], now: datetime) -> Table:
    return _drawn(
        ("source", "state", "cursor\nhead", "", "behind", "heard"),
        [
            (
                one.name,
                Text(_label(one), style=_style(one)),
                f"{one.cursor}\n{one.head}",
                f"{_time(one.cursor)}\n{_time(one.head)}",
                f"{one.changes_behind} changes\n{_seconds(one) or '?'} s",
                _ago(one.heard_at, now),
            )
            for one in sources
        ],
    )


def _drawn(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column not in _WRAPPED)
    for row in rows:
        # Text, not str: a name must not be read as markup.
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return table


def _stream_row(stream: StreamStatus) -> tuple[str, ...]:
    return (
        stream.stream,
        str(stream.head),
        _time(stream.head),
        str(stream.position),
        str(stream.waiting),
        str(stream.position - stream.anchor_position),
    )


def _mirror_row(mirror: MirrorStatus, now: datetime) -> tuple[str, ...]:
    return (
        one_line(mirror.mirror),
        mirror.token,
        mirror.state,
        str(mirror.cursor),
        _time(mirror.cursor),
        str(mirror.changes_behind),
        _ago(mirror.last_seen, now),
    )


def _source_row(source: SourceStatus, now: datetime) -> tuple[str, ...]:
    return (
        source.name,
        _label(source),
        str(source.cursor),
        _time(source.cursor),
        str(source.head),
        str(source.changes_behind),
        _seconds(source),
        _ago(source.heard_at, now),
        _error(source),
    )


def _more(source: SourceStatus) -> Iterator[str]:
    """What is copied now, and what came of comparing the rows; nothing where there is nothing to tell."""
    if source.loading:
        one, rest = source.loading[0], len(source.loading) - 1
        yield f"{source.name}: loading {_rows_of(one.model, one.rows, one.total, rest)}"
    if source.verified.state != VerifiedState.NEVER:
        yield f"{source.name}: {verified_words(source.verified)}"
    if source.verified.unrepaired:
        yield f"{source.name}: {mend(source.name)}"


def verified_words(verified: Summary) -> str:
    """What came of comparing a source's rows with those here."""
    one, parts = verified, []
    if one.model is not None:
        parts.append(f"comparing {_rows_of(one.model, one.rows, one.total, one.to_come)}")
    if one.differences:
        parts.append(difference_words(one))
    if one.state == VerifiedState.IDENTICAL:
        parts.append(f"identical as of {when(one.as_of)} at {one.cursor}")
    if one.refused:
        parts.append(f"{_models(one.refused)} could not be compared")
    if one.not_compared:
        parts.append(f"{_models(one.not_compared)} never compared")
    return "; ".join(parts)


def difference_words(found: Summary | Result) -> str:
    """``12 rows differ (3 missing, 9 different, 2 repaired)``, ``1 row differed (1 extra, repaired)``"""
    counts = {"missing": found.missing, "different": found.different, "extra": found.extra}
    parts = [f"{count} {kind}" for kind, count in counts.items() if count]
    if found.repaired:
        parts.append(f"{found.repaired} repaired" if found.unrepaired else "repaired")
    one = found.differences == 1
    differ = ("differs" if one else "differ") if found.unrepaired else "differed"
    return f"{found.differences} row{'' if one else 's'} {differ} ({', '.join(parts)})"


def mend(source: str) -> str:
    return f"`manage.py mirrorverify {source} --repair` loads these again, and deletes what is only here"


def _rows_of(model: str, rows: int, total: int | None, rest: int) -> str:
    done = f"{rows}" if total is None else f"{rows} of {total}"
    percent = f" ({min(100, 100 * rows // total)} %)" if total else ""
    more = f", {rest} more model{'s' if rest > 1 else ''} to come" if rest else ""
    return f"{model}, {done} rows{percent}{more}"


def _models(count: int) -> str:
    return "1 model" if count == 1 else f"{count} models"


def _label(source: SourceStatus) -> str:
    return str(SourceState(source.state).label)


def _style(source: SourceStatus) -> str:
    return _STYLES.get(SourceState(source.state), "")


def _seconds(source: SourceStatus) -> str:
    return "" if source.seconds_behind is None else f"{source.seconds_behind:.1f}"


def _error(source: SourceStatus) -> str:
    return one_line(": ".join(filter(None, (source.error_code, source.error_text))))


def _time(ts: int) -> str:
    return when(to_datetime(ts)) if ts else ""


def _ago(time: datetime | None, now: datetime) -> str:
    if time is None:
        return "never"
    seconds = max(0, round((now - time).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"

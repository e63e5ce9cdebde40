"""What ``mirrorstatus`` shows to people: drawn by rich on a terminal, plain columns elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mirror.changes import to_datetime
from mirror.management.table import one_line, plain_table, when
from mirror.models import SourceState
from mirror.status import SourceStatus, Status, StreamStatus

_NOTHING = (
    "Nothing is recorded here yet, and no source is mirrored. A source records after "
    "`manage.py migrate`; a centre mirrors after `manage.py mirrorsource add`."
)

_STREAM_COLUMNS = ("recorded here", "head", "head time", "changes", "waiting")

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

_STYLES = {
    SourceState.LIVE: "green",
    SourceState.CATCHING_UP: "cyan",
    SourceState.CONNECTING: "yellow",
    SourceState.STALLED: "bold red",
    SourceState.REFUSED: "bold red",
    SourceState.HALTED: "bold red",
}


def text_report(status: Status) -> str:
    parts = []
    if status.stream:
        parts.append(plain_table(_STREAM_COLUMNS, [_stream_row(status.stream)]))
    if status.sources:
        parts.append(plain_table(_SOURCE_COLUMNS, [_source_row(one, status.now) for one in status.sources]))
    return "\n\n".join(parts) or _NOTHING


def rich_report(status: Status) -> RenderableType:
    parts: list[RenderableType] = []
    if status.stream:
        parts.append(_drawn(_STREAM_COLUMNS, [_stream_row(status.stream)]))
    if status.stream and status.sources:
        parts.append("")
    if status.sources:
        parts.append(_sources(status.sources, status.now))
    # Beside the numbers a long error would squeeze them.
    parts += [Text(f"{one.name}: {_error(one)}", style=_style(one)) for one in status.sources if _error(one)]
    return Group(*parts) if parts else _NOTHING


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
        table.add_column(column, no_wrap=column not in {"source", "state", "recorded here"})
    for row in rows:
        # Text, not str: a name must not be read as markup.
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return table


def _stream_row(stream: StreamStatus) -> tuple[str, ...]:
    return (stream.stream, str(stream.head), _time(stream.head), str(stream.position), str(stream.waiting))


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

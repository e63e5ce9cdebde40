"""An oplog of any size, soon: what is in it is repeated into its past."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from bench.sites import BenchSite, connect

_COLUMNS = ("stream_id", "ts", "position", "op", "model", "key", "row", "ends_group", "body")
#: Rows of a statement: what an engine keeps for taking one back, or for a crash, has this size.
_AT_ONCE = 250_000


def fill(site: BenchSite, size: int) -> None:
    """Repeat the oplog's changes before its first one until there are ``size`` of them.

    Heads, cursors and positions of what was there stay as they are: nobody asks for a change before the
    first. What is measured afterwards is what tables and indexes of this size cost.
    """
    mysql, sqlite = site.engine == "mysql", site.engine == "sqlite3"
    with closing(connect(site.database)) as connection:
        cursor = connection.cursor()
        if sqlite:
            cursor.execute("PRAGMA synchronous = OFF")
            cursor.execute("PRAGMA cache_size = -1000000")
        _repeat(cursor, size, quote="`{}`" if mysql else '"{}"', marker="?" if sqlite else "%s")
        cursor.execute("ANALYZE TABLE mirror_oplog" if mysql else "ANALYZE")


def _repeat(cursor: Any, size: int, *, quote: str, marker: str) -> None:
    columns = [quote.format(name) for name in _COLUMNS]
    shifted = [
        f"{column} {sign} {marker}" if sign else column
        for column, sign in zip(columns, ["", "-", "-", "", "", "", "+", "", ""], strict=True)
    ]
    since = f"SELECT ts FROM mirror_oplog WHERE stream_id = {marker} ORDER BY ts DESC LIMIT 1 OFFSET {marker}"
    newest = (
        f"INSERT INTO mirror_oplog ({', '.join(columns)}) SELECT {', '.join(shifted)} FROM mirror_oplog "
        # In the order of the index by row, which is larger than what an engine keeps in memory.
        f"WHERE stream_id = {marker} AND ts >= {marker} ORDER BY {quote.format('row')}"
    )
    cursor.execute("SELECT count(*), min(stream_id), max(stream_id), min(ts), max(ts) FROM mirror_oplog")
    count, stream, other, first, last = cursor.fetchone()
    assert stream == other, "an oplog of one stream is wanted"
    while count < size:
        step = min(count, size - count, _AT_ONCE)
        cursor.execute(since, [stream, step - 1])
        (begin,) = cursor.fetchone()
        shift = last - first + 1
        cursor.execute(newest, [shift, count, count, stream, begin])
        first, count = begin - shift, count + step

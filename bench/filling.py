"""An oplog of any size, soon: what is in it is repeated into its past."""

from __future__ import annotations

from contextlib import closing

from bench.sites import BenchSite, connect

_COLUMNS = ("stream_id", "ts", "position", "op", "model", "key", "row", "ends_group", "body")


def fill(site: BenchSite, size: int) -> None:
    """Repeat the oplog's changes before its first one until there are ``size`` of them.

    Heads, cursors and positions of what was there stay as they are: nobody asks for a change before the
    first. What is measured afterwards is what tables and indexes of this size cost.
    """
    quote = "`{}`" if site.engine == "mysql" else '"{}"'
    columns = [quote.format(name) for name in _COLUMNS]
    marker = "?" if site.engine == "sqlite3" else "%s"
    shifted = [
        f"{column} {sign} {marker}" if sign else column
        for column, sign in zip(columns, ["", "-", "-", "", "", "", "+", "", ""], strict=True)
    ]
    sql = (
        f"INSERT INTO mirror_oplog ({', '.join(columns)}) SELECT {', '.join(shifted)} FROM mirror_oplog "
        f"WHERE {columns[2]} > {marker}"
    )
    with closing(connect(site)) as connection:
        cursor = connection.cursor()
        if site.engine == "sqlite3":
            cursor.execute("PRAGMA synchronous = OFF")
            cursor.execute("PRAGMA cache_size = -1000000")
        cursor.execute("SELECT count(*), max(position), min(ts), max(ts) FROM mirror_oplog")
        count, last, first_ts, last_ts = cursor.fetchone()
        while count < size:
            step = min(count, size - count)
            cursor.execute(sql, [last_ts - first_ts + 1, count, count, last - step])
            first_ts -= last_ts - first_ts + 1
            count += step
        cursor.execute("ANALYZE TABLE mirror_oplog" if site.engine == "mysql" else "ANALYZE")

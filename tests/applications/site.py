"""The two servers of an application: a source that people use, a centre that follows it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.applications.comparison import Table
from tests.applications.visitor import Visitor
from tests.end_to_end.databases import Database
from tests.end_to_end.processes import Site, wait_until

#: Prints what is compared: each mirrored table, and where its columns lead to another one.
_DESCRIBE = """
import json
from mirror.registry import mirrored_models
tables = []
for mirrored in mirrored_models().values():
    links = {}
    for field in mirrored.fields:
        if field.field.is_relation and field.field.target_field.primary_key:
            links[field.column] = field.field.target_field.model._meta.db_table
    tables.append({
        "name": mirrored.table,
        "columns": [field.column for field in mirrored.fields],
        "links": links,
    })
print(json.dumps(tables))
"""

_TABLES = {
    "sqlite3": "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')",
    "postgresql": "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'",
}


class ApplicationSite(Site):
    """One server of an application, reached by its commands and its pages only."""

    def __init__(self, settings: str, role: str, directory: Path, database: Database) -> None:
        super().__init__(role, role, directory, database)
        self.settings = settings

    @property
    def environ(self) -> dict[str, str]:
        media = self.directory / f"{self.name}-media"
        return {**super().environ, "MIRROR_TEST_MEDIA": str(media)}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def visitor(self) -> Visitor:
        return Visitor(self.address)

    def manage(self, *arguments: str, expect: int | None = 0) -> str:
        """As every site's, with time for an application's many migrations."""
        done = subprocess.run(
            [sys.executable, "-m", "django", *arguments],
            cwd=self.cwd,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert expect is None or done.returncode == expect, f"{done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def script(self, code: str) -> Any:
        """Run code with the application's own models, in a process of its own; what it printed last."""
        printed = self.manage("shell", "--verbosity", "0", "-c", code).strip()
        return printed.splitlines()[-1] if printed else ""

    def token(self, name: str = "centre") -> str:
        return self.manage("mirrortoken", "create", name).strip()

    def follow(self, name: str, url: str, token: str) -> None:
        self.manage("mirrorsource", "add", name, url, "--token", token)

    def described(self) -> list[Table]:
        """What is to be compared. An unmanaged model may have no table on this engine."""
        present = {name for (name,) in self.rows(_TABLES[self.engine])}
        tables = [Table.from_json(described) for described in json.loads(self.script(_DESCRIBE))]
        return [table for table in tables if table.name in present]

    def captured(self) -> int:
        with self.reading() as database:
            ((position,),) = database.rows("SELECT position FROM mirror_stream WHERE local")
            ((waiting,),) = database.rows("SELECT COUNT(*) FROM mirror_outbox")
        return int(position) + int(waiting)


def wait_until_equal_position(source: ApplicationSite, centre: ApplicationSite) -> int:
    """Until the centre has every change of the source; how many these are. Raises where it halts."""

    def level() -> bool:
        row = centre.source_row()
        assert row["state"] not in {"halted", "refused"}, f"{row['state']}: {row['error_text']}"
        return int(row["position"]) >= captured

    captured = source.captured()
    wait_until(level, seconds=300, what=f"the centre has {captured} changes")
    return captured

"""Run applications under the mirror and compare: ``python -m tests.applications --help``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

from tests.applications.comparison import Difference, compare
from tests.applications.site import ApplicationSite, wait_until_equal_position
from tests.end_to_end.databases import Database, served, sqlite

#: Each application and the distribution whose version is told.
APPLICATIONS = {
    "wagtail": "wagtail",
    "helpdesk": "django-helpdesk",
    "oscar": "django-oscar",
    "ledger": "django-ledger",
}
ENGINES = ["sqlite", "postgresql"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.applications")
    parser.add_argument("application", nargs="*", help=f"of {', '.join(APPLICATIONS)}; all if not given")
    parser.add_argument("--engine", choices=ENGINES, action="append", help="both if not given")
    parser.add_argument("--keep", type=Path, help="an empty directory for databases and logs, which stay")
    arguments = parser.parse_args()
    unknown = set(arguments.application) - APPLICATIONS.keys()
    if unknown:
        parser.error(f"no such application: {', '.join(unknown)}")
    failed = 0
    for name in arguments.application or APPLICATIONS:
        for engine in arguments.engine or ENGINES:
            with _directory(arguments.keep, f"{name}-{engine}") as directory:
                failed += not _run(name, engine, directory)
    return 1 if failed else 0


@contextmanager
def _directory(keep: Path | None, name: str) -> Iterator[Path]:
    if keep is not None:
        (keep / name).mkdir(parents=True)
        yield keep / name
        return
    with tempfile.TemporaryDirectory(prefix="livemirror-") as directory:
        yield Path(directory)


def _run(name: str, engine: str, directory: Path) -> bool:
    """Mirror one application on one engine; whether its tables are equal at the end."""
    began = time.monotonic()
    print(f"{name} {version(APPLICATIONS[name])} on {engine}", flush=True)
    with ExitStack() as stack:
        source, centre = (
            stack.enter_context(_site(name, role, engine, directory)) for role in ("source", "centre")
        )
        differences, told = mirrored(name, source, centre)
    for difference in differences:
        print(difference)
    verdict = "equal" if not differences else f"{len(differences)} tables DIFFER"
    print(f"  {verdict}: {told}, {time.monotonic() - began:.0f} s", flush=True)
    return not differences


def mirrored(name: str, source: ApplicationSite, centre: ApplicationSite) -> tuple[list[Difference], str]:
    """Set both servers up as the documentation says, drive the source, and compare."""
    drive = import_module(f"tests.applications.drives.{name}")
    source.manage("check")
    # The outbox first, so that the rows which migrations bring are recorded as well.
    source.manage("migrate", "mirror", "--verbosity", "0")
    for site in (source, centre):
        site.manage("migrate", "--verbosity", "0")
    if drive.FIXTURES:
        source.manage("loaddata", *drive.FIXTURES)
    source.serve()
    centre.follow("source", source.url, source.token())
    runmirror = centre.mirror()
    drive.drive(source)
    captured = wait_until_equal_position(source, centre)
    tables = source.described()
    with source.reading() as here, centre.reading() as there:
        differences, rows = compare(here, there, tables)
    assert runmirror.stop() == 0, runmirror.log
    return differences, f"{len(tables)} tables, {rows} rows after {captured} changes"


@contextmanager
def _site(name: str, role: str, engine: str, directory: Path) -> Iterator[ApplicationSite]:
    with ExitStack() as stack:
        site = ApplicationSite(
            f"tests.applications.hosts.{name}_settings",
            role,
            directory,
            _database(stack, role, engine, directory),
        )
        stack.callback(site.end)
        yield site


def _database(stack: ExitStack, role: str, engine: str, directory: Path) -> Database:
    if engine == "sqlite":
        return sqlite(directory / f"{role}.sqlite3")
    return stack.enter_context(served(engine, f"livemirror_app_{role}_{uuid4().hex[:8]}"))


if __name__ == "__main__":
    sys.exit(main())

from __future__ import annotations

import os
import random
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.databases import served, sqlite
from tests.end_to_end.processes import Site, copy_site_database
from tests.end_to_end.proxy import Proxy

_TAIL = 12_000


class Ground:
    """Makes the servers and lines of one test, and ends them with it."""

    def __init__(self, directory: Path, templates: dict[str, Path], stack: ExitStack) -> None:
        self.directory = directory
        self.sites: list[Site] = []
        self._templates = templates
        self._stack = stack

    def source(self, name: str = "source", **conf: Any) -> Site:
        return self._site(name, "source", conf)

    def centre(self, name: str = "centre", **conf: Any) -> Site:
        return self._site(name, "centre", conf)

    def served_centre(self, engine: str, **conf: Any) -> Site:
        """A centre on a database server of this machine."""
        name = f"livemirror_e2e_{os.getpid()}_{len(self.sites)}"
        database = self._stack.enter_context(served(engine, name))
        centre = self.add(Site("centre", "centre", self.directory, database, conf))
        centre.migrate()
        return centre

    def _site(self, name: str, role: str, conf: dict[str, Any]) -> Site:
        path = self.directory / f"{name}.sqlite3"
        copy_site_database(self._templates[role], path)
        return self.add(Site(name, role, self.directory, sqlite(path), conf))

    def add(self, site: Site) -> Site:
        self.sites.append(site)
        self._stack.callback(site.end)
        return site

    def proxy(self, site: Site) -> Proxy:
        return self._stack.enter_context(Proxy(site.port))

    def pair(self, source_conf: dict[str, Any] | None = None, **conf: Any) -> tuple[Site, Site]:
        """A source that is served, and a centre that has it registered as ``source``."""
        source, centre = self.source(**(source_conf or {})), self.centre(**conf)
        source.serve()
        centre.follow("source", source.url, source.token())
        return source, centre


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A migrated database for each side: migrating takes longer than most tests."""
    directory = tmp_path_factory.mktemp("templates")
    made = {}
    for role in ("source", "centre"):
        path = directory / f"{role}.sqlite3"
        Site(role, role, directory, sqlite(path)).migrate()
        made[role] = path
    return made


@pytest.fixture
def ground(tmp_path: Path, templates: dict[str, Path]) -> Iterator[Ground]:
    with ExitStack() as stack:
        yield Ground(tmp_path, templates, stack)


@pytest.fixture(scope="module")
def common_ground(tmp_path_factory: pytest.TempPathFactory, templates: dict[str, Path]) -> Iterator[Ground]:
    """For tests that do no harm to each other's servers."""
    with ExitStack() as stack:
        yield Ground(tmp_path_factory.mktemp("common"), templates, stack)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """What the dice of this run begin with; a failure shows it, MIRROR_TEST_SEED brings it again."""
    chosen = int(os.environ.get("MIRROR_TEST_SEED") or random.randrange(10**6))
    request.node.user_properties.append(("seed", chosen))
    return chosen


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the processes said is the first thing to read about a failure."""
    report = yield
    if report.failed:
        report.sections.extend((name, str(value)) for name, value in item.user_properties)
        grounds = [value for value in item.funcargs.values() if isinstance(value, Ground)]
        sites = [site for ground in grounds for site in ground.sites]
        for path in sorted({running.log_path for site in sites for running in site.started}):
            text = path.read_text(errors="replace")[-_TAIL:]
            if text:
                report.sections.append((f"log {path.name}", text))
    return report

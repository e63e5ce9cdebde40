"""A real daphne and a real Chromium. The tests' own process never touches the database: Playwright's
event loop runs in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, StorageState, sync_playwright

from tests.end_to_end.processes import Site

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]


class Board(Site):
    """A server whose dashboard is looked at."""

    application = "tests.browser.site:application"

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self.port}/mirror/"


def make_board(directory: Path, role: str) -> Board:
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(directory / f"{role}.sqlite3")}
    board = Board(role, role, directory, database)
    board.migrate()
    board.run("from django.contrib.auth.models import User; User.objects.create_superuser('ada', '', 'pw')")
    board.serve()
    return board


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A local server; what its tests write is told apart by names."""
    board = make_board(tmp_path_factory.mktemp("board"), "source")
    yield board
    board.end()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM.exists() and not os.environ.get("MIRROR_REQUIRE_SERVICES"):
        pytest.skip(f"{CHROMIUM} is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def log_in(chromium: Browser, board: Board) -> StorageState:
    """The cookies of somebody who came to the dashboard and was asked to log in."""
    with chromium.new_context() as context:
        page = context.new_page()
        page.goto(board.page)
        page.get_by_label("Username").fill("ada")
        page.get_by_label("Password").fill("pw")
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(board.page)
        return context.storage_state()


@pytest.fixture(scope="module")
def session(chromium: Browser, board: Board) -> StorageState:
    return log_in(chromium, board)


@pytest.fixture
def complaints() -> list[str]:
    """What the browser said on its console; a test that expects something takes it out."""
    return []


@pytest.fixture
def page(chromium: Browser, board: Board, session: StorageState, complaints: list[str]) -> Iterator[Page]:
    """The dashboard, connected. Whatever the console says in the end is a failure."""
    with chromium.new_context(storage_state=session, viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        listen(page, complaints)
        page.goto(board.page)
        connected(page)
        yield page
    assert complaints == []


def listen(page: Page, complaints: list[str]) -> None:
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.set_default_timeout(15_000)


def connected(page: Page) -> None:
    page.locator("#connection[data-state=open]").wait_for()

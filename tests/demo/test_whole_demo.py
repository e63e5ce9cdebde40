"""``python3 -m demo`` from its first start to its second end."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from demo.ports import is_free
from tests.demo.conftest import LOCAL, ROOT, Site, eventually, free_port

QUESTIONS = "SELECT id, question_text, pub_date FROM polls_question ORDER BY id"
CHOICES = "SELECT id, question_id, choice_text, votes FROM polls_choice ORDER BY id"


class Demo:
    """A running demo and what it printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            self.lines.extend(lines)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_for(self, text: str) -> None:
        eventually(lambda: text in self.output or self.process.poll() is not None, 60)
        assert text in self.output, self.output

    def wait_until(self, true: Callable[[], bool]) -> None:
        try:
            eventually(true)
        except AssertionError as error:
            error.add_note(self.output)
            raise

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        self._reader.join(timeout=10)
        return code


@contextmanager
def demo(site: Site, *options: str) -> Iterator[Demo]:
    process = site.start(LOCAL, "-m", "demo", "--here", "--no-browser", *options)
    running = Demo(process)
    try:
        yield running
    finally:
        if process.poll() is None:
            running.stop(signal.SIGTERM)


def rows(path: Path, query: str) -> list[tuple]:
    with closing(sqlite3.connect(path, timeout=20)) as database:
        return database.execute(query).fetchall()


@pytest.fixture
def compared(site: Site) -> Callable[[], bool]:
    """Are the two databases equal, and not empty?"""

    def equal() -> bool:
        local, central = site.var / "local.sqlite3", site.var / "central.sqlite3"
        return all(rows(local, query) == rows(central, query) != [] for query in (QUESTIONS, CHOICES))

    return equal


def processes_of(var: Path) -> list[str]:
    """Command lines of whatever still runs with this var directory."""
    mark = f"MIRROR_DEMO_VAR={var}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text())
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # ended meanwhile, or somebody else's
    return found


@pytest.mark.timeout(300)
def test_the_demo_mirrors_stops_cleanly_and_continues_where_it_stopped(
    site: Site, compared: Callable[[], bool]
) -> None:
    local_port, central_port = free_port(), free_port()
    ports = ["--local-port", str(local_port), "--central-port", str(central_port)]
    with demo(site, *ports, "--no-traffic") as first:
        first.wait_for("Ctrl-C stops everything")
        first.wait_until(compared)
        pasted = next(line for line in first.lines if "manage.py shell" in line)
        subprocess.run(["bash", "-c", pasted], cwd=ROOT, check=True, timeout=60)
        first.wait_until(compared)
        assert "Written in a shell" in str(rows(site.var / "central.sqlite3", QUESTIONS))
        assert first.stop(signal.SIGINT) == 0, first.output
    assert "unexpectedly" not in first.output
    assert "Traceback" not in first.output
    assert is_free(local_port)
    assert is_free(central_port)
    assert processes_of(site.var) == []

    before = rows(site.var / "central.sqlite3", "SELECT position, stream_id FROM mirror_source")
    tokens = rows(site.var / "local.sqlite3", "SELECT digest FROM mirror_token")
    # Written while nothing runs; and the ports are others now.
    site.manage(
        LOCAL, "shell", "--no-imports", "-c", "from demo.polls.questions import ask; ask('Later?', 'ab')"
    )
    ports = ["--local-port", str(free_port()), "--central-port", str(free_port())]
    with demo(site, *ports) as second:
        second.wait_for("Ctrl-C stops everything")
        second.wait_for("(write 1)")
        assert second.stop(signal.SIGTERM) == 0, second.output
    assert processes_of(site.var) == []
    after = rows(site.var / "central.sqlite3", "SELECT position, stream_id FROM mirror_source")
    assert "Later?" in str(rows(site.var / "central.sqlite3", QUESTIONS))
    assert [stream for _, stream in after] == [stream for _, stream in before]
    assert after[0][0] > before[0][0] > 0
    assert rows(site.var / "local.sqlite3", "SELECT digest FROM mirror_token") == tokens


@pytest.mark.timeout(180)
def test_stopping_while_it_still_prepares_leaves_nothing_behind(tmp_path: Path) -> None:
    site = Site(var=tmp_path)
    with demo(site, "--local-port", str(free_port()), "--central-port", str(free_port())) as running:
        running.wait_for("preparing")
        assert running.stop(signal.SIGINT) == 0
    assert "stopped" in running.output
    eventually(lambda: processes_of(site.var) == [], 10)


def test_the_traffic_votes_until_it_is_stopped(tmp_path: Path) -> None:
    site = Site(var=tmp_path)
    site.manage(LOCAL, "migrate", "--verbosity", "0")
    traffic = site.start(LOCAL, "manage.py", "traffic", "--interval", "0.01")
    database = site.var / "local.sqlite3"
    eventually(lambda: rows(database, "SELECT SUM(votes) FROM polls_choice")[0][0] not in (None, 0))
    traffic.send_signal(signal.SIGINT)
    output, _ = traffic.communicate(timeout=20)
    assert traffic.returncode == 0
    assert re.search(r"^(asked|voted): .+ \(write 1\)$", output, re.MULTILINE)

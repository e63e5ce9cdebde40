"""Real servers for the tests: one database each, and the processes that work on it.

Nothing here imports Django or our own code: what a test sees of a server is what a process answers and
what its database holds.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.end_to_end.databases import Database, Reading, reading

ROOT = Path(__file__).resolve().parents[2]

T = TypeVar("T")

#: Reconnects soon: the default delays are for a site, not for a test.
QUICK = {"BACKOFF_FIRST": 0.05, "BACKOFF_LONGEST": 0.5}


def wait_until(condition: Callable[[], T | None], *, seconds: float = 60.0, what: str = "") -> T:
    """Ask until the answer is true, and return it. Raises AssertionError at the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or condition}"
        time.sleep(0.02)


def holds_for(condition: Callable[[], object], *, seconds: float, what: str) -> None:
    """Assert that something stays true for a while: only the absence of an event needs this."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), what
        time.sleep(0.02)


def free_port() -> int:
    """A port that nobody listens on.

    Below the range from which the kernel numbers outgoing connections: while a killed server is away,
    one of those could take its port.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def stream_url(port: int) -> str:
    return f"ws://127.0.0.1:{port}/mirror/stream/"


class Running:
    """A process whose output goes to a file."""

    def __init__(
        self, name: str, command: Sequence[str], *, environ: dict[str, str], cwd: Path, log: Path
    ) -> None:
        self.name = name
        self.log_path = log
        self._log = log.open("ab")
        self._began = self._log.tell()
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def log(self) -> str:
        """What this process has said; the file may hold earlier ones of the same name."""
        with self.log_path.open("rb") as file:
            file.seek(self._began)
            return file.read().decode(errors="replace")

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def finish_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait(self, *, seconds: float = 60.0) -> int:
        code = self.process.wait(seconds)
        self._close()
        return code

    def stop(self, *, seconds: float = 30.0) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(seconds=seconds)

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def resident_bytes(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"{self.name} has no memory: it ended")

    def _close(self) -> None:
        self._log.close()
        if self.process.stdin is not None and not self.process.stdin.closed:
            try:
                self.process.stdin.close()
            except BrokenPipeError:
                # What was written last was never read: the process is dead, as it should be.
                return


class Shell:
    """A process with the site's Django that runs code on demand: starting one for each line is slow."""

    def __init__(self, running: Running, answers: Path) -> None:
        self.running = running
        self._answers = answers
        self._asked = 0

    def run(self, code: str, *, seconds: float = 60.0) -> Any:
        """The value that the code leaves in ``result``, through JSON. Raises what it raised, as text."""
        self._asked += 1
        self.running.tell(json.dumps(code))

        def answer() -> list[str] | None:
            assert self.running.alive, self.running.log
            lines = self._answers.read_text().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            return whole if len(whole) >= self._asked else None

        found = json.loads(wait_until(answer, seconds=seconds, what=f"the answer to {code!r}")[-1])
        if "error" in found:
            raise AssertionError(found["error"])
        return found["result"]


_COUNTING = """
    CREATE TABLE IF NOT EXISTS captured (changes integer NOT NULL);
    INSERT INTO captured SELECT 0 WHERE NOT EXISTS (SELECT * FROM captured);
    CREATE TRIGGER IF NOT EXISTS count_captured AFTER INSERT ON mirror_outbox
    BEGIN UPDATE captured SET changes = changes + 1; END;
"""


class Site:
    """One server: its database, its settings, and the processes that were started for it."""

    settings = "tests.project.settings"
    cwd = ROOT
    #: What daphne serves.
    application = "asgi:application"

    def __init__(
        self,
        name: str,
        role: str,
        directory: Path,
        database: Database,
        conf: dict[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.role = role
        self.directory = directory
        self.database = database
        self.conf = {**QUICK, **(conf or {})}
        #: Where the lines of the "oplogger" go.
        self.oplog_log = directory / f"{name}-oplog.log"
        self.started: list[Running] = []
        #: CHANNEL_LAYERS.
        self.layers: dict[str, Any] = {}
        self.port = free_port()
        self._shell: Shell | None = None

    @property
    def path(self) -> Path:
        return Path(self.database["NAME"])

    @property
    def environ(self) -> dict[str, str]:
        return {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": self.settings,
            "PYTHONPATH": os.pathsep.join([str(self.cwd), str(ROOT)]),
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",
            "MIRROR_TEST_ROLE": self.role,
            "MIRROR_TEST_DB": json.dumps(self.database),
            "MIRROR_TEST_CONF": json.dumps(self.conf),
            "MIRROR_TEST_LAYERS": json.dumps(self.layers),
            **({"MIRROR_TEST_OPLOG": str(self.oplog_log)} if self.role == "source" else {}),
        }

    # Processes

    def start(self, name: str, *command: str) -> Running:
        log = self.directory / f"{self.name}-{name}.log"
        running = Running(
            f"{self.name} {name}",
            [sys.executable, *command],
            environ=self.environ,
            cwd=self.cwd,
            log=log,
        )
        self.started.append(running)
        return running

    def serve(self, port: int | None = None, *, name: str = "daphne") -> Running:
        """daphne, once it answers."""
        port = port or self.port
        daphne = self.start(name, "-m", "daphne", "-v", "0", "-p", str(port), self.application)
        wait_until(lambda: self._answers(daphne, port), what="daphne answers")
        return daphne

    def _answers(self, daphne: Running, port: int) -> bool:
        assert daphne.alive, daphne.log
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            try:
                connection.request("GET", "/mirror/healthz")
                return connection.getresponse().status == 200
            except (ConnectionError, http.client.HTTPException, TimeoutError):
                return False

    def mirror(self, *arguments: str) -> Running:
        return self.start("runmirror", "-m", "django", "runmirror", *arguments)

    def manage(self, *arguments: str, expect: int | None = 0) -> str:
        """What a management command printed."""
        done = subprocess.run(
            [sys.executable, "-m", "django", *arguments],
            cwd=self.cwd,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert expect is None or done.returncode == expect, f"{done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def migrate(self) -> None:
        self.manage("migrate", "--verbosity", "0")
        if self.engine == "sqlite3":
            with closing(sqlite3.connect(self.path)) as connection:
                connection.executescript(_COUNTING)

    @property
    def shell(self) -> Shell:
        if self._shell is None or not self._shell.running.alive:
            answers = self.directory / f"{self.name}-answers-{len(self.started)}.jsonl"
            answers.touch()
            running = self.start("shell", "-m", "tests.end_to_end.shell", str(answers))
            self._shell = Shell(running, answers)
        return self._shell

    def run(self, code: str, *, seconds: float = 60.0) -> Any:
        """Run code that may use ``shop`` (the models) in another process; return its ``result``."""
        return self.shell.run(code, seconds=seconds)

    def end(self) -> None:
        for running in self.started:
            if running.alive:
                running.signal(signal.SIGKILL)
        for running in self.started:
            running.wait()

    # Following

    @property
    def url(self) -> str:
        return stream_url(self.port)

    def token(self, name: str = "centre") -> str:
        created: str = self.run(f"from mirror import tokens; result = tokens.create({name!r})")
        return created

    def follow(self, name: str, url: str, token: str) -> None:
        self.run(f"from mirror import sources; sources.add({name!r}, {url!r}, {token!r})")

    # The database, read without any code of ours

    @property
    def engine(self) -> str:
        engine: str = self.database["ENGINE"].rpartition(".")[2]
        return engine

    def reading(self) -> AbstractContextManager[Reading]:
        """One snapshot: every query within sees the same commit."""
        return reading(self.database)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction of a writer that knows nothing of Django; on SQLite."""
        with closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.reading() as database:
            return database.rows(sql, *parameters)

    def one(self, sql: str, *parameters: Any) -> Any:
        found = self.rows(sql, *parameters)
        return found[0][0] if found else None

    def source_row(self, name: str = "source") -> dict[str, Any]:
        """What this centre says of a source."""
        with self.reading() as database:
            (found,) = database.dicts("SELECT * FROM mirror_source WHERE name = ?", name)
            return found

    def captured(self) -> int:
        """How many changes were ever committed, by a count that none of our code keeps; on SQLite."""
        return self.one("SELECT changes FROM captured")


def wait_until_level(source: Site, centre: Site, *, name: str = "source", seconds: float = 60.0) -> None:
    """Until the centre has everything that the source has committed by now."""
    captured = source.captured()
    wait_until(
        lambda: centre.source_row(name)["position"] >= captured,
        seconds=seconds,
        what=f"{centre.name} has {captured} changes of {name}",
    )


def wait_until_equal_heads(source: Site, centre: Site) -> None:
    """Like wait_until_level, on every engine."""

    def level() -> bool:
        waiting = source.one("SELECT count(*) FROM mirror_outbox")
        head = source.one("SELECT head FROM mirror_stream")
        return waiting == 0 and centre.source_row()["cursor"] == head

    wait_until(level)


def wait_until_state(centre: Site, state: str, code: str = "", *, name: str = "source") -> dict[str, Any]:
    """Until the centre says this of a source; return all that it says."""

    def found() -> dict[str, Any] | None:
        row = centre.source_row(name)
        return row if (row["state"], row["error_code"]) == (state, code) else None

    return wait_until(found, what=f"{name} is {state} {code}")


def copy_site_database(template: Path, database: Path) -> None:
    """A server of its own: whoever is copied with the template's stream would be its clone."""
    shutil.copyfile(template, database)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE mirror_stream SET uuid = ?", [uuid.uuid4().hex])


def copy_database(database: Path, copy: Path) -> None:
    """A consistent copy of a database in use, as a backup would be."""
    with closing(sqlite3.connect(database)) as original, closing(sqlite3.connect(copy)) as backup:
        original.backup(backup)


def restore_database(copy: Path, database: Path) -> None:
    """Put a backup in a database's place; nobody may have it open."""
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    shutil.copyfile(copy, database)


class Watch:
    """Calls a function again and again in a thread, and keeps what went wrong."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.looks = 0

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._look()
                self.looks += 1
                self._stop.wait(0.003)
        except BaseException as error:  # noqa: BLE001 - handed to the test below
            self._error = error

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

from __future__ import annotations

import logging
import subprocess
import sys
from logging.handlers import RotatingFileHandler, TimedRotatingFileHandler
from pathlib import Path

import pytest
from django.db.utils import OperationalError

from mirror import oplogger
from mirror.changes import log_line
from mirror.models import Stream
from tests.fakes import Lines
from tests.project.shop.models import Counter

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def listen():
    """Attach a handler to the logger for one test."""
    attached = []
    before = oplogger.LOGGER.level, oplogger.LOGGER.propagate

    def attach(handler: logging.Handler) -> logging.Handler:
        handler.setFormatter(logging.Formatter("%(message)s"))
        oplogger.LOGGER.addHandler(handler)
        oplogger.LOGGER.setLevel(logging.INFO)
        attached.append(handler)
        return handler

    oplogger.LOGGER.propagate = False
    yield attach
    for handler in attached:
        oplogger.LOGGER.removeHandler(handler)
        handler.close()
    oplogger.LOGGER.level, oplogger.LOGGER.propagate = before
    oplogger.LOGGER.manager._clear_cache()  # type: ignore[attr-defined]


@pytest.fixture
def log(tmp_path) -> Path:
    return tmp_path / "oplog.log"


def write(source, *values: int) -> None:
    for value in values:
        Counter.objects.create(value=value)
    source.step()


def tell() -> int:
    return oplogger.tell("default")


def expected(source) -> list[str]:
    return [log_line(entry.body) for entry in source.entries()]


def lines(*paths: Path) -> list[str]:
    return "".join(path.read_text() for path in paths).splitlines()


def logged(source) -> int:
    return source.stream.logged


def killed(at: int = 0) -> None:
    """A new process: it knows nothing, and what was stored is what the old one committed."""
    oplogger.forget()
    Stream.objects.filter(local=True).update(logged=at)


# In order, once


def test_every_change_is_told_once_and_in_order(source, listen):
    heard = listen(Lines())
    write(source, 1, 2)
    assert tell() == 2
    write(source, 3)
    assert (tell(), tell()) == (1, 0)
    assert heard.lines == expected(source)
    assert logged(source) == source.stream.head


def test_a_line_is_the_articles(source, listen):
    heard = listen(Lines())
    write(source, 5)
    tell()
    ts, op, document = heard.lines[0].split(" ", 2)
    seconds, micros = ts.split(".")
    assert (len(seconds), len(micros), op) == (10, 6, "SAVE")
    assert document == '[{"model": "shop.counter", "pk": 1, "fields": {"value": 5}}]'


def test_more_than_a_page_is_told_whole(source, listen, monkeypatch):
    monkeypatch.setattr(oplogger, "_PAGE", 3)
    heard = listen(Lines())
    write(source, *range(10))
    assert tell() == 10
    assert heard.lines == expected(source)


def test_a_restart_goes_on_where_it_stopped(source, listen):
    heard = listen(Lines())
    write(source, 1, 2)
    tell()
    oplogger.forget()
    write(source, 3)
    tell()
    assert heard.lines == expected(source)


# Nobody listens


def test_without_a_handler_nothing_is_told_and_nothing_piles_up(source, listen):
    write(source, 1, 2)
    assert tell() == 0
    assert logged(source) == source.stream.head
    heard = listen(Lines())
    write(source, 3)
    tell()
    assert heard.lines == expected(source)[2:]


def test_a_logger_that_is_too_quiet_is_not_heard(source, listen):
    heard = listen(Lines())
    oplogger.LOGGER.setLevel(logging.WARNING)
    write(source, 1)
    assert tell() == 0
    oplogger.LOGGER.setLevel(logging.INFO)
    assert tell() == 0
    assert heard.lines == []


# Files know better than the table


def test_what_was_told_but_not_stored_is_not_told_again(source, listen, log):
    listen(logging.FileHandler(log))
    write(source, 1, 2, 3)
    tell()
    killed(at=source.entries()[0].ts)
    write(source, 4)
    tell()
    assert lines(log) == expected(source)


def test_a_commit_that_fails_after_telling_tells_nothing_twice(source, listen, log, monkeypatch):
    listen(logging.FileHandler(log))
    write(source, 1)
    tell()
    write(source, 2)

    def fail(*args, **kwargs):
        raise OperationalError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(Stream, "save", fail)
        with pytest.raises(OperationalError):
            tell()
    write(source, 3)
    tell()
    assert lines(log) == expected(source)


@pytest.mark.parametrize("kept", [1, 10, -1])
def test_a_torn_last_line_is_cut_and_told_whole(source, listen, log, kept):
    listen(logging.FileHandler(log))
    write(source, 1, 2)
    tell()
    whole, last = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(whole + last[:kept])
    killed()
    assert tell() == 1
    assert lines(log) == expected(source)


def test_a_file_that_is_one_torn_line_begins_anew(source, listen, log):
    log.write_bytes(b"16983955")
    listen(logging.FileHandler(log))
    write(source, 1)
    tell()
    assert lines(log) == expected(source)


def test_a_torn_line_longer_than_one_look_is_cut_whole(source, listen, log, monkeypatch):
    monkeypatch.setattr(oplogger, "_TAIL", 16)
    listen(logging.FileHandler(log))
    write(source, 1, 2)
    tell()
    with log.open("ab") as file:
        file.write(b"x" * 1000)
    killed()
    assert tell() == 0
    assert lines(log) == expected(source)


def test_a_whole_line_longer_than_one_look_is_read(source, listen, log, monkeypatch):
    monkeypatch.setattr(oplogger, "_TAIL", 5)
    listen(logging.FileHandler(log))
    write(source, 1, 2)
    tell()
    killed()
    assert tell() == 0
    assert lines(log) == expected(source)


def test_a_file_that_was_just_rotated_is_not_begun_anew(source, listen, log):
    handler = listen(RotatingFileHandler(log, backupCount=3))
    write(source, 1, 2)
    tell()
    handler.doRollover()
    killed()
    write(source, 3)
    tell()
    assert lines(log.with_name("oplog.log.1"), log) == expected(source)


def test_a_file_that_was_just_rotated_by_time_is_not_begun_anew(source, listen, log):
    handler = listen(TimedRotatingFileHandler(log, when="D", backupCount=3))
    write(source, 1, 2)
    tell()
    handler.doRollover()
    killed()
    write(source, 3)
    tell()
    (older,) = log.parent.glob("oplog.log.*")
    assert lines(older, log) == expected(source)


def test_a_file_with_lines_of_others_is_not_believed(source, listen, log):
    log.write_text("yesterday all was well\n")
    listen(logging.FileHandler(log))
    oplogger.LOGGER.setLevel(logging.DEBUG)
    write(source, 1)
    tell()
    assert lines(log) == ["yesterday all was well", *expected(source)]


def test_a_file_of_a_later_history_does_not_silence_this_one(source, listen, log):
    # The source was restored from a backup; what it logged since is still in the file.
    log.write_text('9999999999.000000 SAVE [{"model": "shop.counter", "pk": 1, "fields": {"value": 9}}]\n')
    listen(logging.FileHandler(log))
    write(source, 1)
    tell()
    assert lines(log)[1:] == expected(source)


def test_two_processes_share_the_telling(source, listen, log, source_path):
    listen(logging.FileHandler(log))
    write(source, 1)
    tell()
    # The other one finds the change of a third already in its place, and tells it.
    write(source, 2)
    ran = subprocess.run(
        [sys.executable, "-c", ANOTHER, str(source_path), str(log)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    write(source, 3)
    tell()
    assert lines(log) == expected(source)


ANOTHER = """
import json, os, sys
path, log = sys.argv[1:]
database = {"ENGINE": "django.db.backends.sqlite3", "NAME": path}
os.environ |= {
    "DJANGO_SETTINGS_MODULE": "tests.project.settings",
    "MIRROR_TEST_DB": json.dumps(database),
    "MIRROR_TEST_OPLOG": log,
}
import django
django.setup()
from mirror import oplogger
assert oplogger.tell("default") == 1
"""

"""The oplogs of a database are pruned as the settings say, a little at a time."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.db.utils import OperationalError

from mirror import oplog, oplogger, pruning
from mirror.changes import Change, Op, encode_change, mark_of
from mirror.errors import Pruned
from mirror.models import Mirror, Oplog, Stream
from mirror.pruning import Pruner
from tests.mirror.conftest import VENDORS

on_every_engine = pytest.mark.parametrize("vendor", VENDORS, indirect=True)

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOW_TS = int(NOW.timestamp()) * 1_000_000
DAY = 86_400_000_000


@pytest.fixture(autouse=True)
def thirty_days_are_kept(settings):
    settings.MIRROR = {**settings.MIRROR, "KEEP_DAYS": 30}


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr(pruning, "STEP", 10)


@pytest.fixture
def log(centre):
    """Make a stream with a change every day up to now: groups of the sizes given."""
    Stream.objects.using("centre").all().delete()

    def log(*groups: int, local: bool | None = True) -> Stream:
        stream = Stream.objects.using("centre").create(local=local)
        extend(stream, *groups, first=NOW_TS - sum(groups) * DAY)
        return stream

    return log


def extend(stream: Stream, *groups: int, first: int) -> None:
    rows = []
    for size in groups:
        for place in range(1, size + 1):
            stream.head = first + len(rows) * DAY
            stream.position += 1
            rows.append(
                Oplog(
                    stream=stream,
                    ts=stream.head,
                    position=stream.position,
                    op="SAVE",
                    model="a.b",
                    key="1",
                    ends_group=place == size,
                    body=body(stream.head),
                )
            )
    Oplog.objects.using("centre").bulk_create(rows)
    stream.save()


def body(ts: int) -> str:
    return encode_change(Change(ts=ts, op=Op.SAVE, model="a.b", pk=1, fields={"text": "x" * 100}))


def follow(stream: Stream, cursor: int, *, days: float = 0.0, name: str = "office") -> Mirror:
    seen = NOW - timedelta(days=days)
    return Mirror.objects.using("centre").create(
        stream=stream, token=name, mirror="m", cursor=cursor, position=0, first_seen=seen, last_seen=seen
    )


class World:
    def __init__(self) -> None:
        self.now = NOW
        self.seconds = 0.0

    def pruner(self) -> Pruner:
        return Pruner("centre", clock=lambda: self.seconds, now=lambda: self.now)


@pytest.fixture
def world() -> World:
    return World()


def run(pruner: Pruner) -> int:
    """Until it rests; return the number of steps that did something."""
    steps = 0
    while pruner.step() < 1:
        steps += 1
    return steps


def kept(stream: Stream) -> int:
    stream.refresh_from_db()
    found = Oplog.objects.using("centre").filter(stream=stream).order_by("ts")
    positions = list(found.values_list("position", flat=True))
    # Whatever was pruned: what is kept follows the anchor without a gap.
    assert positions == list(range(stream.anchor_position + 1, stream.position + 1))
    return len(positions)


# By age, and for mirrors


@on_every_engine
def test_old_changes_go_in_small_steps_from_every_oplog(log, world):
    here, copy = log(*[1] * 60), log(*[2] * 40, local=None)
    assert run(world.pruner()) == 3 + 5
    assert (kept(here), kept(copy)) == (30, 30)


@on_every_engine
def test_a_living_mirror_is_never_cut_off_below_the_cap_f35(log, world):
    stream = log(*[1] * 60)
    follow(stream, stream.head - 50 * DAY)
    follow(stream, stream.head, name="fast")
    pruner = world.pruner()
    for _ in range(80):  # a day each: it stays away, but not for longer than it is waited for
        run(pruner)
        assert kept(stream) == 50
        world.now += timedelta(days=1)


@on_every_engine
def test_a_dead_mirrors_hold_ends_f37(log, world):
    stream = log(*[1] * 60)
    follow(stream, 0)
    pruner = world.pruner()
    world.now += timedelta(days=90)
    run(pruner)
    assert kept(stream) == 60
    world.now += timedelta(seconds=1)
    run(pruner)
    assert kept(stream) == 1, "and the newest change stays, however quiet the stream (F36)"
    oplog.resume(stream, stream.head, mark_of(body(stream.head)))


@on_every_engine
def test_a_mirror_of_a_mirror_holds_the_copy_back(log, world):
    copy = log(*[1] * 60, local=None)
    follow(copy, copy.head - 45 * DAY)
    run(world.pruner())
    assert kept(copy) == 45


@pytest.fixture
def somebody_listens():
    handler = logging.NullHandler()
    oplogger.LOGGER.addHandler(handler)
    oplogger.LOGGER.setLevel(logging.INFO)
    yield
    oplogger.LOGGER.setLevel(logging.NOTSET)
    oplogger.LOGGER.removeHandler(handler)


@pytest.mark.usefixtures("somebody_listens")
def test_what_has_no_line_in_the_log_file_yet_is_kept(log, world):
    stream = log(*[1] * 60)
    Stream.objects.using("centre").update(logged=stream.head - 40 * DAY)
    run(world.pruner())
    assert kept(stream) == 40
    Stream.objects.using("centre").update(logged=stream.head)
    run(world.pruner())
    assert kept(stream) == 30


# The caps


@on_every_engine
def test_over_the_cap_of_bytes_a_mirror_is_cut_off_and_named_once_f37(log, world, settings, caplog):
    stream = log(*[1] * 60)
    follow(stream, stream.head - 50 * DAY)
    follow(stream, stream.head - 5 * DAY, name="fast")
    each = len(body(stream.head)) + 250
    settings.MIRROR = {**settings.MIRROR, "OPLOG_BYTES": 20 * each}
    run(world.pruner())
    assert kept(stream) == 20
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"mirror office m is cut off from stream {stream}")
    with pytest.raises(Pruned):
        oplog.resume(stream, stream.head - 50 * DAY, "")
    world.now += timedelta(days=1)
    run(world.pruner())
    assert kept(stream) == 20, "the one that is lost holds nothing back, the other one is not lost"


def test_over_the_cap_of_age_a_mirror_is_cut_off(log, world, settings, caplog):
    settings.MIRROR = {**settings.MIRROR, "OPLOG_DAYS": 40}
    stream = log(*[1] * 60)
    follow(stream, stream.head - 50 * DAY)
    pruner = world.pruner()
    pruner.step()
    pruner.step()
    assert "is cut off" in caplog.text
    assert kept(stream) == 40
    run(pruner)
    assert kept(stream) == 30, "for whoever is lost nothing is kept any more"
    assert caplog.text.count("is cut off") == 1


def test_a_log_that_grows_stays_below_its_cap_with_a_dead_mirror(log, world, settings):
    """F37, in small: whatever is written, the disk holds so much."""
    stream = log(1)
    follow(stream, 0)
    settings.MIRROR = {**settings.MIRROR, "OPLOG_BYTES": 40 * (len(body(stream.head)) + 250)}
    pruner = world.pruner()
    for _ in range(10):
        stream.refresh_from_db()
        extend(stream, *[3] * 5, first=stream.head + 1)
        run(pruner)
        assert kept(stream) < 40 + 3, "more only by what completes a group"
    assert kept(stream) >= 40


def test_the_cap_holds_when_changes_become_larger(log, world, settings):
    stream = log(*[1] * 20)
    follow(stream, 0)
    settings.MIRROR = {**settings.MIRROR, "OPLOG_BYTES": 100_000}
    pruner = world.pruner()
    run(pruner)
    assert kept(stream) == 20
    extend(stream, *[1] * 20, first=stream.head + 1)
    Oplog.objects.using("centre").filter(position__gt=20).update(body="x" * 10_000)
    run(pruner)
    run(pruner)  # measures what is left
    assert 8 <= kept(stream) <= 10


def test_without_any_limit_nothing_is_pruned(log, world, settings):
    settings.MIRROR = {**settings.MIRROR, "KEEP_DAYS": None, "OPLOG_BYTES": None}
    stream = log(*[1] * 60)
    assert run(world.pruner()) == 0
    assert kept(stream) == 60


def test_looking_costs_few_queries_where_there_is_nothing_to_do(log, world, django_assert_max_num_queries):
    log(*[1] * 25)
    pruner = world.pruner()
    pruner.step()  # measures
    with django_assert_max_num_queries(14, using="centre"):
        assert pruner.step() == 60


# Rest


def test_it_rests_longer_than_it_works(log, world, monkeypatch):
    log(*[1] * 60)
    pruner = world.pruner()
    prune = oplog.prune

    def slow_prune(*args: Any, **options: Any) -> int:
        world.seconds += 0.05
        return prune(*args, **options)

    monkeypatch.setattr(oplog, "prune", slow_prune)
    assert pruner.step() == pytest.approx(0.1)


def test_a_stream_that_goes_meanwhile_is_passed_over(log, world):
    stream, other = log(*[1] * 60), log(*[1] * 60, local=None)
    pruner = world.pruner()
    assert pruner.step() < 1
    other.delete()
    run(pruner)
    assert kept(stream) == 30


# With others at work


@on_every_engine
def test_two_processes_that_prune_at_once_do_no_harm(log, world):
    stream = log(*[3] * 100)
    errors: list[BaseException] = []

    def prune() -> None:
        pruner = world.pruner()
        try:
            while kept_now() > 32:
                with suppress(OperationalError):  # a deadlock that the server has ended
                    pruner.step()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)
        finally:
            connections["centre"].close()

    def kept_now() -> int:
        return Oplog.objects.using("centre").filter(stream=stream).count()

    threads = [threading.Thread(target=prune) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert kept(stream) == 30


@on_every_engine
def test_a_reader_never_misses_a_change_without_being_told(log, world):
    """Pages are read while the log is pruned: the next one follows, or its first position says otherwise."""
    stream = log(*[1] * 300)
    pruner = world.pruner()
    dice = random.Random(4)
    told = 0
    for _ in range(10):
        stream.refresh_from_db()
        cursor, position = stream.anchor, stream.anchor_position
        for _ in range(dice.randrange(5)):
            pruner.step()
        entries = oplog.read(stream.pk, cursor, "centre", limit=25, max_bytes=10**6)
        stream.refresh_from_db()
        if entries[0].position == position + 1:
            assert stream.anchor == cursor
        else:
            assert stream.anchor > cursor
            told += 1
    assert told > 2


_PRUNE = """
    import sys, time
    import django
    django.setup()
    from datetime import datetime, timezone
    from mirror import oplog, oplogger, pruning
    from mirror.models import Stream
    pruning.STEP = 7
    delete = oplog._delete
    def crash_in_the_middle(*args):
        sys.stdout.write("x"); sys.stdout.flush()
        return delete(*args)
    oplog._delete = crash_in_the_middle
    pruner = pruning.Pruner(now=lambda: datetime.fromisoformat("{now}"))
    while pruner.step() != 60:
        pass
"""


@on_every_engine
@pytest.mark.parametrize("steps", [1, 4, 9])
def test_a_process_killed_while_it_prunes_leaves_a_log_that_begins_at_its_anchor(
    log, world, centre_database, steps
):
    """F01, for pruning: a group of twenty in the middle is deleted in several steps."""
    stream = log(*[1] * 40, 20, *[2] * 20)
    environ = {
        **os.environ,
        "MIRROR_TEST_DB": json.dumps(centre_database),
        "MIRROR_TEST_ROLE": "centre",
        "MIRROR_TEST_CONF": json.dumps({"KEEP_DAYS": 30}),
        "DJANGO_SETTINGS_MODULE": "tests.project.settings",
    }
    script = textwrap.dedent(_PRUNE.replace("{now}", NOW.isoformat()))
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, env=environ, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        begun = process.stdout.read(steps)
        process.send_signal(signal.SIGKILL)
    assert begun == b"x" * steps
    stream.refresh_from_db()
    rows = Oplog.objects.using("centre").filter(stream=stream).order_by("ts")
    after = list(rows.filter(ts__gt=stream.anchor).values_list("position", flat=True))
    assert after == list(range(stream.anchor_position + 1, 101)), "whatever comes after the anchor is there"
    assert oplog.resume(stream, stream.anchor, stream.anchor_mark) == stream.anchor_position
    before = list(rows.filter(ts__lte=stream.anchor).values_list("position", flat=True))
    assert before in ([], list(range(stream.anchor_position - len(before) + 1, stream.anchor_position + 1)))
    assert len(before) < 20
    run(world.pruner())
    assert kept(stream) == 30


@pytest.mark.parametrize("vendor", VENDORS[1:], indirect=True)
def test_pruning_one_stream_lets_the_others_grow_meanwhile(log, world, monkeypatch):
    """They are neighbours in the index: a lock on the gap between them would stop the one that grows."""
    grows, pruned = log(*[1] * 5, local=None), log(*[1] * 60)
    done = []
    postgresql = connections["centre"].vendor == "postgresql"
    with connections["centre"].cursor() as cursor:
        # A level that the project has chosen for itself; by default Django asks for another.
        characteristics = "SESSION CHARACTERISTICS AS TRANSACTION" if postgresql else "SESSION TRANSACTION"
        cursor.execute(f"SET {characteristics} ISOLATION LEVEL REPEATABLE READ")

    def append() -> None:
        with connections["centre"].cursor() as cursor:
            cursor.execute("SET lock_timeout = '1s'" if postgresql else "SET innodb_lock_wait_timeout = 1")
        extend(grows, 1, first=grows.head + 1)
        done.append(1)
        connections["centre"].close()

    update = type(Stream.objects.using("centre")).update

    def append_first(queryset: Any, **values: Any) -> int:
        if "anchor" in values and not done:
            thread = threading.Thread(target=append)
            thread.start()
            thread.join(5)
        return update(queryset, **values)

    monkeypatch.setattr(type(Stream.objects.using("centre")), "update", append_first)
    run(world.pruner())
    assert done
    assert (kept(pruned), kept(grows)) == (30, 6)

"""Late commits, many writers, large transactions and sequencers that die, on the servers.

SQLite has one writer at a time: what can go wrong there is in ``test_sequencer.py``. ``MIRROR_HEAVY=1`` runs
with the numbers that the promises name, which takes minutes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from mirror.changes import decode_change
from mirror.doorbell import Sequences
from mirror.models import Outbox
from mirror.sequencer import Sequencer
from tests.fakes import Recorded
from tests.mirror import mysql_support, postgresql_support, writers
from tests.mirror.server_support import at_once, execute, fetch
from tests.project.shop.models import Brand, Counter, Ticket

HEAVY = os.environ.get("MIRROR_HEAVY") == "1"
ROOT = Path(__file__).resolve().parents[2]
SUPPORT = {"postgresql": postgresql_support, "mariadb": mysql_support}

on_servers = pytest.mark.parametrize(
    "server",
    [
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
)
on_postgresql = pytest.mark.parametrize("server", [pytest.param("postgresql", marks=pytest.mark.postgresql)])


@pytest.fixture
def database(server, request) -> dict[str, Any]:
    return request.getfixturevalue(f"{server}_source")


@pytest.fixture
def source(server, database, django_db_blocker) -> Iterator[Recorded]:
    with django_db_blocker.unblock(), SUPPORT[server].recorded(database) as source:
        yield source


def client() -> Any:
    """Of the source's server; in a transaction of its own from its first statement on."""
    vendor = "postgresql" if connection.vendor == "postgresql" else "mariadb"
    return closing(writers.connect(vendor, connection.settings_dict["NAME"]))


def says(client: Any, sql: str) -> None:
    with client.cursor() as cursor:
        cursor.execute(sql)


def impatient() -> None:
    """From here on this connection fails where it would have to wait for a writer."""
    postgresql = connection.vendor == "postgresql"
    execute("SET lock_timeout = '1s'" if postgresql else "SET innodb_lock_wait_timeout = 1")


# Late commits


@on_servers
def test_a_transaction_that_ends_after_thousands_of_others_arrives_whole_and_held_up_nobody(source, centre):
    impatient()
    if connection.vendor == "postgresql":
        execute("SET synchronous_commit = off")
    Counter.objects.bulk_create([Counter(id=number, value=0) for number in range(1, 6)])
    others = 5000
    with client() as late:
        says(late, "INSERT INTO shop_counter (id, value) VALUES (100, 0), (101, 0)")
        says(late, "UPDATE shop_counter SET value = -1 WHERE id = 5")
        for turn in range(1, others + 1):
            execute("UPDATE shop_counter SET value = %s WHERE id = %s", [turn, 1 + turn % 4])
            if turn % 100 == 0:
                says(late, f"UPDATE shop_counter SET value = {turn} WHERE id = 100")
                centre.follow(source)
                assert max(centre.rows("shop_counter", "value")) == (turn,)
        assert source.stream.position == 5 + others
        assert {number for (number,) in centre.rows("shop_counter", "id")} == {1, 2, 3, 4, 5}
        late.commit()
    before = centre.cursor
    centre.follow(source)
    arrived = source.entries(before)
    assert [entry.ends_group for entry in arrived] == [False] * (len(arrived) - 1) + [True]
    assert len(arrived) == 3 + others // 100
    assert dict(centre.rows("shop_counter")) == dict(fetch("SELECT id, value FROM shop_counter"))
    assert all(one.ts < other.ts for one, other in pairwise(source.entries()))


@on_servers
def test_a_client_that_is_killed_in_its_transaction_leaves_nothing_behind(source):
    killed = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(f"""
                from tests.mirror import writers
                client = writers.connect({"postgresql" if connection.vendor == "postgresql" else "mariadb"!r},
                                         {connection.settings_dict["NAME"]!r})
                client.cursor().execute("INSERT INTO shop_counter (id, value) VALUES (1, 1)")
                print("written", flush=True)
                input()
            """),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"written\n"
        assert source.changes() == []
        killed.kill()
    # It waits for the row of the one that was killed, until the server has noticed.
    Counter.objects.create(id=1, value=2)
    assert [change.fields["value"] for change in source.changes()] == [2]


# Many writers


@on_servers
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_eight_processes_on_five_rows_lose_double_and_tear_nothing(source, centre, server, level):
    Counter.objects.bulk_create([Counter(id=number, value=100) for number in writers.ROWS])
    centre.follow(source)
    name = connection.settings_dict["NAME"]
    transactions = 200 if HEAVY else 15
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.mirror.writers",
                server,
                name,
                str(number),
                str(transactions),
                level,
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    said: list[tuple[str, str]] = []
    ended = threading.Event()

    def listen() -> None:
        said.extend(process.communicate() for process in processes)
        ended.set()

    listening = threading.Thread(target=listen)
    listening.start()
    while not ended.is_set():
        centre.follow(source)
        # Whatever was committed by then: every transaction took from one what it gave to another.
        assert sum(value for (value,) in centre.rows("shop_counter", "value")) == 500
    listening.join()
    assert [process.returncode for process in processes] == [0] * 8, said
    centre.follow(source)
    tickets = sorted(line for out, _err in said for line in out.split())
    changes = [decode_change(entry.body) for entry in source.entries()]
    assert sorted(change.pk for change in changes if change.model == "shop.ticket") == tickets
    assert len(changes) == len(writers.ROWS) + 3 * len(tickets)
    assert dict(centre.rows("shop_counter")) == dict(fetch("SELECT id, value FROM shop_counter"))


# The isolation level of the project


@pytest.fixture
def serializable(database, server) -> dict[str, Any]:
    """Every connection of the project, in whatever way it begins a transaction."""
    how = (
        {"options": "-c default_transaction_isolation=serializable"}
        if server == "postgresql"
        else {"isolation_level": "serializable", **database["OPTIONS"]}
    )
    return {**database, "OPTIONS": how}


@contextmanager
def dangerous(first: Any, second: Any) -> Iterator[None]:
    """What is done within comes between two transactions, one of which has read what the other changes.

    The two alone are in order. A third that reads what the first has not written yet would put an end to it.
    """
    says(first, "BEGIN ISOLATION LEVEL SERIALIZABLE")
    says(first, "SELECT value FROM shop_counter WHERE id = 1")
    says(second, "BEGIN ISOLATION LEVEL SERIALIZABLE")
    says(second, "UPDATE shop_counter SET value = 5 WHERE id = 1")
    says(second, "COMMIT")
    yield
    says(first, "INSERT INTO shop_brand (pkid, id, name) VALUES (7, gen_random_uuid(), 'first')")
    says(first, "COMMIT")


@on_postgresql
def test_no_serializable_transaction_fails_because_a_sequencer_looked(
    serializable, server, django_db_blocker
):
    with django_db_blocker.unblock(), SUPPORT[server].recorded(serializable) as source:
        Counter.objects.create(id=1, value=1)
        source.news()
        with client() as first, client() as second:
            first.autocommit = second.autocommit = True
            with dangerous(first, second):
                assert len(source.news()) == 1
                source.step()
        assert [change.fields["name"] for change in source.news()] == ["first"]


@on_postgresql
def test_no_serializable_transaction_fails_because_the_doorbell_asked(
    serializable, server, django_db_blocker
):
    with django_db_blocker.unblock(), SUPPORT[server].recorded(serializable) as source:
        Counter.objects.create(id=1, value=1)
        source.news()
        bell = Sequences(connection, 0.002)
        bell.rang()
        with client() as first, client() as second:
            first.autocommit = second.autocommit = True
            with dangerous(first, second):
                for _ in range(3):
                    bell.rang()
        bell.close()
        assert len(source.news()) == 2


@on_servers
def test_two_sequencers_take_turns_whatever_the_level_of_the_project(serializable, server, django_db_blocker):
    with django_db_blocker.unblock(), SUPPORT[server].recorded(serializable) as source:
        written = threading.Event()

        def sequence() -> None:
            own = Sequencer("default")
            while not written.is_set():
                own.step()

        def write() -> None:
            try:
                for number in range(100):
                    Brand.objects.create(name=str(number))
            finally:
                written.set()

        at_once(sequence, sequence, write)
        names = [change.fields["name"] for change in source.changes()]
        assert names == [str(number) for number in range(100)]
        assert [entry.position for entry in source.entries()] == list(range(1, 101))


# Sequencers that die, and large transactions


def child(statements: str) -> subprocess.Popen[str]:
    """A process of the project, with a sequencer on the source's database."""
    begin = "import django; django.setup(); from mirror.sequencer import Sequencer; import mirror.sequencer\n"
    environ = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.project.settings",
        "MIRROR_TEST_DB": json.dumps(database_of_the_source()),
        "MIRROR_TEST_ROLE": "source",
    }
    return subprocess.Popen(
        [sys.executable, "-c", begin + textwrap.dedent(statements)],
        cwd=ROOT,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def database_of_the_source() -> dict[str, Any]:
    kept = ("ENGINE", "NAME", "USER", "HOST", "PORT", "OPTIONS")
    return {name: connection.settings_dict[name] for name in kept}


@on_servers
def test_a_sequencer_that_is_killed_within_its_pass_has_moved_nothing(source):
    Ticket.objects.bulk_create([Ticket(text=str(number)) for number in range(60)])
    killed = child(
        """
        mirror.sequencer._PAGE = 20
        class Stuck(Sequencer):
            def _change(self, *arguments):
                self.changes = getattr(self, "changes", 0) + 1
                if self.changes == 50:
                    print("within", flush=True)
                    input()
                return super()._change(*arguments)
        Stuck().step()
        """
    )
    with killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "within\n"
        assert (Outbox.objects.count(), source.stream.position) == (60, 0)
        killed.send_signal(signal.SIGKILL)
    assert [change.fields["text"] for change in source.changes()] == [str(number) for number in range(60)]
    assert source.stream.position == 60


@on_servers
@pytest.mark.timeout(600)
def test_the_sequencer_holds_no_large_transaction_in_memory(source, record_property):
    size = 100_000 if HEAVY else 12_000
    with transaction.atomic():
        for start in range(0, size, 4000):
            Ticket.objects.bulk_create([Ticket(text="x" * 2000) for _ in range(start, start + 4000)])
    measured = child(
        """
        import re, time
        from pathlib import Path
        from tests.project.shop.models import Counter
        def peak():
            # Not ru_maxrss, which begins with what the parent had.
            return int(re.search("VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
        sequencer = Sequencer()
        Counter.objects.create(id=1, value=1)
        Counter.objects.count()
        before, began = peak(), time.monotonic()
        print(sequencer.step(), peak() - before, time.monotonic() - began)
        """
    )
    said, _ = measured.communicate()
    count, grown, seconds = said.split()
    record_property("measured", f"{count} changes, {grown} MiB more, {float(seconds):.1f} s")
    assert int(count) == size + 1
    # A page of a thousand such changes is 2 MB, three times over; all of the smaller transaction is 25.
    assert int(grown) < 24
    assert [entry.ends_group for entry in source.entries(source.stream.head - 1)] == [True]
    assert not Outbox.objects.exists()

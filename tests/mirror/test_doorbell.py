from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from django.db import connection, connections

from mirror import doorbell
from mirror.doorbell import DataVersion, Newest, Patience, Poll, Sequences, doorbell_for
from mirror.models import Oplog
from tests.mirror import mysql_support, postgresql_support, writers
from tests.mirror.conftest import VENDORS, attached
from tests.project.shop.models import Counter


@pytest.fixture
def bell(source):
    made = doorbell_for(connection)
    made.rang()  # the first look is always worth it
    yield made
    made.close()


def test_the_first_look_is_always_worth_it(source):
    made = doorbell_for(connection)
    assert made.rang()
    made.close()


def test_it_is_silent_while_nothing_happens(bell):
    assert not any(bell.rang() for _ in range(20))


def test_it_rings_once_for_a_commit(bell):
    Counter.objects.create()
    assert bell.rang()
    assert not bell.rang()


def test_it_rings_for_a_commit_of_another_process(bell, source_path):
    other = sqlite3.connect(source_path)
    with other:
        other.execute("INSERT INTO shop_counter (value) VALUES (1)")
    other.close()
    assert bell.rang()


def test_reading_rings_no_bell(bell):
    list(Counter.objects.all())
    assert not bell.rang()


def test_a_bell_that_was_missed_costs_one_poll(bell):
    looks = [bell.rang() for _ in range(round(doorbell._LOOK_ANYWAY / bell.interval) + 1)]
    assert looks.count(True) == 1


def test_a_database_that_cannot_be_asked_is_looked_at(bell):
    class Away:
        def execute(self, sql):
            raise sqlite3.OperationalError("disk I/O error")

        def close(self):
            pass

    bell._connection.close()
    bell._connection = Away()
    assert all(bell.rang() for _ in range(3))


def test_looks_in_vain_become_rarer_until_something_happens():
    patience = Patience()
    pauses = [patience.pause(0.002) for _ in range(4000)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.002, pytest.approx(0.016))
    assert 1 <= sum(pause for pause in pauses if pause == 0.002) <= 1.1, "quick for a second"
    patience.stir()
    assert patience.pause(0.002) == 0.002


def test_polling_always_looks_but_not_too_often():
    poll = Poll(0.001)
    assert poll.rang()
    assert poll.rang()
    assert poll.interval == 0.02
    assert Poll(0.3).interval == 0.3
    poll.close()


def test_a_database_in_memory_is_polled(django_db_blocker):
    memory = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    with django_db_blocker.unblock(), attached("memory", memory) as there:
        assert isinstance(doorbell_for(there), Poll)


@pytest.mark.parametrize("vendor", VENDORS, indirect=True)
def test_each_vendor_has_its_bell(centre, vendor):
    bell = doorbell_for(connections["centre"])
    assert isinstance(bell, {"sqlite": DataVersion, "postgresql": Sequences, "mariadb": Newest}[vendor])
    bell.close()


# On the servers

on_servers = pytest.mark.parametrize(
    "server",
    [
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
)


@pytest.fixture
def served(server, request, django_db_blocker):
    """A source on a server, that has recorded one change and sequenced it."""
    support = {"postgresql": postgresql_support, "mariadb": mysql_support}[server]
    database = request.getfixturevalue(f"{server}_source")
    with django_db_blocker.unblock(), support.recorded(database) as recorded:
        Counter.objects.create()
        recorded.step()
        yield recorded


@pytest.fixture
def asking(served, monkeypatch):
    """A bell that rings for nothing but a reason."""
    made = doorbell_for(connection)
    made.rang()
    made.rang()
    monkeypatch.setattr(doorbell, "_LOOK_ANYWAY", 1000.0)
    yield made
    made.close()


def rings(bell, times: int = 50) -> bool:
    """Whether it rings within so many looks."""
    return any(bell.rang() for _ in range(times))


def other_client(server):
    return closing(writers.connect(server, connection.settings_dict["NAME"]))


@on_servers
def test_a_server_is_silent_while_nothing_happens(asking):
    assert not rings(asking, 5)


@on_servers
def test_a_server_rings_for_a_commit_of_another_client_until_it_has_its_place(asking, served, server):
    with other_client(server) as client:
        client.cursor().execute("INSERT INTO shop_counter (id, value) VALUES (50, 1)")
        assert not rings(asking, 5)
        client.commit()
    assert rings(asking)
    assert asking.rang()
    served.step()
    assert asking.rang()  # the oplog has grown
    assert not rings(asking, 5)


@on_servers
def test_a_server_rings_for_a_late_commit_behind_newer_ones(asking, served, server):
    with other_client(server) as client:
        client.cursor().execute("INSERT INTO shop_counter (id, value) VALUES (50, 1)")
        Counter.objects.create()
        assert rings(asking)
        served.step()
        while asking.rang():
            pass
        client.commit()
    assert rings(asking)


@on_servers
def test_a_server_does_not_ring_for_what_was_rolled_back(asking, server):
    with other_client(server) as client:
        client.cursor().execute("INSERT INTO shop_counter (id, value) VALUES (50, 1)")
        client.rollback()
    assert not rings(asking, 10)


@on_servers
def test_a_server_rings_when_another_process_has_sequenced_or_applied(asking, served):
    stream = served.stream
    Oplog.objects.create(
        stream=stream,
        ts=stream.head + 1,
        position=2,
        op="SAVE",
        model="m",
        key="1",
        ends_group=True,
        body="{}",
    )
    assert rings(asking)
    assert not rings(asking, 5)


@on_servers
def test_without_its_connection_a_bell_rings_blindly_and_then_asks_again(asking, served, server):
    kill = {"postgresql": "SELECT pg_terminate_backend(%s, 1000)", "mariadb": "KILL %s"}[server]
    own = asking._own.connection
    number = own.info.backend_pid if server == "postgresql" else own.thread_id()
    with connection.cursor() as cursor:
        cursor.execute(kill, [number])
    assert all(asking.rang() for _ in range(5))
    assert asking.interval == doorbell._BLIND
    asking._blind_until = 0.0
    assert not rings(asking, 5)
    assert asking.interval < doorbell._BLIND
    Counter.objects.create()
    assert rings(asking)


@on_servers
def test_a_bell_looks_anyway_after_a_while(asking, monkeypatch):
    assert not rings(asking, 3)
    monkeypatch.setattr(doorbell, "_LOOK_ANYWAY", 0.0)
    assert asking.rang()


@pytest.mark.parametrize("server", [pytest.param("postgresql", marks=pytest.mark.postgresql)])
def test_ids_that_are_taken_in_advance_give_no_sign(served, server):
    with connection.cursor() as cursor:
        cursor.execute("ALTER SEQUENCE mirror_outbox_id_seq CACHE 10")
        try:
            bell = Sequences(connection, 0.002)
            assert all(bell.rang() for _ in range(5))
            assert bell.interval == doorbell._BLIND
            bell.close()
        finally:
            cursor.execute("ALTER SEQUENCE mirror_outbox_id_seq CACHE 1")

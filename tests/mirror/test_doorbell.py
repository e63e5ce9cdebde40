from __future__ import annotations

import sqlite3

import pytest
from django.db import connection, connections

from mirror import doorbell
from mirror.doorbell import DataVersion, Poll, doorbell_for
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
    assert isinstance(bell, DataVersion if vendor == "sqlite" else Poll)
    bell.close()

"""PostgreSQL's own logical replication of the same tables, as the peer to be measured against."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from bench.results import Contestant
from bench.sites import BenchSite, Ground, same_tables
from tests.end_to_end.processes import wait_until

_TABLES = "polls_question, polls_choice"


def publisher(place: Ground) -> BenchSite:
    """A database whose tables are published; nothing captures there."""
    site = place.site("publisher", "postgresql", CAPTURE=None)
    with connection(place, site) as source:
        source.execute(f"CREATE PUBLICATION bench FOR TABLE {_TABLES}")
    return site


@contextmanager
def subscriber(place: Ground, source: BenchSite, slot: str, *, copy: bool = False) -> Iterator[BenchSite]:
    """A database that subscribes from this slot, disabled as yet. The slot goes with it.

    ``copy``: what the tables hold already is copied first.
    """
    site = place.site("subscriber", "postgresql", CAPTURE=None)
    with connection(place, site) as target:
        target.execute(
            f"CREATE SUBSCRIPTION {slot} CONNECTION 'host=127.0.0.1 port={place.cluster.port} user=postgres "
            f"dbname={source.database['NAME']}' PUBLICATION bench "
            f"WITH (create_slot = false, slot_name = '{slot}', enabled = false, "
            f"copy_data = {str(copy).lower()})"
        )
        try:
            yield site
        finally:
            target.execute(f"ALTER SUBSCRIPTION {slot} DISABLE")
            target.execute(f"DROP SUBSCRIPTION {slot}")


def slot(place: Ground, source: BenchSite, name: str) -> None:
    """From now on the changes are kept for whoever reads this slot."""
    with connection(place, source) as publishing:
        publishing.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])


def enable(place: Ground, site: BenchSite, name: str) -> None:
    with connection(place, site) as target:
        target.execute(f"ALTER SUBSCRIPTION {name} ENABLE")


def connection(place: Ground, site: BenchSite) -> psycopg.Connection[tuple[Any, ...]]:
    return place.cluster.connect(site.database["NAME"])


@contextmanager
def contestant(place: Ground, changes: int, repeats: int) -> Iterator[Contestant]:
    """The changes are made once; a slot of its own keeps them for each round."""
    source = publisher(place)
    for number in range(repeats):
        slot(place, source, f"bench_{number}")
    source.writes(changes)

    def level(number: int) -> dict[str, float]:
        name = f"bench_{number}"
        with subscriber(place, source, name) as target:
            seconds = resume(place, source, target, name)
            assert same_tables(source, target), "publisher and subscriber differ"
        return {"changes/s": changes / seconds}

    yield level


def resume(place: Ground, source: BenchSite, target: BenchSite, name: str) -> float:
    """Seconds until the newest question and the newest choice, of the last transaction, are visible."""
    newest = "SELECT (SELECT max(pkid) FROM polls_question), (SELECT max(pkid) FROM polls_choice)"
    (aim,) = source.rows(newest)
    with connection(place, target) as looking:
        began = time.perf_counter()
        enable(place, target, name)
        wait_until(lambda: looking.execute(newest).fetchone() == tuple(aim), seconds=7200, what="all arrived")
        return time.perf_counter() - began

"""Everything is killed and cut while people write; afterwards nothing is missing, doubled or torn."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest

from tests.end_to_end.conftest import Ground
from tests.end_to_end.oracle import assert_same_oplog, assert_same_shop
from tests.end_to_end.processes import (
    Running,
    Site,
    Watch,
    free_port,
    stream_url,
    wait_until,
    wait_until_level,
)

_CHANGES = 10_000


class Consistency:
    """What every commit of the centre has to keep, looked at from outside in one snapshot."""

    def __init__(self, centre: Site) -> None:
        self.centre = centre
        self.seen: list[tuple[int, int]] = [(0, 0)]

    def look(self) -> None:
        with self.centre.reading() as centre:
            ((cursor, position),) = centre.rows('SELECT "cursor", "position" FROM mirror_source')
            ((newest, count, end),) = centre.rows(
                "SELECT max(ts), count(*), max(CASE WHEN ends_group THEN ts END) FROM mirror_oplog"
            )
            ((total,),) = centre.rows("SELECT coalesce(sum(value), 0) FROM shop_counter")
            ((tickets,),) = centre.rows("SELECT count(*) FROM shop_ticket")
        assert (cursor, position) >= self.seen[-1], "the cursor went back"
        assert (newest or 0, count) == (cursor, position), "the copy of the oplog is not at the cursor"
        assert (end or 0) == cursor, "the cursor is inside a group"
        assert total == 0, "half a transfer is visible"
        assert tickets % 2 == 0, "half a pair is visible"
        if self.seen[-1] != (cursor, position):
            self.seen.append((cursor, position))


def assert_groups_are_whole(source: Site) -> None:
    """Replayed up to the end of any group, the oplog keeps what every transaction of the writers kept."""
    counters: dict[int, int] = {}
    tickets: set[str] = set()
    ends = 0
    for ends_group, body in source.rows("SELECT ends_group, body FROM mirror_oplog ORDER BY ts"):
        change = json.loads(body)
        if change["model"] == "shop.counter":
            counters.pop(change["pk"], None)
            if change["op"] == "SAVE":
                counters[change["pk"]] = change["fields"]["value"]
        elif change["model"] == "shop.ticket":
            (tickets.add if change["op"] == "SAVE" else tickets.discard)(change["pk"])
        if ends_group:
            ends += 1
            assert sum(counters.values()) == 0, f"the group that ends at {change['ts']} cuts a transfer"
            assert len(tickets) % 2 == 0, f"the group that ends at {change['ts']} cuts a pair"
    assert ends > 10


def assert_logged_once(source: Site, captured: int) -> None:
    """The lines of oplog.log are the changes, in order, each once and whole."""
    wait_until(lambda: source.oplog_log.read_text().count("\n") >= captured, what="every change is logged")
    logged = [line.split(" ", 2) for line in source.oplog_log.read_text().splitlines()]
    changes = source.rows("SELECT ts, op, model FROM mirror_oplog ORDER BY ts")
    assert [(line[0], line[1]) for line in logged] == [
        (f"{ts // 10**6}.{ts % 10**6:06d}", op) for ts, op, _model in changes
    ]
    assert [json.loads(line[2])[0]["model"] for line in logged] == [model for _ts, _op, model in changes]


def moved_on(centre: Site) -> Callable[[], bool]:
    before = centre.one("SELECT position FROM mirror_source")
    return lambda: centre.one("SELECT position FROM mirror_source") > before


@pytest.mark.timeout(400)
def test_ten_thousand_changes_survive_kills_and_cuts(ground: Ground, seed: int):
    dice = random.Random(seed)
    source, centre = ground.source(), ground.centre(BACKOFF_LONGEST=1.0)
    victims: dict[str, Running] = {"daphne": source.serve()}
    line = ground.proxy(source)
    centre.follow("source", line.url, source.token())
    victims["mirror"] = centre.mirror()
    writers = [
        source.start("workload", "-m", "tests.end_to_end.workload", str(seed)),
        source.start("raw-workload", "-m", "tests.end_to_end.raw_workload", str(source.path), str(seed + 1)),
    ]
    line.doom(dice, at_most=100_000)
    consistency = Consistency(centre)
    with Watch(consistency.look) as watch:
        for victim in dice.sample(["mirror"] * 20 + ["daphne"] * 10, k=30):
            for writer, operations in zip(writers, (45, 20), strict=True):
                writer.tell(str(operations))
            # Often in the middle of the work, and sometimes before it began.
            if dice.random() < 0.8:
                wait_until(moved_on(centre))
            if dice.random() < 0.3:
                line.cut(reset=dice.random() < 0.5)
            victims[victim].kill()
            victims[victim] = source.serve() if victim == "daphne" else centre.mirror()
        while source.captured() < _CHANGES:
            for writer in writers:
                writer.tell("40")
            wait_until(moved_on(centre))
            line.cut()
        for writer in writers:
            writer.finish_input()
            assert writer.wait(seconds=120) == 0, writer.log
        line.spare()
        captured = source.captured()
        wait_until_level(source, centre, seconds=120)
        wait_until(lambda: "live" in victims["mirror"].log, what="the last runmirror is at work")
    assert victims["mirror"].stop() == 0
    assert watch.looks > 100
    assert_same_shop(source, centre)
    assert_same_oplog(source, centre, captured=captured)
    assert_groups_are_whole(source)
    assert_logged_once(source, captured)
    rolled_back = "SELECT count(*) FROM mirror_oplog WHERE body LIKE '%rolled back%'"
    assert source.one(rolled_back) == centre.one(rolled_back) == 0
    assert len(consistency.seen) > 10
    assert centre.one("SELECT skipped FROM mirror_source") == 0


def test_several_processes_put_changes_in_order_one_at_a_time(ground: Ground):
    """Two daphnes and a sequencer of its own on one database; a mirror at each door."""
    source = ground.source()
    ports = [source.port, free_port()]
    sequencer = source.start("sequencer", "-m", "django", "runsequencer")
    centres = [ground.centre("north"), ground.centre("south")]
    for centre, port in zip(centres, ports, strict=True):
        source.serve(port)
        centre.follow("source", stream_url(port), source.token(centre.name))
        centre.mirror()
    writer = source.start("workload", "-m", "tests.end_to_end.workload", "5")
    writer.tell("300")
    writer.finish_input()
    assert writer.wait() == 0
    for centre in centres:
        wait_until_level(source, centre)
        assert_same_shop(source, centre)
        assert_same_oplog(source, centre, captured=source.captured())
    assert_logged_once(source, source.captured())
    assert sequencer.stop() == 0


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mysql", marks=pytest.mark.mariadb),
    ],
)
def test_a_centre_on_a_database_server_survives_kills_too(ground: Ground, engine: str, seed: int):
    source, centre = ground.source(), ground.served_centre(engine)
    source.serve()
    centre.follow("source", source.url, source.token())
    mirror = centre.mirror()
    writer = source.start("workload", "-m", "tests.end_to_end.workload", str(seed))
    consistency = Consistency(centre)
    with Watch(consistency.look):
        for _ in range(3):
            writer.tell("100")
            wait_until(moved_on(centre))
            mirror.kill()
            mirror = centre.mirror()
        writer.finish_input()
        assert writer.wait() == 0
        wait_until_level(source, centre)
    assert_same_shop(source, centre)
    assert_same_oplog(source, centre, captured=source.captured())

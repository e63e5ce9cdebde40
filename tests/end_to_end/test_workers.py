"""``runmirror --workers``: several processes share the sources."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.end_to_end.conftest import Ground
from tests.end_to_end.oracle import assert_same_oplog
from tests.end_to_end.processes import Running, Site, wait_until, wait_until_level, wait_until_state

TOWNS = ("north", "south", "west")


def several_sources(ground: Ground) -> tuple[list[Site], Site]:
    sources, centre = [ground.source(town) for town in TOWNS], ground.centre()
    for source in sources:
        source.serve()
        centre.follow(source.name, source.url, source.token())
    return sources, centre


def write(sources: list[Site], text: str) -> None:
    for source in sources:
        source.run(f"shop.Ticket.objects.create(text='{source.name} {text}')")


def workers_of(mirror: Running) -> list[int]:
    """Those of its children that run code of ours; multiprocessing has a process of its own beside them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            command = (process / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == mirror.pid and "spawn_main" in command:
            found.append(int(process.name))
    return found


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def assert_level(sources: list[Site], centre: Site) -> None:
    for source in sources:
        wait_until_level(source, centre, name=source.name)
    texts = sorted(text for source in sources for (text,) in source.rows("SELECT text FROM shop_ticket"))
    assert sorted(text for (text,) in centre.rows("SELECT text FROM shop_ticket")) == texts


def test_they_share_the_sources_and_one_that_is_killed_comes_back(ground: Ground):
    sources, centre = several_sources(ground)
    write(sources, "first")
    mirror = centre.mirror("--workers", "2")
    assert_level(sources, centre)
    first = workers_of(mirror)
    assert len(first) == 2

    os.kill(first[0], signal.SIGKILL)
    wait_until(lambda: len(workers_of(mirror)) == 2 and workers_of(mirror) != first, what="another worker")
    write(sources, "second")
    assert_level(sources, centre)

    running = workers_of(mirror)
    assert mirror.stop() == 0
    assert gone(running)
    assert {centre.source_row(town)["state"] for town in TOWNS} == {"stopped"}
    assert "Traceback" not in mirror.log


def test_whoever_starts_again_takes_over_all_of_them(ground: Ground):
    sources, centre = several_sources(ground)
    first = centre.mirror("--workers", "2")
    for town in TOWNS:
        wait_until_state(centre, "live", name=town)
    running = workers_of(first)
    second = centre.mirror("--workers", "3")
    assert first.wait() == 1
    assert gone(running)
    write(sources, "after")
    assert_level(sources, centre)
    assert second.stop() == 0


def test_workers_whose_parent_is_killed_end(ground: Ground):
    _sources, centre = several_sources(ground)
    mirror = centre.mirror("--workers", "2")
    for town in TOWNS:
        wait_until_state(centre, "live", name=town)
    running = workers_of(mirror)
    mirror.kill()
    wait_until(lambda: gone(running), what="the workers noticed")


def test_until_caught_up_ends_when_each_of_them_is_level(ground: Ground):
    sources, centre = several_sources(ground)
    write(sources, "first")
    assert centre.mirror("--workers", "2", "--until-caught-up").wait() == 0
    assert_level(sources, centre)
    for source in sources:
        assert_same_oplog(source, centre, captured=1)


def test_a_number_that_is_none_is_refused(ground: Ground):
    centre = ground.centre()
    for wrong in ("0", "-1", "many"):
        refused = centre.mirror(f"--workers={wrong}")
        assert refused.wait() == 2
        assert f"'{wrong}' is not a number of processes" in refused.log

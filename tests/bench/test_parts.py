from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.latency import percentiles
from bench.running import level_after
from bench.scenarios import SCENARIOS, scenario, selected
from bench.sites import Ground, absent
from bench.sources import _crowded
from bench.subscriber import _frame
from bench.watching import peak, processor_seconds, resident
from bench.writer import reached_rate


def test_all_scenarios_run_when_none_is_named() -> None:
    assert selected([]) == list(SCENARIOS)


def test_those_named_run_once_each_in_the_usual_order() -> None:
    first, second, *_ = SCENARIOS
    assert selected([second, first, second]) == [first, second]


def test_an_unknown_scenario_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no scenario speed; there are catch-up"):
        selected(["idle", "speed"])


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_can_be_run(name: str) -> None:
    assert callable(scenario(name).run)


def test_percentiles_of_a_hundred() -> None:
    assert percentiles(list(range(100))) == {"p50": 50, "p99": 99, "max": 99}


def test_level_is_when_the_last_source_is_live() -> None:
    log = [
        "10.0 a: connecting",
        "10.5 b: connecting",
        "11.0 a: catching up",
        "12.0 b: live",
        "13.5 a: live",
        "14.0 a: stopped",
    ]
    assert level_after("\n".join(log)) == 3.5


def test_the_rate_is_from_the_first_beginning_to_the_last_end() -> None:
    lines = [(2, 500_000_000, 1_000_000_000), (1, 0, 600_000_000)]
    assert reached_rate(lines) == 2


@pytest.mark.parametrize(
    "engine",
    [
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.postgresql),
        pytest.param("mariadb", marks=pytest.mark.mariadb),
    ],
)
def test_too_many_sources_for_a_server_are_left_out_by_the_name_of_its_limit(
    tmp_path: Path, engine: str
) -> None:
    with ExitStack() as stack:
        place = Ground(tmp_path, stack)
        if why := absent(engine):
            required = os.environ.get("MIRROR_REQUIRE_SERVICES") == "1"
            (pytest.fail if required else pytest.skip)(why)
        assert _crowded(place, engine, 1) == ""
        told = _crowded(place, engine, 10**6)
        assert ("max_connections" in told) is (engine != "sqlite")


def test_a_process_can_be_weighed() -> None:
    assert 0 < resident(os.getpid()) <= peak(os.getpid())
    assert processor_seconds(os.getpid()) > 0


@pytest.mark.parametrize("size", [5, 125, 126, 65_535, 65_536])
def test_a_frame_is_found_only_when_it_is_whole(size: int) -> None:
    if size < 126:
        head = bytes([0x81, size])
    elif size < 65_536:
        head = bytes([0x81, 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x81, 127]) + size.to_bytes(8, "big")
    before, payload = b"xyz", b"p" * size
    whole = bytearray(before + head + payload)
    assert _frame(whole, 3) == (1, 3 + len(head), len(whole))
    assert all(_frame(whole[:length], 3) is None for length in (3, 4, len(head) + 2, len(whole) - 1))

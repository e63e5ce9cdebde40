"""A subscriber that stops reading costs the source a window of memory, and the others nothing."""

from __future__ import annotations

import json
import uuid

import pytest

from tests.end_to_end.conftest import Ground
from tests.end_to_end.oracle import assert_same_shop
from tests.end_to_end.processes import wait_until, wait_until_level
from tests.end_to_end.raw_socket import RawSocket

_CHANGES = 100_000
_MEBIBYTE = 1024 * 1024


def subscribe(window: int) -> str:
    return json.dumps({"type": "subscribe", "mirror": str(uuid.uuid4()), "window": window, "seek": "start"})


@pytest.mark.timeout(300)
def test_a_subscriber_that_never_reads_costs_a_window_and_no_more(ground: Ground):
    # It shall not be given up while the changes pass: that is the easy case.
    source, centre = ground.source(DEADLINE=600.0), ground.centre()
    daphne = source.serve()
    centre.follow("source", source.url, source.token())
    stalled_token = source.token("stalled")
    centre.mirror()
    source.run("shop.Ticket.objects.bulk_create([shop.Ticket(text='x' * 200) for _ in range(5000)])")
    wait_until_level(source, centre)

    with RawSocket(source.port, stalled_token, receive_buffer=4096) as stalled:
        stalled.send_text(subscribe(window=2**40))
        before = daphne.resident_bytes()
        highest = 0
        for _ in range(_CHANGES // 5000):
            source.run("shop.Ticket.objects.bulk_create([shop.Ticket(text='x' * 200) for _ in range(5000)])")
            highest = max(highest, daphne.resident_bytes())
        wait_until(
            lambda: daphne.resident_bytes() and centre.source_row()["position"] == _CHANGES + 5000,
            seconds=120,
            what="the other mirror has everything",
        )
        highest = max(highest, daphne.resident_bytes())
    assert (highest - before) / _MEBIBYTE <= 32
    assert_same_shop(source, centre)


def test_a_subscriber_that_says_nothing_is_given_up(ground: Ground):
    source = ground.source(HEARTBEAT=0.3, DEADLINE=1.0)
    daphne = source.serve()
    with RawSocket(source.port, source.token()) as silent:
        # Not even a request.
        assert b'"code":"silent"' in silent.read_to_end()
    with RawSocket(source.port, source.token("second")) as silent:
        silent.send_text(subscribe(window=1_000_000))
        assert b'"code":"silent"' in silent.read_to_end()
    assert daphne.alive

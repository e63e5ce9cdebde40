"""The log is kept as long as somebody living lacks it, and no longer than its limits allow."""

from __future__ import annotations

import json
from contextlib import suppress

from websockets.exceptions import ConnectionClosed

from tests.end_to_end.conftest import Ground
from tests.end_to_end.oracle import assert_same_shop
from tests.end_to_end.processes import Site, holds_for, wait_until, wait_until_level, wait_until_state
from tests.end_to_end.talker import connect

#: Nothing is kept for its age alone, and the log is looked at all the time.
EAGER = {"KEEP_DAYS": 0, "PRUNE_INTERVAL": 0.1}


def write(source: Site, count: int, text: str) -> None:
    """So many changes, the last of them a group of its own: the newest group is always kept."""
    for part in (count - 1, 1):
        source.run(f"for n in range({part}): shop.Ticket.objects.create(text={text!r} + str(n))")
        wait_until(lambda: source.one("SELECT count(*) FROM mirror_outbox") == 0)


def kept(site: Site) -> int:
    return site.one("SELECT count(*) FROM mirror_oplog")


def noted(source: Site) -> int | None:
    return source.one("SELECT position FROM mirror_mirror")


def test_what_a_living_mirror_has_goes_and_what_it_lacks_stays(ground: Ground):
    """F35, on both sides: the copy at the centre is pruned by runmirror."""
    source, centre = ground.pair(source_conf=EAGER, **EAGER)
    mirror = centre.mirror()
    wait_until(lambda: noted(source) == 0)
    write(source, 20, "first ")
    wait_until_level(source, centre)
    wait_until(lambda: kept(source) == 1, what="what the mirror has is pruned")
    wait_until(lambda: kept(centre) == 1, what="the copy is pruned")
    assert mirror.stop() == 0

    write(source, 20, "while it is away ")
    holds_for(lambda: kept(source) >= 20, seconds=1.5, what="what it lacks was pruned")
    centre.mirror()
    wait_until_level(source, centre)
    assert_same_shop(source, centre)
    assert source.one("SELECT count(*) FROM mirror_mirror") == 1


def test_a_mirror_that_was_away_longer_than_the_cap_is_shown_on_both_sides_and_loads_the_rows(ground: Ground):
    """F37: a dead mirror cannot fill the disk; F35: whoever comes too late is told."""
    source, centre = ground.pair(source_conf={"PRUNE_INTERVAL": 0.1, "OPLOG_BYTES": 20_000})
    write(source, 5, "first ")
    mirror = centre.mirror()
    wait_until_level(source, centre)
    wait_until(lambda: noted(source) == 5)
    assert mirror.stop() == 0

    for turn in range(10):
        write(source, 20, "x" * 100 + str(turn))
    wait_until(lambda: kept(source) < 80, what="the log is within its limit again")
    daphne = next(running for running in source.started if "daphne" in running.name)
    wait_until(lambda: "is cut off from stream" in daphne.log, what="the log says who is cut off")
    (row,) = json.loads(source.manage("mirrorstatus", "--json"))["mirrors"]
    assert (row["token"], row["state"], row["position"]) == ("centre", "pruned", 5)
    mirror = centre.mirror()
    wait_until_state(centre, "live")
    wait_until_level(source, centre)
    assert_same_shop(source, centre)
    assert "source: pruned" in mirror.log
    assert daphne.alive


def test_a_mirror_that_stays_away_for_too_long_is_not_waited_for(ground: Ground):
    source, centre = ground.pair(source_conf={**EAGER, "WAIT_DAYS": 10 / 86_400})
    mirror = centre.mirror()
    wait_until(lambda: noted(source) == 0)
    write(source, 5, "first ")
    assert mirror.stop() == 0
    write(source, 20, "while it is away ")
    assert kept(source) >= 20
    wait_until(lambda: kept(source) == 1, what="it is given up")


PRUNE = """
from io import StringIO
from django.core.management import call_command
from mirror import mirrors
stdout = StringIO()
call_command("pruneoplog", keep_changes=10, stdout=stdout)
held = stdout.getvalue()
mirrors.forget("m")
call_command("pruneoplog", keep_changes=10, stdout=stdout)
result = held, stdout.getvalue()
"""


def test_a_subscriber_that_is_overtaken_while_it_reads_gets_all_or_is_told(ground: Ground):
    """It reads old pages, slowly, when what it would read next goes: no hole, but the error that says so."""
    source = ground.source(RING_BYTES=4096, FRAME_BYTES=4096, DEADLINE=100)
    daphne = source.serve()
    for turn in range(12):
        source.run(
            f"shop.Ticket.objects.bulk_create(shop.Ticket(text='{turn} ' + 'x' * 500) for n in range(500))"
        )
        wait_until(lambda: source.one("SELECT count(*) FROM mirror_outbox") == 0)
    headers = {"Authorization": f"Bearer {source.token('slow')}"}
    with connect(source.url, additional_headers=headers, subprotocols=["livemirror.v1"]) as talker:
        talker.send(json.dumps({"type": "subscribe", "mirror": "m", "window": 1, "seek": "start"}))
        assert json.loads(talker.recv(30))["outcome"] == "started"
        wait_until(lambda: noted(source) == 0)
        held, pruned = source.run(PRUNE)
        assert ": 0 deleted, 6000 kept" in held
        assert "more is kept for mirror slow m" in held
        assert ": 5500 deleted, 500 kept" in pruned

        taken = position = 0
        while True:
            text = talker.recv(30)
            message = json.loads(text)
            if message["type"] == "error":
                break
            if message["type"] == "batch":
                taken += len(text)
                position += len(message["changes"])
                assert message["position"] == position, "a hole"
                with suppress(ConnectionClosed):  # the error may be on its way already
                    talker.send(json.dumps({"type": "ack", "taken": taken, "cursor": 0}))
    assert message["code"] == "pruned"
    assert 0 < position < 5500
    assert daphne.alive

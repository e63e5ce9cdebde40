"""Lines that are silent, slow or gone, and loads that are larger than a frame or the window."""

from __future__ import annotations

from tests.end_to_end.conftest import Ground
from tests.end_to_end.oracle import assert_same_oplog, assert_same_shop
from tests.end_to_end.processes import Watch, wait_until, wait_until_level, wait_until_state
from tests.end_to_end.throttle import Throttle

_IMPATIENT = {"HEARTBEAT": 0.4, "DEADLINE": 2.0}


def test_a_line_that_falls_silent_is_noticed_and_recovers(ground: Ground):
    source, centre = ground.source(**_IMPATIENT), ground.centre(**_IMPATIENT)
    source.serve()
    line = ground.proxy(source)
    centre.follow("source", line.url, source.token())
    centre.mirror()
    source.run("shop.Ticket.objects.create(text='before')")
    wait_until_level(source, centre)
    wait_until_state(centre, "live")

    line.darken()
    wait_until_state(centre, "stalled", "silent")
    source.run("shop.Ticket.objects.create(text='meanwhile')")
    line.lighten()
    wait_until_level(source, centre)
    wait_until_state(centre, "live")
    assert_same_shop(source, centre)


def test_a_frame_that_takes_longer_than_the_deadline_arrives(ground: Ground):
    source, centre = ground.source(), ground.centre(HEARTBEAT=0.5, DEADLINE=3.0, COMPRESSION=False)
    source.serve()
    source.run("shop.Ticket.objects.bulk_create([shop.Ticket(text='x' * 50) for n in range(700)])")
    line = ground.proxy(source)
    line.throttle(down=Throttle(bits=200_000))
    centre.follow("source", line.url, source.token())
    mirror = centre.mirror()
    # One frame of 150 KB, six seconds.
    wait_until_level(source, centre)
    assert_same_shop(source, centre)
    assert line.opened == 1
    assert "silent" not in mirror.log


def test_an_idle_line_stays_open(ground: Ground):
    """Heartbeats of both sides: nobody takes silence of the writers for a dead line."""
    source, centre = ground.source(**_IMPATIENT), ground.centre(**_IMPATIENT)
    source.serve()
    line = ground.proxy(source)
    centre.follow("source", line.url, source.token())
    centre.mirror()
    wait_until_state(centre, "live")
    heard = centre.source_row()["heard_at"]
    carried = line.carried
    # Longer than the deadline; every heartbeat is a few bytes.
    wait_until(lambda: line.carried > carried + 8 * 60, what="eight heartbeats")
    assert centre.source_row()["heard_at"] > heard
    assert line.opened == 1


def test_a_source_without_network_is_written_on_and_arrives_later(ground: Ground):
    source, centre = ground.source(), ground.centre()
    source.serve()
    line = ground.proxy(source)
    centre.follow("source", line.url, source.token())
    mirror = centre.mirror()
    source.run("shop.Ticket.objects.create(text='before')")
    wait_until_level(source, centre)
    line.close()
    wait_until(lambda: centre.source_row()["error_code"] == "line_lost")
    source.run("for n in range(500): shop.Ticket.objects.create(text=str(n))")
    writer = source.start("workload", "-m", "tests.end_to_end.workload", "3")
    writer.tell("100")
    writer.finish_input()
    assert writer.wait() == 0
    wait_until(lambda: centre.source_row()["attempts"] > 5)
    assert centre.source_row()["state"] == "connecting"
    assert centre.source_row()["position"] == 1
    line.open()
    wait_until_level(source, centre)
    assert_same_shop(source, centre)
    assert_same_oplog(source, centre, captured=source.captured())
    assert mirror.log.count("line_lost") <= 2, "one line for each change of state, not for each attempt"


def test_a_group_larger_than_the_window_is_never_seen_in_part(ground: Ground):
    count = 60_000
    source, centre = ground.pair({"WINDOW_BYTES": 65_536}, WINDOW_BYTES=65_536)
    centre.mirror()
    seen: set[int] = set()
    with Watch(lambda: seen.add(centre.one("SELECT count(*) FROM shop_ticket"))):
        source.run(
            "from django.db import transaction\n"
            "with transaction.atomic():\n"
            f"    for start in range(0, {count}, 5000):\n"
            "        shop.Ticket.objects.bulk_create([shop.Ticket(text='x' * 20) for _ in range(5000)])",
            seconds=120,
        )
        wait_until_level(source, centre, seconds=120)
    seen.add(centre.one("SELECT count(*) FROM shop_ticket"))  # the watch may have ended before it
    assert seen == {0, count}
    assert_same_shop(source, centre)


def test_a_large_group_survives_a_line_that_keeps_breaking(ground: Ground):
    """Each connection brings at most a part of it: the last brings all, from the beginning."""
    source, centre = ground.source(), ground.centre()
    source.serve()
    line = ground.proxy(source)
    centre.follow("source", line.url, source.token())
    mirror = centre.mirror()
    wait_until_state(centre, "live")
    line.break_after(100_000)
    source.run("shop.Ticket.objects.bulk_create([shop.Ticket(text='x' * 100) for _ in range(5000)])")
    opened = line.opened
    wait_until(lambda: line.opened > opened + 3)
    assert centre.one("SELECT count(*) FROM shop_ticket") == 0
    line.spare()
    wait_until_level(source, centre)
    assert_same_shop(source, centre)
    assert mirror.alive


def test_a_change_larger_than_a_frame_travels(ground: Ground):
    source, centre = ground.pair()
    centre.mirror()
    # Quotes, control characters and letters beyond ASCII: they grow when they are written as JSON.
    source.run(
        "text = 'ž\"\\\\\\n\\x01漢🜚' * 400_000\n"
        "shop.Ticket.objects.create(text=text)\n"
        "shop.Product.objects.create(name='photo', photo=bytes(range(256)) * 8000)\n"
        "result = len(text.encode())"
    )
    wait_until_level(source, centre)
    assert_same_shop(source, centre)
    assert centre.one("SELECT length(CAST(text AS BLOB)) FROM shop_ticket") > 3_000_000

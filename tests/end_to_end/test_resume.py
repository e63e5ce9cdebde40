"""A cursor that cannot go on is refused loudly; one that can, goes on."""

from __future__ import annotations

from tests.end_to_end.conftest import Ground
from tests.end_to_end.oracle import assert_same_oplog, assert_same_shop
from tests.end_to_end.processes import (
    Site,
    copy_database,
    restore_database,
    wait_until,
    wait_until_level,
    wait_until_state,
)


def write(count: int, text: str = "") -> str:
    return f"for n in range({count}): shop.Ticket.objects.create(text={text!r} + str(n))"


def write_a_group(source: Site, count: int, text: str) -> None:
    source.run(write(count, text))
    wait_until(lambda: source.one("SELECT count(*) FROM mirror_outbox") == 0)


def test_a_mirror_that_was_away_too_long_loads_the_rows(ground: Ground):
    source, centre = ground.pair()
    source.run(write(5))
    mirror = centre.mirror()
    wait_until_level(source, centre)
    assert mirror.stop() == 0
    source.run(write(5, "later "))
    centre.manage("runmirror", "--until-caught-up")
    write_a_group(source, 20, "much later ")
    write_a_group(source, 2, "newest ")
    source.manage("mirrorfollower", "forget", "centre")
    source.manage("pruneoplog", "--keep-changes", "2")
    mirror = centre.mirror()
    wait_until_state(centre, "live")
    wait_until_level(source, centre)
    assert_same_shop(source, centre)
    assert centre.one("SELECT count(*) FROM shop_ticket") == 32
    assert "pruned" in mirror.log


def test_a_mirror_at_the_edge_of_what_is_kept_goes_on(ground: Ground):
    source, centre = ground.pair()
    source.run(write(5))
    mirror = centre.mirror()
    wait_until_level(source, centre)
    assert mirror.stop() == 0
    write_a_group(source, 1, "newest ")
    source.manage("pruneoplog", "--keep-changes", "1")
    centre.mirror()
    wait_until_level(source, centre)
    assert_same_shop(source, centre)


def test_a_source_restored_from_a_backup_is_refused_as_forked_where_somebody_shall_look_first(ground: Ground):
    source, centre = ground.source(), ground.centre(ON_FORK="halt")
    daphne = source.serve()
    centre.follow("source", source.url, source.token())
    source.run(write(5))
    mirror = centre.mirror()
    wait_until_level(source, centre)
    backup = ground.directory / "backup.sqlite3"
    copy_database(source.path, backup)
    source.run(write(5, "lost by the restore "))
    wait_until_level(source, centre)

    # The disk breaks; yesterday's copy goes on, and further than the mirror had come.
    source.end()
    restore_database(backup, source.path)
    daphne = source.serve()
    with source.writing() as connection:
        connection.executemany(
            "INSERT INTO shop_ticket (id, text, secret) VALUES (?, 'another history', '')",
            [[f"{number:032x}"] for number in range(50)],
        )
    halted = wait_until_state(centre, "halted", "forked")
    assert halted["position"] == 10
    assert centre.one("SELECT count(*) FROM shop_ticket WHERE text = 'another history'") == 0
    assert mirror.alive
    assert daphne.alive
    centre.manage("mirrorsource", "resync", "source")
    wait_until_state(centre, "live")
    wait_until_level(source, centre)
    assert_same_shop(source, centre)


def test_a_centre_restored_from_a_backup_catches_up_again(ground: Ground):
    source, centre = ground.pair()
    source.run(write(5))
    mirror = centre.mirror()
    wait_until_level(source, centre)
    assert mirror.stop() == 0
    backup = ground.directory / "backup.sqlite3"
    copy_database(centre.path, backup)
    source.run(write(5, "later ") + "\nshop.Ticket.objects.filter(text='0').delete()")
    centre.manage("runmirror", "--until-caught-up")
    assert_same_shop(source, centre)

    centre.shell.running.kill()
    restore_database(backup, centre.path)
    assert centre.one("SELECT count(*) FROM shop_ticket") == 5
    centre.mirror()
    wait_until_level(source, centre)
    assert_same_shop(source, centre)
    assert_same_oplog(source, centre, captured=source.captured())

"""``runmirror`` as people start and stop it."""

from __future__ import annotations

import json
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.end_to_end.conftest import Ground
from tests.end_to_end.oracle import assert_same_oplog, assert_same_shop
from tests.end_to_end.processes import (
    Running,
    Site,
    holds_for,
    wait_until,
    wait_until_level,
    wait_until_state,
)


def test_a_second_runmirror_takes_over_and_the_first_says_so(ground: Ground):
    source, centre = ground.pair()
    writer = source.start("workload", "-m", "tests.end_to_end.workload", "1")
    writer.tell("300")
    first = centre.mirror()
    wait_until(lambda: centre.source_row()["position"] > 50)
    second = centre.mirror()
    assert first.wait() == 1
    assert "another process follows this source now" in first.log
    writer.finish_input()
    assert writer.wait() == 0
    wait_until_level(source, centre)
    assert second.alive
    assert_same_shop(source, centre)
    assert_same_oplog(source, centre, captured=source.captured())


def fell_asleep(process: Running, centre: Site) -> bool:
    """Freeze a process, but not while it holds the write lock: nobody could replace it then."""
    process.signal(signal.SIGSTOP)
    with closing(sqlite3.connect(centre.path, timeout=0.5, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            process.signal(signal.SIGCONT)
            return False
    return True


def test_a_runmirror_that_slept_through_its_replacement_commits_nothing(ground: Ground):
    source, centre = ground.pair()
    source.run("shop.Ticket.objects.create(text='first')")
    sleeper = centre.mirror()
    wait_until_level(source, centre)
    wait_until(lambda: fell_asleep(sleeper, centre))
    source.run("shop.Ticket.objects.create(text='second')")
    centre.mirror()
    wait_until_level(source, centre)
    sleeper.signal(signal.SIGCONT)
    assert sleeper.wait() == 1
    source.run("shop.Ticket.objects.create(text='third')")
    wait_until_level(source, centre)
    assert_same_oplog(source, centre, captured=3)


def test_sigterm_finishes_the_batch_and_exits_with_0(ground: Ground):
    source, centre = ground.pair()
    writer = source.start("workload", "-m", "tests.end_to_end.workload", "2")
    for _ in range(3):
        position = centre.source_row()["position"]
        writer.tell("100")
        mirror = centre.mirror()
        wait_until(lambda before=position: centre.source_row()["position"] > before)
        assert mirror.stop() == 0
        assert centre.source_row()["state"] == "stopped"
        assert "Traceback" not in mirror.log
    writer.finish_input()
    assert writer.wait() == 0
    mirror = centre.mirror()
    wait_until(lambda: "live" in mirror.log)
    mirror.signal(signal.SIGINT)
    assert mirror.wait() == 0
    assert_same_shop(source, centre)


def test_sigterm_does_not_wait_for_a_source_that_says_nothing(ground: Ground):
    source, centre = ground.source(), ground.centre(DEADLINE=600.0)
    source.serve()
    line = ground.proxy(source)
    line.darken()
    centre.follow("source", line.url, source.token())
    mirror = centre.mirror()
    wait_until(lambda: line.opened)
    assert mirror.stop(seconds=60) == 0
    assert centre.source_row()["state"] == "stopped"


def test_until_caught_up_exits_with_0_once_level(ground: Ground):
    source, centre = ground.pair()
    source.run("shop.Ticket.objects.bulk_create([shop.Ticket(text=str(n)) for n in range(3000)])")
    centre.manage("runmirror", "--until-caught-up", expect=0)
    assert_same_shop(source, centre)


def test_until_caught_up_includes_what_nobody_has_put_in_order_yet(ground: Ground):
    """The head that a source tells when it has just been started, with a backlog."""
    source, centre = ground.source(), ground.centre()
    daphne = source.serve()
    centre.follow("source", source.url, source.token())
    centre.manage("runmirror", "--until-caught-up", expect=0)
    daphne.kill()
    source.run("shop.Ticket.objects.bulk_create([shop.Ticket(text=str(n)) for n in range(20_000)])")
    source.serve()
    centre.manage("runmirror", "--until-caught-up", expect=0)
    assert_same_shop(source, centre)


def test_a_line_that_breaks_during_the_handshake_is_tried_again(ground: Ground):
    source, centre = ground.source(), ground.centre()
    source.serve()
    source.run("shop.Ticket.objects.create(text='patience')")
    line = ground.proxy(source)
    line.break_after(40)
    centre.follow("source", line.url, source.token())
    mirror = centre.mirror("--until-caught-up")
    wait_until(lambda: line.opened > 2 or not mirror.alive)
    line.spare()
    assert mirror.wait() == 0
    assert_same_shop(source, centre)


def test_until_caught_up_exits_with_1_when_refused(ground: Ground):
    source, centre = ground.source(), ground.centre()
    source.serve()
    source.token()
    centre.follow("source", source.url, f"{'0' * 16}.{'x' * 43}")
    mirror = centre.mirror("--until-caught-up")
    assert mirror.wait() == 1
    assert mirror.log.count("unauthorized") == 1


class WebServer(ThreadingHTTPServer):
    asked = 0


class NotFound(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert isinstance(self.server, WebServer)
        self.server.asked += 1
        self.send_error(404)

    def log_message(self, *arguments: object) -> None:
        """Nothing: the standard error of the tests is not the place."""


@contextmanager
def web_server() -> Iterator[WebServer]:
    with WebServer(("127.0.0.1", 0), NotFound) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_url_that_is_not_a_stream_is_said_once_and_asked_rarely(ground: Ground):
    centre = ground.centre(BACKOFF_LONGEST=4.0)
    token = f"{'0' * 16}.{'x' * 43}"
    with web_server() as server:
        centre.follow("source", f"ws://127.0.0.1:{server.server_port}/mirror/stream/", token)
        mirror = centre.mirror()
        wait_until(lambda: centre.source_row()["error_code"] == "not_a_stream")
        holds_for(lambda: mirror.alive, seconds=6, what="it goes on")
        # It waits 2 to 4 seconds each time.
        assert 2 <= server.asked <= 5
        status = json.loads(centre.manage("mirrorstatus", "--json", expect=None))
        assert mirror.stop() == 0
    (told,) = status["sources"]
    assert told["state"] in {"refused", "connecting"}
    assert told["error_code"] == "not_a_stream"
    assert "404" in told["error_text"]
    assert mirror.log.count("not_a_stream") == 1
    assert mirror.log.count("\n") <= 4


def test_a_wrong_token_is_said_once_and_another_one_mends_it(ground: Ground):
    source, centre = ground.source(), ground.centre()
    source.serve()
    centre.follow("source", source.url, f"{'0' * 16}.{'x' * 43}")
    mirror = centre.mirror()
    wait_until_state(centre, "refused", "unauthorized")
    wait_until(lambda: centre.source_row()["attempts"] > 3)
    assert mirror.log.count("unauthorized") == 1
    source.run("shop.Ticket.objects.create()")
    with centre.writing() as connection:
        connection.execute("UPDATE mirror_source SET token = ?", [source.token()])
    wait_until_level(source, centre)

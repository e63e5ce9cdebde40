"""What ``runmirror`` shows of loading: how it is reckoned, and what a terminal makes of it."""

from __future__ import annotations

import logging
import sys
import threading
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.utils import timezone
from rich.console import Console

from client.display import Display, shown, taken_in, terminal
from client.progress import Bar, Look, Progress, look, progress
from mirror.models import Loading, Source
from mirror.status import LoadingStatus
from tests.screen import Screen

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
COLUMNS = 100


def of(model: str = "shop.tag", state: str = "copying", **fields) -> LoadingStatus:
    return LoadingStatus(
        **{"model": model, "state": state, "rows": 0, "total": 100, "began_at": NOON, **fields}
    )


def looks(*rows: int | None, **fields) -> list[Look]:
    """A second apart; None where nothing was loaded."""
    return [
        Look(at=1000.0 + at, loading={} if count is None else {"north": [of(rows=count, **fields)]})
        for at, count in enumerate(rows)
    ]


def bar(looks: list[Look]) -> Bar:
    (found,) = progress(looks).bars
    return found


# Reckoning


def test_nothing_is_shown_while_nothing_is_loaded():
    assert not progress(looks(None))
    assert not progress(looks(10, None))


def test_a_single_look_tells_how_far_it_is_and_no_pace():
    found = bar(looks(41))
    assert (found.source, found.model, found.rows, found.total, found.percent) == (
        "north", "shop.tag", 41, 100, 41,
    )  # fmt: skip
    assert (found.rate, found.seconds_left) == (None, None)


def test_the_pace_says_how_long_the_rest_takes():
    found = bar(looks(10, 15, 30))
    assert (found.rate, found.seconds_left) == (10.0, 7.0)


def test_looks_at_another_course_of_the_model_say_nothing_of_its_pace():
    again = Look(at=1003.0, loading={"north": [of(rows=5, began_at=NOON + timedelta(seconds=3))]})
    assert bar([*looks(10, 20, 90), again]).rate is None


def test_an_interruption_does_not_count_as_slowness():
    assert bar(looks(10, 20, None, None, None, 20, 40)).rate == 20.0


def test_a_source_that_stands_still_has_no_end_in_sight():
    found = bar(looks(10, 10))
    assert (found.rate, found.seconds_left) == (0.0, None)


@pytest.mark.parametrize(("rows", "total", "percent"), [(0, 0, 100), (3, 2, 100), (0, 7, 0), (5, None, None)])
def test_the_percentage_knows_tables_that_are_empty_grew_or_were_not_counted_yet(rows, total, percent):
    assert bar(looks(rows, total=total)).percent == percent


def test_rows_that_came_since_the_beginning_leave_no_time_below_zero():
    assert bar(looks(90, 110)).seconds_left == 0.0
    assert bar(looks(90, 110, total=None)).seconds_left is None


@pytest.mark.parametrize("state", ["copied", "settling"])
def test_a_model_whose_rows_are_asked_for_again_has_no_pace(state):
    found = bar(looks(90, 100, state=state))
    assert (found.settles, found.rate, found.seconds_left) == (True, None, None)


def test_models_whose_turn_has_not_come_are_counted():
    waiting = of("shop.brand", "waiting", total=None, began_at=None)
    found = progress([Look(at=0.0, loading={"north": [of(), waiting], "south": [waiting]})])
    assert (len(found.bars), found.to_come) == (1, 2)


@pytest.mark.django_db
def test_the_database_is_asked_for_what_is_loaded_now_from_these_sources():
    for name, state in [("north", "loading"), ("south", "loading"), ("west", "connecting")]:
        source = Source.objects.create(
            name=name, url="ws://shop/", token="t", state=state, heard_at=timezone.now()
        )
        Loading.objects.create(
            source=source, model="shop.tag", state="copying", anew=True, rows=3, total=4, began_at=NOON
        )
    assert look([], 5.0) == Look(
        at=5.0, loading={name: (of(rows=3, total=4),) for name in ("north", "south")}
    )
    assert list(look(["south", "west"], 5.0).loading) == ["south"]


# Showing


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> Screen:
        return Screen(self.getvalue(), columns=COLUMNS)


@pytest.fixture
def tty() -> Terminal:
    return Terminal()


@pytest.fixture
def console(tty: Terminal) -> Console:
    return Console(file=tty, force_terminal=True, force_interactive=True, width=COLUMNS, height=25)


@pytest.fixture
def display(console: Console) -> Display:
    return Display(console)


@pytest.fixture
def logger(tty: Terminal):
    """One whose lines go to the same terminal."""
    logger = logging.getLogger("tests.progress")
    handler = logging.StreamHandler(tty)
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)


def a_bar(source: str = "north", model: str = "shop.tag", **fields) -> Bar:
    defaults = {"rows": 0, "total": 1, "rate": None, "seconds_left": None, "settles": False}
    return Bar(source=source, model=model, **{**defaults, **fields})


TAGS = a_bar(rows=41_000, total=200_000, rate=5120.4, seconds_left=31.2)
BRANDS = a_bar("south", "shop.brand", rows=7, total=None, settles=True)


def test_a_bar_says_how_far_it_is(display: Display, tty: Terminal):
    display.show(Progress(bars=(TAGS,)))
    (line,) = tty.screen.lines
    assert line.startswith("north shop.tag ━")
    assert line.endswith(" 20 % 41,000/200,000 5,120 rows/s 0:00:31")
    assert not tty.screen.cursor_is_shown


def test_each_model_has_a_bar_and_those_to_come_are_counted(display: Display, tty: Terminal):
    display.show(Progress(bars=(TAGS,)))
    display.show(Progress(bars=(TAGS, BRANDS), to_come=5))
    first, second, third = tty.screen.lines
    assert first.startswith("north shop.tag ")
    assert second.startswith("south shop.brand ")
    assert second.split()[-2:] == ["7", "settling"]
    assert third == "5 more models to come"
    display.show(Progress(to_come=1))
    assert tty.screen.lines == ["1 more model to come"]


def test_names_are_no_markup_and_no_control_sequences(display: Display, tty: Terminal):
    strange = a_bar("[b]\x1b[2J\n", "m")
    display.show(Progress(bars=(strange,)))
    (line,) = tty.screen.lines
    assert line.startswith("[b] [2J m ")


def test_the_bars_go_away_when_nothing_is_loaded_any_more(display: Display, tty: Terminal):
    print("before", file=tty)
    display.show(Progress(bars=(TAGS, BRANDS)))
    display.show(Progress())
    assert tty.screen.lines == ["before"]
    assert tty.screen.cursor_is_shown
    display.show(Progress(bars=(TAGS,)))
    assert len(tty.screen.lines) == 2
    display.clear()
    assert tty.screen.lines == ["before"]


def test_log_lines_go_above_the_bars_as_they_are(display: Display, tty: Terminal, logger: logging.Logger):
    long = "[a] :smile: " + "word " * 40 + "end"
    logger.warning("before")
    display.show(Progress(bars=(TAGS, BRANDS)))
    logger.warning(long)
    logger.warning("short\nand two")
    display.show(Progress(bars=(TAGS,)))
    lines = tty.screen.lines
    assert "".join(lines[:-1]) == f"before{long}shortand two"
    assert lines[-1].startswith("north shop.tag ")
    assert f"{long}\n" in tty.getvalue()
    display.clear()
    logger.warning("after")
    assert "".join(tty.screen.lines) == f"before{long}shortand twoafter"


def test_what_is_printed_goes_above_the_bars_too(
    display: Display, tty: Terminal, monkeypatch: pytest.MonkeyPatch
):
    elsewhere = StringIO()
    monkeypatch.setattr(sys, "stdout", elsewhere)
    monkeypatch.setattr(sys, "stderr", tty)
    display.show(Progress(bars=(TAGS,)))
    sys.stdout.write("to a file\n")
    sys.stderr.write("in ")
    sys.stderr.write("two\nwithout an end")
    assert tty.screen.lines[0] == "in two"
    display.clear()
    assert tty.screen.lines == ["in two", "without an end"]
    assert elsewhere.getvalue() == "to a file\n"
    assert (sys.stdout, sys.stderr) == (elsewhere, tty)


@pytest.fixture
def _restless():
    """Threads take turns all the time."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("_restless")
def test_threads_that_write_meanwhile_spoil_nothing(display: Display, tty: Terminal, logger: logging.Logger):
    def log(name: str) -> None:
        for number in range(50):
            logger.warning("%s %d", name, number)

    threads = [threading.Thread(target=log, args=[name]) for name in "ab"]
    for thread in threads:
        thread.start()
    for number in range(50):
        display.show(Progress(bars=(TAGS, BRANDS)[: number % 3]))
    for thread in threads:
        thread.join()
    display.clear()
    assert sorted(tty.screen.lines) == sorted(f"{name} {number}" for name in "ab" for number in range(50))


def test_what_other_processes_write_goes_above_the_bars(display: Display, tty: Terminal):
    with taken_in(display) as output:
        display.show(Progress(bars=(TAGS,)))
        with open(output.fileno(), "wb", closefd=False) as file:
            file.write("žluť\nhalf".encode() + b"\xff")
    assert tty.screen.lines[:2] == ["žluť", "half\ufffd"]
    display.clear()
    assert tty.screen.lines == ["žluť", "half\ufffd"]


# Where it is shown


def test_without_a_terminal_nothing_changes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", file := StringIO())
    before = threading.active_count()
    with shown([], terminal(no_color=False)) as output:
        assert output is None
        assert threading.active_count() == before
    assert file.getvalue() == ""


def test_a_terminal_that_cannot_move_its_cursor_is_none(tty: Terminal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stderr", tty)
    with shown([], terminal(no_color=False)) as output:
        assert output is None


def test_colours_are_left_out_on_request(tty: Terminal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", tty)
    for no_color in (False, True):
        display = Display(terminal(no_color=no_color))
        tty.seek(tty.truncate(0))
        display.show(Progress(bars=(TAGS,)))
        assert ("\x1b[91m" in tty.getvalue()) is not no_color
        display.clear()

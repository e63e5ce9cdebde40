"""``runmirror`` in a terminal: how far loading is, between the lines that it logs."""

from __future__ import annotations

import pytest

from tests.end_to_end.conftest import Ground
from tests.end_to_end.processes import Running, Site, wait_until, wait_until_level, wait_until_state
from tests.end_to_end.throttle import Throttle
from tests.screen import Screen

_COLUMNS = 100
_ROWS = 10_000

#: Lets a command have a terminal of its own, whose text is this process's output.
_TERMINAL = """
import os, pty, sys
sys.exit(os.waitstatus_to_exitcode(pty.spawn([sys.executable, *sys.argv[1:]])))
"""


def in_a_terminal(centre: Site, *arguments: str) -> Running:
    return centre.start("terminal", "-c", _TERMINAL, "-m", "django", *arguments)


def press_ctrl_c(terminal: Running) -> None:
    assert terminal.process.stdin is not None
    terminal.process.stdin.write(b"\x03")
    terminal.process.stdin.flush()


def screen(terminal: Running) -> Screen:
    return Screen(terminal.log, columns=_COLUMNS)


def to_be_loaded(ground: Ground) -> tuple[Site, Site]:
    """A centre that is to load the rows of a source, which takes some seconds."""
    source, centre = ground.source(), ground.centre(COMPRESSION=False, VERIFY_DAYS=None)
    source.serve()
    line = ground.proxy(source)
    centre.follow("source", line.url, source.token())
    source.run(f"shop.Ticket.objects.bulk_create([shop.Ticket(text=str(n)) for n in range({_ROWS})])")
    centre.manage("mirrorsource", "resync", "source")
    line.throttle(down=Throttle(bits=3_000_000))
    return source, centre


@pytest.mark.parametrize("workers", [1, 2])
def test_a_terminal_shows_how_far_loading_is_until_all_is_loaded(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, workers: int
):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(_COLUMNS))
    source, centre = to_be_loaded(ground)
    terminal = in_a_terminal(centre, "runmirror", f"--workers={workers}")

    def a_bar() -> list[str]:
        return [line for line in screen(terminal).lines if "shop.ticket ━" in line and "rows/s" in line]

    (bar,) = wait_until(a_bar, what=f"a bar: {terminal.log!r}")
    assert bar.startswith("source ")
    assert f"/{_ROWS:,} " in bar
    wait_until_state(centre, "live")
    wait_until(lambda: not any("━" in line for line in screen(terminal).lines), what="the bar goes away")
    wait_until_level(source, centre)
    shown = screen(terminal)
    logged = ("source: ", "no source is registered")  # by the worker that has none
    assert [line for line in shown.lines if not line.startswith(logged)] == []
    assert f"source: loaded shop.ticket, {_ROWS} rows" in shown.lines
    assert shown.lines[-1] == "source: live"
    assert shown.cursor_is_shown


def test_ctrl_c_ends_it_while_rows_are_loaded(ground: Ground, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(_COLUMNS))
    _source, centre = to_be_loaded(ground)
    terminal = in_a_terminal(centre, "runmirror")
    wait_until(lambda: "━" in terminal.log, what=f"a bar: {terminal.log!r}")
    press_ctrl_c(terminal)
    assert terminal.wait(seconds=10) == 0
    assert "━" not in "".join(screen(terminal).lines)
    assert screen(terminal).lines[-1] == "source: stopped"
    assert screen(terminal).cursor_is_shown
    assert centre.source_row()["state"] == "stopped"

"""Shows how far loading is, on the terminal that ``runmirror`` was started from.

Bars are there while rows are loaded, and go afterwards. A terminal has one place where text is written, so
whatever else this process and its workers write to it meanwhile goes through here, and above the bars.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from io import TextIOBase
from multiprocessing import Pipe
from threading import Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from client.progress import Bar, Look, Progress, look, progress
from mirror.chores import Chore
from mirror.conf import conf
from mirror.management.table import one_line

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

#: Seconds between two looks at the database.
_LOOK_EVERY = 1.0
#: Looks that the pace is taken from.
_LOOKS = 20


def drawn(progress: Progress) -> RenderableType:
    table = Table.grid(padding=(0, 1, 0, 0), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, min_width=8)
    for _ in range(3):
        table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True)
    for bar in progress.bars:
        # Text, not str: a name must not be read as markup.
        table.add_row(
            Text(one_line(bar.source)),
            Text(bar.model),
            ProgressBar(total=bar.total, completed=bar.rows),
            *(Text(cell) for cell in _cells(bar)),
        )
    if not progress.to_come:
        return table
    return Group(table, Text(f"{progress.to_come} more model{'s' if progress.to_come > 1 else ''} to come"))


def _cells(bar: Bar) -> tuple[str, ...]:
    percent = "" if bar.percent is None else f"{bar.percent} %"
    rows = f"{bar.rows:,}" + ("" if bar.total is None else f"/{bar.total:,}")
    if bar.settles:
        return percent, rows, "", "settling"
    rate = "" if bar.rate is None else f"{bar.rate:,.0f} rows/s"
    left = "" if bar.seconds_left is None else f"{timedelta(seconds=round(bar.seconds_left))}"
    return percent, rows, rate, left


class Display:
    """Bars at the end of what a terminal shows. ``show`` and ``clear`` are called by one thread at a time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        #: Two threads that write at once would take each other's lines for their own.
        self._lock = Lock()
        self._live: Live | None = None
        self._lent = ExitStack()

    def show(self, progress: Progress) -> None:
        """Nothing, where nothing is loaded."""
        if not progress:
            self.clear()
            return
        if self._live is None:
            # First, so that nothing is written past the bars. Not within the lock: who logs holds a
            # handler's lock and waits for this one.
            self._lent.enter_context(_written_to(self))
        with self._lock:
            if self._live is None:
                self._live = Live(
                    console=self._console,
                    auto_refresh=False,
                    transient=True,
                    redirect_stdout=False,
                    redirect_stderr=False,
                )
                self._live.start()
            self._live.update(drawn(progress), refresh=True)

    def clear(self) -> None:
        if self._live is not None:
            with self._lock:
                self._live.stop()
            self._live = None
        self._lent.close()

    def print_above(self, lines: str) -> None:
        """Lines without the last line's end; they are not folded at the width of the terminal."""
        with self._lock:
            self._console.out(lines, highlight=False)


class _Above(TextIOBase):
    """A text file whose lines go above the bars."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._rest = ""

    def write(self, text: str) -> int:
        lines, ended, self._rest = (self._rest + text).rpartition("\n")
        if ended:
            self._display.print_above(lines)
        return len(text)

    def finish(self) -> None:
        """A last line without an end gets one."""
        if self._rest:
            self.write("\n")

    def isatty(self) -> bool:
        return True


@contextmanager
def _written_to(display: Display) -> Iterator[None]:
    """What this process would write to a terminal goes above the bars: logged, printed or warned.

    rich replaces the standard streams alone, which the handlers of the log do not look at again, and folds
    long lines.
    """
    with ExitStack() as stack:
        for handler in _handlers():
            if _is_terminal(handler.stream):
                stack.callback(handler.setStream, handler.setStream(_Above(display)))
        for name in ("stdout", "stderr"):
            if _is_terminal(stream := getattr(sys, name)):
                setattr(sys, name, above := _Above(display))
                stack.callback(above.finish)
                stack.callback(setattr, sys, name, stream)
        yield


def _handlers() -> Iterator[logging.StreamHandler[Any]]:
    """Each that a logger has."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    found = {
        handler: None
        for logger in loggers
        if isinstance(logger, logging.Logger)
        for handler in logger.handlers
    }
    return (handler for handler in found if isinstance(handler, logging.StreamHandler))


def _is_terminal(stream: Any) -> bool:
    return bool(getattr(stream, "isatty", bool)())


def terminal(*, no_color: bool) -> Console:
    """Where a server says what it does. Whether that is a terminal no variable (FORCE_COLOR) decides."""
    return Console(file=sys.stderr, force_terminal=sys.stderr.isatty(), no_color=no_color or None)


@contextmanager
def shown(names: Collection[str], console: Console) -> Iterator[Connection[Any, Any] | None]:
    """Meanwhile show how far these sources are loaded, or all of them, if the console is a terminal.

    Gives what processes that are started meanwhile should write to instead; None without a terminal.
    """
    if not (console.is_terminal and console.is_interactive):
        yield None
        return
    display, looks = Display(console), deque[Look](maxlen=_LOOKS)

    def step() -> float:
        looks.append(look(names, monotonic()))
        display.show(progress(looks))
        return _LOOK_EVERY

    try:
        with Chore("progress", step, conf().database, first=_LOOK_EVERY), taken_in(display) as output:
            yield output
    finally:
        display.clear()


@contextmanager
def taken_in(display: Display) -> Iterator[Connection[Any, Any]]:
    """What other processes write to this goes above the bars; they have to end before."""
    reader, writer = Pipe(duplex=False)

    def pump() -> None:
        above = _Above(display)
        with open(reader.fileno(), encoding=sys.stderr.encoding, errors="replace", closefd=False) as lines:
            above.writelines(lines)
        above.finish()

    thread = Thread(target=pump, name="mirror-output", daemon=True)
    thread.start()
    with reader:
        try:
            with writer:
                yield writer
        finally:
            thread.join()

"""Keeping programs running, with real programs."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from demo import supervisor
from demo.supervisor import Program, keep
from demo.trouble import Trouble


class Lines:
    """What was said, and a way to wait for it."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self._more = asyncio.Event()

    def say(self, name: str, line: str) -> None:
        self.said.append((name, line))
        self._more.set()

    async def until(self, name: str, start: str) -> str:
        async with asyncio.timeout(30):
            while True:
                for who, line in self.said:
                    if who == name and line.startswith(start):
                        return line
                self._more.clear()
                await self._more.wait()


def program(code: str) -> Program:
    return Program(name="it", argv=(sys.executable, "-u", "-c", code), cwd=os.curdir, environ=os.environ)


async def cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_output_is_shown_line_by_line_even_the_unfinished_last_one() -> None:
    lines = Lines()
    code = (
        "import os, time; os.write(1, b'one\\ntw'); time.sleep(.1); os.write(2, b'o\\nthree'); os.close(1);"
    )
    task = asyncio.create_task(keep(program(code + "os.close(2); time.sleep(60)"), lines.say))
    await lines.until("it", "three")
    assert lines.said == [("it", "one"), ("it", "two"), ("it", "three")]
    await cancel(task)


async def test_a_program_that_was_killed_is_started_again() -> None:
    lines = Lines()
    code = "import os, time; print('pid', os.getpid()); time.sleep(60)"
    task = asyncio.create_task(keep(program(code), lines.say))
    first = int((await lines.until("it", "pid")).split()[1])
    os.kill(first, 9)
    assert await lines.until("demo", "it ended") == "it ended unexpectedly (SIGKILL); starting it again"
    lines.said.clear()
    second = int((await lines.until("it", "pid")).split()[1])
    assert second != first
    await cancel(task)
    assert not runs(second)


async def test_a_program_that_cannot_stay_up_ends_it_all_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "RESTART_DELAY", 0.01)
    lines = Lines()
    with pytest.raises(Trouble, match=r"it ended unexpectedly \(exit code 3\) for the 4th time in a row"):
        await keep(program("print('why'); raise SystemExit(3)"), lines.say)
    assert lines.said.count(("it", "why")) == 4


async def test_stopping_lets_a_program_finish_what_it_does(tmp_path: Path) -> None:
    lines = Lines()
    code = f"""
import pathlib, time
try:
    print('up')
    time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path({str(tmp_path / "finished")!r}).touch()
    print('down')
"""
    task = asyncio.create_task(keep(program(code), lines.say))
    await lines.until("it", "up")
    await cancel(task)
    assert (tmp_path / "finished").exists()
    assert lines.said == [("it", "up"), ("it", "down")]


async def test_a_program_that_does_not_listen_is_killed_with_its_children(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "GRACE", 0.2)
    lines = Lines()
    code = """
import os, signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    print('pids', os.getpid(), child)
time.sleep(60)
"""
    task = asyncio.create_task(keep(program(code), lines.say))
    await lines.until("it", "pids")
    async with asyncio.timeout(10):
        # Returns at the end of their output, which either of them would keep open.
        await cancel(task)

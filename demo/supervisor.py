"""Keep programs running and their output readable, until told to stop.

Stopping is cancellation: whoever cancels ``keep`` gets the program ended before ``keep`` returns.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from demo.trouble import Trouble

__all__ = ["Program", "answers", "keep"]

Say = Callable[[str, str], None]

#: Seconds that a program has to end after SIGINT, and again after SIGTERM.
GRACE = 8.0
RESTART_DELAY = 1.0
#: A program that ends this often, each time within this many seconds, has a reason that stays.
MOST_FAILURES = 4
QUICK = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    name: str
    argv: tuple[str, ...]
    cwd: str
    environ: Mapping[str, str]


async def keep(program: Program, say: Say) -> None:
    """Run ``program``, again whenever it ends. Raises Trouble when it can't stay up."""
    failures = 0
    while True:
        started = time.monotonic()
        code = await _run(program, say)
        failures = failures + 1 if time.monotonic() - started < QUICK else 1
        ending = f"{program.name} ended unexpectedly ({_describe(code)})"
        if failures == MOST_FAILURES:
            raise Trouble(f"{ending} for the {failures}th time in a row; its last lines say why")
        say("demo", f"{ending}; starting it again")
        await asyncio.sleep(RESTART_DELAY)


async def answers(port: int) -> None:
    """Return once an HTTP server on this port answers a request."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
            continue
        try:
            writer.write(f"GET /polls/ HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            status = await reader.readline()
        finally:
            writer.close()
        if status.split()[1:2] == [b"200"]:
            return
        await asyncio.sleep(0.1)


async def _run(program: Program, say: Say) -> int:
    process = await asyncio.create_subprocess_exec(
        *program.argv,
        cwd=program.cwd,
        env=dict(program.environ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        # Ctrl-C reaches a terminal's whole process group; ours is to be the only one that hears it.
        start_new_session=True,
    )
    assert process.stdout is not None
    show = asyncio.create_task(_show(program.name, process.stdout, say))
    try:
        return await process.wait()
    finally:
        await _end(process)
        await show


async def _show(name: str, stream: asyncio.StreamReader, say: Say) -> None:
    rest = b""
    while chunk := await stream.read(65536):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            say(name, line.decode(errors="replace"))
    if rest:
        say(name, rest.decode(errors="replace"))


async def _end(process: asyncio.subprocess.Process) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            break
        process.send_signal(number)
        await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=GRACE)
    _kill_descendants(process.pid)


def _kill_descendants(leader: int) -> None:
    """A program that died at once may have left children, in the session that it led."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def _describe(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

"""The demo from its first line to its last."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import webbrowser
from collections.abc import Mapping, Sequence

from demo.bootstrap import ROOT, check_installed, enter_venv
from demo.options import Options, parse
from demo.output import banner, prefixed, shell_line, wants_colour
from demo.ports import check_ports
from demo.prepare import CENTRAL, LOCAL, environ_for, prepare
from demo.supervisor import Program, answers, keep
from demo.trouble import Trouble

__all__ = ["main"]

#: How long the servers may take to answer their first request, in seconds.
PATIENCE = 60.0


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 when stopped by a signal, 1 when something is to be mended."""
    options = parse(arguments)
    try:
        check_ports(options)
        if not options.here:
            enter_venv(arguments)
        check_installed()
        asyncio.run(_until_stopped(options))
    except KeyboardInterrupt:
        # Only while installing; afterwards the signal is handled.
        return 130
    except Trouble as trouble:
        print(f"demo: {trouble}", file=sys.stderr)
        return 1
    return 0


async def _until_stopped(options: Options) -> None:
    work = asyncio.create_task(_work(options))
    stopped = False

    def stop() -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            _say("demo", "stopping")
            work.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    try:
        await work
    except asyncio.CancelledError:
        _say("demo", "stopped")
    except BaseExceptionGroup as group:
        raise _first_trouble(group) from group


async def _work(options: Options) -> None:
    _say("demo", "preparing the two databases")
    await prepare(options)
    # Two groups, so that whatever writes or follows has ended before the servers do.
    async with asyncio.TaskGroup() as servers:
        for program in _servers(options):
            servers.create_task(keep(program, _say))
        await _wait_for_servers(options)
        async with asyncio.TaskGroup() as others:
            for program in _others(options):
                others.create_task(keep(program, _say))
            print(banner(options, shell_line(_own_python(), os.environ)), flush=True)
            if options.browser and _has_screen(os.environ):
                webbrowser.open(f"http://127.0.0.1:{options.central_port}/mirror/")


async def _wait_for_servers(options: Options) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(answers(options.local_port), answers(options.central_port))
    except TimeoutError as error:
        raise Trouble(f"a server did not answer within {PATIENCE:.0f} s; its lines above say why") from error


def _servers(options: Options) -> list[Program]:
    return [
        _program("local", LOCAL, *_daphne(options.local_port)),
        _program("central", CENTRAL, *_daphne(options.central_port)),
    ]


def _others(options: Options) -> list[Program]:
    mirror = _program("mirror", CENTRAL, "manage.py", "runmirror")
    traffic = _program("traffic", LOCAL, "manage.py", "traffic")
    return [mirror, traffic] if options.traffic else [mirror]


def _daphne(port: int) -> tuple[str, ...]:
    return "-m", "daphne", "-v", "0", "-b", "127.0.0.1", "-p", str(port), "asgi:application"


def _program(name: str, settings: str, *arguments: str) -> Program:
    argv = (sys.executable, *arguments)
    return Program(name=name, argv=argv, cwd=os.fspath(ROOT), environ=environ_for(settings))


def _say(name: str, line: str) -> None:
    colour = wants_colour(is_tty=sys.stdout.isatty(), environ=os.environ)
    print(prefixed(name, line, colour=colour), flush=True)


def _own_python() -> str:
    """Short when it lies in the project, as in the usual case it does."""
    return sys.executable.removeprefix(f"{ROOT}{os.sep}")


def _has_screen(environ: Mapping[str, str]) -> bool:
    """False where ``webbrowser`` would take the terminal for a text browser."""
    graphical = sys.platform == "darwin" or "DISPLAY" in environ or "WAYLAND_DISPLAY" in environ
    return graphical and sys.stdout.isatty()


def _first_trouble(group: BaseExceptionGroup) -> BaseException:
    for error in group.exceptions:
        found = _first_trouble(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, Trouble):
            return found
    return group

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from client.runner import Runner, missing, real_world, run
from mirror.conf import conf


class Command(BaseCommand):
    help = (
        "Follow all (or the named) sources until SIGINT or SIGTERM, which finish the running batch. "
        "Exit codes: 0 stopped, or level with --until-caught-up; 1 cannot get level, or another process "
        "took over."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", nargs="*", metavar="NAME")
        parser.add_argument("--until-caught-up", action="store_true", help="exit once level")

    def handle(self, *args: Any, names: list[str], until_caught_up: bool, **options: Any) -> None:
        unknown = missing(names)
        if unknown:
            raise CommandError(
                f"No source named {', '.join(unknown)}. See `manage.py mirrorsource list`, or add it with "
                "`manage.py mirrorsource add NAME URL --token T`."
            )
        runner = Runner(names, conf(), real_world(conf()))
        if not run(runner, until_level=until_caught_up, on_signal=_on_signal):
            sys.exit(1)


def _on_signal(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)

from __future__ import annotations

import argparse
import asyncio
import sys
from functools import partial
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from client.runner import Runner, missing, real_world, run, stop_on_signal
from client.workers import Share, Workers, start_worker
from mirror.conf import conf
from mirror.pruning import pruning


class Command(BaseCommand):
    help = (
        "Follow all (or the named) sources until SIGINT or SIGTERM, which finish the running batch. "
        "Exit codes: 0 stopped, or level with --until-caught-up; 1 cannot get level, or another process "
        "took over."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", nargs="*", metavar="NAME")
        parser.add_argument("--until-caught-up", action="store_true", help="exit once level")
        parser.add_argument(
            "--workers", type=_count, default=1, metavar="N", help="processes that share the sources (1)"
        )

    def handle(
        self, *args: Any, names: list[str], until_caught_up: bool, workers: int, **options: Any
    ) -> None:
        unknown = missing(names)
        if unknown:
            raise CommandError(
                f"No source named {', '.join(unknown)}. See `manage.py mirrorsource list`, or add it with "
                "`manage.py mirrorsource add NAME URL --token T`."
            )
        with pruning():
            reached = _follow(names, workers, until_level=until_caught_up)
        if not reached:
            sys.exit(1)


def _follow(names: list[str], workers: int, *, until_level: bool) -> bool:
    if workers > 1:
        return asyncio.run(_share_out(names, workers, until_level=until_level))
    runner = Runner(names, conf(), real_world(conf()))
    return run(runner, until_level=until_level, on_signal=stop_on_signal)


async def _share_out(names: list[str], count: int, *, until_level: bool) -> bool:
    workers = Workers(
        [Share(number, of=count) for number in range(count)],
        partial(start_worker, names, until_level=until_level),
        until_level=until_level,
    )
    stop_on_signal(workers.stop)
    return await workers.run()


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes")
    return int(text)

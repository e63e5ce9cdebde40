from __future__ import annotations

import argparse
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from client.display import shown, terminal
from client.runner import follow, missing
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
        with pruning(), shown(names, terminal(no_color=options["no_color"])) as output:
            reached = follow(names, workers, until_level=until_caught_up, output=output)
        if not reached:
            sys.exit(1)


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes")
    return int(text)

from __future__ import annotations

import time
from contextlib import suppress
from json import dumps
from typing import IO, Any, cast

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone
from rich.console import Console
from rich.live import Live

from mirror import status
from mirror.management.report import rich_report, text_report


class Command(BaseCommand):
    help = (
        "Shows how the streams fare. Exits with 1 if a source is stalled, refused or halted, or if rows were "
        "found to differ from it."
    )
    sleep = staticmethod(time.sleep)

    def add_arguments(self, parser: CommandParser) -> None:
        choice = parser.add_mutually_exclusive_group()
        choice.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
        choice.add_argument("--watch", action="store_true", help="show it anew each second until Ctrl-C")

    def handle(self, *, json: bool, watch: bool, **options: Any) -> None:
        # rich ends its lines itself, and a control sequence must not get a line end at all.
        self.stdout.ending = ""
        console = Console(file=cast("IO[str]", self.stdout))
        if watch:
            with suppress(KeyboardInterrupt):
                self._watch(console)
            return
        found = status.collect(timezone.now())
        if console.is_terminal and not json:
            console.print(rich_report(found))
        else:
            self.stdout.write((dumps(found.as_json(), indent=2) if json else text_report(found)) + "\n")
        if not found.ok:
            raise SystemExit(1)

    def _watch(self, console: Console) -> None:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                found = status.collect(timezone.now())
                if console.is_terminal:
                    live.update(rich_report(found), refresh=True)
                else:
                    self.stdout.write(text_report(found) + "\n\n")
                self.sleep(1)

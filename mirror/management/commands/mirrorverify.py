from __future__ import annotations

import time
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error
from django.utils import timezone

from mirror import sources
from mirror.management.comparing import Comparison, Verdict, listing, watch
from mirror.models import Source


class Command(BaseCommand):
    help = (
        "Compares rows with the sources'. Exits with 0 if they are identical, 1 if not, 2 if it cannot tell."
    )
    sleep, now = staticmethod(time.sleep), staticmethod(timezone.now)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", nargs="*", metavar="NAME", help="a source; all where none is named")
        parser.add_argument("--model", help="app_label.Model: only its rows")
        choice = parser.add_mutually_exclusive_group()
        choice.add_argument(
            "--repair", action="store_true", help="load what differs, delete what is only here"
        )
        choice.add_argument("--list", action="store_true", dest="told", help="show what was found before")
        parser.add_argument("--no-wait", action="store_true", help="ask for it, and leave it to runmirror")

    def handle(self, *, names: list[str], model: str | None, **options: Any) -> None:
        try:
            verdict = self._verify(*sources.chosen(names, model), **options)
        except (ValidationError, Error) as error:
            raise CommandError(" ".join(getattr(error, "messages", [str(error)])), returncode=2) from error
        if verdict:
            raise SystemExit(int(verdict))

    def _verify(self, chosen: list[Source], models: list[str], **options: Any) -> Verdict:
        if options["told"]:
            text, verdict = listing(chosen, models)
            self.stdout.write(text)
            return verdict
        asked = [Comparison(one, models, repair=options["repair"], now=self.now()) for one in chosen]
        if not options["no_wait"]:
            return watch(asked, self.stdout, self.stderr, sleep=self.sleep, now=self.now)
        self.stdout.write("`manage.py runmirror` compares; `mirrorverify --list` shows what came of it.")
        return Verdict.IDENTICAL

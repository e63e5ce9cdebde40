from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand

from demo.polls.access import only_shows
from demo.polls.models import Question
from demo.polls.questions import QUESTIONS, ask
from mirror.models import Source


class Command(BaseCommand):
    help = "Make the demo's user and first polls; say whether the source is registered here."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--source", help="Point this source to --url, if it is registered.")
        parser.add_argument("--url")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["source"]:
            sources = Source.objects.filter(name=options["source"])
            # The port may have been chosen anew.
            known = sources.update(url=options["url"])
            self.stdout.write("registered" if known else "missing")
            return
        users = get_user_model().objects
        if not users.filter(username="admin").exists():
            users.create_superuser("admin", password="admin")
        if not only_shows() and not Question.objects.exists():
            for text, choices in QUESTIONS[:2]:
                ask(text, choices)

from __future__ import annotations

from argparse import REMAINDER
from typing import Any

from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand, CommandError, CommandParser

from mirror import maintenance


class Command(BaseCommand):
    help = (
        "Runs another command that may write to mirrored tables on a server that is read-only: "
        'mirrormaintenance "why" loaddata rows.json'
    )
    # The other command has its own.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("reason", help="for the log")
        parser.add_argument("name", metavar="command", help="the command to run")
        parser.add_argument("arguments", nargs=REMAINDER, help="its arguments")

    def handle(self, *, reason: str, name: str, arguments: list[str], **options: Any) -> None:
        app = get_commands().get(name)
        if app is None or name == "mirrormaintenance":
            raise CommandError(f'{name!r} is no command to run. As in: mirrormaintenance "why" loaddata FILE')
        if not reason.strip():
            raise CommandError('Say why: mirrormaintenance "why" loaddata FILE')
        command = load_command_class(app, name) if isinstance(app, str) else app
        with maintenance(reason):
            command.run_from_argv(["manage.py", name, *arguments])

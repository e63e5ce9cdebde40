from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from mirror import mirrors, status
from mirror.management.report import mirror_table


class Command(BaseCommand):
    help = "Lists the mirrors that follow this server, and forgets one that will not come again."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("list", help="show who follows, how far each has come, and who is waited for")
        forget = actions.add_parser("forget", help="keep nothing for this mirror any more")
        forget.add_argument("name", help="as `list` shows it, or the token's name if it has only one mirror")

    def handle(self, *, action: str, name: str = "", **options: Any) -> None:
        if action == "list":
            self.stdout.write(mirror_table(status.collect(timezone.now())))
            return
        try:
            forgotten = mirrors.forget(name)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from error
        self.stdout.write(
            f"Mirror {forgotten[0]} is forgotten: nothing is kept for it. It may still come; to let it in no "
            "more, revoke its token."
        )

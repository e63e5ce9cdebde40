from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from mirror import tokens
from mirror.management.table import plain_table, when


class Command(BaseCommand):
    help = "Creates, lists and revokes the tokens that mirrors show to be let in."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        create = actions.add_parser("create", help="print a new token, once")
        create.add_argument("name", help="whose token it is")
        actions.add_parser("list", help="show the tokens, never their secrets")
        revoke = actions.add_parser("revoke", help="let nobody in with this token from now on")
        revoke.add_argument("name")

    def handle(self, *, action: str, name: str = "", **options: Any) -> None:
        try:
            {"create": self.create, "list": self.list, "revoke": self.revoke}[action](name)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from error

    def create(self, name: str) -> None:
        token = tokens.create(name)
        # Only the token goes to stdout, so that it can be piped.
        self.stderr.write(f"The token {name!r} is shown only now; give it to `mirrorsource add`.", str)
        self.stdout.write(token)

    def list(self, _: str) -> None:
        rows = [
            (
                found.name,
                found.prefix,
                when(found.created_at),
                when(found.last_used_at),
                when(found.revoked_at),
            )
            for found in tokens.issued()
        ]
        self.stdout.write(plain_table(("name", "prefix", "created", "last used", "revoked"), rows))

    def revoke(self, name: str) -> None:
        self.stdout.write(f"The token {name!r} is revoked since {when(tokens.revoke(name).revoked_at)}.")

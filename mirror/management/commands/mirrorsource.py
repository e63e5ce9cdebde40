from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from django.apps import apps
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from mirror import sources
from mirror.management.table import plain_table, when


class Command(BaseCommand):
    help = "Registers, lists, loads anew and removes the servers that this one mirrors."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        add = actions.add_parser("add", help="register a source; runmirror then follows it")
        add.add_argument("name", help="how it is called here")
        add.add_argument("url", help="where its stream is: wss://its.host/mirror/stream/")
        add.add_argument("--token", help="what `mirrortoken create` printed there (or set MIRROR_TOKEN)")
        add.add_argument("--token-file", type=Path, help="a file that holds the token and nothing else")
        add.add_argument("--from", dest="begin", default="start", help="start (the default), now, or a time")
        actions.add_parser("list", help="show the sources")
        resync = actions.add_parser("resync", help="load the rows of a source as they are there now")
        resync.add_argument("name")
        resync.add_argument("--model", help="app_label.Model: only its rows")
        remove = actions.add_parser("remove", help="forget a source and its cursor; its rows stay")
        remove.add_argument("name")

    def handle(self, *, action: str, **options: Any) -> None:
        try:
            getattr(self, action)(**options)
        except (ValidationError, OSError, UnicodeError) as error:
            raise CommandError(" ".join(getattr(error, "messages", [str(error)]))) from error

    def add(
        self, *, name: str, url: str, token: str | None, token_file: Path | None, begin: str, **options: Any
    ) -> None:
        if not apps.is_installed("client"):
            raise CommandError('Nothing would follow this source: add "client" to INSTALLED_APPS first.')
        found = token or (token_file.read_text() if token_file else os.environ.get("MIRROR_TOKEN", ""))
        sources.add(name, url, found.strip(), begin)
        if sources.lacks_path(url):
            self.stderr.write(f"{url} names no path; a stream is normally at /mirror/stream/.", str)
        self.stdout.write(f"Source {name!r} is registered; `manage.py runmirror` follows it.")

    def list(self, **options: Any) -> None:
        rows = [(source.name, source.url, when(source.created_at)) for source in sources.registered()]
        self.stdout.write(plain_table(("name", "url", "added"), rows))

    def resync(self, *, name: str, model: str | None, **options: Any) -> None:
        models = sources.resync(name, model)
        what = f"{models[0]} is" if len(models) == 1 else f"{len(models)} models are"
        self.stdout.write(
            f"{what} loaded from {name!r} by `manage.py runmirror`; `manage.py mirrorstatus` shows how far."
        )

    def remove(self, *, name: str, **options: Any) -> None:
        sources.remove(name)
        self.stdout.write(f"Source {name!r} is removed. Its rows stay here; its cursor is forgotten.")

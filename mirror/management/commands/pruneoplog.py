from __future__ import annotations

from argparse import ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from mirror import oplog
from mirror.conf import conf
from mirror.models import Oplog, Stream


class Command(BaseCommand):
    help = "Deletes old changes from the oplogs kept here. Given both limits, what either keeps stays."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--keep-days", type=_positive, metavar="N", help="keep the last N days")
        parser.add_argument("--keep-changes", type=_positive, metavar="N", help="keep the newest N changes")
        parser.add_argument("--dry-run", action="store_true", help="say how many, delete none")

    def handle(
        self, *, keep_days: int | None, keep_changes: int | None, dry_run: bool, **options: Any
    ) -> None:
        if keep_days is None and keep_changes is None:
            raise CommandError("Say how much to keep: --keep-days N, --keep-changes N, or both.")
        for stream in Stream.objects.using(conf().database).order_by("id"):
            changes = Oplog.objects.using(conf().database).filter(stream=stream)
            limits = []
            if keep_days is not None:
                limits.append(round((timezone.now() - timedelta(days=keep_days)).timestamp() * 1_000_000))
            if keep_changes is not None:
                kept = changes.order_by("-ts").values_list("ts", flat=True)[keep_changes - 1 : keep_changes]
                limits.append(next(iter(kept), 0))
            if dry_run:
                # At most: only whole groups go.
                self.stdout.write(f"{stream}: at most {changes.filter(ts__lt=min(limits)).count()} would go")
            else:
                self.stdout.write(f"{stream}: {oplog.prune(stream, before=min(limits))} deleted")


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError("a whole number from 1 on")
    return int(text)

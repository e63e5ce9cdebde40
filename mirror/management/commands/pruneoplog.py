from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import replace
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from mirror import oplog, pruning
from mirror.changes import from_datetime
from mirror.conf import conf
from mirror.management.report import pruned_report
from mirror.models import Stream
from mirror.retention import DAY, Rules


class Command(BaseCommand):
    help = (
        "Deletes old changes from the oplogs kept here, as MIRROR says, or as said here; given several "
        "limits, what any of them keeps stays. What a mirror that is waited for lacks is kept in any case, "
        "unless the oplog is over the limits OPLOG_BYTES or OPLOG_DAYS."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--keep-days", type=_positive, metavar="N", help="keep the last N days")
        parser.add_argument("--keep-changes", type=_positive, metavar="N", help="keep the newest N changes")
        parser.add_argument("--before", type=_moment, metavar="TIME", help="keep what is not older than TIME")
        parser.add_argument("--dry-run", action="store_true", help="say what would go, delete nothing")

    def handle(self, *, dry_run: bool, **limits: Any) -> None:
        now = timezone.now()
        wanted = _rules(now, limits["keep_days"], limits["keep_changes"], limits["before"])
        for stream in Stream.objects.using(conf().database).order_by("id"):
            body_bytes = oplog.body_bytes(stream) if wanted.most_bytes is not None else 0
            plan = pruning.plan(stream, wanted, now, body_bytes=body_bytes)
            deleted = None if dry_run else pruning.carry_out(stream, plan)
            self.stdout.write(pruned_report(stream, plan, deleted))


def _rules(now: datetime, days: int | None, changes: int | None, before: datetime | None) -> Rules:
    setting = pruning.rules()
    ages = [] if days is None else [days * DAY]
    if before is not None:
        ages.append(from_datetime(now) - from_datetime(before))
    if changes is not None:
        return replace(setting, keep_age=max(ages, default=0), keep_changes=changes)
    return replace(setting, keep_age=max(ages)) if ages else setting


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError("a whole number from 1 on")
    return int(text)


def _moment(text: str) -> datetime:
    try:
        moment = parse_datetime(text)
    except ValueError:
        moment = None
    if moment is None:
        raise ArgumentTypeError("a time such as 2026-05-31T08:00:00+02:00")
    return moment if timezone.is_aware(moment) else timezone.make_aware(moment)

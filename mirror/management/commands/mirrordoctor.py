from __future__ import annotations

from json import dumps
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error, connections
from django.utils import timezone

from mirror import capture, doctor
from mirror.conf import conf
from mirror.errors import ConfigurationError
from mirror.management.table import one_line


class Command(BaseCommand):
    help = (
        "Says what is wrong with the capture, or would be missed by it, each with its mend. "
        "Exits with 0 when all is well, 1 when something is wrong, 2 when it cannot tell."
    )
    # It reports them itself, together with what it finds.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
        parser.add_argument(
            "--remove-triggers", action="store_true", help="remove our triggers; nothing is captured any more"
        )
        parser.add_argument("--database", help="with --remove-triggers: from this alias")

    def handle(self, *, json: bool, remove_triggers: bool, database: str | None, **options: Any) -> None:
        if database and not remove_triggers:
            raise CommandError("--database goes with --remove-triggers.", returncode=2)
        try:
            if remove_triggers:
                self._remove(database or conf().database)
            else:
                self._examine(as_json=json)
        except ConfigurationError as error:
            raise CommandError(
                f"MIRROR: {error}. Name the database: --database ALIAS.", returncode=2
            ) from error
        except Error as error:
            raise CommandError(
                f"The database cannot be asked: {one_line(str(error))}", returncode=2
            ) from error

    def _remove(self, alias: str) -> None:
        if alias not in connections.settings:
            configured = ", ".join(connections.settings)
            raise CommandError(f"{alias!r} is not in DATABASES. Configured: {configured}.", returncode=2)
        names = capture.remove(connections[alias])
        for name in names:
            self.stdout.write(f"removed {one_line(name)}")
        self.stdout.write("The next migrate installs what MIRROR asks for." if names else "There were none.")

    def _examine(self, *, as_json: bool) -> None:
        findings = doctor.examine(doctor.gather(timezone.now()))
        ok = all(finding.severity == doctor.Severity.NOTE for finding in findings)
        if as_json:
            report = {"version": 1, "ok": ok, "findings": [finding.as_json() for finding in findings]}
            self.stdout.write(dumps(report, indent=2))
        else:
            for finding in findings:
                what, mend = one_line(finding.what), one_line(finding.mend)
                self.stdout.write(f"{finding.severity:<7}  {finding.code}: {what} Mend: {mend}")
            if ok:
                self.stdout.write("Nothing is wrong.")
        if not ok:
            raise SystemExit(1)

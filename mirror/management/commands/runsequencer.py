from __future__ import annotations

import signal
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from mirror import oplogger
from mirror.conf import conf
from mirror.pruning import pruning
from mirror.sequencer import Sequencer, run


class Command(BaseCommand):
    help = "Give captured changes their place in the oplog, without serving it. Stops on SIGINT or SIGTERM."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--once", action="store_true", help="one pass, then exit")

    def handle(self, *args: Any, once: bool, **options: Any) -> None:
        if conf().capture is None:
            raise CommandError("nothing is captured here: MIRROR['CAPTURE'] is None")
        sequencer = Sequencer()
        if once:
            self.stdout.write(f"{sequencer.step()} changes")
            oplogger.tell(sequencer.using)
            return
        stopping = False

        def stop(*_: object) -> None:
            # Not an event: a signal that comes while its lock is held would wait for it for ever.
            nonlocal stopping
            stopping = True

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        with pruning():
            run(sequencer, stopped=lambda: stopping, sleep=time.sleep)

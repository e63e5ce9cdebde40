from __future__ import annotations

import itertools
import random
import signal
import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.db.models import F

from demo.polls.models import Choice, Question
from demo.polls.questions import QUESTIONS, ask

#: The traffic keeps this many polls of its own at most: a demo may be left running.
MOST_POLLS = 12

#: Seconds that a signal may have to wait.
_SLICE = 0.1


class Command(BaseCommand):
    help = "Vote at random, and sometimes ask something new, until stopped."

    _stopped = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--interval", type=float, default=1.5, help="Mean seconds between two writes.")

    def handle(self, *args: Any, **options: Any) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        chance = random.Random()
        for count in itertools.count():
            self._wait(chance.uniform(0.5, 1.5) * options["interval"])
            if self._stopped:
                return
            done = step(chance)
            # Rarely: the terminal also holds what the demo said to try.
            if count % 20 == 0:
                self.stdout.write(f"{done} (write {count + 1})")

    def _stop(self, *_: object) -> None:
        # Not an event: a signal that comes while its lock is held would wait for it for ever.
        self._stopped = True

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopped and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE))


def step(chance: random.Random) -> str:
    """Write once, and say what."""
    choices = list(Choice.objects.select_related("question"))
    if not choices or chance.random() < 0.04:
        text, answers = chance.choice(QUESTIONS)
        _make_room()
        return f"asked: {ask(text, answers)}"
    chosen = chance.choice(choices)
    chosen.votes = F("votes") + 1
    chosen.save()
    return f"voted: {chosen.question} {chosen}"


def _make_room() -> None:
    texts = [text for text, _ in QUESTIONS]
    ours = Question.objects.filter(question_text__in=texts).order_by("pub_date")
    for question in ours[: max(0, ours.count() - MOST_POLLS + 1)]:
        question.delete()

"""Runs with django-cqrs's interpreter: ``python -m bench.cqrs.program prepare|backlog|writer|remove``."""

from __future__ import annotations

import random
import sys
from datetime import UTC, datetime
from typing import Any

_MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
_RECENT = 20_000


def backlog(changes: int) -> None:
    """The transactions of ``bench.backlog``, through the ORM: django-cqrs listens to its signals."""
    from django.db import transaction

    from bench.cqrs.models import Choice, Question

    dice = random.Random(1)
    recent: list[Any] = []
    for number in range(changes // 10):
        with transaction.atomic():
            question = Question.objects.create(question_text=f"question {number}", pub_date=_MOMENT)
            for place in range(4):
                choice = Choice.objects.create(question_id=question.id, choice_text=f"choice {place}")
                recent.append(choice.id)
            del recent[:-_RECENT]
            # A row that two instances change in one transaction would be sent twice under one revision, and
            # the replica keeps the first.
            found: dict[Any, Any] = {}
            for _ in range(5):
                key = dice.choice(recent)
                chosen = found.get(key) or found.setdefault(key, Choice.objects.get(id=key))
                chosen.votes += 1
                chosen.save()


def writer(rate: float, count: int) -> None:
    from bench.cqrs.models import Question
    from bench.writer import paced

    def write(number: int) -> None:
        Question.objects.create(question_text=str(number), pub_date=_MOMENT)

    paced(rate, count, write)


def queues(remove: bool, exchange: str, names: list[str]) -> None:
    """Declare the exchange and its queues as a consumer would, or remove them."""
    import pika

    with pika.BlockingConnection(pika.ConnectionParameters(host="127.0.0.1")) as connection:
        channel = connection.channel()
        if remove:
            for name in names:
                channel.queue_delete(name)
                channel.queue_delete(f"{name}_dead")
            channel.exchange_delete(exchange)
            return
        channel.exchange_declare(exchange=exchange, exchange_type="topic", durable=True)
        for name in names:
            channel.queue_declare(name, durable=True)
            for key in ("question", "choice"):
                channel.queue_bind(exchange=exchange, queue=name, routing_key=key)


def main() -> None:
    import django

    django.setup()
    what, *arguments = sys.argv[1:]
    if what == "backlog":
        backlog(int(arguments[0]))
    elif what == "writer":
        writer(float(arguments[0]), int(arguments[1]))
    else:
        queues(what == "remove", arguments[0], arguments[1:])


if __name__ == "__main__":
    main()

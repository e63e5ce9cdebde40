"""Changes for a mirror to catch up: ``python -m bench.backlog COUNT SEED``, half inserts, half updates.

Ten changes in a transaction: a question, four of its choices, five votes for choices that are there
already. The same count gives the same rows, whatever the engine. Plain statements, because a backlog that
takes longer to make than to mirror is no fun. With ``--at-once`` all of them are questions of one
transaction; with ``--rows`` they are questions with their choices, and no votes.
"""

from __future__ import annotations

import random
import sys
import uuid
from typing import Any

#: Of a transaction, beside its question.
CHOICES = 4
VOTES = 5
PER_QUESTION = 1 + CHOICES
PER_TRANSACTION = PER_QUESTION + VOTES
#: Votes are for one of the newest choices: people vote for what is new.
_RECENT = 20_000
#: Rows of a statement.
_AT_ONCE = 10_000


def write(changes: int, *, seed: int) -> None:
    from django.db import connection, transaction

    from demo.polls.models import Choice, Question

    dice = random.Random(seed)
    question = _insert(connection, Question, ["id", "question_text", "pub_date"])
    choice = _insert(connection, Choice, ["id", "question_id", "choice_text", "votes"])
    quote = connection.ops.quote_name
    vote = f"UPDATE {quote('polls_choice')} SET votes = votes + 1 WHERE {quote('id')} = %s"
    recent: list[Any] = []
    moment = connection.ops.adapt_datetimefield_value(_moment())
    with connection.cursor() as cursor:
        for number in range(changes // PER_TRANSACTION):
            key = _uuid(dice, connection)
            choices = [[_uuid(dice, connection), key, f"choice {place}", 0] for place in range(CHOICES)]
            recent[len(recent) :] = [row[0] for row in choices]
            del recent[:-_RECENT]
            with transaction.atomic():
                cursor.execute(question, [key, f"question {number}", moment])
                cursor.executemany(choice, choices)
                cursor.executemany(vote, [[dice.choice(recent)] for _ in range(VOTES)])


def _insert(connection: Any, model: Any, columns: list[str]) -> str:
    names = ", ".join(map(connection.ops.quote_name, columns))
    table = connection.ops.quote_name(model._meta.db_table)
    return f"INSERT INTO {table} ({names}) VALUES ({', '.join(['%s'] * len(columns))})"


def _uuid(dice: random.Random, connection: Any) -> Any:
    value = uuid.UUID(int=dice.getrandbits(128), version=4)
    return value if connection.features.has_native_uuid_field else value.hex


def _moment() -> Any:
    from datetime import UTC, datetime

    return datetime(2026, 1, 1, tzinfo=UTC)


def write_at_once(changes: int, *, seed: int) -> None:
    """So many questions in one transaction."""
    from django.db import connection, transaction

    from demo.polls.models import Question

    dice = random.Random(seed)
    question = _insert(connection, Question, ["id", "question_text", "pub_date"])
    moment = connection.ops.adapt_datetimefield_value(_moment())
    with transaction.atomic(), connection.cursor() as cursor:
        for start in range(0, changes, _AT_ONCE):
            numbers = range(start, min(start + _AT_ONCE, changes))
            cursor.executemany(
                question, [[_uuid(dice, connection), f"question {number}", moment] for number in numbers]
            )


def write_rows(count: int, *, seed: int) -> None:
    """So many rows, each question with its choices."""
    from django.db import connection, transaction

    from demo.polls.models import Choice, Question

    dice = random.Random(seed)
    question = _insert(connection, Question, ["id", "question_text", "pub_date"])
    choice = _insert(connection, Choice, ["id", "question_id", "choice_text", "votes"])
    moment = connection.ops.adapt_datetimefield_value(_moment())
    questions = count // PER_QUESTION
    with transaction.atomic(), connection.cursor() as cursor:
        for start in range(0, questions, _AT_ONCE):
            numbers = range(start, min(start + _AT_ONCE, questions))
            keys = [_uuid(dice, connection) for _ in numbers]
            told = [[key, f"question {number}", moment] for key, number in zip(keys, numbers, strict=True)]
            cursor.executemany(question, told)
            choices = [
                [_uuid(dice, connection), key, f"choice {place}", 0]
                for key in keys
                for place in range(CHOICES)
            ]
            cursor.executemany(choice, choices)


#: By the option that asks for it.
_WAYS = {"--at-once": write_at_once, "--rows": write_rows}


def main() -> None:
    import django

    django.setup()
    count, seed = int(sys.argv[1]), int(sys.argv[2])
    (_WAYS[sys.argv[3]] if sys.argv[3:] else write)(count, seed=seed)


if __name__ == "__main__":
    main()

"""Questions for the demo to start with, and for its traffic to go on with."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import transaction
from django.utils import timezone

from demo.polls.models import Choice, Question

__all__ = ["QUESTIONS", "ask"]

QUESTIONS: Sequence[tuple[str, Sequence[str]]] = (
    ("What's new?", ("Not much", "The sky", "Just hacking again")),
    ("Tea or coffee?", ("Tea", "Coffee", "Water", "Both, in turn")),
    ("Which way is north?", ("Up", "Where the moss grows", "Ask the compass")),
    ("Best time to deploy?", ("Monday morning", "Friday afternoon", "Always", "Never")),
    ("Tabs or spaces?", ("Tabs", "Spaces", "The formatter knows")),
    ("How far is the centre?", ("A few milliseconds", "One ocean", "Out of reach today")),
)


@transaction.atomic
def ask(text: str, choices: Sequence[str]) -> Question:
    question = Question.objects.create(question_text=text, pub_date=timezone.now())
    Choice.objects.bulk_create(Choice(question=question, choice_text=choice) for choice in choices)
    return question

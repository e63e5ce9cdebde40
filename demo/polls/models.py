from __future__ import annotations

from django.db import models

from mirror.models import UUIDModel


class Question(UUIDModel):
    question_text = models.CharField(max_length=200)
    pub_date = models.DateTimeField("date published")

    def __str__(self) -> str:
        return self.question_text


class Choice(UUIDModel):
    question = models.ForeignKey(Question, to_field="id", on_delete=models.CASCADE)
    choice_text = models.CharField(max_length=200)
    votes = models.IntegerField(default=0)

    def __str__(self) -> str:
        return self.choice_text

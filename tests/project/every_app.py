"""For the type checker alone: it knows the managers of models whose apps are installed, and no others."""

from __future__ import annotations

from tests.project.settings import *  # noqa: F403
from tests.project.settings import INSTALLED_APPS as _OF_THE_PROJECT

INSTALLED_APPS = [
    *_OF_THE_PROJECT,
    "django.contrib.postgres",
    "demo.polls",
    "tests.project.library",
    "tests.zoo",
    "tests.zoo_postgresql",
    "tests.zoo_users",
]

from __future__ import annotations

from django.apps import AppConfig


class LibraryConfig(AppConfig):
    """What the write paths are tried on; installed by their tests only, made without migrations."""

    name = "tests.project.library"
    label = "library"
    default_auto_field = "django.db.models.BigAutoField"

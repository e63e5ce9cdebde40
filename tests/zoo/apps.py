from __future__ import annotations

from django.apps import AppConfig


class ZooConfig(AppConfig):
    """Installed by the tests of fields only; has no migrations: ``migrate --run-syncdb`` makes it."""

    name = "tests.zoo"
    label = "zoo"

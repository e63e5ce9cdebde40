from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db import connections
from django.db.models.signals import post_migrate, pre_migrate


class MirrorConfig(AppConfig):
    name = "mirror"
    label = "mirror"
    verbose_name = "Mirror"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from mirror import checks, readonly  # noqa: F401
        from mirror.capture import signals

        signals.switch()
        readonly.switch()
        readonly.let_people_log_in()
        pre_migrate.connect(_before_migrate, sender=self)
        post_migrate.connect(_after_migrate, sender=self)


def _before_migrate(*, using: str, apps: Any = None, plan: Any = (), **kwargs: Any) -> None:
    from mirror import capture
    from mirror.conf import conf

    if using == conf().database:
        capture.before_migrate(connections[using], past=apps, plan=plan)


def _after_migrate(*, using: str, **kwargs: Any) -> None:
    from mirror import capture
    from mirror.conf import conf

    if using == conf().database:
        capture.prepare(connections[using])

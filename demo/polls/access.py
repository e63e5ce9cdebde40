"""Which of the two servers this is, and so what people may do here."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest


def only_shows() -> bool:
    """True on the central server, which records nothing and therefore must not be written to."""
    return settings.MIRROR.get("CAPTURE", "triggers") is None


def server(request: HttpRequest) -> dict[str, bool]:
    """Context processor: ``only_shows`` for every template."""
    return {"only_shows": only_shows()}

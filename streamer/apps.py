from __future__ import annotations

import logging
from typing import Any

from django.apps import AppConfig
from django.core.handlers.asgi import ASGIHandler
from django.core.signals import request_started

logger = logging.getLogger("mirror.streamer")


class StreamerConfig(AppConfig):
    name = "streamer"
    label = "mirror_streamer"
    verbose_name = "Mirror: streamer"

    def ready(self) -> None:
        request_started.connect(_first_request, dispatch_uid="streamer.first_request")


def _first_request(sender: type, **kwargs: Any) -> None:
    """A server that answers requests also sequences; no command, and no test client, starts a thread."""
    request_started.disconnect(dispatch_uid="streamer.first_request")
    if issubclass(sender, ASGIHandler):
        from mirror.errors import ConfigurationError
        from streamer.hub import hub

        try:
            hub().start()
        except ConfigurationError as error:
            logger.error("nothing is sequenced or streamed: %s", error)

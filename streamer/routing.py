"""WebSocket routes, for a host project's own ``asgi.py``."""

from __future__ import annotations

from channels.auth import AuthMiddlewareStack
from channels.security.websocket import AllowedHostsOriginValidator
from django.urls import URLPattern, path

from streamer.consumers import StreamConsumer
from streamer.live import LiveConsumer

# Django's ``path`` routes any callable; its type speaks of views only.
websocket_urlpatterns: list[URLPattern] = [
    # Outside the Origin validator, which refuses whoever sends none: machines do not.
    path("mirror/stream/", StreamConsumer.as_asgi()),  # type: ignore[arg-type]
    path("mirror/live/", AllowedHostsOriginValidator(AuthMiddlewareStack(LiveConsumer.as_asgi()))),
]

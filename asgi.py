"""The composition root: HTTP and WebSocket for ``daphne asgi:application``.

DJANGO_SETTINGS_MODULE names the project; without it, the demo's local server is served. Nobody imports
this module.
"""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo.settings.local")

# Fills the app registry, which the imports below need.
http = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import re_path  # noqa: E402

from streamer.consumers import NoSuchRoute  # noqa: E402
from streamer.routing import websocket_urlpatterns  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": http,
        "websocket": URLRouter([*websocket_urlpatterns, re_path("", NoSuchRoute.as_asgi())]),
    }
)

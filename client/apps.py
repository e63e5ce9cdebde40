from __future__ import annotations

from django.apps import AppConfig


class ClientConfig(AppConfig):
    name = "client"
    label = "mirror_client"
    verbose_name = "Mirror: client"

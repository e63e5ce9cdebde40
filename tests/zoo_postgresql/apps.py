from __future__ import annotations

from django.apps import AppConfig


class ZooPostgresqlConfig(AppConfig):
    name = "tests.zoo_postgresql"
    label = "zoo_postgresql"

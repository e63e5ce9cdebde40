from __future__ import annotations

from django.apps import AppConfig


class ZooUsersConfig(AppConfig):
    name = "tests.zoo_users"
    label = "zoo_users"

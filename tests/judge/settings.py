"""For one run of the suite: Django's own settings for tests, on the engine that the environment names."""

from __future__ import annotations

import json
import os

_ENGINES = {
    "sqlite": {"ENGINE": "django.db.backends.sqlite3"},
    "postgresql": {
        "ENGINE": "django.db.backends.postgresql",
        "USER": "postgres",
        "HOST": "127.0.0.1",
        "PORT": "5432",
    },
    "mariadb": {
        "ENGINE": "django.db.backends.mysql",
        "USER": "root",
        "HOST": "127.0.0.1",
        "PORT": "3306",
        "OPTIONS": {"charset": "utf8mb4"},
    },
}

_engine = os.environ["JUDGE_ENGINE"]
if _engine == "mariadb":
    from tests import mysql_driver

    mysql_driver.install()


def _database(alias: str) -> dict[str, object]:
    settings: dict[str, object] = {**_ENGINES[_engine], **json.loads(os.environ.get("JUDGE_DATABASE", "{}"))}
    if _engine != "sqlite":
        name = f"livemirror_judge_{os.getpid()}_{alias}"
        settings |= {"NAME": name, "TEST": {"NAME": f"test_{name}"}}
        if _engine == "mariadb":
            settings["TEST"] = {"NAME": f"test_{name}", "CHARSET": "utf8mb4"}
    return settings


DATABASES = {alias: _database(alias) for alias in ("default", "other")}
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False

if os.environ["JUDGE_CAPTURE"] == "on":
    MIRROR = {"MODELS": ["*.*"]}

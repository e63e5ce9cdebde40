"""A host project for the tests: its own models, one settings module for either side.

The environment says which side: MIRROR_TEST_DB (a database URL in small), MIRROR_TEST_ROLE
("source" or "centre").
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent

SECRET_KEY = "tests-only"
DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "testserver"]
USE_TZ = True
TIME_ZONE = "UTC"
ROOT_URLCONF = "tests.project.urls"
ASGI_APPLICATION = "asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"

ROLE = os.environ.get("MIRROR_TEST_ROLE", "source")

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "mirror",
    "streamer",
    "client",
    "tests.project.shop",
]

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {
    "default": json.loads(os.environ["MIRROR_TEST_DB"])
    if "MIRROR_TEST_DB" in os.environ
    else {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # On disk: threads share an in-memory database only under locks that fail instead of wait.
    DATABASES["default"].setdefault(
        "TEST", {"NAME": str(Path(tempfile.gettempdir()) / f"livemirror-{os.getpid()}.sqlite3")}
    )
    DATABASES["default"].setdefault(
        "OPTIONS",
        {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;",
        },
    )
if DATABASES["default"]["ENGINE"].endswith("mysql"):
    from tests import mysql_driver

    mysql_driver.install()

MIRROR = {
    "MODELS": ["shop.*"],
    "CAPTURE": "triggers" if ROLE == "source" else None,
    **json.loads(os.environ.get("MIRROR_TEST_CONF", "{}")),
}

CHANNEL_LAYERS = json.loads(os.environ.get("MIRROR_TEST_LAYERS", "{}"))

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"mirror": {"handlers": ["console"], "level": "INFO"}},
}
if "MIRROR_TEST_OPLOG" in os.environ:
    LOGGING["handlers"]["oplog"] = {
        "class": "logging.FileHandler",
        "filename": os.environ["MIRROR_TEST_OPLOG"],
        "formatter": "plain",
    }
    LOGGING["formatters"] = {"plain": {"format": "%(message)s"}}
    LOGGING["loggers"]["oplogger"] = {"handlers": ["oplog"], "level": "INFO", "propagate": False}

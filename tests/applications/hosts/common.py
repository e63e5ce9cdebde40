"""What the host projects share. The environment says which side this is, as in tests.project.settings."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

#: Files that people upload, and nothing else: only rows are mirrored.
MEDIA_ROOT = str(Path(os.environ.get("MIRROR_TEST_MEDIA", "media")).resolve())
MEDIA_URL = "/media/"
STATIC_URL = "/static/"

SECRET_KEY = "tests-only"
DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# One round: the tests make many passwords, and guard nothing.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"

ROLE = os.environ.get("MIRROR_TEST_ROLE", "source")

DJANGO_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIRROR_APPS = ["mirror", "streamer"] if ROLE == "source" else ["mirror", "streamer", "client"]
#: A centre has apps of its own. They come first, so that it numbers content types and permissions otherwise.
OWN_APPS = [] if ROLE == "source" else ["django.contrib.sites", "django.contrib.flatpages"]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]

DATABASES = {"default": json.loads(os.environ.get("MIRROR_TEST_DB", "{}"))}
if DATABASES["default"].get("ENGINE", "").endswith("sqlite3"):
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;",
    }

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}


def templates(*processors: str, builtins: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    return [
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "DIRS": [],
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                    *processors,
                ],
                "builtins": list(builtins),
            },
        }
    ]


def mirror(models: list[str], **keys: Any) -> dict[str, Any]:
    """The MIRROR setting of this side."""
    capture = {} if ROLE == "source" else {"CAPTURE": None}
    return {"MODELS": models, **capture, **keys, **json.loads(os.environ.get("MIRROR_TEST_CONF", "{}"))}

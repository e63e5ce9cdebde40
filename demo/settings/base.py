"""What the demo's two servers have in common. For a demonstration on one machine, and nothing else.

MIRROR_DEMO_VAR moves everything that is written (databases, logs), so that several copies can run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

BASE_DIR = Path(__file__).resolve().parent.parent
VAR = Path(os.environ.get("MIRROR_DEMO_VAR", BASE_DIR / "var")).resolve()
LOGS = VAR / "logs"
LOGS.mkdir(parents=True, exist_ok=True)

SECRET_KEY = "demo-only-and-public-never-use-this-key-for-a-site-of-your-own"
DEBUG = True
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
ROOT_URLCONF = "demo.urls"
ASGI_APPLICATION = "asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGIN_URL = "admin:login"
STATIC_URL = "/static/"
USE_TZ = True
TIME_ZONE = "UTC"

INSTALLED_APPS = [
    "daphne",
    "servestatic",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "mirror",
    "streamer",
    "demo.polls",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    # Serves the apps' static files under bare daphne, straight from where they lie: no collectstatic.
    "servestatic.middleware.ServeStaticMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
SERVESTATIC_USE_FINDERS = True
SERVESTATIC_AUTOREFRESH = True

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "demo.polls.access.server",
            ]
        },
    }
]


def sqlite(name: str) -> dict[str, dict[str, Any]]:
    """DATABASES for one SQLite file that several processes read and write at once."""
    return {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": VAR / name,
            "OPTIONS": {
                # Takes the write lock when a transaction begins: one that began with a read would
                # otherwise fail at once, without waiting, when another process wrote meanwhile.
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;",
            },
        }
    }


LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "short": {"format": "%(levelname)s %(name)s: %(message)s"},
        "plain": {"format": "%(message)s"},
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "short"}},
    "loggers": {
        name: {"handlers": ["console"], "level": "INFO", "propagate": False} for name in ("mirror", "django")
    },
}
# Not each browser's wish for a /favicon.ico.
LOGGING["loggers"]["django.request"] = {"level": "ERROR"}

"""Settings of every benched server: the polls models, and from the environment the database and MIRROR.

BENCH_DB is an entry of DATABASES as JSON, BENCH_MIRROR the MIRROR setting as JSON.
"""

from __future__ import annotations

import json
import os

SECRET_KEY = "bench-only"
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "bench.urls"
ASGI_APPLICATION = "asgi.application"
STATIC_URL = "static/"

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "mirror",
    "streamer",
    "client",
    "demo.polls",
]

DATABASES = {"default": json.loads(os.environ["BENCH_DB"])}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # What the README advises.
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;",
    }
if DATABASES["default"]["ENGINE"].endswith("mysql"):
    from tests import mysql_driver

    mysql_driver.install()

# No limit: an oplog of ten million changes is larger than the default allows. Nothing is compared meanwhile.
MIRROR = {
    "MODELS": ["polls.*"],
    "OPLOG_BYTES": None,
    "VERIFY_DAYS": None,
    **json.loads(os.environ.get("BENCH_MIRROR", "{}")),
}

# The benches read in runmirror's log when it began and when it was level.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"timed": {"format": "%(created).6f %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "timed"}},
    "loggers": {"mirror.client": {"handlers": ["console"], "level": "INFO"}},
}

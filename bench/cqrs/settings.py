"""Settings of django-cqrs's two sides. BENCH_DB: an entry of DATABASES as JSON; BENCH_CQRS: the role."""

from __future__ import annotations

import json
import os

_ours = json.loads(os.environ["BENCH_CQRS"])
ROLE = _ours["role"]

SECRET_KEY = "bench-only"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["dj_cqrs", "bench.cqrs"]
DATABASES = {"default": {**json.loads(os.environ["BENCH_DB"]), "CONN_MAX_AGE": None}}
CQRS = {
    "transport": "dj_cqrs.transport.RabbitMQTransport",
    "url": "amqp://guest:guest@127.0.0.1:5672/",
    "exchange": _ours["exchange"],
    "queue": _ours["queue"],
    "master": {"CQRS_MESSAGE_TTL": None},
    "replica": {"dead_letter_queue": f"{_ours['queue']}_dead"},
}
# A line for every message would be part of what is measured.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django-cqrs": {"handlers": ["console"], "level": "ERROR"}, "pika": {"level": "ERROR"}},
}

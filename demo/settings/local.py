"""The local server: people write to it, and every committed change of the polls is recorded."""

from __future__ import annotations

from demo.settings.base import *  # noqa: F403
from demo.settings.base import LOGGING, LOGS, sqlite

DATABASES = sqlite("local.sqlite3")

MIRROR = {"MODELS": ["polls.*"]}

# Browsers keep one set of cookies for all ports of a host: with equal names, logging in on one server
# would log out of the other.
SESSION_COOKIE_NAME = "local_sessionid"
CSRF_COOKIE_NAME = "local_csrftoken"

LOGGING["handlers"]["oplog"] = {
    "class": "logging.handlers.RotatingFileHandler",
    "filename": LOGS / "oplog.log",
    "maxBytes": 10 * 1024 * 1024,
    "backupCount": 3,
    # Only the process that sequences writes to the file; no other needs to open it.
    "delay": True,
    "encoding": "utf-8",
    "formatter": "plain",
}
LOGGING["loggers"]["oplogger"] = {"handlers": ["oplog"], "level": "INFO", "propagate": False}

"""The central server: it only shows what the local one recorded."""

from __future__ import annotations

from demo.settings.base import *  # noqa: F403
from demo.settings.base import INSTALLED_APPS, sqlite

INSTALLED_APPS = [*INSTALLED_APPS, "client"]

DATABASES = sqlite("central.sqlite3")

MIRROR = {"MODELS": ["polls.*"], "CAPTURE": None}

SESSION_COOKIE_NAME = "central_sessionid"
CSRF_COOKIE_NAME = "central_csrftoken"

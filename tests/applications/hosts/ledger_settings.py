"""django-ledger, as its documentation sets it up."""

from __future__ import annotations

from tests.applications.hosts.common import *  # noqa: F403
from tests.applications.hosts.common import DJANGO_APPS, MIRROR_APPS, OWN_APPS, mirror, templates

ROOT_URLCONF = "tests.applications.hosts.ledger_urls"
TEMPLATES = templates("django_ledger.context.django_ledger_context")
INSTALLED_APPS = [*OWN_APPS, *DJANGO_APPS, "django_ledger", *MIRROR_APPS]
LOGIN_URL = "/ledger/auth/login/"

MIRROR = mirror(["auth.*", "django_ledger.*"], EXCLUDE_FIELDS=["auth.User.password"])

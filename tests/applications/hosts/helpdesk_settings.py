"""django-helpdesk, as its documentation sets it up."""

from __future__ import annotations

from tests.applications.hosts.common import *  # noqa: F403
from tests.applications.hosts.common import DJANGO_APPS, MIRROR_APPS, OWN_APPS, mirror, templates

ROOT_URLCONF = "tests.applications.hosts.helpdesk_urls"
TEMPLATES = templates()
LOGIN_URL = "helpdesk:login"
LOGIN_REDIRECT_URL = "helpdesk:dashboard"

INSTALLED_APPS = [
    *(OWN_APPS or ["django.contrib.sites"]),
    *DJANGO_APPS,
    "django.contrib.humanize",
    "rest_framework",
    "django_cleanup.apps.CleanupConfig",
    "helpdesk",
    *MIRROR_APPS,
]
SITE_ID = 1

HELPDESK_PUBLIC_ENABLED = True
HELPDESK_VIEW_A_TICKET_PUBLIC = True
HELPDESK_SUBMIT_A_TICKET_PUBLIC = True
HELPDESK_TEAMS_MODE_ENABLED = False
HELPDESK_KB_ENABLED = True

MIRROR = mirror(
    ["auth.*", "sites.*", "helpdesk.*"],
    EXCLUDE_FIELDS=["auth.User.password", "helpdesk.Queue.email_box_pass"],
)

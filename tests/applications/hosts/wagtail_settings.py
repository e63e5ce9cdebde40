"""Wagtail with the demosite of its own distribution, as its documentation sets it up."""

from __future__ import annotations

from tests.applications.hosts.common import *  # noqa: F403
from tests.applications.hosts.common import DJANGO_APPS, MIDDLEWARE, MIRROR_APPS, OWN_APPS, mirror, templates

ROOT_URLCONF = "tests.applications.hosts.wagtail_urls"
TEMPLATES = templates("wagtail.contrib.settings.context_processors.settings")

INSTALLED_APPS = [
    *OWN_APPS,
    "wagtail.test.demosite",
    "wagtail.contrib.forms",
    "wagtail.contrib.redirects",
    "wagtail.contrib.search_promotions",
    "wagtail.contrib.settings",
    "wagtail.embeds",
    "wagtail.sites",
    "wagtail.locales",
    "wagtail.users",
    "wagtail.snippets",
    "wagtail.documents",
    "wagtail.images",
    "wagtail.search",
    "wagtail.admin",
    "wagtail.api.v2",
    "wagtail",
    "modelcluster",
    "taggit",
    "rest_framework",
    "django_filters",
    *DJANGO_APPS,
    *MIRROR_APPS,
]

MIDDLEWARE = [*MIDDLEWARE, "wagtail.contrib.redirects.middleware.RedirectMiddleware"]

WAGTAIL_I18N_ENABLED = True
WAGTAIL_CONTENT_LANGUAGES = LANGUAGES = [("en", "English"), ("fr", "French")]
WAGTAIL_SITE_NAME = "Mirrored"
WAGTAILADMIN_BASE_URL = "http://127.0.0.1"

MIRROR = mirror(
    [
        "auth.*",
        "taggit.*",
        "wagtailcore.*",
        "wagtailadmin.*",
        "wagtailimages.*",
        "wagtaildocs.*",
        "wagtailembeds.*",
        "wagtailforms.*",
        "wagtailredirects.*",
        "wagtailsearch.*",
        "wagtailsearchpromotions.*",
        "wagtailusers.*",
        "demosite.*",
    ],
    EXCLUDE_FIELDS=["auth.User.password"],
)

"""django-oscar, as its documentation sets it up."""

from __future__ import annotations

import oscar
from oscar.defaults import *  # noqa: F403

from tests.applications.hosts.common import *  # noqa: F403
from tests.applications.hosts.common import MIDDLEWARE, MIRROR_APPS, mirror, templates

ROOT_URLCONF = "tests.applications.hosts.oscar_urls"
TEMPLATES = templates(
    "django.template.context_processors.i18n",
    "oscar.apps.search.context_processors.search_form",
    "oscar.apps.checkout.context_processors.checkout",
    "oscar.apps.communication.notifications.context_processors.notifications",
    "oscar.core.context_processors.metadata",
)
# A centre has apps of its own; first, so that it numbers content types and permissions otherwise.
INSTALLED_APPS = [
    *([] if MIRROR_APPS[-1] == "streamer" else ["django.contrib.redirects"]),
    *oscar.INSTALLED_APPS,
    "sorl.thumbnail",
    *MIRROR_APPS,
]
MIDDLEWARE = [*MIDDLEWARE, "oscar.apps.basket.middleware.BasketMiddleware"]
AUTHENTICATION_BACKENDS = [
    "oscar.apps.customer.auth_backends.EmailBackend",
    "django.contrib.auth.backends.ModelBackend",
]
HAYSTACK_CONNECTIONS = {"default": {"ENGINE": "haystack.backends.simple_backend.SimpleEngine"}}
SITE_ID = 1
OSCAR_ALLOW_ANON_CHECKOUT = True
OSCAR_DEFAULT_CURRENCY = "EUR"

MIRROR = mirror(
    [
        "auth.*",
        "sites.*",
        "flatpages.*",
        "address.*",
        "analytics.*",
        "basket.*",
        "catalogue.*",
        "communication.*",
        "customer.*",
        "offer.*",
        "order.*",
        "partner.*",
        "payment.*",
        "reviews.*",
        "shipping.*",
        "thumbnail.*",
        "voucher.*",
        "wishlists.*",
    ],
    EXCLUDE_FIELDS=["auth.User.password"],
)

from __future__ import annotations

from tests.project.settings import *  # noqa: F403
from tests.project.settings import INSTALLED_APPS

AUTH_USER_MODEL = "zoo_users.Person"
# The admin's own tables would want migrations of the user model.
INSTALLED_APPS = [name for name in INSTALLED_APPS if name != "django.contrib.admin"] + ["tests.zoo_users"]
MIRROR = {"MODELS": ["zoo_users.*", "auth.*"], "EXCLUDE_FIELDS": ["zoo_users.Person.password"]}
ROOT_URLCONF = ""

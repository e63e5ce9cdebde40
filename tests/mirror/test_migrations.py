from __future__ import annotations

import pytest
from django.core.management import call_command

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("app", ["mirror", "shop"])
def test_the_migrations_say_what_the_models_say(app):
    call_command("makemigrations", app, check=True, dry_run=True, verbosity=0)

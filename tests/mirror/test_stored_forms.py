"""SQLite keeps a value in whatever form it was written: a mirror on SQLite has that form too."""

from __future__ import annotations

from decimal import Decimal

import pytest
from django.db import connection, connections

from tests.mirror.conftest import VENDORS
from tests.project.shop.models import Sink

pytestmark = pytest.mark.parametrize("vendor", VENDORS, indirect=True)


def stored(source) -> int:
    """A decimal of more places than its field has, as F() expressions leave it, and a time with a T."""
    sink = Sink.objects.create(exact=Decimal("1.5"))
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE shop_sink SET exact = 3.8870999999999998, moment = '2026-05-31T08:00:00' WHERE pkid = %s",
            [sink.pk],
        )
    return sink.pk


def test_a_change_says_what_is_stored_and_what_django_reads(source, centre):
    stored(source)
    change = source.news()[-1]
    assert change.fields["exact"] == {"$sqlite": 3.8870999999999998, "$read": "3.88710"}
    assert change.fields["moment"] == {"$sqlite": "2026-05-31T08:00:00", "$read": "2026-05-31T08:00:00Z"}


def test_the_same_kind_of_database_takes_what_is_stored_and_another_what_django_reads(source, centre, vendor):
    pk = stored(source)
    centre.follow(source)
    sink = Sink.objects.using("centre").get(id=Sink.objects.get(pk=pk).id)
    assert sink.exact == Decimal("3.88710")
    assert sink.moment.isoformat() == "2026-05-31T08:00:00+00:00"
    if vendor == "sqlite":
        with connections["centre"].cursor() as cursor:
            cursor.execute("SELECT exact, moment || '' FROM shop_sink")
            assert cursor.fetchall() == [(3.8870999999999998, "2026-05-31T08:00:00")]

"""The books of a source at the centre."""

from __future__ import annotations

import pytest
from django.db import connections, transaction

from mirror.apply.ledger import Ledger
from mirror.errors import Superseded
from tests.mirror.conftest import VENDORS

everywhere = pytest.mark.parametrize("vendor", VENDORS, indirect=True)


@everywhere
def test_who_holds_another_fence_gets_nothing(centre):
    ledger = Ledger(connections["centre"], centre.source.pk, fence=centre.source.fence + 1)
    with pytest.raises(Superseded), transaction.atomic(using="centre"):
        ledger.lock()


@everywhere
def test_the_standing_is_what_the_source_s_row_says(centre):
    centre.source.cursor, centre.source.position, centre.source.mark = 12, 3, "ab"
    centre.source.save()
    ledger = Ledger(connections["centre"], centre.source.pk, fence=centre.source.fence)
    with transaction.atomic(using="centre"):
        standing = ledger.lock()
    assert (standing.cursor, standing.position, standing.mark) == (12, 3, "ab")


@pytest.mark.parametrize("vendor", [VENDORS[1]], indirect=True)
def test_on_postgresql_only_the_mirror_s_own_commit_does_not_wait_for_the_disk(centre):
    ledger = Ledger(connections["centre"], centre.source.pk, fence=centre.source.fence)
    before = waits_for_the_disk()
    with transaction.atomic(using="centre"):
        ledger.lock()
        assert waits_for_the_disk() == "off"
    assert waits_for_the_disk() == before != "off"


def waits_for_the_disk() -> str:
    with connections["centre"].cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        return cursor.fetchone()[0]

"""Who follows is written down, whatever a mirror says of itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from mirror import mirrors
from mirror.mirrors import Heard
from mirror.models import Mirror, Oplog, Stream
from tests.mirror.conftest import VENDORS

pytestmark = pytest.mark.parametrize("vendor", VENDORS, indirect=True)

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def stream(centre) -> Stream:
    """At 10, 20, 30, of which the first is pruned."""
    Stream.objects.using("centre").all().delete()
    stream = Stream.objects.using("centre").create(
        local=True, head=30, position=3, anchor=10, anchor_position=1
    )
    for position in (2, 3):
        Oplog.objects.using("centre").create(
            stream=stream, ts=position * 10, position=position, op="SAVE", model="a.b", key="1",
            ends_group=True, body="{}",
        )  # fmt: skip
    return stream


def note(*heard: Heard, now: datetime = NOW) -> None:
    mirrors.note(heard, now, "centre")


def rows() -> list[tuple[str, str, int, int]]:
    found = Mirror.objects.using("centre").order_by("token", "mirror")
    return list(found.values_list("token", "mirror", "cursor", "position"))


def test_a_mirror_is_written_down_once_and_then_moved_on(stream):
    uuid = str(stream.uuid)
    note(Heard(uuid, "office", "m", 10), Heard(uuid, "shop", "m", 30))
    later = NOW + timedelta(seconds=5)
    note(Heard(uuid, "office", "m", 20), now=later)
    assert rows() == [("office", "m", 20, 2), ("shop", "m", 30, 3)]
    office = Mirror.objects.using("centre").get(token="office")
    assert (office.first_seen, office.last_seen) == (NOW, later)


def test_it_is_written_by_one_statement_however_many_there_are(stream):
    heard = [Heard(str(stream.uuid), "office", f"m{number}", 30) for number in range(5)]
    with CaptureQueriesContext(connections["centre"]) as captured:
        note(*heard)
    assert sum("INSERT" in query["sql"] for query in captured.captured_queries) == 1
    assert len(rows()) == 5


@pytest.mark.parametrize(("cursor", "position"), [(0, 1), (10, 1), (15, 1), (20, 2), (29, 2), (10**18, 3)])
def test_the_position_of_any_cursor_is_known(stream, cursor, position):
    note(Heard(str(stream.uuid), "office", "m", cursor))
    assert rows() == [("office", "m", cursor, position)]


def test_a_mirror_that_went_back_to_a_backup_is_believed(stream):
    """F12: what it lacks now is what is to be kept."""
    note(Heard(str(stream.uuid), "office", "m", 30))
    note(Heard(str(stream.uuid), "office", "m", 10))
    assert rows() == [("office", "m", 10, 1)]


@pytest.mark.parametrize(
    "name", ["", "\0", "\ud800", "\U0001f600" * 100, "x" * 100, "ä" * 100, "a'b\"c\\", " "]
)
def test_no_name_that_a_mirror_chooses_keeps_the_others_from_being_noted(stream, name):
    """F60."""
    uuid = str(stream.uuid)
    note(Heard(uuid, "office", name, 20), Heard(uuid, "office", name, 20), Heard(uuid, "office", "m", 30))
    assert len(rows()) == 2
    assert ("office", "m", 30, 3) in rows()


def test_names_that_fit_no_column_apart_share_a_row(stream):
    """PostgreSQL refuses a statement that touches a row twice."""
    uuid = str(stream.uuid)
    note(*(Heard(uuid, "office", "ä" * 98 + tail, 20) for tail in ("1", "2")))
    assert len(rows()) == 1


def test_a_stream_that_is_gone_is_passed_over(stream):
    note(
        Heard("00000000-0000-0000-0000-000000000000", "office", "m", 5), Heard(str(stream.uuid), "o", "m", 20)
    )
    assert rows() == [("o", "m", 20, 2)]


def test_one_token_has_no_more_than_so_many_mirrors(stream, monkeypatch):
    monkeypatch.setattr(mirrors, "_MOST", 3)
    uuid = str(stream.uuid)
    note(Heard(uuid, "shop", "m", 20), now=NOW - timedelta(days=9))
    for number in range(5):
        heard = Heard(uuid, "office", f"m{number}", 20)
        note(heard, now=NOW + timedelta(seconds=number))
        mirrors.bound(heard, "centre")
    assert [mirror for _, mirror, *_ in rows()] == ["m2", "m3", "m4", "m"]

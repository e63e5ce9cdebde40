from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from django.db import connection
from django.db.utils import OperationalError
from django.test.utils import CaptureQueriesContext

from mirror.changes import Op
from mirror.models import Oplog, Outbox, Source, Stream, Verification
from streamer.browser import EMPTY, ROOM, Batch, Filter
from streamer.cards import LOCAL_NAME
from streamer.feed import Feed, Step
from streamer.lines import share
from streamer.presence import Presence, present
from tests.streamer.records import NOW, SECOND, follow, local_stream, moment, record, record_many

pytestmark = pytest.mark.django_db


@pytest.fixture
def feed() -> Feed:
    feed = Feed()
    feed.step(NOW)
    return feed


def news(feed: Feed, wanted: Filter = EMPTY, now: int = NOW) -> Batch:
    return feed.step(now, following=[wanted]).news[wanted]


def newest(feed: Feed, wanted: Filter = EMPTY, now: int = NOW) -> Batch:
    return feed.step(now, starting=[wanted]).starts[wanted]


def card(step: Step, name: str) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(step.cards[name])
    return decoded


# Changes


def test_a_change_is_told_once(feed: Feed) -> None:
    record(local_stream(), {"name": "A"}, ts=NOW + 1)
    (line,) = news(feed).lines
    assert (line.ts, line.source, line.op, line.kind) == (NOW + 1, LOCAL_NAME, "SAVE", "created")
    assert (line.model, line.key, line.summary) == ("shop.brand", "k1", "name A")
    assert news(feed) == Batch(lines=[])


def test_a_change_is_told_as_what_it_did_to_its_row(feed: Feed) -> None:
    stream = local_stream()
    record(stream, {"name": "A"})
    record(stream, {"name": "of another row"}, key="k2")
    record(stream, {"name": "B"})
    record(stream, {"name": "B"}, op=Op.DELETE)
    record(stream, {"name": "C"})
    told = [(line.kind, line.summary) for line in news(feed).lines if line.key == "k1"]
    assert told == [
        ("created", "name A"),
        ("changed", "name A → B"),
        ("deleted", "name B"),
        ("created", "name C"),
    ]


def test_rows_of_other_streams_with_the_same_key_are_other_rows(feed: Feed) -> None:
    for name in ("paris", "lyon"):
        stream = Stream.objects.create()
        follow(name, stream=stream)
        record(stream, {"name": name}, key="1")
    assert {line.kind for line in news(feed).lines} == {"created"}


def test_beyond_what_a_page_can_take_the_newest_are_told_and_the_rest_is_counted(feed: Feed) -> None:
    record_many(local_stream(), 1234)
    batch = news(feed)
    assert [line.ts for line in batch.lines] == list(range(NOW + 1235 - ROOM, NOW + 1235))
    assert batch.skipped == 1234 - ROOM


def test_a_busy_stream_does_not_hide_a_quiet_one(feed: Feed) -> None:
    busy, quiet = Stream.objects.create(), Stream.objects.create()
    follow("busy", stream=busy)
    follow("quiet", stream=quiet)
    record(quiet, {"name": "seldom"}, ts=NOW + 1)
    record_many(busy, 500, first=NOW + 10)
    batch = news(feed)
    assert "quiet" in {line.source for line in batch.lines}
    assert (len(batch.lines), batch.skipped) == (ROOM, 501 - ROOM)


@pytest.mark.parametrize(
    ("wishes", "granted"),
    [
        ({}, {}),
        ({"a": 10}, {"a": 10}),
        ({"a": 500}, {"a": 50}),
        ({"a": 500, "b": 500}, {"a": 25, "b": 25}),
        ({"a": 1, "b": 500, "c": 500}, {"a": 1, "b": 25, "c": 24}),
        ({str(number): 1 for number in range(200)}, None),
    ],
)
def test_room_is_shared_fairly(wishes: dict[str, int], granted: dict[str, int] | None) -> None:
    shared = share(wishes, ROOM)
    assert sum(shared.values()) == min(ROOM, sum(wishes.values()))
    assert granted is None or shared == granted


def test_the_newest_changes_of_all_streams_start_a_page(feed: Feed) -> None:
    for number in range(10):
        stream = Stream.objects.create()
        follow(f"source{number}", stream=stream)
        record_many(stream, 20, first=NOW + number, step=10)
    lines = newest(feed).lines
    assert [line.ts for line in lines] == [NOW + 150 + offset for offset in range(50)]


def test_a_page_that_starts_misses_nothing_and_gets_nothing_twice(feed: Feed) -> None:
    stream = local_stream()
    record(stream, {}, ts=NOW + 1)
    started = newest(feed).lines
    record(stream, {}, ts=NOW + 2)
    assert [line.ts for line in [*started, *news(feed).lines]] == [NOW + 1, NOW + 2]


def test_a_stream_that_went_back_is_followed_from_where_it_is(feed: Feed) -> None:
    stream = local_stream()
    record_many(stream, 10)
    feed.step(NOW)
    Oplog.objects.filter(ts__gt=NOW + 5).delete()
    Stream.objects.filter(pk=stream.pk).update(head=NOW + 5, position=5)
    assert news(feed).lines == []
    stream.refresh_from_db()
    record(stream, {}, ts=NOW + 6)
    assert [line.ts for line in news(feed).lines] == [NOW + 6]


def test_a_failed_look_loses_nothing(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    record(local_stream(), {})

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OperationalError("gone")

    with monkeypatch.context() as patch:
        patch.setattr("streamer.feed.read", fail)
        with pytest.raises(OperationalError):
            news(feed)
    assert len(news(feed).lines) == 1


def test_a_stream_whose_source_was_removed_goes_by_its_uuid(feed: Feed) -> None:
    stream = Stream.objects.create()
    record(stream, {})
    assert [line.source for line in news(feed).lines] == [str(stream.uuid)[:8]]


def test_a_huge_change_is_listed_without_being_read(feed: Feed) -> None:
    stream = local_stream()
    record(stream, {"text": "x" * 200_000})
    record(stream, {"text": "small"})
    summaries = [line.summary for line in news(feed).lines]
    assert summaries[0].startswith("a change of 200,")
    # Its row before was too large to compare with.
    assert summaries[1] == "text small"


def test_a_row_of_the_oplog_that_cannot_be_read_does_not_stop_the_others(feed: Feed) -> None:
    stream = local_stream()
    Oplog.objects.filter(pk=record(stream, {}).pk).update(body="{broken")
    record(stream, {"name": "fine"}, key="k2")
    assert len(news(feed).lines) == 2


# Filters


@pytest.fixture
def mixed(feed: Feed) -> Feed:
    paris = Stream.objects.create()
    follow("paris", stream=paris)
    record(paris, {"name": "Lampe"}, model="shop.product", key="p1")
    record(paris, {"name": "Lampe"}, model="shop.product", key="p1", op=Op.DELETE)
    record(local_stream(), {"label": 'He said "50%"'}, model="shop.tag", key="t1")
    record(local_stream(), {"label": "grün_weiß"}, model="shop.tag", key="t2")
    return feed


@pytest.mark.parametrize(
    ("wanted", "keys"),
    [
        (Filter(source="paris"), ["p1", "p1"]),
        (Filter(source=LOCAL_NAME), ["t1", "t2"]),
        (Filter(source="nowhere"), []),
        (Filter(model="shop.product"), ["p1", "p1"]),
        (Filter(model="TAG"), ["t1", "t2"]),
        (Filter(op="DELETE"), ["p1"]),
        (Filter(text="lampe"), ["p1", "p1"]),
        (Filter(text='said "50'), ["t1"]),  # a quote is escaped in JSON
        (Filter(text="0%"), ["t1"]),  # no wildcard
        (Filter(text="n_w"), ["t2"]),
        (Filter(text="ün_weiß"), ["t2"]),
        (Filter(text="\\"), []),  # nor the escape itself
        (Filter(source="paris", op="SAVE", text="lampe"), ["p1"]),
    ],
)
def test_a_filter_lets_through_what_it_names_both_old_and_new(
    mixed: Feed, wanted: Filter, keys: list[str]
) -> None:
    step = mixed.step(NOW, following=[wanted], starting=[wanted])
    assert sorted(line.key for line in step.news[wanted].lines) == keys
    assert sorted(line.key for line in step.starts[wanted].lines) == keys


def test_a_filter_finds_its_rows_in_a_stream_that_is_too_busy_to_be_shown(feed: Feed) -> None:
    stream = local_stream()
    record(stream, {"name": "needle"}, ts=NOW + 1)
    record_many(stream, 500, first=NOW + 2)
    batch = news(feed, Filter(text="needle"))
    assert ([line.ts for line in batch.lines], batch.skipped) == ([NOW + 1], 0)


def test_what_a_filter_lets_through_beyond_the_room_is_counted(feed: Feed) -> None:
    record_many(local_stream(), 300, model="shop.tag")
    record_many(local_stream(), 300, first=NOW + 1000)
    batch = news(feed, Filter(model="tag"))
    assert (len(batch.lines), batch.skipped) == (ROOM, 300 - ROOM)


def test_a_new_filter_is_tried_on_a_bounded_number_of_changes(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamer.feed._SEARCHED", 100)
    stream = local_stream()
    record(stream, {"name": "needle, too old"}, ts=NOW + 1)
    record_many(stream, 99, first=NOW + 2)
    assert len(newest(feed, Filter(text="needle")).lines) == 1
    record(stream, {}, ts=NOW + 1000)
    assert newest(feed, Filter(text="needle")).lines == []


# Cards


def test_the_card_of_this_server_says_where_its_oplog_stands(feed: Feed) -> None:
    stream = local_stream()
    record(stream, {}, ts=NOW + 1)
    shown = card(feed.step(NOW + SECOND), LOCAL_NAME)
    assert (shown["kind"], shown["state"], shown["head"], shown["position"]) == (
        "local",
        "recording",
        NOW + 1,
        1,
    )
    assert (shown["changes_behind"], shown["seconds_behind"]) == (0, 0.0)


def test_an_outbox_that_nobody_empties_is_shown(feed: Feed) -> None:
    Outbox.objects.create(op="SAVE", model="shop.tag", captured_at=NOW, payload="{}")
    fresh = card(feed.step(NOW + SECOND), LOCAL_NAME)
    assert (fresh["state"], fresh["changes_behind"], fresh["seconds_behind"]) == ("recording", 1, 1.0)
    old = card(feed.step(NOW + 60 * SECOND), LOCAL_NAME)
    assert old["state"] == "stalled"
    assert "sequencer" in old["state_words"]


def test_the_mirrors_that_are_connected_here_are_named_with_what_they_lack(feed: Feed) -> None:
    stream = local_stream()
    record_many(stream, 10)
    mirror = Presence(token="centre", mirror="m", stream=str(stream.uuid), since=5.0, cursor=NOW + 7)
    with present(mirror):
        shown = card(feed.step(NOW), LOCAL_NAME)
    assert shown["state_words"] == "1 mirror is connected"
    assert shown["mirrors"] == [
        {"name": "centre", "since": 5_000_000, "cursor": NOW + 7, "changes_behind": 3}
    ]


def test_a_server_that_records_nothing_has_no_card_of_its_own(feed: Feed) -> None:
    Stream.objects.all().delete()
    assert feed.step(NOW).cards == {}


def test_a_token_never_gets_near_a_card(feed: Feed) -> None:
    follow("paris", token="tell-nobody")
    assert b"tell-nobody" not in b"".join(feed.step(NOW).cards.values())


def test_a_card_says_what_came_of_comparing_rows_within_two_seconds(feed: Feed) -> None:
    source = follow("paris")
    assert card(feed.step(NOW), "paris")["verified"] is None
    Verification.objects.create(source=source, model="shop.brand", state="done", missing=12)
    shown = card(feed.step(NOW + 2 * SECOND), "paris")["verified"]
    assert (shown["state"], shown["words"]) == ("differences", "12 rows differ")


def test_a_source_that_is_removed_loses_its_card(feed: Feed) -> None:
    follow("paris")
    assert "paris" in feed.step(NOW).cards
    Source.objects.all().delete()
    assert "paris" not in feed.step(NOW).cards


def test_seconds_behind_are_at_most_the_time_since_the_source_was_level(feed: Feed) -> None:
    """One change after a week of silence is not a week behind."""
    week = 7 * 24 * 3600 * SECOND
    source = follow("paris", cursor=NOW - week, head=NOW - week)
    assert card(feed.step(NOW), "paris")["seconds_behind"] == 0.0
    late = NOW + 2 * SECOND
    Source.objects.filter(pk=source.pk).update(head=late, head_position=1, heard_at=moment(late))
    assert card(feed.step(late), "paris")["seconds_behind"] == 2.0


def test_seconds_behind_of_a_source_never_seen_level_are_the_age_of_its_cursor(feed: Feed) -> None:
    follow("paris", cursor=NOW - 90 * SECOND, head=NOW, head_position=5)
    shown = card(feed.step(NOW), "paris")
    assert (shown["changes_behind"], shown["seconds_behind"]) == (5, 90.0)


def test_the_rate_of_a_source_counts_what_was_applied(feed: Feed) -> None:
    stream = Stream.objects.create()
    follow("paris", stream=stream)
    feed.step(NOW)
    record_many(stream, 100)
    assert card(feed.step(NOW), "paris")["rate"] == 20.0


def test_the_first_sparkline_is_made_from_the_oplog() -> None:
    stream = local_stream()
    record_many(stream, 10, first=NOW - 60 * SECOND)
    record_many(stream, 5, first=NOW - 5 * SECOND)
    record_many(stream, 3, first=NOW)
    line = card(Feed().step(NOW), LOCAL_NAME)["spark"]
    assert [value for value in line if value] == [2.0, 1.0]
    assert line[-1] == 1.0


def test_the_first_sparkline_reads_a_bounded_part_of_the_oplog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.feed._SEEDED", 50)
    record_many(local_stream(), 100, first=NOW - 100 * SECOND, step=SECOND)
    line = card(Feed().step(NOW), LOCAL_NAME)["spark"]
    assert line[:50] == [None] * 50
    assert line[-9:] == [1.0] * 9


def test_an_idle_look_costs_the_same_few_queries_however_many_sources_there_are(feed: Feed) -> None:
    for number in range(200):
        follow(f"source{number}")
    feed.step(NOW)
    with CaptureQueriesContext(connection) as queries:
        step = feed.step(NOW + SECOND, following=[EMPTY])
    assert len(step.cards) == 201
    assert len(queries) <= 6


def test_two_hundred_streams_that_all_move_are_read_with_a_bounded_number_of_queries(feed: Feed) -> None:
    for number in range(200):
        stream = Stream.objects.create()
        follow(f"source{number}", stream=stream)
        record_many(stream, 2, first=NOW + number)
    with CaptureQueriesContext(connection) as queries:
        batch = news(feed)
    assert (len(batch.lines), batch.skipped) == (ROOM, 400 - ROOM)
    assert len(queries) <= ROOM + 8


def test_cards_are_json_with_the_agreed_fields(feed: Feed) -> None:
    follow("paris", error_code="pruned", error_text="x" * 10_000)
    shown = json.loads(feed.step(NOW).cards["paris"])
    assert shown["last_error"] == {"code": "pruned", "text": "x" * 300}
    assert set(shown) == {
        "name",
        "kind",
        "state",
        "state_words",
        "stream",
        "since",
        "cursor",
        "head",
        "position",
        "changes_behind",
        "seconds_behind",
        "heard_at",
        "last_error",
        "next_try_at",
        "attempts",
        "skipped",
        "verified",
        "rate",
        "spark",
        "mirrors",
    }

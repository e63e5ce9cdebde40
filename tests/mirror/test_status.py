from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from mirror import tokens
from mirror.models import Difference, Mirror, Outbox, Source, Stream, Verification
from mirror.registry import mirrored_models
from mirror.status import collect

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOW_TS = int(NOW.timestamp()) * 1_000_000


@pytest.fixture(autouse=True)
def _no_local_stream():
    Stream.objects.all().delete()


def source_status(**fields):
    Source.objects.create(**{"name": "shop", "url": "ws://shop/", "token": "t", **fields})
    (status,) = collect(NOW).sources
    return status


def test_a_server_without_anything_is_ok():
    status = collect(NOW)
    assert (status.stream, status.sources, status.ok) == (None, (), True)


def test_the_local_stream_shows_its_head_and_what_waits():
    stream = Stream.objects.create(local=True, head=5, position=2, anchor=3, anchor_position=1)
    Stream.objects.create(local=None, head=9, position=9)
    Outbox.objects.create(op="SAVE", model="shop.tag", captured_at=6, payload="{}")
    here = collect(NOW).stream
    assert (here.stream, here.head, here.position, here.waiting) == (str(stream.uuid), 5, 2, 1)
    assert (here.anchor, here.anchor_position) == (3, 1)


def mirror_status(**fields):
    stream = Stream.objects.create(head=9, position=9, anchor=3, anchor_position=3)
    Mirror.objects.create(
        **{
            "stream": stream,
            "token": "office",
            "mirror": "m",
            "cursor": 7,
            "position": 7,
            "first_seen": NOW - timedelta(days=300),
            "last_seen": NOW,
            **fields,
        }
    )
    (status,) = collect(NOW).mirrors
    return status


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, "awaited"),
        ({"last_seen": NOW - timedelta(days=90)}, "awaited"),
        ({"last_seen": NOW - timedelta(days=90, seconds=1)}, "gone"),
        ({"last_seen": NOW + timedelta(days=1)}, "awaited"),  # the clock was set back
        ({"cursor": 3, "position": 3}, "awaited"),  # all that it lacks is still there
        ({"cursor": 2, "position": 2}, "pruned"),
        ({"cursor": 2, "position": 2, "last_seen": NOW - timedelta(days=100)}, "pruned"),
    ],
)
def test_a_mirror_is_awaited_or_gone_or_what_it_lacks_is(fields, state):
    status = mirror_status(**fields)
    assert (status.token, status.mirror, status.state) == ("office", "m", state)
    assert status.changes_behind == 9 - status.position


def test_a_mirror_whose_token_is_revoked_is_gone():
    tokens.create("office")
    tokens.create("other")
    tokens.revoke("other")
    assert mirror_status().state == "awaited"
    tokens.revoke("office")
    (status,) = collect(NOW).mirrors
    assert status.state == "gone"


def test_a_source_that_was_never_followed_is_neither_level_nor_bad():
    status = source_status()
    assert (status.state, status.seconds_behind, status.stream, status.bad) == ("new", None, None, False)


def test_a_level_source_is_zero_seconds_behind_however_old_its_last_change_is():
    status = source_status(
        state="live", heard_at=NOW, cursor=7, head=7, position=3, head_position=3, clock_offset=0
    )
    assert (status.changes_behind, status.seconds_behind) == (0, 0.0)


def test_a_source_that_was_level_and_is_silent_since_counts_the_seconds_of_silence():
    status = source_status(
        state="connecting",
        heard_at=NOW - timedelta(minutes=10),
        cursor=7,
        head=7,
        position=3,
        head_position=3,
    )
    assert (status.changes_behind, status.seconds_behind) == (0, 600.0)


@pytest.mark.parametrize(
    ("cursor", "offset", "seconds"),
    [
        (NOW_TS - 2_500_000, 0, 2.5),
        (NOW_TS - 2_500_000, 1_000_000, 3.5),  # the source's clock is ahead: its change is older
        (NOW_TS + 2_000_000, 0, 0.0),  # never negative
        (0, 0, None),  # nothing applied yet: since 1970 would be no answer
    ],
)
def test_seconds_behind_is_the_age_of_the_cursor_on_the_clock_of_the_source(cursor, offset, seconds):
    status = source_status(
        state="catching_up",
        heard_at=NOW,
        cursor=cursor,
        head=NOW_TS + 9_000_000,
        head_position=12,
        position=2,
        clock_offset=offset,
    )
    assert (status.seconds_behind, status.changes_behind) == (seconds, 10)


@pytest.mark.parametrize(
    ("state", "silence", "shown"),
    [
        ("live", 15, "live"),  # exactly the deadline
        ("live", 16, "stalled"),
        ("catching_up", 16, "stalled"),
        ("live", None, "stalled"),
        ("live", -3600, "live"),  # the clock was set back
        ("connecting", 16, "connecting"),  # says by itself that it hears nothing
        ("stopped", 16, "stopped"),
        ("halted", 1, "halted"),
    ],
)
def test_a_source_whose_runner_is_gone_is_shown_as_stalled(state, silence, shown):
    heard_at = None if silence is None else NOW - timedelta(seconds=silence)
    assert source_status(state=state, heard_at=heard_at).state == shown


def test_a_source_whose_runner_is_gone_says_since_when_and_asks_for_the_runner():
    heard_at = NOW - timedelta(hours=1)
    status = source_status(state="live", heard_at=heard_at, state_since=NOW - timedelta(days=1))
    assert status.since == heard_at
    assert "runmirror" in status.error_text


@pytest.mark.parametrize("state", ["stalled", "refused", "halted"])
def test_states_that_need_a_human_are_not_ok(state):
    assert source_status(state=state).bad
    assert not collect(NOW).ok


@pytest.mark.parametrize("state", ["new", "connecting", "stopped"])
def test_other_states_are_ok(state):
    source_status(state=state)
    assert collect(NOW).ok


def test_the_json_object_is_stable():
    stream = Stream.objects.create(local=True, head=5, position=2)
    Mirror.objects.create(
        stream=stream, token="office", mirror="m", cursor=4, position=1, first_seen=NOW, last_seen=NOW
    )
    source_status(state="live", heard_at=NOW, cursor=7, head=7, error_code="pruned", error_text="gone")
    assert json.loads(json.dumps(collect(NOW).as_json())) == {
        "version": 1,
        "now": "2026-01-01T12:00:00+00:00",
        "ok": True,
        "stream": {
            "stream": str(stream.uuid),
            "head": 5,
            "position": 2,
            "waiting": 0,
            "anchor": 0,
            "anchor_position": 0,
        },
        "mirrors": [
            {
                "token": "office",
                "mirror": "m",
                "stream": str(stream.uuid),
                "state": "awaited",
                "cursor": 4,
                "position": 1,
                "changes_behind": 1,
                "first_seen": "2026-01-01T12:00:00+00:00",
                "last_seen": "2026-01-01T12:00:00+00:00",
            }
        ],
        "sources": [
            {
                "name": "shop",
                "state": "live",
                "since": None,
                "stream": None,
                "cursor": 7,
                "head": 7,
                "position": 0,
                "head_position": 0,
                "changes_behind": 0,
                "seconds_behind": 0.0,
                "heard_at": "2026-01-01T12:00:00+00:00",
                "error_code": "pruned",
                "error_text": "gone",
                "attempts": 0,
                "next_try_at": None,
                "skipped": 0,
                "loading": [],
                "verified": {
                    "state": "never",
                    "as_of": None,
                    "cursor": 0,
                    "model": None,
                    "rows": 0,
                    "total": None,
                    "percent": None,
                    "to_come": 0,
                    "missing": 0,
                    "different": 0,
                    "extra": 0,
                    "repaired": 0,
                    "refused": 0,
                    "not_compared": len(mirrored_models()),
                    "models": [],
                },
            }
        ],
    }


# What came of comparing rows


def compared(model="shop.tag", *, source="shop", **fields):
    """Store that this model was compared, a minute ago unless told otherwise."""
    found = Source.objects.get_or_create(name=source, defaults={"url": "ws://shop/", "token": "t"})[0]
    done = {"state": "done", "rows": 40, "total": 40, "cursor": 5, "ended_at": NOW - timedelta(minutes=1)}
    Verification.objects.create(source=found, model=model, **{**done, **fields})


def found(count, model="shop.tag", *, repaired):
    for number in range(count):
        Difference.objects.create(
            source=Source.objects.get(),
            model=model,
            key=str(number),
            kind="missing",
            cursor=5,
            found_at=NOW,
            repaired=repaired,
        )


def verified():
    (status,) = collect(NOW).sources
    return status.verified


def test_rows_are_identical_as_of_the_oldest_comparison():
    for age, model in enumerate(mirrored_models()):
        compared(model, ended_at=NOW - timedelta(hours=age), cursor=1000 - age)
    last = len(mirrored_models()) - 1
    status = verified()
    assert (status.state, status.as_of, status.cursor) == (
        "identical",
        NOW - timedelta(hours=last),
        1000 - last,
    )
    assert (status.not_compared, status.model, len(status.models)) == (0, None, last + 1)
    assert collect(NOW).ok


def test_models_that_were_never_compared_are_counted():
    compared()
    status = verified()
    assert (status.state, status.not_compared) == ("identical", len(mirrored_models()) - 1)


def test_what_is_compared_says_of_which_model_and_how_far():
    compared()
    compared("shop.brand", state="waiting", rows=0, total=None, ended_at=None)
    compared("shop.counter", state="comparing", began_at=NOW, rows=30, total=120, ended_at=None)
    status = verified()
    assert (status.state, status.model, status.to_come) == ("comparing", "shop.counter", 1)
    assert (status.rows, status.total, status.percent) == (30, 120, 25)


@pytest.mark.parametrize(("rows", "total", "percent"), [(0, None, None), (0, 0, None), (3, 2, 100)])
def test_there_is_no_percentage_of_nothing_and_none_above_a_hundred(rows, total, percent):
    compared(state="comparing", rows=rows, total=total)
    assert verified().percent == percent


def test_rows_that_differ_are_not_ok_until_they_are_repaired():
    compared(missing=2, different=1, extra=1)
    status = verified()
    assert (status.state, status.differences, status.unrepaired) == ("differences", 4, 4)
    assert (status.missing, status.different, status.extra, status.repaired) == (2, 1, 1, 0)
    assert not collect(NOW).ok
    found(4, repaired=True)
    Verification.objects.update(repair=True)
    assert (verified().state, verified().repaired) == ("repaired", 4)
    assert collect(NOW).ok


def test_rows_that_could_not_be_repaired_are_not_ok():
    compared(missing=3, repair=True)
    found(2, repaired=True)
    found(1, repaired=False)
    assert (verified().state, verified().repaired, verified().unrepaired) == ("differences", 2, 1)
    assert not collect(NOW).ok


def test_differences_that_are_too_many_to_be_stored_fare_as_those_that_are():
    compared(missing=5000, repair=True)
    found(2, repaired=True)
    assert verified().unrepaired == 0


def test_differences_of_another_model_or_source_are_its_own():
    compared(missing=1, repair=True)
    found(1, "shop.brand", repaired=False)
    compared(source="other")
    shop = collect(NOW).sources[1]
    assert (shop.name, shop.verified.unrepaired) == ("shop", 0)
    assert collect(NOW).sources[0].verified.state == "identical"


def test_differences_stay_bad_while_other_models_are_compared():
    compared(missing=1)
    compared("shop.brand", state="waiting", ended_at=None)
    assert verified().state == "comparing"
    assert not collect(NOW).ok


def test_what_the_source_does_not_tell_is_neither_identical_nor_bad():
    compared()
    compared("shop.brand", refused="unknown_model", rows=0)
    status = verified()
    assert (status.state, status.refused) == ("refused", 1)
    assert collect(NOW).ok


def test_models_that_are_mirrored_no_more_do_not_count():
    compared("shop.gone", missing=3)
    assert (verified().state, verified().models) == ("never", ())
    assert collect(NOW).ok


def test_the_json_tells_each_model_that_was_compared():
    compared(missing=1)
    (source,) = json.loads(json.dumps(collect(NOW).as_json()))["sources"]
    assert source["verified"]["models"] == [
        {
            "model": "shop.tag",
            "state": "done",
            "rows": 40,
            "total": 40,
            "missing": 1,
            "different": 0,
            "extra": 0,
            "repaired": 0,
            "refused": "",
            "cursor": 5,
            "began_at": None,
            "ended_at": "2026-01-01T11:59:00+00:00",
        }
    ]


def test_collecting_costs_six_queries_however_many_sources_and_mirrors(django_assert_num_queries):
    for name in ("x", "y"):
        mirror_of = Stream.objects.create()
        Mirror.objects.create(
            stream=mirror_of, token=name, mirror="m", cursor=4, position=1, first_seen=NOW, last_seen=NOW
        )
    Stream.objects.create(local=True)
    for name in ("a", "b", "c"):
        Source.objects.create(name=name, url="ws://shop/", token="t", stream=Stream.objects.create())
    with django_assert_num_queries(6):
        collect(NOW)


def test_the_token_is_in_no_status():
    source_status(token="0123456789abcdef.secret")
    assert "secret" not in str(collect(NOW)) + json.dumps(collect(NOW).as_json())

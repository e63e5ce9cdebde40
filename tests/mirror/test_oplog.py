from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror import oplog
from mirror.changes import Change, Op, encode_change, mark_of
from mirror.errors import Forked, Pruned, UnknownStream
from mirror.models import Oplog, Stream
from mirror.retention import Cut
from tests.mirror.conftest import VENDORS

pytestmark = pytest.mark.parametrize("vendor", VENDORS, indirect=True)

SECOND = 1_000_000


class History:
    """A stream at 10 s, 20 s, 30 s ...: ``groups`` are the sizes of its groups."""

    def __init__(self, *groups: int, local: bool | None = True) -> None:
        self.stream = Stream.objects.using("centre").create(local=local)
        self.extend(*groups)

    def extend(self, *groups: int) -> None:
        stream = self.stream
        for size in groups:
            for place in range(1, size + 1):
                stream.head += 10 * SECOND
                stream.position += 1
                Oplog.objects.using("centre").create(
                    stream=stream,
                    ts=stream.head,
                    position=stream.position,
                    op=Op.SAVE,
                    model="a.b",
                    key="1",
                    ends_group=place == size,
                    body=body(stream.head),
                )
        stream.save()

    def prune(self, before: int) -> int:
        last, _position = oplog.last_before(self.stream, cut(before=before))
        return oplog.prune(self.stream, upto=last, limit=1000)

    def resume(self, at: int, mark: str | None = None) -> int:
        ts = at * SECOND
        return oplog.resume(self.stream, ts, mark_of(body(ts)) if mark is None else mark)

    def kept(self) -> list[int]:
        changes = Oplog.objects.using("centre").filter(stream=self.stream).order_by("ts")
        return [ts // SECOND for ts in changes.values_list("ts", flat=True)]


def cut(before: int = 0, position: int = 10**9, capped_before: int = 0, capped_position: int = 0) -> Cut:
    return Cut(
        before=before * SECOND,
        position=position,
        capped_before=capped_before * SECOND,
        capped_position=capped_position,
        waited_for=(),
        held_by=None,
    )


def body(ts: int) -> str:
    return encode_change(Change(ts=ts, op=Op.SAVE, model="a.b", pk=1, fields={}))


@pytest.fixture
def history(centre):
    Stream.objects.using("centre").all().delete()
    return History


# Which stream


def test_a_stream_is_found_by_name_or_as_the_one_recorded_here(history):
    here, copied = history(), history(local=None)
    assert oplog.stream_for(None, "centre") == here.stream
    assert oplog.stream_for(str(copied.stream.uuid), "centre") == copied.stream


@pytest.mark.parametrize("name", [None, "00000000-0000-0000-0000-000000000000"])
def test_a_stream_that_is_not_kept_is_unknown(history, name):
    history(local=None)
    with pytest.raises(UnknownStream):
        oplog.stream_for(name, "centre")


# Resuming


def test_a_cursor_of_this_history_resumes_at_its_position(history):
    past = history(1, 2, 1)
    assert [past.resume(at) for at in (10, 20, 30, 40)] == [1, 2, 3, 4]


def test_an_empty_history_resumes_at_its_beginning(history):
    assert history().resume(0, mark="") == 0


def test_the_beginning_of_a_history_that_is_kept_whole_resumes(history):
    assert history(2).resume(0, mark="") == 0


@pytest.mark.parametrize("at", [5, 15, 30, 99])
def test_a_cursor_without_a_change_here_is_of_another_history(history, at):
    with pytest.raises(Forked):
        history(2).resume(at)


def test_another_change_at_the_cursor_is_of_another_history(history):
    # A restored source stamps the same time again while its clock stands still.
    with pytest.raises(Forked, match="another"):
        history(2).resume(20, mark=mark_of("something else"))
    with pytest.raises(Forked, match="another"):
        history(2, local=None).resume(0, mark=mark_of("something"))


def test_a_cursor_beyond_an_empty_history_is_of_another(history):
    with pytest.raises(Forked):
        history().resume(10)


def test_a_cursor_before_what_is_kept_is_pruned(history):
    past = history(1, 1, 1, 1)
    past.prune(before=35)
    for at in (0, 10, 20, 25):
        with pytest.raises(Pruned):
            past.resume(at)


def test_the_cursor_of_the_last_pruned_change_resumes_exactly(history):
    past = history(1, 1, 1, 1)
    past.prune(before=35)
    assert past.resume(30) == 3
    with pytest.raises(Forked):
        past.resume(30, mark=mark_of("something else"))


# Seeking


def test_the_start_is_before_the_first_change(history):
    assert oplog.seek(history(2).stream, "start") == (0, 0, "")


def test_the_start_is_gone_once_anything_is_pruned(history):
    past = history(1, 1, 1)
    past.prune(before=15)
    for place in ("start", 0, 5 * SECOND, 10 * SECOND):
        with pytest.raises(Pruned):
            oplog.seek(past.stream, place)


def test_now_is_the_end_of_the_last_group(history):
    past = history(1, 2)
    assert oplog.seek(past.stream, "now") == (30 * SECOND, 3, mark_of(body(30 * SECOND)))
    Oplog.objects.using("centre").filter(ts=30 * SECOND).update(ends_group=False)
    assert oplog.seek(past.stream, "now")[:2] == (10 * SECOND, 1)


def test_now_in_an_empty_history_is_its_beginning(history):
    assert oplog.seek(history().stream, "now") == (0, 0, "")


@pytest.mark.parametrize(
    ("since", "cursor"),
    [
        (1, 0),  # before everything: from the beginning
        (10, 0),  # the change of that very time is wanted
        (11, 10),
        (25, 10),  # within a group: all of it
        (31, 30),
        (99, 30),
    ],
)
def test_since_a_time_is_after_the_last_group_that_ended_before_it(history, since, cursor):
    found, position, mark = oplog.seek(history(1, 2).stream, since * SECOND)
    assert (found, position) == (cursor * SECOND, cursor // 10)
    assert mark == (mark_of(body(found)) if found else "")


def test_since_the_last_pruned_group_goes_on_from_it(history):
    past = history(1, 1, 1)
    past.prune(before=15)
    assert oplog.seek(past.stream, 11 * SECOND) == (10 * SECOND, 1, mark_of(body(10 * SECOND)))


def test_where_one_seeks_one_may_resume(history):
    past = history(1, 2, 1)
    for place in ("start", "now", 0, 15 * SECOND, 25 * SECOND, 35 * SECOND):
        cursor, position, mark = oplog.seek(past.stream, place)
        assert oplog.resume(past.stream, cursor, mark) == position


# Reading


def read(past: History, after: int = 0, limit: int = 100, max_bytes: int = 10**6) -> list[int]:
    entries = oplog.read(past.stream.pk, after * SECOND, "centre", limit=limit, max_bytes=max_bytes)
    assert all(entry.body == body(entry.ts) for entry in entries)
    return [entry.ts // SECOND for entry in entries]


def test_reading_goes_on_after_the_cursor_in_order(history):
    past = history(1, 2)
    assert (read(past), read(past, 10), read(past, 30)) == ([10, 20, 30], [20, 30], [])


def test_an_entry_is_read_as_it_is_stored(history):
    first, second = oplog.read(history(2).stream.pk, 0, "centre", limit=9, max_bytes=10**6)
    assert (first.position, first.ends_group) == (1, False)
    assert (second.position, second.ends_group) == (2, True)


def test_a_page_ends_with_its_limit_or_its_bytes_but_is_never_empty(history):
    past = history(*[1] * 120)
    size = len(body(10 * SECOND))
    assert read(past, limit=2) == [10, 20]
    assert read(past, max_bytes=1) == [10]
    assert read(past, max_bytes=size) == [10]
    assert read(past, max_bytes=size + 1) == [10, 20]
    assert len(read(past, limit=200)) == 120


def test_streams_are_read_apart(history):
    one, other = history(1), history(2, local=None)
    assert (read(one), read(other)) == ([10], [10, 20])


# Pruning


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        (5, [10, 20, 30, 40, 50]),  # nothing is that old
        (10, [10, 20, 30, 40, 50]),  # at that time is not before it
        (11, [20, 30, 40, 50]),
        (25, [20, 30, 40, 50]),  # a group is kept whole
        (31, [40, 50]),
        (99, [50]),  # the newest stays, whatever its age
    ],
)
def test_whole_groups_that_ended_before_a_time_are_pruned(history, before, kept):
    past = history(1, 2, 1, 1)
    assert past.prune(before) == 5 - len(kept)
    assert past.kept() == kept


def test_the_newest_group_is_kept_whole(history):
    past = history(1, 3)
    past.prune(before=999)
    assert past.kept() == [20, 30, 40]


def test_pruning_an_empty_history_does_nothing(history):
    past = history()
    assert past.prune(before=99) == 0
    assert (past.stream.anchor, past.stream.anchor_mark) == (0, "")


def test_pruning_again_moves_the_anchor_on(history):
    past = history(1, 1, 1, 1)
    past.prune(before=15)
    past.prune(before=25)
    assert past.prune(before=25) == 0
    assert (past.stream.anchor, past.stream.anchor_position) == (20 * SECOND, 2)
    assert past.stream.anchor_mark == mark_of(body(20 * SECOND))


def test_pruning_leaves_other_streams_and_what_comes_next_alone(history):
    one, other = history(1, 1), history(1, 1, local=None)
    one.prune(before=99)
    one.extend(1)
    assert (one.kept(), other.kept()) == ([20, 30], [10, 20])
    assert one.resume(30) == 3


def test_pruning_goes_in_steps_that_end_with_groups(history):
    past = history(1, 2, 1, 2, 1)
    anchors = []
    while oplog.prune(past.stream, upto=60 * SECOND, limit=2):
        anchors.append(past.stream.anchor // SECOND)
        assert past.kept()[0] > anchors[-1]
        assert past.resume(anchors[-1]) == past.stream.anchor_position == anchors[-1] // 10
    assert anchors == [10, 30, 40, 60]
    assert past.kept() == [70]


def test_a_group_larger_than_a_step_is_pruned_at_once_and_deleted_in_several(history):
    """Nobody may resume, or begin, in the middle of it: the anchor goes before its rows."""
    past = history(1, 7, 2)
    assert oplog.prune(past.stream, upto=80 * SECOND, limit=3) == 1
    seen = []
    while oplog.prune(past.stream, upto=80 * SECOND, limit=3):
        seen.append(past.kept()[0])
        assert past.stream.anchor == 80 * SECOND
        assert past.resume(80) == 8
        with pytest.raises(Pruned):
            past.resume(40)
        assert oplog.seek(past.stream, 85 * SECOND)[:2] == (80 * SECOND, 8)
    assert seen == [50, 80, 90]


def test_rows_that_a_killed_process_left_before_the_anchor_go_first(history):
    past = history(5, 1, 1)
    oplog.prune(past.stream, upto=50 * SECOND, limit=2)
    assert past.kept()[0] == 30
    again = Stream.objects.using("centre").get(pk=past.stream.pk)
    assert oplog.last_before(again, cut()) == (50 * SECOND, 5)
    assert oplog.prune(again, upto=50 * SECOND, limit=10) == 3
    assert past.kept() == [60, 70]


def test_a_step_that_another_process_was_faster_with_does_nothing(history, monkeypatch):
    past = history(1, 1, 1, 1)
    read = past.stream.refresh_from_db

    def refresh_and_be_late() -> None:
        monkeypatch.setattr(past.stream, "refresh_from_db", read)
        read()
        faster = Stream.objects.using("centre").get(pk=past.stream.pk)
        assert oplog.prune(faster, upto=20 * SECOND, limit=10) == 2

    monkeypatch.setattr(past.stream, "refresh_from_db", refresh_and_be_late)
    assert oplog.prune(past.stream, upto=30 * SECOND, limit=10) == 0
    assert past.kept() == [30, 40], "what it deleted in vain came back"
    assert oplog.prune(past.stream, upto=30 * SECOND, limit=10) == 1


def test_a_step_that_fails_leaves_rows_and_anchor_as_they_were(history, monkeypatch):
    past = history(1, 1, 1)

    def fail(*args, **kwargs):
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr("django.db.models.query.QuerySet.update", fail)
        with pytest.raises(ConnectionError):
            past.prune(before=25)
    past.stream.refresh_from_db()
    assert (past.kept(), past.stream.anchor) == ([10, 20, 30], 0)
    assert past.prune(before=25) == 2


# Where to cut


@pytest.mark.parametrize("groups", [[1] * 9, [4, 5], [9]])
def test_every_position_is_found_by_its_timestamp(history, groups):
    past = history(*groups)
    assert [oplog.ts_at(past.stream, place) // SECOND for place in range(10)] == list(range(0, 100, 10))


def test_positions_are_found_in_bursts_and_after_a_prune(history):
    past = history(*[1] * 4)
    stream = past.stream
    for ts in (*range(10**15, 10**15 + 40), 2 * 10**15, 2 * 10**15 + 1):
        stream.head, stream.position = ts, stream.position + 1
        Oplog.objects.using("centre").create(
            stream=stream, ts=ts, position=stream.position, op=Op.SAVE, model="a.b", key="1", ends_group=True,
            body=body(ts),
        )  # fmt: skip
    stream.save()
    past.prune(before=25)
    found = [oplog.ts_at(stream, place) for place in range(1, 47)]
    assert found == [
        *[20 * SECOND] * 2,
        30 * SECOND,
        40 * SECOND,
        *range(10**15, 10**15 + 40),
        2 * 10**15,
        2 * 10**15 + 1,
    ]


def test_a_position_is_found_by_few_queries(history, django_assert_max_num_queries):
    past = history(*[1] * 300)
    with django_assert_max_num_queries(4, using="centre"):
        assert oplog.ts_at(past.stream, 177) == 1770 * SECOND


@pytest.mark.parametrize(
    ("limits", "last"),
    [
        ({"before": 45}, 40),
        ({"before": 45, "position": 3}, 30),  # both must agree
        ({"before": 15, "position": 5}, 10),
        ({"before": 45, "position": 2}, 10),  # within a group: all of it is kept
        ({"capped_before": 35}, 30),  # a cap asks nobody
        ({"capped_position": 4}, 40),
        ({"before": 15, "capped_position": 4}, 40),
        ({"before": 45, "capped_before": 15}, 40),
        ({}, 0),
        ({"before": 999, "capped_position": 999}, 50),  # never the newest
    ],
)
def test_the_last_group_of_a_cut_is_where_its_limits_say(history, limits, last):
    past = history(1, 2, 1, 1, 1)
    assert oplog.last_before(past.stream, cut(**limits)) == (last * SECOND, last // 10)


def test_the_size_of_a_body_is_measured_in_bytes_where_the_changes_are(history):
    past = history(*[1] * 100)
    assert oplog.body_bytes(past.stream) == pytest.approx(len(body(500 * SECOND)), abs=1)
    Oplog.objects.using("centre").filter(position__gt=25).update(body="ä" * 1000)
    assert oplog.body_bytes(past.stream) == pytest.approx(1500, rel=0.25)
    assert oplog.body_bytes(history(local=None).stream) == 1


@given(
    groups=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    limit=st.integers(1, 9),
    where=st.integers(0, 7),
)
@settings(max_examples=20)
def test_after_any_step_the_log_begins_at_its_anchor_between_two_groups(history, groups, limit, where):
    """Whoever dies after it leaves this; and in the end just that is gone which was to go."""
    past = history(*groups, local=None)
    ends = [sum(groups[:number]) * 10 for number in range(len(groups) + 1)]
    upto = ends[min(where, len(groups) - 1)]
    deleted = 0
    while gone := oplog.prune(past.stream, upto=upto * SECOND, limit=limit):
        deleted += gone
        assert gone <= limit
        anchor, kept = past.stream.anchor // SECOND, past.kept()
        assert anchor in ends
        assert kept == list(range(deleted * 10 + 10, ends[-1] + 10, 10))
        assert anchor >= deleted * 10
        assert past.resume(anchor) == past.stream.anchor_position == anchor // 10
    assert (deleted, past.stream.anchor // SECOND) == (upto // 10, upto)

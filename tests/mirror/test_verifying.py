from __future__ import annotations

from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError

from mirror import verifying
from mirror.management.commands import mirrorverify
from mirror.models import Difference, Loading, LoadingState, Source, Stream, Verification
from mirror.registry import mirrored_models

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
CURSOR = 1698395500971553
WEEK = timedelta(days=7)


class Terminal(StringIO):
    def isatty(self):
        return True


@pytest.fixture
def source():
    return Source.objects.create(
        name="shop", url="ws://shop/", token="t", state="live", heard_at=NOW, stream=Stream.objects.create()
    )


def states(source):
    return {one.model: (one.state, one.repair) for one in source.verifications.all()}


def end_all(when=NOW):
    Verification.objects.update(state="done", ended_at=when)


# Asking for it


def test_what_is_asked_for_waits_and_what_was_found_before_is_forgotten(source):
    other = Source.objects.create(name="other", url="ws://other/", token="t")
    for of_source in (source, other):
        for model in ("shop.tag", "shop.brand"):
            Verification.objects.create(source=of_source, model=model, state="done", missing=3)
            Difference.objects.create(
                source=of_source, model=model, key="1", kind="missing", cursor=5, found_at=NOW
            )
    verifying.request(source, ["shop.tag"], repair=True)
    assert states(source) == {"shop.tag": ("waiting", True), "shop.brand": ("done", False)}
    assert set(states(other).values()) == {("done", False)}
    assert source.verifications.get(model="shop.tag").missing == 0
    assert list(source.differences.values_list("model", flat=True)) == ["shop.brand"]
    assert other.differences.count() == 2


def test_it_may_be_asked_for_while_it_is_compared(source):
    Verification.objects.create(source=source, model="shop.tag", state="comparing", rows=30)
    verifying.request(source, ["shop.tag"], repair=False)
    assert source.verifications.get().rows == 0
    assert states(source) == {"shop.tag": ("waiting", False)}


def test_a_model_is_due_when_it_was_compared_long_ago_or_never(source):
    for model, ended_at in (("shop.tag", NOW - WEEK), ("shop.brand", NOW - WEEK + timedelta(seconds=1))):
        Verification.objects.create(source=source, model=model, state="done", ended_at=ended_at)
    Verification.objects.create(source=source, model="shop.counter", state="waiting")
    models = ["shop.tag", "shop.brand", "shop.counter", "shop.reading"]
    assert verifying.due(source, models, every=WEEK, now=NOW) == ["shop.tag", "shop.reading"]


# By itself


def test_everything_is_compared_once_a_week(source):
    assert verifying.schedule(source, NOW)
    assert states(source) == dict.fromkeys(mirrored_models(), ("waiting", False))
    end_all()
    assert not verifying.schedule(source, NOW + WEEK - timedelta(seconds=1))
    assert verifying.schedule(source, NOW + WEEK)
    assert set(states(source).values()) == {("waiting", False)}


def test_only_what_is_due_is_compared(source):
    verifying.request(source, mirrored_models(), repair=True)
    end_all()
    Verification.objects.filter(model="shop.tag").update(ended_at=NOW - WEEK)
    assert verifying.schedule(source, NOW)
    assert {model for model, state in states(source).items() if state == ("waiting", False)} == {"shop.tag"}


@pytest.mark.parametrize("state", ["waiting", "comparing"])
def test_nothing_is_asked_for_while_something_waits_or_is_compared(source, state):
    Verification.objects.create(source=source, model="shop.tag", state=state, repair=True)
    assert not verifying.schedule(source, NOW)
    assert states(source) == {"shop.tag": (state, True)}


@pytest.mark.parametrize("state", ["waiting", "copying", "copied", "settling"])
def test_nothing_is_asked_for_while_rows_are_loaded(source, state):
    Loading.objects.create(source=source, model="shop.brand", state="done", anew=False)
    Loading.objects.create(source=source, model="shop.tag", state=state, anew=False)
    assert not verifying.schedule(source, NOW)
    Loading.objects.update(state="done")
    assert verifying.schedule(source, NOW)


@pytest.mark.parametrize("begin", ["now", "1780207200000000"])
def test_a_source_that_is_followed_from_a_later_time_is_not_compared_by_itself(source, begin):
    source.begin = begin
    assert not verifying.schedule(source, NOW)


def test_nothing_is_compared_by_itself_where_nobody_wants_it(source, settings, django_assert_num_queries):
    settings.MIRROR = {**settings.MIRROR, "VERIFY_DAYS": None}
    with django_assert_num_queries(0):
        assert not verifying.schedule(source, NOW)


def test_the_days_are_those_of_the_settings(source, settings):
    settings.MIRROR = {**settings.MIRROR, "VERIFY_DAYS": 0.5}
    verifying.schedule(source, NOW)
    end_all()
    assert not verifying.schedule(source, NOW + timedelta(hours=11))
    assert verifying.schedule(source, NOW + timedelta(hours=12))


def test_a_look_whether_something_is_due_costs_one_query(source, django_assert_num_queries):
    verifying.schedule(source, NOW)
    with django_assert_num_queries(1):
        verifying.schedule(source, NOW)
    end_all()
    with django_assert_num_queries(1):
        verifying.schedule(source, NOW)


def test_what_somebody_asked_for_meanwhile_is_left_as_it_is(source, monkeypatch):
    def loads(source):
        verifying.request(source, ["shop.tag"], repair=True)
        return False

    monkeypatch.setattr(verifying, "loads", loads)
    assert not verifying.schedule(source, NOW)
    assert states(source) == {"shop.tag": ("waiting", True)}


# The command


class Follower:
    """Stands for the process that follows the source: each time the command sleeps it compares one model.

    ``found`` are counts by model, of the first comparison and the ones after; the rows are told by key.
    """

    def __init__(self, *found, rows=40):
        self.found, self.rows, self.slept, self.passes, self.now = found, rows, [], {}, NOW

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)
        waiting = Verification.objects.filter(state="waiting", source__state="live").order_by("id").first()
        if waiting:
            self.compare(waiting)
        else:
            Loading.objects.update(state=LoadingState.DONE)

    def compare(self, one):
        number = self.passes.get(one.model, 0)
        self.passes[one.model] = number + 1
        counts = self.found[number].get(one.model, {}) if number < len(self.found) else {}
        done = {"state": "done", "began_at": self.now, "ended_at": self.now, "cursor": CURSOR}
        Verification.objects.filter(pk=one.pk).update(**done, rows=self.rows, total=self.rows, **counts)
        for kind in ("missing", "different", "extra"):
            for key in range(counts.get(kind, 0)):
                Difference.objects.create(
                    source=one.source,
                    model=one.model,
                    key=f"{kind[0]}{key}",
                    kind=kind,
                    fields="name,stock" if kind == "different" else "",
                    cursor=CURSOR,
                    found_at=self.now,
                    repaired=one.repair,
                )
        if one.repair and counts and "refused" not in counts:
            Loading.objects.create(source=one.source, model=one.model, state="settling", anew=False)


class Dead(Follower):
    """Nobody follows."""

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def verify(monkeypatch):
    """Run the command beside a follower; return the exit code, stdout and stderr."""

    def verify(*args, follower=None, stdout=None):
        follower, stdout, stderr = follower or Follower(), stdout or StringIO(), StringIO()
        monkeypatch.setattr(mirrorverify.Command, "sleep", staticmethod(follower.sleep))
        monkeypatch.setattr(mirrorverify.Command, "now", staticmethod(lambda: follower.now))
        try:
            call_command("mirrorverify", *args, stdout=stdout, stderr=stderr)
        except SystemExit as ended:
            return ended.code, stdout.getvalue(), stderr.getvalue()
        return 0, stdout.getvalue(), stderr.getvalue()

    return verify


def test_identical_rows_are_told_model_by_model(source, verify):
    code, stdout, stderr = verify("shop")
    lines = stdout.splitlines()
    assert (code, stderr) == (0, "")
    assert lines[:-1] == [f"shop: {model}, 40 rows: identical" for model in mirrored_models()]
    assert lines[-1] == f"shop: identical as of 2026-01-01 12:00:00 at {CURSOR}"


def test_it_looks_a_few_times_a_second(source, verify):
    follower = Follower()
    verify("shop", follower=follower)
    assert len(follower.slept) == len(mirrored_models())
    assert {0.2 <= seconds <= 0.5 for seconds in follower.slept} == {True}


def test_differences_are_named_and_exit_with_1(source, verify):
    follower = Follower({"shop.tag": {"missing": 1, "different": 1, "extra": 1}})
    code, stdout, _ = verify("shop", "--model", "shop.Tag", follower=follower)
    assert code == 1
    assert stdout.splitlines() == [
        "shop: shop.tag, 40 rows: 3 rows differ (1 missing, 1 different, 1 extra)",
        "  shop.tag m0: missing",
        "  shop.tag d0: different (name,stock)",
        "  shop.tag e0: extra",
        (
            "shop: 3 rows differ (1 missing, 1 different, 1 extra); `manage.py mirrorverify shop --repair` "
            "loads these again, and deletes what is only here"
        ),
    ]
    assert states(source) == {"shop.tag": ("done", False)}


def test_of_many_differences_the_first_are_named_and_the_others_counted(source, verify):
    stdout = verify(
        "shop", "--model", "shop.tag", follower=Follower({"shop.tag": {"missing": 25, "extra": 5}})
    )[1]
    assert stdout.count(": missing") == 20
    assert "\n  and 10 more\n" in stdout
    stdout = verify("--list")[1]
    assert stdout.count("missing  -") == 25
    assert " more" not in stdout


def test_what_was_repaired_is_loaded_and_compared_once_more(source, verify):
    follower = Follower({"shop.tag": {"missing": 2}})
    code, stdout, _ = verify("shop", "--repair", follower=follower)
    assert code == 0
    assert follower.passes == {**dict.fromkeys(mirrored_models(), 1), "shop.tag": 2}
    assert "  shop.tag m0: missing, repaired\n" in stdout
    tags = [line for line in stdout.splitlines() if line.startswith("shop: shop.tag, ")]
    assert tags == [
        "shop: shop.tag, 40 rows: 2 rows differed (2 missing, repaired)",
        "shop: shop.tag, 40 rows: identical",
    ]
    assert stdout.splitlines()[-1].startswith("shop: identical as of ")
    assert states(source)["shop.tag"] == ("done", False)


def test_nothing_is_compared_once_more_before_all_is_loaded(source, verify):
    class Slow(Follower):
        def compare(self, one):
            assert not Loading.objects.exclude(state="done").exists() or one.repair
            super().compare(one)

    follower = Slow({"shop.tag": {"missing": 2}, "shop.brand": {"extra": 1}})
    assert verify("shop", "--repair", follower=follower)[0] == 0
    assert follower.passes["shop.brand"] == 2


def test_what_differs_after_it_was_repaired_exits_with_1(source, verify):
    follower = Follower({"shop.tag": {"missing": 2}}, {"shop.tag": {"missing": 1}})
    code, stdout, _ = verify("shop", "--repair", follower=follower)
    assert code == 1
    assert stdout.splitlines()[-1] == (
        "shop: 1 row differs (1 missing), although it was loaded again; see docs/verify.md"
    )


def test_rows_that_the_source_does_not_tell_exit_with_2(source, verify):
    follower = Follower({"shop.tag": {"refused": "unknown_model"}, "shop.brand": {"missing": 1}})
    code, stdout, stderr = verify("shop", follower=follower)
    assert code == 2
    assert "shop: shop.tag: not compared (unknown_model)\n" in stdout
    assert "shop.tag, " not in stdout
    assert "  shop.brand m0: missing\n" in stdout
    assert "does not tell all of its rows (unknown_model)" in stderr


@pytest.mark.parametrize("state", ["new", "stopped", "live", "connecting"])
@pytest.mark.parametrize("heard_at", [None, NOW - timedelta(hours=1)])
def test_a_source_that_nobody_follows_exits_with_2_and_names_the_mend(source, verify, state, heard_at):
    Source.objects.update(state=state, heard_at=heard_at)
    follower = Dead()
    code, stdout, stderr = verify(follower=follower)
    assert (code, stdout) == (2, "")
    assert "manage.py runmirror shop" in stderr
    assert 15 < sum(follower.slept) < 16
    assert set(states(source).values()) == {("waiting", False)}


def test_it_waits_for_as_long_as_the_source_is_heard(source, verify):
    class Busy(Dead):
        def sleep(self, seconds):
            super().sleep(seconds)
            if len(self.slept) < 200:
                Source.objects.update(heard_at=self.now)

    follower = Busy()
    assert verify(follower=follower)[0] == 2
    assert len(follower.slept) > 200


@pytest.mark.parametrize("state", ["halted", "refused"])
def test_a_source_that_needs_somebody_exits_with_2_at_once(source, verify, state):
    Source.objects.update(state=state, error_code="forked", error_text="another\x1b[2J history")
    follower = Dead()
    code, _, stderr = verify(follower=follower)
    assert (code, follower.slept) == (2, [])
    assert f"it is {state}: forked: another" in stderr
    assert "\x1b" not in stderr


def test_a_source_that_is_removed_meanwhile_exits_with_2(source, verify):
    class Removing(Dead):
        def sleep(self, seconds):
            Source.objects.all().delete()

    code, _, stderr = verify(follower=Removing())
    assert (code, stderr) == (2, "shop: could not be compared: it was removed.\n")


def test_a_question_that_is_taken_back_is_not_waited_for(source, verify):
    class Forgetting(Dead):
        def sleep(self, seconds):
            Verification.objects.filter(model="shop.tag").delete()

    code, _, stderr = verify(follower=Forgetting())
    assert code == 2
    assert "took back" in stderr


def test_who_stops_waiting_leaves_what_he_asked_for(source, verify):
    class Impatient(Follower):
        def sleep(self, seconds):
            raise KeyboardInterrupt

    code, _, stderr = verify(follower=Impatient())
    assert code == 2
    assert "mirrorverify --list" in stderr
    assert set(states(source).values()) == {("waiting", False)}


def test_a_database_that_is_away_is_no_difference(source, verify):
    class Cut(Follower):
        def sleep(self, seconds):
            raise OperationalError("the server is away")

    with pytest.raises(CommandError, match="the server is away") as raised:
        verify(follower=Cut())
    assert raised.value.returncode == 2


def test_the_worst_of_several_sources_decides(source, verify):
    Source.objects.create(name="bad", url="ws://bad/", token="t", state="halted")
    follower = Follower({"shop.tag": {"missing": 1}})
    code, stdout, stderr = verify("--model", "shop.tag", follower=follower)
    assert code == 2
    assert stderr.startswith("bad: could not be compared")
    assert "shop: 1 row differs" in stdout


def test_without_names_all_sources_are_compared_and_otherwise_the_named(source, verify):
    Source.objects.create(name="other", url="ws://other/", token="t", state="live", heard_at=NOW)
    code, stdout, _ = verify("shop", "shop", "--model", "shop.tag")
    assert (code, stdout.count("shop.tag")) == (0, 1)
    assert not Verification.objects.filter(source__name="other").exists()
    assert verify("--model", "shop.tag")[0] == 0
    assert list(Verification.objects.order_by("source__name").values_list("source__name", flat=True)) == [
        "other",
        "shop",
    ]


@pytest.mark.parametrize("options", [(), ("--repair",)])
def test_no_wait_only_asks(source, verify, options):
    follower = Follower()
    code, stdout, _ = verify("shop", "--no-wait", *options, follower=follower)
    assert (code, follower.slept) == (0, [])
    assert "mirrorverify --list" in stdout
    assert states(source) == dict.fromkeys(mirrored_models(), ("waiting", bool(options)))


def test_on_a_terminal_bars_are_drawn_and_nothing_is_cut(source, verify):
    follower = Follower({"shop.tag": {"missing": 1}})
    stdout = verify("shop", follower=follower, stdout=Terminal())[1]
    assert "\x1b[" in stdout
    assert "more to come" in stdout
    assert "  shop.tag m0: missing" in stdout


@pytest.mark.parametrize("terminal", [StringIO, Terminal])
def test_what_another_server_said_cannot_control_the_terminal(source, verify, terminal):
    class Hostile(Follower):
        def compare(self, one):
            super().compare(one)
            Difference.objects.update(key="\x1b]0;owned\x07[red]" + "k" * 150, fields="\x07na[b]me")

    follower = Hostile({"shop.tag": {"missing": 1}})
    stdout = verify("--model", "shop.tag", follower=follower, stdout=terminal())[1]
    assert "\x1b]0" not in stdout
    assert "\x07" not in stdout
    assert "[red]" + "k" * 150 in stdout
    assert "na[b]me" in stdout


def test_the_list_shows_what_was_found_and_exits_with_1_for_what_is_not_repaired(source, verify):
    verify("shop", follower=Follower({"shop.tag": {"different": 1}}))
    code, stdout, _ = verify("--list")
    assert code == 1
    results, differences = stdout.split("\n\n")
    header, *rows = results.splitlines()
    assert header.split()[:4] == ["source", "model", "result", "rows"]
    assert [row.split()[2] for row in rows] == [
        "differs" if model == "shop.tag" else "identical" for model in mirrored_models()
    ]
    assert rows[0].split()[-3:] == ["2026-01-01", "12:00:00", str(CURSOR)]
    assert differences.splitlines()[1].split()[:5] == ["shop", "shop.tag", "d0", "different", "name,stock"]
    assert differences.splitlines()[1].endswith("no")


def test_the_list_of_what_was_repaired_exits_with_0(source, verify):
    verify("shop", "--no-wait", "--repair", "--model", "shop.tag")
    follower = Follower({"shop.tag": {"missing": 1}})
    follower.sleep(0)
    code, stdout, _ = verify("--list")
    assert code == 0
    assert "repaired" in stdout.splitlines()[1]
    assert stdout.endswith("yes\n")


def test_the_list_is_of_the_named_source_and_model(source, verify):
    Source.objects.create(name="other", url="ws://other/", token="t", state="live", heard_at=NOW)
    verify(follower=Follower({"shop.tag": {"missing": 1}}))
    assert verify("other", "--list", "--model", "shop.brand")[0] == 0
    stdout = verify("other", "--list", "--model", "shop.brand")[1]
    assert len(stdout.splitlines()) == 2
    assert stdout.splitlines()[1].split()[:3] == ["other", "shop.brand", "identical"]


def test_the_list_says_how_many_differences_are_not_stored(source, verify):
    Verification.objects.create(source=source, model="shop.tag", state="done", missing=1500, ended_at=NOW)
    assert verify("--list")[1].endswith("and 1500 more\n")


@pytest.mark.parametrize("state", ["waiting", "comparing"])
def test_the_list_shows_what_is_not_finished(source, verify, state):
    Verification.objects.create(source=source, model="shop.tag", state=state)
    assert verify("--list")[1].splitlines()[1].split()[:3] == ["shop", "shop.tag", state]


def test_the_list_before_anything_was_compared_says_how_to(source, verify):
    assert verify("--list")[:2] == (
        0,
        "Nothing was compared yet: `manage.py mirrorverify` does it.\n",
    )


def test_an_unknown_source_is_named_and_nothing_is_asked_for(source, verify):
    with pytest.raises(CommandError, match=r"no source named 'nobody'.*mirrorsource list") as raised:
        verify("shop", "nobody")
    assert raised.value.returncode == 2
    assert not Verification.objects.exists()


@pytest.mark.parametrize("model", ["shop.nothing", "auth.User", "tag", ""])
def test_a_model_that_is_not_mirrored_says_which_are(source, verify, model):
    with pytest.raises(CommandError, match=r"is not mirrored here.*shop\.tag"):
        verify("shop", "--model", model)


def test_a_server_without_sources_says_how_to_register_one(verify):
    with pytest.raises(CommandError, match="mirrorsource add"):
        verify()


def test_a_server_that_mirrors_no_models_cannot_claim_that_they_are_identical(source, verify, settings):
    settings.MIRROR = {"MODELS": []}
    with pytest.raises(CommandError, match="lists no models"):
        verify()


def test_to_list_and_to_repair_are_two_things(source, verify):
    with pytest.raises(CommandError, match="not allowed with"):
        verify("--list", "--repair")

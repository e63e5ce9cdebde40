from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from mirror import tokens
from mirror.changes import Op
from mirror.management.commands import mirrorstatus
from mirror.models import (
    Again,
    Loaded,
    Loading,
    LoadingState,
    Mirror,
    ModelOwner,
    Oplog,
    Outbox,
    Source,
    Stream,
    Token,
    Verification,
)
from mirror.registry import mirrored_models
from tests.project.shop.models import Tag

pytestmark = pytest.mark.django_db

URL = "wss://shop.example/mirror/stream/"
TOKEN = "0123456789abcdef." + "s" * 43


class Terminal(StringIO):
    def isatty(self):
        return True


def run(*args, **options):
    """Return what a command wrote to stdout and to stderr."""
    stdout, stderr = options.pop("stdout", StringIO()), StringIO()
    call_command(*args, stdout=stdout, stderr=stderr, **options)
    return stdout.getvalue(), stderr.getvalue()


def now_ts():
    return int(timezone.now().timestamp()) * 1_000_000


@pytest.fixture
def stream():
    Stream.objects.all().delete()
    return Stream.objects.create(local=True)


@pytest.fixture
def write(stream):
    """Record changes at these times; each ends a group unless told otherwise."""

    def write(*times, ends_group=True):
        for ts in times:
            stream.head, stream.position = ts, stream.position + 1
            Oplog.objects.create(
                stream=stream,
                ts=ts,
                position=stream.position,
                op=Op.SAVE,
                model="shop.tag",
                key="1",
                ends_group=ends_group,
                body="{}",
            )
        stream.save()

    return write


# mirrortoken


def test_mirrortoken_create_prints_only_the_token_on_stdout():
    stdout, stderr = run("mirrortoken", "create", "centre")
    assert stdout.count("\n") == 1
    assert tokens.authenticate(stdout.strip()).name == "centre"
    assert "centre" in stderr
    assert stdout.strip() not in stderr


def test_mirrortoken_create_with_a_name_that_is_taken_says_the_mend():
    run("mirrortoken", "create", "centre")
    with pytest.raises(CommandError, match="Choose another name, such as centre-2"):
        run("mirrortoken", "create", "centre")


def test_mirrortoken_list_shows_names_and_times_but_no_secrets():
    secret = run("mirrortoken", "create", "centre")[0].strip().partition(".")[2]
    run("mirrortoken", "create", "other")
    run("mirrortoken", "revoke", "other")
    stdout, _ = run("mirrortoken", "list")
    header, centre, other = stdout.splitlines()
    assert header.split() == ["name", "prefix", "created", "last", "used", "revoked"]
    assert centre.startswith("centre")
    assert centre.endswith("-")
    assert not other.endswith("-")
    assert secret not in stdout
    assert Token.objects.get(name="centre").digest not in stdout


def test_mirrortoken_revoke_lets_the_token_in_no_more():
    token = run("mirrortoken", "create", "centre")[0].strip()
    assert "revoked since 2" in run("mirrortoken", "revoke", "centre")[0]
    assert tokens.authenticate(token) is None


def test_mirrortoken_revoke_of_an_unknown_name_says_where_to_look():
    with pytest.raises(CommandError, match="mirrortoken list"):
        run("mirrortoken", "revoke", "nobody")


# mirrorsource


def test_mirrorsource_add_registers_a_source():
    stdout, stderr = run("mirrorsource", "add", "shop", URL, "--token", TOKEN)
    source = Source.objects.get()
    assert (source.name, source.url, source.token) == ("shop", URL, TOKEN)
    assert (source.state, source.cursor) == ("new", 0)
    assert "runmirror" in stdout
    assert TOKEN not in stdout + stderr


def test_mirrorsource_add_takes_what_mirrortoken_printed():
    token = run("mirrortoken", "create", "centre")[0]
    run("mirrorsource", "add", "shop", URL, "--token", token)
    assert tokens.authenticate(Source.objects.get().token).name == "centre"


@pytest.mark.parametrize(
    ("told", "stored"),
    [
        ("start", "start"),
        ("now", "now"),
        ("2026-05-31T08:00:00.000001+02:00", "1780207200000001"),  # exact to the microsecond
        ("2026-05-31 06:00", "1780207200000000"),  # the project's own time zone, UTC here
    ],
)
def test_mirrorsource_add_may_begin_elsewhere_than_at_the_start(told, stored):
    run("mirrorsource", "add", "shop", URL, "--token", TOKEN, "--from", told)
    assert Source.objects.get().begin == stored


@pytest.mark.parametrize("told", ["yesterday", "", "2026-13-01T00:00:00Z"])
def test_mirrorsource_add_from_nowhere_names_what_it_takes(told):
    with pytest.raises(CommandError, match="start, now, or a time"):
        run("mirrorsource", "add", "shop", URL, "--token", TOKEN, "--from", told)
    assert not Source.objects.exists()


def test_mirrorsource_add_reads_the_token_from_a_file(tmp_path):
    (tmp_path / "token").write_text(TOKEN + "\n")
    run("mirrorsource", "add", "shop", URL, "--token-file", str(tmp_path / "token"))
    assert Source.objects.get().token == TOKEN


def test_mirrorsource_add_reads_the_token_from_the_environment(monkeypatch):
    monkeypatch.setenv("MIRROR_TOKEN", TOKEN)
    run("mirrorsource", "add", "shop", URL)
    assert Source.objects.get().token == TOKEN


def test_mirrorsource_add_prefers_what_the_command_line_says(monkeypatch):
    monkeypatch.setenv("MIRROR_TOKEN", "of something else")
    run("mirrorsource", "add", "shop", URL, "--token", TOKEN)
    assert Source.objects.get().token == TOKEN


def test_mirrorsource_add_without_a_token_names_the_three_ways(monkeypatch):
    monkeypatch.delenv("MIRROR_TOKEN", raising=False)
    with pytest.raises(CommandError, match="--token or --token-file, or set MIRROR_TOKEN"):
        run("mirrorsource", "add", "shop", URL)


def test_mirrorsource_add_with_a_file_that_is_not_there_names_the_file():
    with pytest.raises(CommandError, match="/nowhere/token"):
        run("mirrorsource", "add", "shop", URL, "--token-file", "/nowhere/token")


def test_mirrorsource_add_with_a_file_that_is_no_text_is_an_error(tmp_path):
    (tmp_path / "token").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CommandError, match="decode"):
        run("mirrorsource", "add", "shop", URL, "--token-file", str(tmp_path / "token"))


@pytest.mark.parametrize("token", [TOKEN[:-1], TOKEN + "s", "secret", "0123456789abcdef"])
def test_mirrorsource_add_with_a_token_of_another_shape_says_where_tokens_come_from(token):
    with pytest.raises(CommandError, match="mirrortoken create"):
        run("mirrorsource", "add", "shop", URL, "--token", token)
    assert not Source.objects.exists()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://shop.example/", "Write ws://shop.example/mirror/stream/ instead"),
        ("https://shop.example", "Write wss://shop.example/mirror/stream/ instead"),
        ("https://shop.example:8443/sub/", "Write wss://shop.example:8443/sub/ instead"),
        ("shop.example:8000", "ws://localhost:8000/mirror/stream/"),  # parsed as a scheme
        ("ftp://shop.example/", "is not a ws:// or wss:// URL"),
        ("ws://", "is not a ws:// or wss:// URL"),
        ("", "is not a ws:// or wss:// URL"),
        ("ws://shop.example:99999/", "is not a URL"),
        ("ws://shop.example:0/", "is not a ws:// or wss:// URL"),
        ("ws://[::1/", "is not a URL"),
        ("ws://shop.exa\nmple/", "is not a ws:// or wss:// URL"),  # urlsplit would mend it silently
        ("ws://shop example/", "is not a ws:// or wss:// URL"),
        ("ws://user:pass@shop.example/", "keep passwords out of it"),
        ("ws://shop.example/#top", "leave out '#top'"),
        ("ws://shop.example/" + "x" * 500, "at most 500 characters"),
    ],
)
def test_mirrorsource_add_with_a_wrong_url_shows_the_right_form(url, told):
    with pytest.raises(CommandError) as raised:
        run("mirrorsource", "add", "shop", url, "--token", TOKEN)
    assert told in str(raised.value)
    assert not Source.objects.exists()


@pytest.mark.parametrize("url", ["ws://[::1]:8000/mirror/stream/", "WSS://shop.example/x/?key=1"])
def test_mirrorsource_add_takes_unusual_urls_that_are_right(url):
    run("mirrorsource", "add", "shop", url, "--token", TOKEN)
    assert Source.objects.get().url == url


def test_mirrorsource_add_of_a_bare_host_mentions_the_path():
    _, stderr = run("mirrorsource", "add", "shop", "ws://shop.example", "--token", TOKEN)
    assert "/mirror/stream/" in stderr
    assert Source.objects.exists()


@pytest.mark.parametrize("name", ["", "my shop", "shop/1", "n" * 101])
def test_mirrorsource_add_with_a_name_that_is_no_slug_says_what_is_one(name):
    with pytest.raises(CommandError, match="letters, digits"):
        run("mirrorsource", "add", name, URL, "--token", TOKEN)


def test_mirrorsource_add_of_a_name_that_is_taken_says_the_mend():
    run("mirrorsource", "add", "shop", URL, "--token", TOKEN)
    with pytest.raises(CommandError, match="mirrorsource remove shop"):
        run("mirrorsource", "add", "shop", URL, "--token", TOKEN)


def test_mirrorsource_add_without_the_client_app_says_to_install_it(settings):
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "client"]
    with pytest.raises(CommandError, match='add "client" to INSTALLED_APPS'):
        run("mirrorsource", "add", "shop", URL, "--token", TOKEN)


def test_mirrorsource_list_shows_names_and_urls_but_no_tokens():
    run("mirrorsource", "add", "shop", URL, "--token", TOKEN)
    stdout, _ = run("mirrorsource", "list")
    assert stdout.splitlines()[1].split()[:2] == ["shop", URL]
    assert TOKEN not in stdout


def test_mirrorsource_remove_forgets_the_cursor_and_keeps_the_rows():
    run("mirrorsource", "add", "shop", URL, "--token", TOKEN)
    Tag.objects.create(label="mirrored")
    ModelOwner.objects.create(model="shop.counter", source=Source.objects.get())
    stdout, _ = run("mirrorsource", "remove", "shop")
    assert not Source.objects.exists()
    assert not ModelOwner.objects.exists()
    assert Tag.objects.exists()
    assert "Its rows stay here; its cursor is forgotten." in stdout


def test_mirrorsource_remove_of_an_unknown_name_says_where_to_look():
    with pytest.raises(CommandError, match="mirrorsource list"):
        run("mirrorsource", "remove", "nobody")


# mirrorsource resync


@pytest.fixture
def followed(stream):
    return Source.objects.create(name="shop", url=URL, token=TOKEN, stream=stream, cursor=5)


def loading(source=None):
    """What is to be loaded, by model: the state, and whether changes mean nothing until then."""
    rows = Loading.objects.all() if source is None else source.loading.all()
    return {row.model: (row.state, row.anew) for row in rows}


def test_mirrorsource_resync_has_every_model_loaded(followed):
    stdout, _ = run("mirrorsource", "resync", "shop")
    assert loading() == dict.fromkeys(mirrored_models(), ("waiting", False))
    assert f"{len(mirrored_models())} models are loaded from 'shop'" in stdout
    assert "mirrorstatus" in stdout
    followed.refresh_from_db()
    assert followed.cursor == 5


@pytest.mark.parametrize("model", ["shop.tag", "shop.Tag", "SHOP.TAG"])
def test_mirrorsource_resync_may_be_of_one_model(followed, model):
    stdout, _ = run("mirrorsource", "resync", "shop", "--model", model)
    assert loading() == {"shop.tag": ("waiting", False)}
    assert "shop.tag is loaded from 'shop'" in stdout


def test_mirrorsource_resync_leaves_other_sources_and_models_as_they_are(followed):
    other = Source.objects.create(name="other", url=URL, token=TOKEN)
    for source in (followed, other):
        for model in ("shop.tag", "shop.brand"):
            Loading.objects.create(source=source, model=model, state=LoadingState.COPYING, anew=False)
            Again.objects.create(source=source, model=model, pk_there="1", known=True)
            Loaded.objects.create(source=source, model=model, key="1")
    run("mirrorsource", "resync", "shop", "--model", "shop.tag")
    assert loading(followed) == {"shop.tag": ("waiting", False), "shop.brand": ("copying", False)}
    assert loading(other) == {"shop.tag": ("copying", False), "shop.brand": ("copying", False)}
    for table in (Again, Loaded):
        assert list(table.objects.order_by("source", "model").values_list("source", "model")) == [
            (followed.pk, "shop.brand"),
            (other.pk, "shop.brand"),
            (other.pk, "shop.tag"),
        ]


def test_mirrorsource_resync_may_be_said_twice(followed):
    run("mirrorsource", "resync", "shop")
    Loading.objects.update(state=LoadingState.DONE, rows=7)
    run("mirrorsource", "resync", "shop")
    assert set(loading().values()) == {("waiting", False)}
    assert set(Loading.objects.values_list("rows", flat=True)) == {0}


@pytest.mark.parametrize("options", [[], ["--model", "shop.tag"]])
def test_mirrorsource_resync_of_a_source_that_was_never_followed_loads_everything_anew(stream, options):
    # With its rows as they are now it is followed from now on: what is not loaded would never come.
    Source.objects.create(name="shop", url=URL, token=TOKEN)
    stdout, _ = run("mirrorsource", "resync", "shop", *options)
    assert loading() == dict.fromkeys(mirrored_models(), ("waiting", True))
    assert f"{len(mirrored_models())} models are loaded" in stdout


@pytest.mark.parametrize("state", ["waiting", "copying", "copied", "settling"])
@pytest.mark.parametrize("options", [[], ["--model", "shop.tag"]])
def test_mirrorsource_resync_of_what_is_loaded_anew_keeps_its_changes_from_coming_early(
    followed, state, options
):
    Loading.objects.create(source=followed, model="shop.tag", state=state, anew=True)
    Loading.objects.create(source=followed, model="shop.brand", state=LoadingState.DONE, anew=True)
    run("mirrorsource", "resync", "shop", *options)
    assert loading()["shop.tag"] == ("waiting", True)
    assert loading()["shop.brand"] == (("done", True) if options else ("waiting", False))


def test_mirrorsource_resync_of_an_unknown_name_says_where_to_look(followed):
    with pytest.raises(CommandError, match=r"no source named 'nobody'.*mirrorsource list"):
        run("mirrorsource", "resync", "nobody")
    assert not loading()


@pytest.mark.parametrize("model", ["shop.nothing", "auth.User", "tag", ""])
def test_mirrorsource_resync_of_a_model_that_is_not_mirrored_says_which_are(followed, model):
    with pytest.raises(CommandError, match=r"is not mirrored here.*shop\.tag"):
        run("mirrorsource", "resync", "shop", "--model", model)
    assert not loading()


# mirrorstatus


@pytest.fixture
def source(stream):
    return Source.objects.create(
        name="shop",
        url=URL,
        token=TOKEN,
        state="live",
        heard_at=timezone.now(),
        cursor=1698395500971553,
        head=1698395500971553,
        position=4,
        head_position=4,
    )


def test_mirrorstatus_shows_the_local_stream(write, stream):
    write(1698395500971553)
    Outbox.objects.create(op="SAVE", model="shop.tag", captured_at=6, payload="{}")
    stdout, _ = run("mirrorstatus")
    header, row = stdout.splitlines()
    assert header.split("  ")[0] == "recorded here"
    assert row.split() == [str(stream.uuid), "1698395500971553", "2023-10-27", "08:31:40", "1", "1", "1"]


def test_mirrorstatus_shows_each_source_in_plain_columns(source, stream):
    stream.delete()
    header, row = run("mirrorstatus")[0].splitlines()
    assert header.split()[:3] == ["source", "state", "cursor"]
    assert " ".join(row.split()).startswith(
        "shop live 1698395500971553 2023-10-27 08:31:40 1698395500971553 0 0.0 "
    )
    assert row.endswith("s ago  -")


def test_mirrorstatus_shows_a_source_that_was_never_heard(source, stream):
    stream.delete()
    Source.objects.update(heard_at=None, state="new", cursor=0, head=0)
    row = run("mirrorstatus")[0].splitlines()[1]
    assert " ".join(row.split()) == "shop not followed yet 0 - 0 0 - never -"


@pytest.mark.parametrize("terminal", [StringIO, Terminal])
@pytest.mark.parametrize(
    ("rows", "total", "told"),
    [
        (30, 120, "shop: loading shop.brand, 30 of 120 rows (25 %), 1 more model to come"),
        (130, 120, "shop: loading shop.brand, 130 of 120 rows (100 %), 1 more model to come"),
        (0, 0, "shop: loading shop.brand, 0 of 0 rows, 1 more model to come"),
        (30, None, "shop: loading shop.brand, 30 rows, 1 more model to come"),
    ],
)
def test_mirrorstatus_shows_what_is_loaded_and_how_far(source, terminal, rows, total, told):
    run("mirrorsource", "resync", "shop")
    Loading.objects.exclude(model__in=["shop.brand", "shop.tag"]).update(state=LoadingState.DONE)
    brand = Loading.objects.filter(model="shop.brand")
    brand.update(state=LoadingState.COPYING, began_at=timezone.now(), rows=rows, total=total)
    assert told in run("mirrorstatus", stdout=terminal())[0]


def test_mirrorstatus_shows_the_last_model_that_is_loaded_and_nothing_of_those_that_are(source):
    Loading.objects.create(source=source, model="shop.tag", state=LoadingState.SETTLING, anew=False, rows=3)
    assert run("mirrorstatus")[0].endswith("\n\nshop: loading shop.tag, 3 rows\n")
    Loading.objects.update(state=LoadingState.DONE)
    assert "loading" not in run("mirrorstatus")[0]


def compared(source, model, **fields):
    done = {"state": "done", "rows": 40, "total": 120, "cursor": source.cursor, "ended_at": timezone.now()}
    Verification.objects.create(source=source, model=model, **{**done, **fields})


@pytest.mark.parametrize("terminal", [StringIO, Terminal])
def test_mirrorstatus_says_as_of_when_rows_are_identical(source, terminal):
    at = timezone.now() - timedelta(days=1)
    for model in mirrored_models():
        compared(source, model, ended_at=at)
    stdout = run("mirrorstatus", stdout=terminal())[0]
    assert f"shop: identical as of {at:%Y-%m-%d %H:%M:%S} at 1698395500971553\n" in stdout


@pytest.mark.parametrize("terminal", [StringIO, Terminal])
def test_mirrorstatus_shows_what_is_compared_and_how_far(source, terminal):
    for model in mirrored_models():
        state = {"shop.tag": "waiting", "shop.brand": "comparing"}.get(model, "done")
        began_at = timezone.now() if state == "comparing" else None
        compared(source, model, state=state, began_at=began_at)
    stdout = run("mirrorstatus", stdout=terminal())[0]
    assert "shop: comparing shop.brand, 40 of 120 rows (33 %), 1 more model to come\n" in stdout


@pytest.mark.parametrize("terminal", [StringIO, Terminal])
def test_mirrorstatus_exits_with_1_for_rows_that_differ_and_names_the_mend(source, terminal):
    compared(source, "shop.tag", missing=2, extra=1)
    stdout = terminal()
    with pytest.raises(SystemExit) as raised:
        run("mirrorstatus", stdout=stdout)
    assert raised.value.code == 1
    assert "shop: 3 rows differ (2 missing, 1 extra)" in stdout.getvalue()
    assert "`manage.py mirrorverify shop --repair`" in "".join(stdout.getvalue().split("\n"))


def test_mirrorstatus_is_content_with_rows_that_were_repaired(source):
    compared(source, "shop.tag", different=1, repair=True)
    stdout = run("mirrorstatus")[0]
    assert "shop: 1 row differed (1 different, repaired)" in stdout
    assert "--repair" not in stdout


def test_mirrorstatus_tells_what_was_not_compared(source):
    compared(source, "shop.tag", refused="unknown_model")
    others = len(mirrored_models()) - 1
    assert f"shop: 1 model could not be compared; {others} models never compared\n" in run("mirrorstatus")[0]


def test_mirrorstatus_says_nothing_of_rows_that_nobody_compared(source):
    assert "compared" not in run("mirrorstatus")[0]


def test_mirrorstatus_of_a_new_server_says_how_to_begin(stream):
    stream.delete()
    assert "mirrorsource add" in run("mirrorstatus")[0]
    assert "mirrorsource add" in run("mirrorstatus", stdout=Terminal())[0]


@pytest.mark.parametrize("options", [{}, {"json": True}])
@pytest.mark.parametrize("state", ["halted", "refused", "stalled"])
def test_mirrorstatus_exits_with_1_if_a_source_needs_a_human(source, state, options):
    Source.objects.update(state=state)
    stdout = StringIO()
    with pytest.raises(SystemExit) as raised:
        run("mirrorstatus", stdout=stdout, **options)
    assert raised.value.code == 1
    assert state in stdout.getvalue()


def test_mirrorstatus_json_is_one_object(source):
    found = json.loads(run("mirrorstatus", json=True)[0])
    assert found["ok"] is True
    assert found["sources"][0]["cursor"] == 1698395500971553


def test_mirrorstatus_on_a_terminal_is_drawn_by_rich(source):
    stdout, _ = run("mirrorstatus", stdout=Terminal())
    assert "\x1b[" in stdout
    assert "shop" in stdout


@pytest.mark.parametrize("terminal", [StringIO, Terminal])
def test_mirrorstatus_does_not_pass_on_control_sequences_or_markup(source, terminal):
    Source.objects.update(error_text="\x1b]0;owned\x07[red]wrong[/red]\nagain")
    stdout, _ = run("mirrorstatus", stdout=terminal())
    assert "\x1b]0" not in stdout
    assert "\x07" not in stdout
    assert "[red]" in "".join(stdout.split())


@pytest.mark.parametrize("terminal", [StringIO, Terminal])
def test_mirrorstatus_watch_shows_it_anew_each_second_until_interrupted(source, terminal, monkeypatch):
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        Source.objects.update(state="halted", name=f"shop{len(slept)}")
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(mirrorstatus.Command, "sleep", staticmethod(sleep))
    stdout, _ = run("mirrorstatus", watch=True, stdout=terminal())
    assert slept == [1, 1, 1]
    assert "shop1" in stdout
    assert "shop2" in stdout
    assert "shop3" not in stdout


def test_mirrorstatus_does_not_take_json_and_watch_together():
    with pytest.raises(CommandError, match="not allowed with"):
        run("mirrorstatus", "--json", "--watch")


# pruneoplog


def kept():
    return list(Oplog.objects.order_by("ts").values_list("ts", flat=True))


@pytest.fixture
def follow(stream):
    """Let a mirror be seen so many days ago, with this cursor."""

    def follow(cursor, *, days=0.0, token="office", mirror="m", stream=stream):
        seen = timezone.now() - timedelta(days=days)
        return Mirror.objects.create(
            stream=stream,
            token=token,
            mirror=mirror,
            cursor=cursor,
            position=0,
            first_seen=seen,
            last_seen=seen,
        )

    return follow


def test_pruneoplog_without_a_limit_does_what_the_settings_say(write, stream, settings):
    recent = now_ts() - 86_400_000_000
    write(10, 20, recent, recent + 5)
    settings.MIRROR = {**settings.MIRROR, "KEEP_DAYS": 30}
    assert run("pruneoplog")[0].startswith(f"{stream}: 2 deleted, 2 kept, those after 1970-01-01 00:00:00")
    assert kept() == [recent, recent + 5]
    settings.MIRROR = {**settings.MIRROR, "KEEP_DAYS": 0.5}
    run("pruneoplog")
    assert kept() == [recent + 5]


def test_pruneoplog_keeps_what_a_mirror_lacks_and_says_who(write, follow):
    write(10, 20, 30, 40)
    follow(20, token="slow", mirror="m1")
    follow(30, token="fast", mirror="m2")
    stdout, _ = run("pruneoplog", "--keep-changes", "1")
    assert kept() == [30, 40]
    assert "more is kept for mirror slow m1, which has the changes up to" in stdout
    assert "fast" not in stdout


@pytest.mark.parametrize("why", ["seen too long ago", "revoked", "forgotten"])
def test_pruneoplog_waits_for_no_mirror_that_will_not_come(write, follow, why):
    tokens.create("office")
    write(10, 20, 30)
    follow(0, days=91 if why == "seen too long ago" else 89)
    if why == "revoked":
        run("mirrortoken", "revoke", "office")
    if why == "forgotten":
        run("mirrorfollower", "forget", "m")
    run("pruneoplog", "--keep-days", "1")
    assert kept() == [30]


def test_pruneoplog_over_a_cap_says_whom_it_cuts_off(write, follow, settings, caplog):
    settings.MIRROR = {**settings.MIRROR, "OPLOG_DAYS": 60}
    write(10, 20, 30)
    follow(0)
    stdout, _ = run("pruneoplog", "--dry-run")
    assert "2 would go, 1 kept" in stdout
    assert "cut off: mirror office m, which has the changes up to none yet, seen" in stdout
    assert not caplog.records
    run("pruneoplog")
    assert kept() == [30]
    assert [record.getMessage().partition(" from ")[0] for record in caplog.records] == [
        "mirror office m is cut off"
    ]


def test_pruneoplog_before_a_time(write):
    write(10_000_000, 20_000_000, 30_000_000)
    run("pruneoplog", "--before", "1970-01-01T00:00:15")
    assert kept() == [20_000_000, 30_000_000]
    run("pruneoplog", "--before", "1970-01-01T01:00:20+01:00")
    assert kept() == [20_000_000, 30_000_000]


@pytest.mark.parametrize("text", ["yesterday", "", "2026-13-01T00:00:00", "5"])
def test_pruneoplog_refuses_what_is_no_time(text):
    with pytest.raises(CommandError, match="a time such as"):
        run("pruneoplog", f"--before={text}")


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "ten", "²", ""])
def test_pruneoplog_refuses_what_is_no_count(text):
    with pytest.raises(CommandError, match="a whole number from 1 on"):
        run("pruneoplog", f"--keep-days={text}")


def test_pruneoplog_keep_changes_keeps_the_newest(write, stream):
    write(10, 20, 30, 40)
    stdout, _ = run("pruneoplog", "--keep-changes", "3")
    assert kept() == [20, 30, 40]
    assert stdout == f"{stream}: 1 deleted, 3 kept, those after 1970-01-01 00:00:00\n"
    stream.refresh_from_db()
    assert (stream.anchor, stream.anchor_position) == (10, 1)


def test_pruneoplog_keeps_everything_when_there_is_less_than_asked_for(write):
    write(10, 20)
    assert "0 deleted" in run("pruneoplog", "--keep-changes", "3")[0]
    assert kept() == [10, 20]


def test_pruneoplog_keep_days_goes_by_the_time_of_the_changes(write):
    recent = now_ts() - 86_400_000_000
    write(10, 20, recent, recent + 5)
    run("pruneoplog", "--keep-days", "2")
    assert kept() == [recent, recent + 5]


def test_pruneoplog_with_both_limits_keeps_what_either_keeps(write):
    recent = now_ts() - 86_400_000_000
    write(10, 20, recent)
    run("pruneoplog", "--keep-days", "2", "--keep-changes", "2")
    assert kept() == [20, recent]


def test_pruneoplog_never_deletes_the_newest_change(write):
    write(10, 20)
    run("pruneoplog", "--keep-days", "1")
    assert kept() == [20]


def test_pruneoplog_deletes_whole_groups_only(write):
    write(10)
    write(20, ends_group=False)
    write(30, 40)
    run("pruneoplog", "--keep-changes", "2")
    assert kept() == [20, 30, 40]
    write(50, ends_group=False)
    write(60)
    run("pruneoplog", "--keep-changes", "1")
    assert kept() == [50, 60]


def test_pruneoplog_dry_run_deletes_nothing(write):
    write(10, 20, 30)
    assert "2 would go, 1 kept" in run("pruneoplog", "--keep-changes", "1", "--dry-run")[0]
    assert kept() == [10, 20, 30]


def test_pruneoplog_prunes_the_copies_too(write, stream):
    write(10, 20)
    copy = Stream.objects.create(head=20, position=20, anchor=14, anchor_position=14)
    Oplog.objects.bulk_create(
        Oplog(stream=copy, ts=ts, position=ts, op="SAVE", model="shop.tag", key="1", ends_group=True, body="")
        for ts in range(15, 21)
    )
    run("pruneoplog", "--keep-changes", "1")
    assert list(Oplog.objects.order_by("stream_id").values_list("stream", "ts")) == [
        (stream.pk, 20),
        (copy.pk, 20),
    ]


# mirrorfollower


def test_mirrorfollower_lists_who_follows(write, follow):
    write(10, 20)
    follow(10, token="office", mirror="m1")
    follow(20, token="shop", mirror="m2", days=91)
    header, *rows = run("mirrorfollower", "list")[0].splitlines()
    assert header.split()[:4] == ["mirror", "of", "token", "state"]
    assert [row.split()[:4] for row in rows] == [
        ["m1", "office", "awaited", "10"],
        ["m2", "shop", "gone", "20"],
    ]


def test_mirrorfollower_forgets_one_by_its_own_name(follow):
    follow(10, token="office", mirror="m1")
    follow(10, token="office", mirror="m2")
    assert "office m1 is forgotten" in run("mirrorfollower", "forget", "m1")[0]
    assert list(Mirror.objects.values_list("mirror", flat=True)) == ["m2"]


def test_mirrorfollower_forgets_one_by_its_token_where_that_is_clear(follow):
    follow(10, token="office", mirror="m1")
    follow(10, token="office", mirror="m2")
    follow(10, token="shop", mirror="m3")
    follow(20, token="shop", mirror="m3", stream=Stream.objects.create())
    run("mirrorfollower", "forget", "shop")
    assert set(Mirror.objects.values_list("token", flat=True)) == {"office"}
    with pytest.raises(CommandError, match=r"Several mirrors use the token 'office'.*: m1, m2"):
        run("mirrorfollower", "forget", "office")
    assert Mirror.objects.count() == 2


def test_mirrorfollower_says_that_it_knows_no_such_mirror(stream):
    with pytest.raises(CommandError, match=r"No mirror 'm'.*mirrorfollower list"):
        run("mirrorfollower", "forget", "m")


@pytest.mark.parametrize("terminal", [StringIO, Terminal])
def test_mirrorstatus_shows_the_mirrors(write, follow, terminal):
    write(10, 20)
    follow(10, mirror="m1\x1b]0;owned\x07[red]")
    stdout, _ = run("mirrorstatus", stdout=terminal())
    assert "office" in stdout
    assert "awaited" in stdout
    assert "\x1b]0" not in stdout
    assert "[red]" in "".join(stdout.split())

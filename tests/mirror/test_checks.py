# ruff: noqa: N802  the ids are upper case
from __future__ import annotations

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import connections

from mirror import capture
from mirror.checks import TAG
from mirror.models import Outbox
from tests.mirror.conftest import attached, sqlite
from tests.project.shop.models import Counter


@pytest.fixture
def check(settings, monkeypatch):
    """Return the messages about a MIRROR, whatever database the tests run on."""
    monkeypatch.setattr(capture, "supported", lambda vendor: vendor != "oracle")

    def check(**mirror):
        settings.MIRROR = mirror
        return run_checks(tags=[TAG])

    return check


def ids(messages):
    return [message.id for message in messages]


def test_the_settings_of_the_tests_are_right():
    assert run_checks(tags=[TAG]) == []


def test_every_message_has_a_hint(check):
    messages = [
        *check(MODEL=[]),
        *check(MODELS="shop.*"),
        *check(MODELS=["shop", "shop.Tga", "auth.User", "auth.Group", "mirror.*", "sessions.*"]),
        *check(MODELS=["shop.*"], EXCLUDE_FIELDS=["shop.Tag.id", "x"], DATABASE="x"),
    ]
    assert len(set(ids(messages))) == 6
    assert all(message.hint for message in messages)


# E001: MIRROR can be decoded


def test_E001_an_unknown_key_is_named_with_the_key_that_was_meant(check):
    (error,) = check(MODEL=["shop.*"])
    assert error.id == "mirror.E001"
    assert "unknown key 'MODEL'" in error.msg
    assert error.hint == "Did you mean 'MODELS'?"


@pytest.mark.parametrize("key", ["models", "Models", "EXCLUDE_FIELD", "WINDOW_BYTE"])
def test_E001_a_near_miss_finds_its_key(check, key):
    (error,) = check(**{key: []})
    assert error.hint.startswith("Did you mean")


def test_E001_a_key_like_no_other_gets_the_list_of_keys(check):
    (error,) = check(XYZZY=1)
    assert "MODELS" in error.hint
    assert "DEADLINE" in error.hint


@pytest.mark.parametrize(
    ("mirror", "key", "default"),
    [
        ({"MODELS": "shop.*"}, "MODELS", "[]"),  # the classic: a string for a list
        ({"MODELS": [1]}, "MODELS", "[]"),
        ({"CAPTURE": "trigger"}, "CAPTURE", "'triggers'"),
        ({"HEARTBEAT": 0}, "HEARTBEAT", "5.0"),
        ({"HEARTBEAT": "5"}, "HEARTBEAT", "5.0"),
        ({"FRAME_BYTES": 10_000_000}, "FRAME_BYTES", "262144"),
    ],
)
def test_E001_a_wrong_value_names_its_key_and_the_default(check, mirror, key, default):
    (error,) = check(**mirror)
    assert error.id == "mirror.E001"
    assert f"MIRROR['{key}']" in error.msg
    assert default in error.hint


def test_E001_all_wrong_keys_are_told_at_once(check):
    assert ids(check(MODEL=[], HEARTBEAT=-1, MODELS=["nothing.*"])) == ["mirror.E001"] * 2


@pytest.mark.parametrize("value", [None, ["shop.*"], "shop.*"])
def test_E001_a_mirror_that_is_no_dict_shows_one(settings, value):
    settings.MIRROR = value
    (error,) = run_checks(tags=[TAG])
    assert error.id == "mirror.E001"
    assert 'MIRROR = {"MODELS"' in error.hint


def test_E001_a_key_that_is_no_text_is_an_unknown_key(settings):
    settings.MIRROR = {1: 2}
    assert ids(run_checks(tags=[TAG])) == ["mirror.E001"]


# E002: patterns of models


@pytest.mark.parametrize("pattern", ["shop", "shop.Tag.label", "", "shop.", ".Tag", "shop. Tag"])
def test_E002_a_malformed_pattern_is_named(check, pattern):
    (error,) = check(MODELS=["shop.*", pattern])
    assert error.id == "mirror.E002"
    assert repr(pattern) in error.msg
    assert "app_label.Model" in error.hint


def test_E002_a_star_alone_is_malformed_although_it_matches(check):
    assert "mirror.E002" in ids(check(MODELS=["*"]))


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("shop.Tga", "shop.Tag"),
        ("SHOP.PRODUKT", "shop.Product"),
        ("shpo.*", "shop.*"),
    ],
)
def test_E002_a_pattern_that_matches_nothing_suggests_the_closest(check, pattern, meant):
    (error,) = check(MODELS=["shop.*", pattern])
    assert error.id == "mirror.E002"
    assert repr(pattern) in error.msg
    assert error.hint == f"Did you mean {meant!r}?"


def test_E002_a_pattern_of_an_app_that_is_not_installed_asks_for_the_app(check):
    (error,) = check(MODELS=["shop.*", "zoology.*"])
    assert error.hint == "Is its app in INSTALLED_APPS?"


def test_E002_a_proxy_names_the_model_to_list(check, monkeypatch):
    # A proxy of the project would need a migration of its own: an existing model plays one.
    from tests.project.shop.models import Bundle, Tag

    monkeypatch.setattr(Bundle._meta, "proxy", True)
    monkeypatch.setattr(Bundle._meta, "concrete_model", Tag)
    error = check(MODELS=["shop.Tag", "shop.Bundle"])[0]
    assert error.id == "mirror.E002"
    assert error.hint == "shop.Bundle is a proxy: list shop.Tag."


@pytest.mark.parametrize("pattern", ["shop.*", "SHOP.tag", "shop.T*", "*.Tag", "shop.Product_tags"])
def test_E002_is_silent_for_patterns_that_match(check, pattern):
    assert "mirror.E002" not in ids(check(MODELS=[pattern]))


# E003: names of fields


@pytest.mark.parametrize("key", ["EXCLUDE_FIELDS", "ALLOW_SENSITIVE"])
@pytest.mark.parametrize(
    ("entry", "hint"),
    [
        ("shop.Ticket.sceret", "Did you mean 'shop.Ticket.secret'?"),
        ("shop.Ticket", "Write it as"),
        ("shop.Ticket.*", "Did you mean"),
        ("secret", "Write it as"),
        ("shop.Product.brand_id", "Did you mean 'shop.Product.brand'?"),  # a column, no field
        ("shop.Product.tags", "Did you mean"),  # has no column here
    ],
)
def test_E003_an_entry_that_names_no_field_is_named(check, key, entry, hint):
    (error,) = check(MODELS=["shop.*"], **{key: [entry]})
    assert error.id == "mirror.E003"
    assert key in error.msg
    assert repr(entry) in error.msg
    assert error.hint.startswith(hint)


def test_E003_is_silent_for_a_field_in_any_case(check):
    assert check(MODELS=["shop.*"], EXCLUDE_FIELDS=["SHOP.ticket.Secret"]) == []


# E004: what should not leave


AUTH = ["auth.User", "auth.Group", "auth.Permission"]


@pytest.mark.parametrize("pattern", ["auth.User", "auth.*", "*.*"])
def test_E004_a_password_is_not_sent_by_accident(check, pattern):
    errors = [error for error in check(MODELS=[pattern]) if "auth.User.password" in error.msg]
    assert ids(errors) == ["mirror.E004"]
    assert 'Add "auth.User.password" to MIRROR["EXCLUDE_FIELDS"]' in errors[0].hint


@pytest.mark.parametrize("key", ["EXCLUDE_FIELDS", "ALLOW_SENSITIVE"])
def test_E004_is_silent_for_a_password_that_was_decided_on(check, key):
    assert check(MODELS=AUTH, **{key: ["auth.user.password"]}) == []


def test_E004_sessions_are_not_sent_by_accident(check):
    errors = check(MODELS=["sessions.Session"])
    assert set(ids(errors)) == {"mirror.E004"}
    assert any("sessions.Session.session_key" in error.msg for error in errors)
    assert "logged in" in errors[0].hint


def test_E004_sessions_can_be_forced(check):
    allow = [f"sessions.Session.{name}" for name in ("session_key", "session_data", "expire_date")]
    assert check(MODELS=["sessions.Session"], ALLOW_SENSITIVE=allow) == []


@pytest.mark.parametrize("pattern", ["mirror.*", "mirror.Token"])
def test_E004_the_own_tables_of_the_mirror_never_leave(check, pattern):
    errors = check(MODELS=["shop.*", pattern])
    assert ids(errors) == ["mirror.E004"]
    assert repr(pattern) in errors[0].msg


def test_E004_a_pattern_for_everything_does_not_mean_the_own_tables(check):
    assert not any("own tables" in message.msg for message in check(MODELS=["*.*"]))


# E005: keys


@pytest.mark.parametrize(
    "entry",
    [
        "shop.Tag.id",  # the UUID
        "shop.Tag.pkid",  # the primary key beside it
        "shop.Ticket.id",  # a primary key alone
        "shop.Bundle.product_ptr",  # the parent of a multi-table child
        "shop.Product_tags.tag",  # one end of a many-to-many row
    ],
)
def test_E005_a_field_that_identifies_the_row_cannot_be_excluded(check, entry):
    errors = check(MODELS=["shop.*"], EXCLUDE_FIELDS=[entry])
    assert ids(errors) == ["mirror.E005"]
    assert entry in errors[0].msg
    assert "EXCLUDE_FIELDS" in errors[0].hint


def test_E005_is_silent_for_other_fields(check):
    assert check(MODELS=["shop.*"], EXCLUDE_FIELDS=["shop.Ticket.secret", "shop.Product.brand"]) == []


# E006 and E007: the database


def test_E006_an_alias_that_is_not_configured_is_named(check):
    (error,) = check(MODELS=["shop.*"], DATABASE="defualt")
    assert error.id == "mirror.E006"
    assert "'defualt'" in error.msg
    assert error.hint == "Did you mean 'default'?"


def test_E006_an_alias_like_no_other_gets_the_list_of_aliases(check):
    (error,) = check(MODELS=["shop.*"], DATABASE="x")
    assert error.hint == "Configured: default."


def test_E007_an_engine_without_triggers_is_named(check, monkeypatch):
    monkeypatch.setattr(connections["default"], "vendor", "oracle")
    (error,) = check(MODELS=["shop.*"])
    assert error.id == "mirror.E007"
    assert "oracle" in error.msg
    assert "sqlite" in error.hint
    assert '"CAPTURE": None' in error.hint


def test_E007_is_silent_on_a_server_that_only_mirrors(check, monkeypatch):
    monkeypatch.setattr(capture, "supported", lambda vendor: False)
    assert check(MODELS=["shop.*"], CAPTURE=None) == []


# E008: retention


@pytest.mark.parametrize("keep", [{"KEEP_DAYS": 11}, {"KEEP_DAYS": None}, {}])
def test_E008_a_limit_below_what_is_to_be_kept_is_named(check, keep):
    (error,) = check(MODELS=["shop.*"], OPLOG_DAYS=10, **keep)
    assert error.id == "mirror.E008"
    assert "MIRROR['OPLOG_DAYS'] is 10, but KEEP_DAYS asks to keep" in error.msg
    assert "more than KEEP_DAYS" in error.hint


def test_E008_is_silent_about_a_limit_above_it(check):
    assert check(MODELS=["shop.*"], OPLOG_DAYS=10, KEEP_DAYS=10) == []
    assert check(MODELS=["shop.*"], KEEP_DAYS=None) == []


# E030, W030: the channel layer


@pytest.fixture
def layers(settings):
    """Configure one of channels_redis under each of these names."""

    def configure(*names, backend="channels_redis.core.RedisChannelLayer", **config):
        settings.CHANNEL_LAYERS = {name: {"BACKEND": backend, "CONFIG": config} for name in names}

    return configure


WAITS = {"address": "redis://127.0.0.1", "socket_timeout": None}


def test_E030_a_layer_that_is_not_configured_is_named(check, layers):
    layers("default", "hints", hosts=[WAITS])
    (error,) = check(MODELS=["shop.*"], CHANNEL_LAYER="hnits")
    assert error.id == "mirror.E030"
    assert "'hnits'" in error.msg
    assert error.hint.startswith("Did you mean 'hints'?")


def test_E030_a_project_without_layers_is_told_how_to_do_without(check):
    (error,) = check(MODELS=["shop.*"], CHANNEL_LAYER="default")
    assert error.id == "mirror.E030"
    assert error.hint.startswith("Configured: none.")
    assert check(MODELS=["shop.*"], CHANNEL_LAYER=None) == []


def test_E030_is_silent_about_a_default_that_nobody_asked_for(check):
    assert check(MODELS=["shop.*"]) == []


@pytest.mark.parametrize(
    "hosts",
    [
        None,
        ["redis://127.0.0.1"],
        [("127.0.0.1", 6379)],
        [{"address": "redis://127.0.0.1"}],
        [WAITS, {"host": "127.0.0.1", "socket_timeout": 5}],
    ],
)
def test_W030_a_redis_that_gives_up_waiting_is_warned_of(check, layers, hosts):
    layers("default", hosts=hosts)
    (warning,) = check(MODELS=["shop.*"])
    assert warning.id == "mirror.W030"
    assert '"socket_timeout": None' in warning.hint


@pytest.mark.parametrize("hosts", [[WAITS], [WAITS, {"host": "127.0.0.1", "socket_timeout": 30}]])
def test_W030_is_silent_where_the_hosts_let_wait(check, layers, hosts):
    layers("default", hosts=hosts)
    assert check(MODELS=["shop.*"]) == []


@pytest.mark.parametrize(
    "backend", ["channels.layers.InMemoryChannelLayer", "channels_redis.pubsub.RedisPubSubChannelLayer"]
)
def test_W030_is_silent_about_layers_that_do_not_wait_so(check, layers, backend):
    layers("default", backend=backend)
    assert check(MODELS=["shop.*"]) == []


def test_W030_is_silent_about_a_layer_that_is_not_used_or_an_older_redis_py(check, layers, monkeypatch):
    layers("other", hosts=["redis://127.0.0.1"])
    assert check(MODELS=["shop.*"]) == []
    layers("default", hosts=["redis://127.0.0.1"])
    assert check(MODELS=["shop.*"], CHANNEL_LAYER=None) == []
    monkeypatch.setattr("mirror.checks.version", lambda name: "7.1.0")
    assert check(MODELS=["shop.*"]) == []


# E040, E041, W040: who may write


def test_E040_triggers_cannot_both_capture_and_refuse(check):
    (error,) = check(MODELS=["shop.*"], READ_ONLY="triggers")
    assert error.id == "mirror.E040"
    assert check(MODELS=["shop.*"], READ_ONLY="triggers", CAPTURE=None) == []


def test_E041_an_engine_without_triggers_cannot_refuse(check, monkeypatch):
    monkeypatch.setattr(connections["default"], "vendor", "oracle")
    (error,) = check(MODELS=["shop.*"], READ_ONLY="triggers", CAPTURE=None)
    assert error.id == "mirror.E041"
    assert "oracle" in error.msg
    assert check(MODELS=["shop.*"], READ_ONLY=True, CAPTURE=None) == []


@pytest.mark.parametrize(
    ("capture", "read_only"), [("triggers", True), ("signals", True), ("signals", "triggers")]
)
def test_W040_who_captures_what_nobody_may_write_is_warned(check, capture, read_only):
    assert ids(check(MODELS=["shop.*"], CAPTURE=capture, READ_ONLY=read_only)) == ["mirror.W040"]


@pytest.mark.parametrize("read_only", ["auto", False])
def test_W040_is_silent_where_the_application_may_write(check, read_only):
    assert check(MODELS=["shop.*"], READ_ONLY=read_only) == []


# W001: references


def test_W001_a_reference_to_a_model_that_is_not_mirrored_is_named(check):
    warnings = check(MODELS=["shop.Product"])
    assert ids(warnings) == ["mirror.W001"] * 2
    assert {str(warning.obj) for warning in warnings} == {"shop.Product.brand", "shop.Product.second_brand"}
    assert 'Add "shop.Brand" to MIRROR["MODELS"], or "shop.Product.' in warnings[0].hint


def test_W001_is_silent_for_a_reference_that_is_excluded(check):
    exclude = ["shop.Product.brand", "shop.Product.second_brand"]
    assert check(MODELS=["shop.Product"], EXCLUDE_FIELDS=exclude) == []


def test_W001_a_parent_can_only_be_listed(check):
    (warning,) = check(MODELS=["shop.Bundle"])
    assert warning.hint == 'Add "shop.Product" to MIRROR["MODELS"].'


def test_W001_an_end_of_a_many_to_many_row_is_named(check):
    warnings = check(MODELS=["shop.Product_tags", "shop.Tag"])
    assert [str(warning.obj) for warning in warnings] == ["shop.Product_tags.product"]


def test_W001_is_silent_for_content_types(check):
    assert check(MODELS=["auth.Permission"]) == []


# W002: SQLite


GOOD = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;",
}


@pytest.fixture
def check_options(check, monkeypatch):
    if connections["default"].vendor != "sqlite":
        pytest.skip("about SQLite")

    def check_options(options, name="/var/db.sqlite3"):
        monkeypatch.setitem(connections["default"].settings_dict, "NAME", name)
        monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", options)
        return check(MODELS=["shop.*"])

    return check_options


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"transaction_mode": "DEFERRED"}, "write lock"),
        ({"transaction_mode": None}, "write lock"),
        ({"init_command": "PRAGMA synchronous=NORMAL"}, "write-ahead"),
        ({"init_command": "PRAGMA journal_mode=DELETE"}, "write-ahead"),
    ],
)
def test_W002_an_option_that_is_missing_is_told_with_what_to_paste(check_options, change, told):
    (warning,) = check_options(GOOD | change)
    assert warning.id == "mirror.W002"
    assert told in warning.msg
    assert '"transaction_mode": "IMMEDIATE"' in warning.hint


def test_W002_a_database_without_options_lacks_all_three(check_options):
    (warning,) = check_options({})
    assert "write lock" in warning.msg
    assert "write-ahead" in warning.msg
    assert "5 seconds" in warning.msg


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"transaction_mode": "immediate"},
        {"transaction_mode": "EXCLUSIVE"},
        {"init_command": "pragma journal_mode = wal"},
        {"init_command": "PRAGMA journal_mode('WAL')"},
    ],
)
def test_W002_is_silent_for_options_that_do(check_options, change):
    assert check_options(GOOD | change) == []


def test_W002_is_silent_for_a_database_in_memory(check_options):
    assert check_options({}, name=":memory:") == []


def test_W002_what_the_hint_says_to_paste_is_what_the_check_wants(check_options):
    import ast

    (warning,) = check_options({})
    pasted = ast.literal_eval("{" + warning.hint.split(": ", 1)[1] + "}")
    assert check_options(pasted["OPTIONS"]) == []


# W004: nothing to mirror


def test_W004_a_mirror_without_models_is_told(check):
    (warning,) = check()
    assert warning.id == "mirror.W004"
    assert 'MIRROR = {"MODELS"' in warning.hint


def test_W004_a_setting_that_is_missing_altogether_is_told(check, settings):
    check()  # its restoration empties the caches, which that of a deletion does not
    del settings.MIRROR
    assert ids(run_checks(tags=[TAG])) == ["mirror.W004"]


# W005: routers


class Router:
    """Sends what it is told to elsewhere."""

    def __init__(self, alias, *models):
        self.alias, self.models = alias, models

    def db_for_write(self, model, **hints):
        return self.alias if model._meta.model_name in self.models else None


@pytest.fixture
def elsewhere(source, tmp_path, settings):
    """Another database; return a function that has the rows of these models written there."""
    with attached("elsewhere", sqlite(tmp_path / "elsewhere.sqlite3")):
        yield lambda *models: setattr(settings, "DATABASE_ROUTERS", [Router("elsewhere", *models)])


def test_W005_a_model_that_is_written_to_another_database_is_named(check, elsewhere):
    elsewhere("counter")
    (warning,) = check(MODELS=["shop.Counter", "shop.Ticket"])
    assert warning.id == "mirror.W005"
    assert warning.obj._meta.label == "shop.Counter"
    assert "'elsewhere'" in warning.msg
    assert "'default'" in warning.msg
    assert "MIRROR[\"DATABASE\"] to 'elsewhere'" in warning.hint


def test_W005_what_its_hint_says_silences_it(check, elsewhere):
    elsewhere("counter", "ticket")
    listed = ["shop.Counter", "shop.Ticket"]
    assert ids(check(MODELS=listed)) == ["mirror.W005"] * 2
    assert check(MODELS=listed, DATABASE="elsewhere") == []
    elsewhere()
    assert check(MODELS=listed) == []


def test_W005_without_routers_rows_are_written_to_the_default_database(check, elsewhere):
    assert ids(check(MODELS=["shop.Counter"], DATABASE="elsewhere")) == ["mirror.W005"]


def test_W005_it_really_is_not_captured(check, elsewhere):
    elsewhere("counter")
    check(MODELS=["shop.Counter"])
    call_command("migrate", database="elsewhere", verbosity=0)
    Counter.objects.create()
    assert Counter.objects.using("elsewhere").count() == 1
    assert [Outbox.objects.using(alias).count() for alias in ("default", "elsewhere")] == [0, 0]
    assert capture.WRITERS["sqlite"].installed(connections["elsewhere"]) == {}


def test_W005_is_silent_for_a_model_that_is_not_listed(check, elsewhere):
    elsewhere("counter")
    assert check(MODELS=["shop.Ticket"]) == []


def test_W005_is_silent_on_a_server_that_only_mirrors(check, elsewhere):
    elsewhere("counter")
    assert check(MODELS=["shop.Counter"], CAPTURE=None) == []


def test_W005_triggers_do_not_ask_by_what_name_their_database_was_called(check, source, settings):
    with attached("elsewhere", connections["default"].settings_dict):
        settings.DATABASE_ROUTERS = [Router("elsewhere", "counter")]
        assert check(MODELS=["shop.Counter"]) == []
        assert ids(check(MODELS=["shop.Counter"], CAPTURE="signals")) == ["mirror.W005"]

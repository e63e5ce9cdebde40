from __future__ import annotations

import pytest
from django.test import override_settings

from mirror.conf import Conf, conf, decode_conf, known_keys
from mirror.errors import ConfigurationError


def test_every_key_has_a_default():
    assert decode_conf({}) == Conf()
    assert "MODELS" in known_keys()


def test_keys_are_upper_case():
    assert decode_conf({"MODELS": ["a.B"], "FRAME_BYTES": 5000}) == Conf(models=["a.B"], frame_bytes=5000)


def test_whole_numbers_serve_as_seconds():
    assert decode_conf({"HEARTBEAT": 5}).heartbeat == 5.0


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"MODLES": []}, "MODLES"),  # a typo
        ({"models": []}, "models"),  # the wrong case
        ({"MODELS": "polls.*"}, "MIRROR.MODELS"),  # a string would be a list of letters
        ({"MODELS": [5]}, "MIRROR.MODELS"),
        ({"CAPTURE": "magic"}, "MIRROR.CAPTURE"),
        ({"CAPTURE": False}, "MIRROR.CAPTURE"),
        ({"READ_ONLY": "yes"}, "MIRROR.READ_ONLY"),
        ({"READ_ONLY": None}, "MIRROR.READ_ONLY"),
        ({"READ_ONLY": 1}, "MIRROR.READ_ONLY"),
        ({"HEARTBEAT": "5"}, "MIRROR.HEARTBEAT"),
        ({"HEARTBEAT": 0}, "MIRROR.HEARTBEAT"),
        ({"SEQUENCER_PAUSE": -0.1}, "MIRROR.SEQUENCER_PAUSE"),
        ({"FRAME_BYTES": 4095}, "MIRROR.FRAME_BYTES"),
        ({"FRAME_BYTES": 1_000_001}, "MIRROR.FRAME_BYTES"),  # daphne takes no more
        ({"WINDOW_BYTES": 1.5}, "MIRROR.WINDOW_BYTES"),
        ({"APPLY_CHANGES": 0}, "MIRROR.APPLY_CHANGES"),
        ({"CHANNEL_LAYER": False}, "MIRROR.CHANNEL_LAYER"),
        ({"COMPRESSION": "deflate"}, "MIRROR.COMPRESSION"),
        ({"COMPRESSION": 1}, "MIRROR.COMPRESSION"),
        ({"KEEP_DAYS": -1}, "MIRROR.KEEP_DAYS"),
        ({"WAIT_DAYS": 0}, "MIRROR.WAIT_DAYS"),
        ({"WAIT_DAYS": None}, "MIRROR.WAIT_DAYS"),  # a dead mirror would hold back for ever
        ({"OPLOG_BYTES": 1000}, "MIRROR.OPLOG_BYTES"),
        ({"OPLOG_BYTES": "4 GiB"}, "MIRROR.OPLOG_BYTES"),
        ({"OPLOG_DAYS": 0}, "MIRROR.OPLOG_DAYS"),
        ({"PRUNE_INTERVAL": 0}, "MIRROR.PRUNE_INTERVAL"),
        ({"VERIFY_DAYS": 0}, "MIRROR.VERIFY_DAYS"),
        ({"VERIFY_DAYS": "7"}, "MIRROR.VERIFY_DAYS"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_key(setting, named):
    with pytest.raises(ConfigurationError, match=named):
        decode_conf(setting)


@pytest.mark.parametrize("value", [None, [], "MODELS"])
def test_a_setting_that_is_no_dict_is_refused(value):
    with pytest.raises(ConfigurationError):
        decode_conf(value)


def test_no_capture_is_a_choice_and_so_is_nothing_at_all():
    assert decode_conf({"CAPTURE": None}).capture is None
    assert decode_conf({"SEQUENCER_PAUSE": 0}).sequencer_pause == 0


def test_hints_between_processes_may_be_left_out():
    assert decode_conf({}).channel_layer == "default"
    assert decode_conf({"CHANNEL_LAYER": None}).channel_layer is None


def test_limits_of_the_oplog_may_be_left_off():
    setting = decode_conf({"KEEP_DAYS": None, "OPLOG_BYTES": None, "OPLOG_DAYS": None})
    assert (setting.keep_days, setting.oplog_bytes, setting.oplog_days) == (None, None, None)
    assert decode_conf({"KEEP_DAYS": 0}).keep_days == 0


def test_rows_are_compared_each_week_or_only_when_somebody_asks():
    assert decode_conf({}).verify_days == 7
    assert decode_conf({"VERIFY_DAYS": 0.5}).verify_days == 0.5
    assert decode_conf({"VERIFY_DAYS": None}).verify_days is None


def test_a_changed_setting_counts_at_once_and_only_while_it_lasts():
    before = conf()
    with override_settings(MIRROR={"HEARTBEAT": 1.25}):
        assert conf().heartbeat == 1.25
        with override_settings(MIRROR={"HEARTBEAT": -1}), pytest.raises(ConfigurationError):
            conf()
    assert conf() == before


def test_it_is_decoded_once():
    assert conf() is conf()

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.core.exceptions import ValidationError

from mirror import tokens
from mirror.models import Token

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_a_created_token_lets_in():
    token = tokens.create("centre")
    assert tokens.authenticate(token).name == "centre"


def test_only_the_hash_of_the_secret_is_stored():
    _, _, secret = tokens.create("centre").partition(".")
    stored = Token.objects.values().get()
    assert secret not in str(stored)
    assert len(stored["digest"]) == 64


def test_a_created_token_is_well_formed():
    assert tokens.well_formed(tokens.create("centre"))


def test_a_revoked_token_is_refused():
    token = tokens.create("centre")
    tokens.revoke("centre")
    assert tokens.authenticate(token) is None


def test_revoking_again_keeps_the_first_time():
    tokens.create("centre")
    first = tokens.revoke("centre").revoked_at
    assert tokens.revoke("centre").revoked_at == first


def test_revoking_an_unknown_name_says_where_to_look():
    with pytest.raises(ValidationError, match="mirrortoken list"):
        tokens.revoke("nobody")


def test_a_name_is_given_once_even_after_revocation():
    tokens.create("centre")
    tokens.revoke("centre")
    with pytest.raises(ValidationError, match="centre-2"):
        tokens.create("centre")
    assert Token.objects.count() == 1


@pytest.mark.parametrize(
    "name",
    [
        "",  # nothing
        "n" * 101,  # SQLite would not object by itself
    ],
)
def test_a_name_that_does_not_fit_is_refused(name):
    with pytest.raises(ValidationError):
        tokens.create(name)


@pytest.mark.parametrize(
    "change",
    [
        lambda token: token[:-1] + ("A" if token[-1] != "A" else "B"),  # another secret
        lambda token: "0" * 16 + token[16:],  # another prefix
        lambda token: token + "A",
        lambda token: token[:-1],
        lambda token: token + "\n",  # what $ instead of fullmatch would let through
        lambda token: " " + token,
        lambda token: token.replace(".", ""),
        lambda token: token.upper(),
        lambda token: token[:17],
        lambda token: token * 100_000,  # huge
        lambda token: "",
        lambda token: ".",
        lambda token: "é" * 60,
        lambda token: "\x00" * 60,
        lambda token: "\ud800" * 60,  # cannot be encoded
        lambda token: "٣" * 16 + token[16:],  # a digit for \d, not for us
    ],
)
def test_whatever_is_not_the_token_is_refused_without_an_exception(change):
    token = tokens.create("centre")
    assert tokens.authenticate(change(token)) is None


def test_a_malformed_token_costs_no_query(django_assert_num_queries):
    with django_assert_num_queries(0):
        tokens.authenticate("x" * 1000)


def test_use_is_noted_at_most_once_a_minute(django_assert_num_queries):
    token = tokens.create("centre")
    tokens.authenticate(token, now=NOON)
    with django_assert_num_queries(1):
        tokens.authenticate(token, now=NOON + timedelta(seconds=59))
    assert Token.objects.get().last_used_at == NOON
    tokens.authenticate(token, now=NOON + timedelta(seconds=60))
    assert Token.objects.get().last_used_at == NOON + timedelta(seconds=60)


def test_use_is_noted_after_the_clock_was_set_back():
    token = tokens.create("centre")
    tokens.authenticate(token, now=NOON)
    tokens.authenticate(token, now=NOON - timedelta(days=1))
    assert Token.objects.get().last_used_at == NOON - timedelta(days=1)


def test_a_refused_token_is_not_noted_as_used():
    token = tokens.create("centre")
    tokens.revoke("centre")
    tokens.authenticate(token, now=NOON)
    assert Token.objects.get().last_used_at is None

"""What the pure modules offer by name, and what the errors promise."""

from __future__ import annotations

import inspect

import pytest

from mirror import changes, errors, retention, session, wire

PURE = [errors, changes, retention, wire, session]


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_names_what_it_offers(module):
    # The table of transitions reads better with two short names, which are nobody else's business.
    defined = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }
    assert defined <= {*module.__all__, "S", "M"}
    assert list(module.__all__) == sorted(module.__all__, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(module, name) for name in module.__all__)


def test_no_name_means_two_things():
    names = [name for module in PURE for name in module.__all__]
    assert len(names) == len(set(names))


def kinds() -> list[type[errors.MirrorError]]:
    found = [errors.MirrorError]
    for kind in found:
        found += [sub for sub in kind.__subclasses__() if sub.__module__ == errors.__name__]
    return found


@pytest.mark.parametrize("kind", kinds())
def test_every_error_has_a_code_of_its_own(kind):
    assert [other for other in kinds() if other.code == kind.code] == [kind]
    assert errors.CODES[kind.code] is kind


@pytest.mark.parametrize("kind", kinds())
def test_every_error_says_what_it_means(kind):
    assert str(kind()) == inspect.getdoc(kind)
    assert str(kind("more")) == "more"


@pytest.mark.parametrize("kind", kinds())
def test_every_error_closes_with_a_code_that_may_be_sent(kind):
    assert 4000 <= kind.close_code <= 4999


def test_only_what_may_pass_by_itself_is_tried_again():
    never = {kind for kind in kinds() if not kind.retryable}
    assert {errors.Refusal, errors.ApplyError, errors.Forked, errors.WrongValue} <= never
    assert errors.RemoteProtocolError not in never

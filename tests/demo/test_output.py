from __future__ import annotations

import shlex

import pytest

from demo.options import parse
from demo.output import banner, prefixed, shell_line, wants_colour


def test_a_line_says_whose_it_is() -> None:
    assert prefixed("local", "hello", colour=False) == "local   | hello"


def test_colour_stays_on_the_label() -> None:
    assert prefixed("mirror", "hello", colour=True) == "\x1b[35mmirror  |\x1b[0m hello"


@pytest.mark.parametrize(
    ("is_tty", "environ", "expected"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),  # no-color.org: only when not empty
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(is_tty: bool, environ: dict[str, str], expected: bool) -> None:
    assert wants_colour(is_tty=is_tty, environ=environ) is expected


def test_the_shell_line_survives_a_shell() -> None:
    words = shlex.split(shell_line(".venv/bin/python", {"MIRROR_DEMO_VAR": "/a b"}))
    assert words[:3] == [
        "DJANGO_SETTINGS_MODULE=demo.settings.local",
        "MIRROR_DEMO_VAR=/a b",
        ".venv/bin/python",
    ]
    compile(words[-1], "the pasted line", "exec")


def test_the_banner_names_the_chosen_ports_and_the_login() -> None:
    text = banner(parse(["--local-port", "5001", "--central-port", "5000"]), "SHELL LINE")
    for expected in (
        "http://127.0.0.1:5000/mirror/",
        "http://127.0.0.1:5001/admin/",
        "SHELL LINE",
        "password admin",
    ):
        assert expected in text

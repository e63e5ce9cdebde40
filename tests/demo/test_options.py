from __future__ import annotations

import pytest

from demo.options import Options, parse


def test_without_arguments_everything_runs_on_the_documented_ports() -> None:
    assert parse([]) == Options(local_port=8001, central_port=8000, traffic=True, browser=True, here=False)


def test_every_part_can_be_chosen() -> None:
    arguments = ["--local-port", "1", "--central-port", "2", "--no-traffic", "--no-browser", "--here"]
    assert parse(arguments) == Options(local_port=1, central_port=2, traffic=False, browser=False, here=True)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--local-port", "8000"], "two different ports"),
        (["--local-port", "70000"], "70000 is not a port"),
        (["--local-port", "eight"], "invalid"),
        (["--what"], "unrecognized arguments"),
    ],
)
def test_a_wrong_argument_is_named(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err

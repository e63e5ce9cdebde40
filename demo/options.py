"""What can be chosen on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Options", "parse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    local_port: int
    central_port: int
    traffic: bool
    browser: bool
    #: Run in this interpreter: everything is installed here.
    here: bool


def parse(arguments: Sequence[str]) -> Options:
    """Exits with argparse's own message on a wrong argument."""
    parser = argparse.ArgumentParser(prog="python3 -m demo", description="Run the livemirror demo.")
    parser.add_argument("--local-port", type=_port, default=8001, help="of the server that is written to")
    parser.add_argument("--central-port", type=_port, default=8000, help="of the server that mirrors it")
    parser.add_argument("--no-traffic", action="store_false", dest="traffic", help="no votes by themselves")
    parser.add_argument("--no-browser", action="store_false", dest="browser", help="open no browser")
    parser.add_argument(
        "--here", action="store_true", help="use this interpreter as it is instead of making .venv"
    )
    options = Options(**vars(parser.parse_args(arguments)))
    if options.local_port == options.central_port:
        parser.error("the two servers need two different ports")
    return options


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise argparse.ArgumentTypeError(f"{port} is not a port (1 to 65535)")
    return port

"""Are the ports free? Asked before anything slow happens."""

from __future__ import annotations

import errno
import socket

from demo.options import Options
from demo.trouble import Trouble

__all__ = ["check_ports", "is_free", "taken_message"]

HOST = "127.0.0.1"


def check_ports(options: Options) -> None:
    """Raises Trouble."""
    ports = {"LOCAL_PORT": options.local_port, "CENTRAL_PORT": options.central_port}
    for variable, port in ports.items():
        if not is_free(port):
            raise Trouble(taken_message(variable, port, _free_after(port, set(ports.values()))))


def is_free(port: int) -> bool:
    """Raises Trouble when this user may not listen there at all."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As daphne does; without it, connections that were just closed would count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise Trouble(f"cannot listen on port {port}: {error.strerror}; choose one above 1023") from error
    return True


def taken_message(variable: str, port: int, free: int) -> str:
    option = "--" + variable.lower().replace("_", "-")
    return (
        f"port {port} is taken; use another: make demo {variable}={free} (or python3 -m demo {option} {free})"
    )


def _free_after(port: int, avoid: set[int]) -> int:
    candidates = (candidate % 64512 + 1024 for candidate in range(port + 10 - 1024, port + 1000 - 1024))
    return next((one for one in candidates if one not in avoid and is_free(one)), port + 10)

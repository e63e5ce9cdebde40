"""A PostgreSQL server of the bench's own: the machine's may not be set up for logical replication."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.end_to_end.processes import free_port

_SETTINGS = {
    "wal_level": "logical",
    "max_wal_size": "4GB",
    "shared_buffers": "256MB",
    # A mirror holds a connection for each source.
    "max_connections": "300",
    "listen_addresses": "127.0.0.1",
}


@dataclass(frozen=True, slots=True)
class Cluster:
    port: int

    def database(self, name: str) -> dict[str, Any]:
        """An empty database, as Django's DATABASES has it."""
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": name,
            "USER": "postgres",
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
        }

    def connect(self, name: str) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname=name, autocommit=True
        )


@contextmanager
def cluster(directory: Path) -> Iterator[Cluster]:
    """Started in a directory of its own, gone afterwards."""
    home = directory / "postgresql"
    home.mkdir()
    as_owner: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        owner = pwd.getpwnam("postgres")
        shutil.chown(home, owner.pw_uid, owner.pw_gid)
        for parent in home.parents[: len(home.parents) - 2]:
            parent.chmod(parent.stat().st_mode | 0o011)
        as_owner = {"user": "postgres", "cwd": "/"}
    port = free_port()
    data = home / "data"
    settings = " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items())
    run = {"check": True, "stdout": subprocess.DEVNULL, **as_owner}
    subprocess.run(
        [_program("initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
        **run,
    )
    options = f"-p {port} -k {home} {settings}"
    control = [_program("pg_ctl"), "-D", str(data), "-w", "-l", str(home / "log")]
    subprocess.run([*control, "-o", options, "start"], **run)
    try:
        yield Cluster(port)
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **run)


def program(name: str) -> str | None:
    """Where a program of the PostgreSQL server lies; distributions keep it out of PATH."""
    homes = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return shutil.which(name) or next(map(str, homes), None)


def _program(name: str) -> str:
    found = program(name)
    assert found is not None, f"{name} is not installed: it comes with the PostgreSQL server"
    return found

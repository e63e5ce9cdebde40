"""Bring both databases to where the servers can start: tables, users, polls, and the mirror's ticket."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import Mapping

from demo.bootstrap import ROOT
from demo.options import Options
from demo.trouble import Trouble

__all__ = ["CENTRAL", "LOCAL", "environ_for", "prepare", "stream_url"]

LOCAL = "demo.settings.local"
CENTRAL = "demo.settings.central"
SOURCE = "local"


async def prepare(options: Options) -> None:
    """Does nothing that was done before. Raises Trouble."""
    await asyncio.gather(_prepare_database(LOCAL), _prepare_database(CENTRAL))
    url = stream_url(options)
    registered = await manage(CENTRAL, "preparedemo", "--source", SOURCE, "--url", url)
    if registered.strip() == "registered":
        return
    # A new name each time: an earlier token's secret was shown once and cannot be had again.
    token = await manage(LOCAL, "mirrortoken", "create", f"demo-{secrets.token_hex(4)}")
    # Not as an argument, which every user of the machine could read in the list of processes.
    await manage(CENTRAL, "mirrorsource", "add", SOURCE, url, MIRROR_TOKEN=token.strip())


def stream_url(options: Options) -> str:
    return f"ws://127.0.0.1:{options.local_port}/mirror/stream/"


def environ_for(settings: str) -> Mapping[str, str]:
    return {**os.environ, "DJANGO_SETTINGS_MODULE": settings, "PYTHONUNBUFFERED": "1"}


async def _prepare_database(settings: str) -> None:
    await manage(settings, "migrate", "--verbosity", "0")
    await manage(settings, "preparedemo")


async def manage(settings: str, *arguments: str, **variables: str) -> str:
    """Run a management command and return what it printed. Raises Trouble."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "manage.py",
        *arguments,
        cwd=ROOT,
        env={**environ_for(settings), **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        sys.stderr.write(errors.decode())
        raise Trouble(f"manage.py {arguments[0]} failed with {settings}; the reason is above")
    return output.decode()

"""What the demo prints: log lines that say whose they are, and what to try."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from demo.options import Options

__all__ = ["banner", "prefixed", "shell_line", "wants_colour"]

COLOURS = {"local": "32", "central": "34", "mirror": "35", "traffic": "33", "demo": "1"}
WIDTH = max(map(len, COLOURS))


def prefixed(name: str, line: str, *, colour: bool) -> str:
    label = f"{name:<{WIDTH}} |"
    if colour:
        label = f"\x1b[{COLOURS.get(name, '0')}m{label}\x1b[0m"
    return f"{label} {line}"


def wants_colour(*, is_tty: bool, environ: Mapping[str, str]) -> bool:
    return is_tty and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def shell_line(python: str, environ: Mapping[str, str]) -> str:
    """A line to paste into another terminal, in the project's directory, that writes one question."""
    settings = {"DJANGO_SETTINGS_MODULE": "demo.settings.local"}
    if "MIRROR_DEMO_VAR" in environ:
        settings["MIRROR_DEMO_VAR"] = environ["MIRROR_DEMO_VAR"]
    code = (
        "from django.utils import timezone; from demo.polls.models import Question; "
        'Question.objects.create(question_text="Written in a shell", pub_date=timezone.now())'
    )
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    return f"{variables} {shlex.quote(python)} manage.py shell -c {shlex.quote(code)}"


def banner(options: Options, shell: str) -> str:
    local, central = (f"http://127.0.0.1:{port}" for port in (options.local_port, options.central_port))
    traffic = "Votes come in by themselves." if options.traffic else "No traffic: only what you write."
    return f"""
Both servers are up, and the mirror follows. {traffic} Three things to try:

  1. Watch what arrives at the central server:
       {central}/mirror/
  2. Write something on the local server (vote at {local}/polls/):
       {local}/admin/
  3. Write from another program, in another terminal, in this directory:
       {shell}

Both servers: user admin, password admin (this demo only). Ctrl-C stops everything.
"""

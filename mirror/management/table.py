"""Plain columns: what the commands print, for people and for whoever reads text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.utils import timezone


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The header and the rows, a line each, two spaces between the columns, "-" for nothing."""
    lines = [list(columns), *([one_line(cell) or "-" for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def when(time: datetime | None) -> str:
    """The server's local time to the second."""
    if time is None:
        return ""
    return f"{timezone.localtime(time) if timezone.is_aware(time) else time:%Y-%m-%d %H:%M:%S}"


def one_line(text: str) -> str:
    """What another server said must reach a terminal without line ends and control sequences."""
    return "".join(character if character.isprintable() else " " for character in text).strip()

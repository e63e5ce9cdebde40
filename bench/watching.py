"""What a process costs: resident memory in bytes and processor time in seconds, as Linux counts them."""

from __future__ import annotations

import os
import re
from pathlib import Path

MIB = 2**20
_TICKS = os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    return _status(pid, "VmRSS")


def forget_peak(pid: int) -> None:
    """From now on ``peak`` tells the highest since here."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak(pid: int) -> int:
    """The highest resident memory: the kernel keeps it, so nothing between two looks is missed."""
    return _status(pid, "VmHWM")


def _status(pid: int, name: str) -> int:
    """Raises ProcessLookupError once the process has ended."""
    try:
        found = re.search(rf"^{name}:\s*(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except FileNotFoundError:
        found = None
    if found is None:
        raise ProcessLookupError(f"process {pid} has ended")
    return int(found[1]) * 1024


def processor_seconds(pid: int) -> float:
    """Of all its threads, in user and system mode."""
    # The name, in parentheses, may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS

"""The oplog as log lines: every change once, in order, through the standard ``oplogger`` logger.

Lines are told after the change has its place, by one process at a time, and how far they got is stored.
A process that is killed between telling and storing would tell some lines twice; the handlers that
write files know better, so the end of their file is read before the first line.
"""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from django.db import transaction
from django.db.models import F

from mirror.changes import log_line, parse_ts
from mirror.models import Oplog, Stream

LOGGER = logging.getLogger("oplogger")
logger = logging.getLogger("mirror.oplogger")

#: Lines told in one transaction: it holds the stream's row, on SQLite the database's write lock.
_PAGE = 500
_TAIL = 64 * 1024

#: How far this process told each database's stream; anything else in the table means that another did.
_told: dict[tuple[str, int], int] = {}


def is_heard() -> bool:
    return LOGGER.isEnabledFor(logging.INFO) and LOGGER.hasHandlers()


def tell(using: str) -> int:
    """Log the changes that were not logged yet; return how many."""
    if not is_heard():
        return 0
    count = 0
    while told := _tell_page(using):
        count += told
    return count


def _tell_page(using: str) -> int:
    waiting = Stream.objects.using(using).filter(local=True, logged__lt=F("head"))
    if not waiting.exists():
        return 0
    with transaction.atomic(using=using):
        waiting.update(logged=F("logged"))
        stream = waiting.first()
        if stream is None:
            return 0
        # Forgotten until it is committed: what was told in vain is in the files, and only there.
        if _told.pop((using, stream.pk), None) != stream.logged:
            # A later time than the head's is another history's: a source that was restored from a backup.
            ends = [end for end in _ends_of_files() if end <= stream.head]
            stream.logged = max([stream.logged, *ends])
        changes = Oplog.objects.using(using).filter(stream=stream, ts__gt=stream.logged).order_by("ts")
        page = list(changes.values_list("ts", "body")[:_PAGE])
        for _ts, body in page:
            LOGGER.info("%s", log_line(body))
        stream.logged = page[-1][0] if page else stream.head
        stream.save(using=using, update_fields=["logged"])
    _told[using, stream.pk] = stream.logged
    return len(page)


def _ends_of_files() -> Iterator[int]:
    for handler in LOGGER.handlers:
        if isinstance(handler, logging.FileHandler):
            path = Path(handler.baseFilename)
            end = _end_of_file(path, cut=True)
            if end is None and (rotated := _rotated(path)):
                # A file that was just rotated is empty; what was told last stands in the one before.
                end = _end_of_file(rotated, cut=False)
            if end is not None:
                yield end


def _rotated(path: Path) -> Path | None:
    """The newest of the files that a rotating handler made of this one: ``.1``, or a date."""
    older = path.parent.glob(f"{glob.escape(path.name)}.*")
    return max(older, key=lambda found: found.stat().st_mtime_ns, default=None)


def _end_of_file(path: Path, *, cut: bool) -> int | None:
    """The timestamp of the last whole line. Half a line, left by a kill, is cut off: it comes again."""
    if not path.exists():
        return None
    with path.open("r+b" if cut else "rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - _TAIL)
        while True:
            file.seek(start)
            whole, newline, torn = file.read().rpartition(b"\n")
            line_start = whole.rfind(b"\n")
            if start == 0 or (newline and line_start >= 0):
                break
            start = max(0, start - _TAIL)
        if cut and torn:
            file.truncate(size - len(torn))
    if not newline:
        return None
    try:
        return parse_ts(whole[line_start + 1 :].split(b" ", 1)[0].decode("ascii"))
    except ValueError:
        logger.debug("the last line of %s is not one of ours", path)
        return None


def forget() -> None:
    """Make the next call read the ends of the files again."""
    _told.clear()

"""Who may write to mirrored tables on a server that is read-only: apply, and people in maintenance.

A permit is of the thread or of the asyncio task that took it, and ends with its block even for tasks that
were started within.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Permit", "applying", "maintenance", "permit"]

logger = logging.getLogger("mirror.readonly")


@dataclass(slots=True, eq=False)
class Permit:
    #: Why people write; None for apply.
    reason: str | None
    valid: bool = True
    #: Statements that wrote to a mirrored table in maintenance.
    statements: int = 0


_held: ContextVar[Permit | None] = ContextVar("livemirror_permit", default=None)


def permit() -> Permit | None:
    """The one that holds here and now."""
    held = _held.get()
    return held if held is not None and held.valid else None


@contextmanager
def applying() -> Iterator[None]:
    """What is written within is what a source sent."""
    with _holding(Permit(None)):
        yield


@contextmanager
def maintenance(reason: str) -> Iterator[None]:
    """Let mirrored tables be written to on a server that is read-only, and say in the log why.

    What is written here the source does not know: the two differ until somebody makes them equal, and the
    next change of such a row overwrites it. Each table that is written to is counted (``mirrordoctor``).
    """
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError('Say why: with mirror.maintenance("repair after ..."):')
    held = Permit(reason.strip())
    logger.warning("maintenance begins, mirrored tables may be written to: %s", held.reason)
    try:
        with _holding(held):
            yield
    finally:
        logger.warning("maintenance ends after %d statements: %s", held.statements, held.reason)


@contextmanager
def _holding(given: Permit) -> Iterator[None]:
    before = _held.get()
    _held.set(given)
    try:
        yield
    finally:
        given.valid = False
        _held.set(before)

"""How much of an oplog is kept, decided from numbers alone.

A change may go once three agree: it is old enough, enough newer ones are kept, and every mirror that is
waited for has committed it. Beyond a cap it goes whoever needs it. The newest change never goes: it is
where a quiet stream is resumed.

Times are epoch microseconds, ages microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["CHANGE_OVERHEAD", "DAY", "Cut", "Log", "Reader", "Rules", "awaited", "decide"]

DAY = 86_400_000_000

#: Bytes that a database needs for a change beyond its body, for the other columns and three indexes: 140 were
#: measured on SQLite, 250 on PostgreSQL and MariaDB.
CHANGE_OVERHEAD = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """``keep_age`` None keeps everything below the caps; a cap of None is none."""

    keep_age: int | None
    keep_changes: int = 0
    #: A mirror that was not seen for longer is not waited for.
    wait: int
    most_age: int | None = None
    most_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """An oplog as its stream's row describes it: kept is what comes after the anchor, up to the head."""

    anchor: int
    anchor_position: int
    head: int
    position: int
    #: What a change's body takes on average, bytes; 0 while nobody has measured.
    body_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Whoever reads the log: what it has, and when it was seen last (None: it is always waited for)."""

    name: str
    cursor: int
    seen: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What may go: before a time and up to a position, both; beyond the caps, before or up to either."""

    before: int
    position: int
    capped_before: int
    capped_position: int
    #: Those that are waited for.
    waited_for: tuple[Reader, ...]
    #: The one of them for whose sake more is kept than the age asks for.
    held_by: Reader | None

    def loses(self, anchor: int) -> tuple[Reader, ...]:
        """Those that are waited for and could not go on if everything up to ``anchor`` were pruned."""
        return tuple(reader for reader in self.waited_for if reader.cursor < anchor)


def decide(log: Log, rules: Rules, readers: Iterable[Reader], now: int) -> Cut:
    """What may go of a log. Who is behind its anchor already is lost, and holds nothing back."""
    waited_for = tuple(
        sorted(
            (one for one in readers if one.cursor >= log.anchor and awaited(one.seen, rules.wait, now)),
            key=lambda one: one.cursor,
        )
    )
    before = min(0 if rules.keep_age is None else now - rules.keep_age, log.head)
    held_by = waited_for[0] if waited_for and waited_for[0].cursor + 1 < before else None
    newest = log.position - 1
    capped_position = log.anchor_position
    if rules.most_bytes is not None and log.body_bytes:
        capped_position = log.position - rules.most_bytes // (log.body_bytes + CHANGE_OVERHEAD)
    return Cut(
        before=held_by.cursor + 1 if held_by else before,
        position=min(newest, log.position - rules.keep_changes),
        capped_before=0 if rules.most_age is None else min(now - rules.most_age, log.head),
        capped_position=min(newest, max(log.anchor_position, capped_position)),
        waited_for=waited_for,
        held_by=held_by,
    )


def awaited(seen: int | None, wait: int, now: int) -> bool:
    """Whether what a reader lacks is kept for it."""
    return seen is None or now - seen <= wait

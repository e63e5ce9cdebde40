"""What a change did, in words: the fields it changed, before and after, and one line about it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import msgspec

from mirror.changes import Change, Op

__all__ = ["FieldChange", "Kind", "Value", "field_changes", "kind_of", "summary"]

#: Longest text of one value that a page is given, and of one value within a summary.
VALUE_CHARACTERS = 4000
_BRIEF_CHARACTERS = 40
_SUMMARY_CHARACTERS = 160
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Kind(StrEnum):
    CREATED = "created"
    CHANGED = "changed"
    DELETED = "deleted"


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A field's value as text. ``type`` tells the string "3" from the number 3."""

    type: str
    text: str
    #: How many characters were left out.
    cut: int


class FieldChange(msgspec.Struct, frozen=True, kw_only=True):
    """None stands for "no such value": not known, or the row was not there."""

    name: str
    before: Value | None
    after: Value | None


def kind_of(op: str, previous_op: str | None) -> Kind:
    """A row whose earlier change is not in the log counts as created: nobody saw it before."""
    if op == Op.DELETE:
        return Kind.DELETED
    return Kind.CHANGED if previous_op == Op.SAVE else Kind.CREATED


def field_changes(change: Change, previous: Change | None) -> list[FieldChange]:
    """The fields whose value changed; all of them where there is nothing to compare with."""
    if change.op is Op.DELETE:
        return [_pair(name, change.fields, {}) for name in change.fields]
    before = previous.fields if previous is not None and previous.op is Op.SAVE else {}
    return [_pair(name, before, change.fields) for name in _changed(before, change.fields)]


def summary(change: Change, previous: Change | None) -> str:
    """One line: what a row has become, or which fields went from what to what."""
    if previous is not None and previous.op is Op.SAVE and change.op is Op.SAVE:
        text = ", ".join(_transitions(previous.fields, change.fields)) or "no field changed"
    else:
        text = ", ".join(f"{name} {_brief(value)}" for name, value in change.fields.items() if name != "id")
    return text if len(text) <= _SUMMARY_CHARACTERS else text[: _SUMMARY_CHARACTERS - 1] + "…"


def _transitions(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for name in _changed(before, after):
        old = _brief(before[name]) if name in before else "unknown"
        new = _brief(after[name]) if name in after else "unknown"
        yield f"{name} {old} → {new}"


def _changed(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for name in {**after, **before}:
        # JSON tells true from 1 and 1 from 1.0; Python's equality does not.
        if (name in before) != (name in after) or _json(before[name]) != _json(after[name]):
            yield name


def _pair(name: str, before: dict[str, Any], after: dict[str, Any]) -> FieldChange:
    return FieldChange(
        name=name,
        before=_value(before[name]) if name in before else None,
        after=_value(after[name]) if name in after else None,
    )


def _value(value: Any) -> Value:
    text = value if isinstance(value, str) else _json(value)
    return Value(type=_type(value), text=text[:VALUE_CHARACTERS], cut=max(0, len(text) - VALUE_CHARACTERS))


def _type(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case _:
            return "json"


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else _json(value)
    if _UUID.fullmatch(text):
        return f"{text[:8]}…"
    words = text[: 2 * _BRIEF_CHARACTERS].split()
    text = " ".join(words)
    if len(text) > _BRIEF_CHARACTERS:
        text = f"{text[: _BRIEF_CHARACTERS - 1]}…"
    return f"“{text}”" if isinstance(value, str) and len(words) != 1 else text


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

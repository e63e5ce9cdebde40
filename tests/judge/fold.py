"""What a run of changes makes of a state, and where that is not what the tables hold. No database here."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mirror.changes import Change, Op, decode_change

#: The travelling text of each row by its key, for each model.
State = dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A row that the changes leave as ``told`` and the table as ``stored``; None where it is not there."""

    model: str
    key: str
    told: str | None
    stored: str | None

    def __str__(self) -> str:
        return f"{self.model} {self.key:.100}: told {self.told!s:.400}, stored {self.stored!s:.400}"


def row_text(pk: Any, fields: Mapping[str, Any]) -> str:
    """Two rows are the same where their texts are: names in order, numbers to the last digit."""
    return json.dumps([pk, dict(fields)], sort_keys=True, default=str)


def travelled(body: str, numbered_here: Container[str] = ()) -> tuple[Change, str]:
    """A change as its receiver decodes it, and its row's text, which no float has passed through.

    Of the models ``numbered_here`` the primary key is each server's own, and no part of the row.
    """
    change = decode_change(body)
    exact = json.loads(body, parse_float=str, parse_int=str)
    return change, row_text(None if change.model in numbered_here else exact["pk"], exact["fields"])


def fold(
    base: State,
    bodies: Iterable[str],
    key: Callable[[Change], str],
    numbered_here: Container[str] = (),
) -> State:
    """The state after the changes, each of which says which row it means by ``key``."""
    state = {label: dict(rows) for label, rows in base.items()}
    for body in bodies:
        change, text = travelled(body, numbered_here)
        rows = state.setdefault(change.model, {})
        if change.op is Op.SAVE:
            rows[key(change)] = text
        else:
            rows.pop(key(change), None)
    return state


def differences(told: State, stored: State) -> list[Difference]:
    """Every row that is not the same in both, in a stable order."""
    return [
        Difference(model=label, key=key, told=ours.get(key), stored=theirs.get(key))
        for label in sorted(told.keys() | stored.keys())
        for ours, theirs in [(told.get(label, {}), stored.get(label, {}))]
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]

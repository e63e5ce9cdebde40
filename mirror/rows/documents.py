"""JSON columns: a document travels as it is where reading and writing it gives the very same text.

Anything else travels as its text, ``{"$json": text}``: JSON's null (null alone is SQL's), numbers that Python
would round, keys that come twice, spacing that is not Django's, half a surrogate pair, nesting too deep to
parse. Field encoders and decoders are not asked: the text is what the column holds.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

TEXT = "$json"


def dump(text: str, *, ascii_only: bool) -> Any:
    """``ascii_only`` where Django writes the documents; PostgreSQL writes them out itself."""
    try:
        value = json.loads(text)
        exact = json.dumps(value, ensure_ascii=ascii_only) == text
        ambiguous = value is None or (isinstance(value, dict) and TEXT in value)
        if exact and not ambiguous:
            return msgspec.Raw(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
    except (ValueError, RecursionError):
        pass
    return {TEXT: text}


def load(value: Any) -> str:
    """The text to store. Raises ValueError."""
    if isinstance(value, dict) and value.keys() == {TEXT}:
        return _checked(value[TEXT])
    return json.dumps(value)


def _checked(text: Any) -> str:
    if not isinstance(text, str):
        raise ValueError("not the text of a JSON document")
    try:
        # Numbers are not read: one may have more digits than Python converts.
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_refused)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return text


def _refused(word: str) -> Any:
    raise ValueError(f"JSON has no {word}")

"""Changes decoded straight into a struct for each model, in C.

Only what is exactly as this centre expects it: a change with another set of fields, a value of another type,
or one of a model that is not listed here is decoded as a plain Change instead, and looked at closely.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Union

import msgspec

from mirror.changes import Change, Count, decode_change
from mirror.errors import Malformed

__all__ = ["ChangeDecoder", "decode_plain"]

#: A name of Python's cannot be told from outside: the attributes are numbered.
_ATTRIBUTE = "f{}"


class Shape:
    """How the changes of one model look: ``struct`` is what they are decoded into."""

    def __init__(self, label: str, wires: Sequence[tuple[str, Any]], pk: Any) -> None:
        self.label = label
        self.names = [name for name, _wire in wires]
        self.attributes = {name: _ATTRIBUTE.format(place) for place, name in enumerate(self.names)}
        fields = msgspec.defstruct(
            "Fields",
            [(self.attributes[name], wire) for name, wire in wires],
            rename=dict(zip(self.attributes.values(), self.names, strict=True)),
            forbid_unknown_fields=True,
            frozen=True,
            gc=False,
        )
        self.struct: type[Any] = msgspec.defstruct(
            "TypedChange",
            [("ts", Count), ("op", Literal["SAVE", "DELETE"]), ("pk", pk), ("fields", fields)],
            tag_field="model",
            tag=label,
            forbid_unknown_fields=True,
            frozen=True,
            gc=False,
        )


class ChangeDecoder:
    def __init__(self, shapes: Iterable[Shape]) -> None:
        self.shapes: dict[type[Any], Shape] = {shape.struct: shape for shape in shapes}
        structs = tuple(self.shapes)
        self._decode: Callable[[Any], Any] = (
            msgspec.json.Decoder(Union[structs]).decode if structs else decode_plain  # noqa: UP007
        )

    def decode(self, raws: Sequence[msgspec.Raw]) -> list[Any]:
        """A struct or a Change for each. Raises Malformed."""
        try:
            return list(map(self._decode, raws))
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            return [self._either(raw) for raw in raws]

    def _either(self, raw: msgspec.Raw) -> Any:
        try:
            return self._decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            return decode_plain(raw)


def decode_plain(raw: Any) -> Change:
    """Raises Malformed."""
    try:
        return decode_change(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise Malformed(f"not a change: {error}") from error

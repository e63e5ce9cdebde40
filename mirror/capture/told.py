"""The payload of a row that was read through the ORM: its values stand in the outbox as they travel.

They are named by column, so that a migration may rename one while they wait. A trigger's payload is an
object of columns, or an array of such objects; this one is known by how it begins, so that both may lie in
one outbox after CAPTURE was changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from mirror.registry import MirroredModel, Reference, reference_to_rows
from mirror.rows import Row
from mirror.rows.stored import MISSING, ROW

__all__ = ["complete", "decode", "encode", "rename_column"]

_BEGIN = '{"$told":'
_MISSING = f'{{"{MISSING}":'.encode()


class _Row(msgspec.Struct):
    pk: msgspec.Raw
    fields: dict[str, msgspec.Raw]
    key: str


class _Payload(msgspec.Struct, rename={"row": "$told"}):
    row: _Row


# What no kind of column made JSON of must not fail somebody's save.
_encoder = msgspec.json.Encoder(enc_hook=str)
_decoder = msgspec.json.Decoder(_Payload)


def encode(row: Row, mirrored: MirroredModel) -> str:
    values = {field.column: row.fields[field.name] for field in mirrored.fields if field.name in row.fields}
    return _encoder.encode({"$told": {"pk": row.pk, "fields": values, "key": row.key}}).decode()


def decode(payload: str, mirrored: MirroredModel) -> Row | None:
    """None for the payload of a trigger. The values stay JSON that nobody has read."""
    if not payload.startswith(_BEGIN):
        return None
    row = _decoder.decode(payload).row
    # A column that is gone since has no field.
    fields = {field.name: row.fields[field.column] for field in mirrored.fields if field.column in row.fields}
    return Row(pk=row.pk, fields=fields, key=row.key)


def rename_column(payload: str, old: str, new: str) -> str | None:
    """The payload with a column under its new name; None for the payload of a trigger."""
    if not payload.startswith(_BEGIN):
        return None
    row = _decoder.decode(payload).row
    row.fields = {new if column == old else column: value for column, value in row.fields.items()}
    return _encoder.encode(_Payload(row)).decode()


def complete(row: Row, mirrored: MirroredModel, find: Callable[[Reference, Any], str | None]) -> Row:
    """The row with the UUIDs of parents that were not there, or no longer, when it was written."""
    names = [field.name for field in mirrored.key]
    values: dict[str, Any] = dict(row.fields)
    if mirrored.pk is None:  # a composite key travels beside the fields
        values |= zip(names, msgspec.json.decode(row.pk, type=list[msgspec.Raw]), strict=True)
    missing = {
        field.name: msgspec.json.decode(values[field.name])[MISSING]
        for field in mirrored.fields
        if field.reference and field.name in values and bytes(values[field.name]).startswith(_MISSING)
    }
    numbers = [
        one for one in mirrored.generic if bytes(values.get(one.number.name, b"")).startswith(_MISSING)
    ]
    if not missing and not numbers:
        return row
    for field in mirrored.fields:
        if field.name in missing and field.reference:
            uuid = find(field.reference, missing[field.name])
            values[field.name] = values[field.name] if uuid is None else msgspec.Raw(f'"{uuid}"'.encode())
    for one in numbers:
        reference = reference_to_rows(msgspec.json.decode(values[one.kind.name]))
        number = msgspec.json.decode(values[one.number.name])[MISSING]
        uuid = find(reference, int(number)) if reference and str(number).isdecimal() else None
        values[one.number.name] = values[one.number.name] if uuid is None else {ROW: uuid}
    key = row.key
    if missing.keys() & set(names):
        key = ",".join(str(msgspec.json.decode(values[name])) for name in names)
    pk = row.pk if mirrored.pk is not None else [values.pop(name) for name in names]
    return Row(pk=pk, fields=values, key=key)

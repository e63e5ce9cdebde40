"""Batches of a group whose end has not come yet: in memory while few, then in a temporary file.

The transaction that applies them begins only when the group is whole. A line that is slow, or breaks,
holds no lock of the central database.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import msgspec

from mirror.wire import Batch

_decoder = msgspec.json.Decoder(Batch)
_encoder = msgspec.json.Encoder()


class Spool:
    """Batches in order; may be read again and again. Needs ``close``."""

    def __init__(self, memory_bytes: int) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=memory_bytes)  # noqa: SIM115
        self._lengths: list[int] = []

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, *batches: Batch) -> None:
        self._file.seek(0, os.SEEK_END)
        for batch in batches:
            encoded = _encoder.encode(batch)
            self._file.write(encoded)
            self._lengths.append(len(encoded))

    def __iter__(self) -> Iterator[Batch]:
        offset = 0
        for length in self._lengths:
            self._file.seek(offset)
            yield _decoder.decode(self._file.read(length))
            offset += length

    def clear(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._lengths.clear()

    def close(self) -> None:
        self._file.close()

"""Fields as projects and packages write them: each with its own idea of what the column holds."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from django.db import models


class SecretField(models.TextField):
    """Encrypted, after a fashion: the same text never gives the same column twice."""

    def from_db_value(self, value, expression, connection):
        return (
            None
            if value is None
            else self._mix(bytes.fromhex(value[:16]), bytes.fromhex(value[16:])).decode()
        )

    def get_prep_value(self, value):
        if value is None:
            return None
        nonce = os.urandom(8)
        return nonce.hex() + self._mix(nonce, value.encode()).hex()

    @staticmethod
    def _mix(nonce: bytes, text: bytes) -> bytes:
        return bytes(byte ^ nonce[place % 8] for place, byte in enumerate(text))


@dataclass(frozen=True)
class Hand:
    cards: tuple[str, ...]


class HandField(models.Field):
    """A column type of its own, and a serialized form that it does not read again."""

    def db_type(self, connection):
        return "varchar(100)"

    def from_db_value(self, value, expression, connection):
        return None if value is None else Hand(tuple(value.split("|")))

    def get_prep_value(self, value):
        return None if value is None else "|".join(value.cards)


class CentsField(models.IntegerField):
    """Reads a number of cents as a text, and writes it so."""

    def from_db_value(self, value, expression, connection):
        return None if value is None else f"{value / 100:.2f}"

    def get_prep_value(self, value):
        return None if value is None else round(float(value) * 100)

    def to_python(self, value):
        return value


class ReversedEncoder(json.JSONEncoder):
    def encode(self, o: Any) -> str:
        return super().encode({"wrapped": o})


class UnwrappingDecoder(json.JSONDecoder):
    def decode(self, s, *args):
        return super().decode(s, *args)["wrapped"]

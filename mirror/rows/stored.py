"""Values as the source's database has them, where nothing else can say them.

``{"$sqlite": 1.5}`` in an integer column, ``{"$postgresql": "infinity"}`` in a date: the name is Django's for
the kind of database. Bytes are ``{"b": hex}``. ``{"$missing": 17}`` is a reference to a row that was not
there: its number means nothing to another server.
"""

from __future__ import annotations

import math
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

_VENDORS = {"$sqlite": "SQLite", "$postgresql": "PostgreSQL", "$mysql": "MySQL"}

MISSING = "$missing"

#: ``{"$sqlite": 3.8871, "$read": "3.89"}``: the column has another form of the value than Django would write.
#: A mirror on the same kind of database takes what is stored, any other what Django reads in it.
READ = "$read"

#: ``{"$row": uuid}`` in the column of a GenericForeignKey: the row that has this UUID.
ROW = "$row"


def wrap(stored: Any, read: Any, connection: BaseDatabaseWrapper) -> dict[str, Any]:
    """``stored`` is what the trigger wrote, ``read`` what the driver would have returned for it."""
    return {f"${connection.vendor}": _plain(stored, read, connection)}


def wrap_both(read: Any, told: Any, connection: BaseDatabaseWrapper) -> dict[str, Any]:
    """``told`` is what Django reads in it, as it travels."""
    return {f"${connection.vendor}": _plain(read, read, connection), READ: told}


def _plain(stored: Any, read: Any, connection: BaseDatabaseWrapper) -> Any:
    if isinstance(read, bytes | memoryview):
        return {"b": bytes(read).hex()}
    if isinstance(read, str | int) or (isinstance(read, float) and math.isfinite(read)):
        return read
    # PostgreSQL's trigger writes what the server itself would print, and reads again.
    return stored if connection.vendor == "postgresql" else str(read)


def is_missing(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {MISSING}


def row_uuid(value: Any) -> Any:
    """The UUID of the row that a generic reference names, or None."""
    return value[ROW] if isinstance(value, dict) and value.keys() == {ROW} else None


def is_wrapped(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    names = value.keys() - {READ}
    return len(names) == 1 and names <= _VENDORS.keys()


def as_read(value: Any, connection: BaseDatabaseWrapper) -> Any:
    """What Django reads in it, where another database stored it; anything else as it is."""
    if is_wrapped(value) and READ in value and f"${connection.vendor}" not in value:
        return value[READ]
    return value


def unwrap(value: dict[str, Any], connection: BaseDatabaseWrapper) -> Any:
    """What to bind. Raises ValueError where another database had it."""
    ((vendor, stored),) = ((name, stored) for name, stored in value.items() if name != READ)
    if vendor != f"${connection.vendor}":
        raise ValueError(f"only {_VENDORS[vendor]} holds this in such a column")
    return from_plain(stored)


def plain_scalar(value: Any) -> Any:
    """A driver's value as JSON, or ValueError: for columns whose type nobody here knows."""
    if isinstance(value, bytes | memoryview):
        return {"b": bytes(value).hex()}
    if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError("no scalar")


def from_plain(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"b"} and isinstance(value["b"], str):
        return bytes.fromhex(value["b"])
    if isinstance(value, str | int | float):
        return value
    raise ValueError("not a value of a column")

"""Database row to JSON and back, one codec for each kind of column.

The JSON is what Django's own serializer writes, with departures where that would lose something; they stand
in ``docs/fields.md``. What travels is what the column holds: a custom field's ``from_db_value`` and
``get_prep_value`` are not asked, so that text it encrypts stays encrypted and nothing depends on their being
each other's inverse.

A value that its kind of column cannot hold, but this database does (a BLOB in SQLite's text column,
PostgreSQL's ``infinity``), travels as ``{"$sqlite": ...}`` or ``{"$postgresql": ...}``, as the trigger stored
it: a mirror on the same database takes it as it is, another one refuses it. So does everything that only one
database has: arrays, ranges, hstore.
"""

from mirror.rows.columns import canonical_uuids
from mirror.rows.kinds import is_text
from mirror.rows.reading import Row, RowReader, merge_payload
from mirror.rows.stored import is_missing, row_uuid
from mirror.rows.writing import RowWriter

__all__ = [
    "Row",
    "RowReader",
    "RowWriter",
    "canonical_uuids",
    "is_missing",
    "is_text",
    "merge_payload",
    "row_uuid",
]

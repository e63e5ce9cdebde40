"""What a database vendor has to offer, and who offers it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from django.db.backends.base.base import BaseDatabaseWrapper

from mirror.capture import mysql, postgresql, sqlite
from mirror.capture.tables import Selection, Table
from mirror.registry import MirroredModel


class Writer(Protocol):
    """What a database vendor has to offer. Trigger names begin with ``PREFIX``."""

    PREFIX: str
    #: True where its SQL also replaces what is installed, and that is not in the way of a migration.
    IN_PLACE: bool

    def alone(self, connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
        """In a transaction, where it takes triggers back too; whoever else wants to change them waits."""

    def tables(self, connection: BaseDatabaseWrapper, names: Iterable[str]) -> dict[str, Table]:
        """Those of the tables that exist and can have triggers."""

    def triggers(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel, tables: Mapping[str, Table]
    ) -> dict[str, str]:
        """Name and SQL of each trigger for a table, in a database of these tables."""

    def installed(self, connection: BaseDatabaseWrapper) -> dict[str, tuple[str, str]]:
        """Table and SQL of each trigger of ours, by name."""

    def drop(self, connection: BaseDatabaseWrapper, name: str) -> str:
        """The SQL that removes a trigger."""

    def record_all(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel, tables: Mapping[str, Table]
    ) -> str:
        """The SQL that puts every row of a table into the outbox as a SAVE while nobody else can write."""

    def selection(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel, tables: Mapping[str, Table]
    ) -> Selection:
        """How to read rows of a table in the form in which triggers write them to the outbox."""

    def decoders(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel
    ) -> Mapping[str, Callable[[Any], Any]]:
        """By column: from a value of the payload to what the driver would have returned."""

    def refusals(
        self, connection: BaseDatabaseWrapper, mirrored: MirroredModel, tables: Mapping[str, Table]
    ) -> dict[str, str]:
        """Name and SQL of each trigger that refuses writes to a table, unless they are ``writable``.

        What sets only columns that are not mirrored passes.
        """

    def writable(self, connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
        """Let what this connection writes within pass by the refusals."""

    def silenced(self, connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
        """Within the current transaction, which has written already: let nothing be captured."""


WRITERS: dict[str, Writer] = {
    "mysql": mysql.Mysql(),
    "postgresql": postgresql.Postgresql(),
    "sqlite": sqlite.Sqlite(),
}

"""A part of one model's rows as they are at the head of the local stream.

The oplog lies in the database of the rows, so one short transaction that only reads sees both the rows and
exactly the changes that made them. It takes no lock that a writer waits for, and a writer's open
transaction is not seen. A row with a committed change that has no place in the order yet is left out: what
it is at the head the table does not say any more, and its change will tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import accumulate
from typing import Any
from uuid import UUID

import msgspec
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import QuerySet

from mirror.capture import WRITERS, parents, told
from mirror.capture.ordered import OrderedRows
from mirror.capture.triggers import selection
from mirror.changes import Change, Op, decode_change, encode_change
from mirror.conf import conf
from mirror.errors import Busy, Malformed, UnknownModel, UnknownStream
from mirror.models import Outbox, Stream
from mirror.registry import MirroredModel, Reference, mirrored_models
from mirror.rows import Row, RowReader, merge_payload
from mirror.rows.canonical import Canonical, sum_of
from mirror.rows.keys import RowKeys, order_of
from mirror.rows.names import ContentTypeNames
from mirror.trips import fetch_last

__all__ = ["MOST_KEYS", "Rows", "read"]

#: As many keys may be asked for at once.
MOST_KEYS = 1000
#: With more changes waiting than this the sequencer goes first.
_MOST_WAITING = 10_000
#: Rows of the first query, which says how large they are.
_AT_FIRST = 100
_PAGE = 1000

#: What begins the transaction. A lock that only DROP, TRUNCATE and ALTER TABLE wait for has to come before
#: the snapshot, to which a table that was truncated or rewritten since would look empty.
_OPENING = {
    "postgresql": (
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        "LOCK TABLE {table} IN ACCESS SHARE MODE",
    ),
    "mysql": (
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What one consistent read saw of one model."""

    #: The head of the local stream.
    at: int
    #: Each row as the JSON of a SAVE at that time, in the order of the source's primary key.
    rows: list[str] = field(default_factory=list)
    #: The same where digests were asked for: the JSON of a list of the primary key, of what the row has in
    #: the fields ``key``, and of the digest of its fields ``names``.
    told: list[str] = field(default_factory=list)
    key: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    #: Or the sum of the digests alone, and over how many rows; ``pending`` and ``next`` are identities then.
    sum: str = ""
    count: int = 0
    #: Primary keys, as they travel, of rows whose changes wait for their place: of the whole model, also of
    #: rows that are deleted already. None of them is in ``rows``.
    pending: list[Any] = field(default_factory=list)
    #: What to continue after; None when nothing is left, or when keys were asked for.
    next: Any | None = None
    #: The number of rows of the model, where the reading began with the first.
    total: int | None = None
    #: The code of the error for which there is nothing to tell.
    refused: str = ""

    def within(self, size: int) -> Rows:
        """No more characters of rows than this, but one row at least; the others are pending."""
        end = sum(total <= size for total in accumulate(map(len, self.rows)))
        if end == len(self.rows):
            return self
        end = max(1, end)
        left = [decode_change(row).pk for row in self.rows[end:]]
        return replace(self, rows=self.rows[:end], pending=[*self.pending, *left])


def read(
    using: str,
    label: str,
    *,
    after: Any | None = None,
    keys: Sequence[Any] | None = None,
    digests: bool = False,
    order: str = "",
    limit: int,
    max_bytes: int,
) -> Rows:
    """Rows by primary key, as the database itself orders them: those after a key, or those of these keys.

    A key is what a change of the row says as its ``pk``, or what ``next`` was. After a key: at most ``limit``
    rows are looked at, and no more once ``max_bytes`` of JSON are read; but one at least. Of keys, at most
    1000, those that exist are all in the answer, however large. With ``digests`` the rows are not told, but
    what they come to, and ``max_bytes`` is what may be read for it; and what they come to together, if the
    rows are in that ``order`` here.

    Raises UnknownModel, UnknownStream where nothing is captured, Malformed for what is no key of this model,
    Busy when too much waits for the sequencer, and RuntimeError within a transaction.
    """
    assert limit > 0
    assert after is None or keys is None, "after a key, or some keys"
    mirrored = mirrored_models().get(label)
    if mirrored is None:
        raise UnknownModel(f"{label} is not mirrored here")
    connection = connections[using]
    if conf().capture is None or connection.vendor not in WRITERS:
        raise UnknownStream("nothing is captured here")
    if keys is not None and len(keys) > MOST_KEYS:
        raise Malformed(f"{len(keys)} keys were asked for, {MOST_KEYS} may be")
    if connection.in_atomic_block or not connection.get_autocommit():
        raise RuntimeError("a snapshot is read in a transaction of its own")
    with _one_moment(connection, mirrored) as (head, waiting):
        form = _Form.ROWS
        if digests:
            together = order and keys is None and order == order_of(mirrored, connection)
            form = _Form.SUM if together else _Form.DIGESTS
        return _Reading(connection, mirrored, head, waiting, form).read(after, keys, limit, max_bytes)


# The transaction


@contextmanager
def _one_moment(connection: BaseDatabaseWrapper, mirrored: MirroredModel) -> Iterator[tuple[int, int]]:
    """One snapshot of the database; gives the head, and how many changes wait, counted up to the most."""
    vendor, quote = connection.vendor, connection.ops.quote_name
    table = quote(mirrored.table)
    opening = [statement.format(table=table) for statement in _OPENING.get(vendor, ())]
    if vendor == "postgresql" and not _exists(connection, table):
        opening.pop()
    stream, outbox = quote(Stream._meta.db_table), quote(Outbox._meta.db_table)
    seen = (
        f"SELECT head, (SELECT COUNT(*) FROM (SELECT 1 FROM {outbox} LIMIT {_MOST_WAITING + 1}) waiting) "
        f"FROM {stream} WHERE {quote('local')} = TRUE"
    )
    with (
        _deferred(connection) if vendor == "sqlite" else nullcontext(),
        transaction.atomic(using=connection.alias),
    ):
        found = fetch_last(connection, [*opening, seen])
        if not found:
            raise UnknownStream("nothing is recorded here")
        ((head, waiting),) = found
        if waiting > _MOST_WAITING:
            raise Busy(f"more than {_MOST_WAITING} changes wait for their place in the order")
        yield head, waiting


def _exists(connection: BaseDatabaseWrapper, table: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [table])
        (exists,) = cursor.fetchone()
    return bool(exists)


@contextmanager
def _deferred(connection: Any) -> Iterator[None]:
    """SQLite's snapshot begins with the first read; most projects have theirs begin with the write lock."""
    connection.ensure_connection()
    mode, database = connection.transaction_mode, connection.connection
    factory, database.text_factory = database.text_factory, _readable
    connection.transaction_mode = "DEFERRED"
    try:
        yield
    finally:
        connection.transaction_mode = mode
        database.text_factory = factory


def _readable(text: bytes) -> str:
    """SQLite keeps whatever bytes a program calls text; the sequencer reads them so too."""
    return text.decode(errors="replace")


# The rows


def told_key(mirrored: MirroredModel) -> tuple[str, ...]:
    """Fields that identify a row where its primary key, as it travels, does not."""
    pk = mirrored.pk
    if pk is None:
        return ()
    return tuple(field.name for field in mirrored.key if field is not pk or pk.reference is not None)


class _Form(Enum):
    """What is told of rows."""

    ROWS = "rows"
    DIGESTS = "digests"
    SUM = "sum"


class _Reading:
    """Of one model, in one snapshot."""

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        mirrored: MirroredModel,
        head: int,
        waiting: int,
        form: _Form,
    ) -> None:
        self._connection = connection
        self._mirrored = mirrored
        self._form = form
        self._canonical = Canonical(mirrored) if form is not _Form.ROWS else None
        self._head = head
        self._waits = waiting > 0
        decoders = WRITERS[connection.vendor].decoders(connection, mirrored)
        names = ContentTypeNames(connection.alias)
        self._reader = RowReader(mirrored, connection, decoders, self._resolve, names.of)
        together = form is _Form.SUM
        self._keys = RowKeys(mirrored, connection, decoders, self._find, identity=together)
        self._key_columns = [field.column for field in self._keys.fields]
        known = {*self._key_columns, *(field.column for field in mirrored.key)}
        #: What of a row says which one it is.
        self._identity = known | {f"{column}>" for column in known}
        self._references = [field for field in mirrored.fields if field.reference is not None]
        self._uuids: dict[tuple[str, Any], Any] = {}
        self._deleted: dict[str, dict[Any, Any]] = {}
        #: The keys of rows whose changes wait, by their JSON.
        self._waiting: dict[bytes, Any] = {}

    def read(self, after: Any, keys: Sequence[Any] | None, limit: int, max_bytes: int) -> Rows:
        place = None if after is None else self._keys.load(after)
        if after is not None and place is None:
            raise Malformed(f"{after!r:.200} names a row that is gone, of {self._mirrored.label}")
        places = [found for key in keys or () if (found := self._keys.load(key)) is not None]
        self._look_what_waits()
        rows = selection(self._connection, self._mirrored)
        bodies: list[str] = []
        rest = total = None
        if rows is None:
            total = 0 if after is None and keys is None else None
        else:
            ordered = OrderedRows(self._connection, rows, self._key_columns)
            if keys is None:
                bodies, rest = self._page(ordered, place, limit, max_bytes)
                total = ordered.count() if after is None else None
            elif places:
                read = (self._body(self._row(payload)[1]) for payload in ordered.of(places))
                bodies = [body for body in read if body is not None]
        pending = list(self._waiting.values())
        answer = Rows(at=self._head, pending=pending, next=rest, total=total)
        if self._canonical is None:
            return replace(answer, rows=bodies)
        names = self._canonical.names
        if self._form is _Form.SUM:
            return replace(answer, sum=sum_of(bodies), count=len(bodies), names=names)
        return replace(answer, told=bodies, key=told_key(self._mirrored), names=names)

    def _page(
        self, ordered: OrderedRows, place: list[Any] | None, limit: int, max_bytes: int
    ) -> tuple[list[str], Any]:
        bodies: list[str] = []
        size = read = seen = 0
        ask = min(limit, _AT_FIRST)
        while True:
            # One more, to know whether there is one.
            payloads = ordered.after(place, ask + 1)
            looked = 0
            for payload in payloads[:ask]:
                columns, row = self._row(payload)
                if (body := self._body(row)) is not None:
                    bodies.append(body)
                    weighed = body if self._canonical is None else payload
                    size += len(weighed) if weighed.isascii() else len(weighed.encode())
                looked, read = looked + 1, read + len(payload)
                if size >= max_bytes:
                    break
            seen += looked
            if looked == len(payloads):
                return bodies, None
            last = self._keys.tell(columns, self._place(row))
            if seen == limit or size >= max_bytes:
                return bodies, last
            place = self._keys.load(last)
            ask = min(limit - seen, 1 + (max_bytes - size) * seen // read)

    def _row(self, payload: str) -> tuple[dict[str, Any], Row]:
        columns = merge_payload(msgspec.json.decode(payload))
        if self._waits:
            self._take_back(columns)
        return columns, self._reader.read(columns)

    def _body(self, row: Row) -> str | None:
        """None for a row that waits."""
        if self._waiting and msgspec.json.encode(row.pk) in self._waiting:
            return None
        if self._canonical is not None and self._form is _Form.SUM:
            return self._canonical.digest(row.pk, row.fields, self._canonical.names)
        if self._canonical is not None:
            key = [row.fields[name] for name in told_key(self._mirrored)]
            digest = self._canonical.digest(row.pk, row.fields, self._canonical.names)
            return msgspec.json.encode([row.pk, *key, digest]).decode()
        label = self._mirrored.label
        return encode_change(Change(ts=self._head, op=Op.SAVE, model=label, pk=row.pk, fields=row.fields))

    def _place(self, row: Row) -> Any:
        """What the row is ordered by, as it travels."""
        if self._form is not _Form.SUM or self._mirrored.key[0] is self._mirrored.pk:
            return row.pk
        return row.fields[self._mirrored.key[0].name]

    # What waits

    def _look_what_waits(self) -> None:
        if not self._waits:
            return
        entries = Outbox.objects.using(self._connection.alias).filter(model=self._mirrored.label)
        for payload in entries.order_by("id").values_list("payload", flat=True).iterator(_PAGE):
            row = told.decode(payload, self._mirrored)
            if row is None:
                columns = merge_payload(msgspec.json.decode(payload))
                self._take_back(columns)
                row = self._reader.read({name: columns[name] for name in self._identity & columns.keys()})
            else:
                row = told.complete(row, self._mirrored, self._resolved)
            place = msgspec.json.decode(msgspec.json.encode(self._place(row)))
            self._waiting.setdefault(msgspec.json.encode(row.pk), place)

    def _take_back(self, columns: dict[str, Any]) -> None:
        """References to rows whose UUIDs are others at the head."""
        for one in self._references:
            gone = self._gone(one.reference.label)  # type: ignore[union-attr]
            number = columns.get(one.column)
            if number in gone:
                columns[f"{one.column}>"] = gone[number]

    # References

    def _resolved(self, reference: Reference, pk: Any) -> str | None:
        return parents.as_told(self._resolve(reference, pk))

    def _resolve(self, reference: Reference, pk: Any) -> Any:
        gone = self._gone(reference.label)
        if pk in gone:
            return gone[pk]
        known = (reference.label, pk)
        if known not in self._uuids:
            self._uuids[known] = parents.uuid_of(self._connection, reference, pk)
        return self._uuids[known]

    def _gone(self, label: str) -> dict[Any, Any]:
        """The UUIDs at the head of rows whose deletion waits; some of them have come again with another."""
        if not self._waits:
            return {}
        if label not in self._deleted:
            payloads = parents.waiting_deletions(label, self._connection.alias)
            self._deleted[label] = parents.deleted(label, payloads)
        return self._deleted[label]

    def _find(self, reference: Reference, uuid: str) -> Any:
        """The key of a row that is referred to."""
        try:
            value = UUID(uuid)
        except ValueError as error:
            raise Malformed(f"{uuid!r:.200} is no UUID") from error
        rows: QuerySet[Any] = QuerySet(reference.uuid_field.model, using=self._connection.alias)
        return rows.filter(**{reference.uuid_field.name: value}).values_list("pk", flat=True).first()

"""Whether two servers hold the same: their tables, read with plain SQL and put side by side.

What is each server's own (``pkid``, the numbers of many-to-many rows) is replaced by what it stands for.
"""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from typing import Any

from tests.end_to_end.processes import Site

#: What each table holds, in words that mean the same on every server; its key comes first.
_SHOP = {
    "brand": "SELECT id, name FROM shop_brand",
    "tag": "SELECT id, label FROM shop_tag",
    "product": """
        SELECT p.id, p.name, p.brand_id, p.second_brand_id IS NULL, second.id, p.parent_id IS NULL, parent.id,
            p.stock, p.price, p.weight, p.on_sale, p.photo, p.details, p.listed_at, p.shelf_life
        FROM shop_product p
        LEFT JOIN shop_brand second ON second.pkid = p.second_brand_id
        LEFT JOIN shop_product parent ON parent.pkid = p.parent_id""",
    "product_tags": """
        SELECT p.id, t.id FROM shop_product_tags m
        LEFT JOIN shop_product p ON p.pkid = m.product_id LEFT JOIN shop_tag t ON t.pkid = m.tag_id""",
    "bundle": """
        SELECT p.id, b.discount FROM shop_bundle b
        LEFT JOIN shop_product p ON p.pkid = b.product_ptr_id""",
    "counter": "SELECT id, value FROM shop_counter",
    "ticket": "SELECT id, text, secret FROM shop_ticket",
}

_OPLOG = """
    SELECT ts, position, op, model, "key", ends_group, body FROM mirror_oplog
    WHERE stream_id = (SELECT id FROM mirror_stream WHERE uuid = ?) ORDER BY ts"""

Rows = list[tuple[Any, ...]]


def shop_of(site: Site) -> dict[str, Rows]:
    """Every row, as the database's driver gives it."""
    with site.reading() as database:
        return {name: sorted(database.rows(sql), key=repr) for name, sql in _SHOP.items()}


def assert_same_shop(source: Site, centre: Site) -> None:
    here, there = shop_of(source), shop_of(centre)
    if source.engine != centre.engine:
        here, there = _said_alike(here), _said_alike(there)
    for table, rows in here.items():
        # As text: 1 and 1.0 and True are not the same.
        ours, theirs = list(map(repr, rows)), list(map(repr, there[table]))
        assert len(set(theirs)) == len(theirs), f"{table}: a row is there twice"
        missing, extra = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
        assert not missing, f"{table}: {len(missing)} are not at the centre {missing[:2]}, but {extra[:2]}"
        assert not extra, f"{table}: {len(extra)} are only at the centre {extra[:2]}"


def assert_same_oplog(source: Site, centre: Site, *, captured: int) -> None:
    """The copy is the original, which holds everything that was ever captured, each once."""
    (stream,) = source.rows("SELECT uuid FROM mirror_stream WHERE local")[0]
    original = source.rows(_OPLOG, stream)
    copy = centre.rows(_OPLOG, stream if centre.engine != "postgresql" else uuid.UUID(stream))
    assert [row[1] for row in original] == list(range(1, captured + 1))
    assert all(before[0] < after[0] for before, after in pairwise(original))
    assert original[-1][5], "the last change ends its group"
    for ours, theirs in zip(original, copy, strict=False):
        assert ours == theirs
    assert len(copy) == len(original)


# Engines say the same thing in different ways


def _said_alike(shop: dict[str, Rows]) -> dict[str, Rows]:
    kinds: dict[str, dict[int, Callable[[Any], Any]]] = {
        "product": {8: _decimal, 9: float, 12: _json, 13: _time, 14: _duration}
    }
    return {
        table: [
            tuple(
                None if value is None else kinds.get(table, {}).get(place, _plain)(value)
                for place, value in enumerate(row)
            )
            for row in rows
        ]
        for table, rows in shop.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, uuid.UUID):
        return value.hex
    if isinstance(value, str) and len(value) == 36 and value.count("-") == 4:
        return value.replace("-", "")
    if isinstance(value, memoryview):
        return bytes(value)
    return int(value) if isinstance(value, bool) else value


def _decimal(value: Any) -> Decimal:
    return round(Decimal(str(value)), 2)


def _json(value: str) -> str:
    return json.dumps(json.loads(value), sort_keys=True)


def _time(value: str | datetime.datetime) -> datetime.datetime:
    if isinstance(value, str):
        value = datetime.datetime.fromisoformat(value)
    return value.astimezone(datetime.UTC).replace(tzinfo=None) if value.tzinfo else value


def _duration(value: int | datetime.timedelta) -> datetime.timedelta:
    return datetime.timedelta(microseconds=value) if isinstance(value, int) else value

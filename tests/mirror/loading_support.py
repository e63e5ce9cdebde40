"""A source in memory whose rows are loaded by a centre: the line between them is a function call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec
from django.db import connections
from msgspec.structs import replace

from mirror import loading, maintenance
from mirror.apply import Applier, Pause, Question
from mirror.changes import Change, Op, encode_change
from mirror.registry import mirrored_models
from mirror.rows.canonical import Canonical, sum_of
from mirror.snapshot import told_key
from mirror.wire import Chunk
from tests.fakes import Centre, delete, save
from tests.project.shop.models import Brand, Counter, Product

KEYED_BY_PK = ("shop.counter", "shop.reading")
LABELS = ("shop.brand", "shop.product", "shop.counter", "shop.reading")


def uuid_of(number: int) -> str:
    return str(UUID(int=number + 1))


@dataclass
class Shop:
    """A source in memory: brands and products by ``pkid``, counters and readings by ``id``.

    ``waiting`` are groups that are committed and have no place in the order yet.
    """

    rows: dict[str, dict[int, dict[str, Any]]] = field(
        default_factory=lambda: {label: {} for label in LABELS}
    )
    waiting: list[list[Change]] = field(default_factory=list)
    log: list[list[Change]] = field(default_factory=list)

    def put(self, label: str, pk: int, **fields: Any) -> Change:
        self.rows[label][pk] = fields
        return save(label, pk, **fields)

    def drop(self, label: str, pk: int) -> Change:
        return delete(label, pk, **self.rows[label].pop(pk))

    def commit(self, *changes: Change) -> None:
        if changes:
            self.waiting.append(list(changes))

    def sequence(self) -> None:
        self.log += self.waiting
        self.waiting = []

    def answer(self, question: Question, at: int, limit: int) -> Chunk:
        rows = self.rows.get(question.model, {})
        if question.order in {"integer", "uuid"} and question.keys is None:
            return self._together(question, at, limit)
        if question.keys is None:
            keys = [pk for pk in sorted(rows) if question.after is None or pk > question.after]
            following = keys[:limit][-1] if len(keys) > limit else None
            keys = keys[:limit]
        else:
            keys, following = [pk for pk in question.keys if pk in rows], None
        pending = {change.pk for group in self.waiting for change in group if change.model == question.model}
        chunk = Chunk(
            number=1,
            model=question.model,
            at=at,
            pending=sorted(pending),
            next=following,
            total=len(rows) if question.after is None and question.keys is None else None,
        )
        shown = {pk: rows[pk] for pk in keys if pk not in pending}
        if question.digests:
            return replace(chunk, **self._digests(question.model, shown))
        bodies = [
            encode_change(Change(ts=at, op=Op.SAVE, model=question.model, pk=pk, fields=fields))
            for pk, fields in shown.items()
        ]
        return replace(chunk, rows=[msgspec.Raw(body.encode()) for body in bodies])

    def _together(self, question: Question, at: int, limit: int) -> Chunk:
        """What rows come to, in the order of what identifies them."""
        name = "" if question.model in KEYED_BY_PK else "id"
        rows = self.rows.get(question.model, {})
        of = {fields[name] if name else pk: pk for pk, fields in rows.items()}
        places = [place for place in sorted(of) if question.after is None or place > question.after]
        changes = [one for group in self.waiting for one in group if one.model == question.model]
        waiting = {one.pk for one in changes}
        shown = {of[one]: rows[of[one]] for one in places[:limit] if of[one] not in waiting}
        told = self._digests(question.model, shown)
        return Chunk(
            number=1,
            model=question.model,
            at=at,
            sum=sum_of(msgspec.json.decode(raw)[-1] for raw in told["told"]),
            count=len(told["told"]),
            names=told["names"],
            pending=[one.fields[name] if name else one.pk for one in changes],
            next=places[limit - 1] if len(places) > limit else None,
            total=len(rows) if question.after is None else None,
        )

    def _digests(self, label: str, shown: dict[int, dict[str, Any]]) -> dict[str, Any]:
        mirrored = mirrored_models()[label]
        canonical, key = Canonical(mirrored), told_key(mirrored)
        known = {name for fields in shown.values() for name in fields} | {one.name for one in mirrored.key}
        names = [name for name in canonical.names if name in known]
        told = [
            [pk, *(fields[name] for name in key), canonical.digest(pk, fields, names)]
            for pk, fields in shown.items()
        ]
        raws = [msgspec.Raw(msgspec.json.encode(one)) for one in told]
        return {"told": raws, "key": list(key), "names": names}


class Mirror:
    """The centre, with what came over the line and is not applied yet."""

    def __init__(self, centre: Centre, shop: Shop, limit: int) -> None:
        self.centre, self.shop, self.limit = centre, shop, limit
        self.applied = 0

    def crash(self) -> None:
        """Whatever was not committed is gone."""
        self.centre.applier = Applier(self.centre.source.pk, fence=0, using="centre")

    def deliver(self, groups: int | None = None) -> None:
        upto = len(self.shop.log) if groups is None else min(len(self.shop.log), self.applied + groups)
        for group in self.shop.log[self.applied : upto]:
            self.centre.apply(*group)
        self.applied = upto

    def load_a_little(self) -> Question | Pause | None:
        question = self.centre.applier.question()
        if isinstance(question, Question):
            # The source reads now; what it has put in order by now comes first.
            self.deliver()
            self.centre.applier.load(question, self.shop.answer(question, self.centre.cursor, self.limit))
        return question

    def compare_a_little(self) -> Question | Pause | None:
        question = self.centre.applier.comparison()
        if isinstance(question, Question):
            self.deliver()
            self.centre.applier.load(question, self.shop.answer(question, self.centre.cursor, self.limit))
        return question

    def compare(self) -> None:
        for _ in range(500):
            if self.compare_a_little() is None:
                return
            self.shop.sequence()
        raise AssertionError("comparing does not come to an end")

    def settle(self) -> None:
        """Whatever is to be loaded or compared, until nothing is."""
        while self.centre.applier.loader.active or self.centre.applier.verifier.active:
            self.load()
            self.compare()

    def load(self) -> None:
        for _ in range(500):
            if self.load_a_little() is None:
                return
            self.shop.sequence()
        raise AssertionError("loading does not come to an end")


def anew(centre: Centre) -> None:
    loading.begin(centre.source, mirrored_models(), anew=True, sweep=True)
    centre.applier = Applier(centre.source.pk, fence=0, using="centre")


def here(centre: Centre) -> dict[str, list[Any]]:
    """What the centre holds, as the source would tell it."""
    brands = Brand.objects.using("centre").values_list("id", "name")
    products = Product.objects.using("centre").values_list(
        "id", "name", "brand_id", "second_brand__id", "parent__id"
    )
    counters = Counter.objects.using("centre").values_list("id", "value")
    readings = centre.rows("shop_reading", "id", "counter_id")
    return {
        "shop.brand": sorted((str(uuid), name) for uuid, name in brands),
        "shop.product": sorted(tuple(str(value) for value in row) for row in products),
        "shop.counter": sorted(counters),
        "shop.reading": sorted(readings),
    }


def there(shop: Shop) -> dict[str, list[Any]]:
    names = ("id", "name", "brand", "second_brand", "parent")
    rows = shop.rows
    return {
        "shop.brand": sorted((row["id"], row["name"]) for row in rows["shop.brand"].values()),
        "shop.product": sorted(
            tuple(str(row[name]) for name in names) for row in rows["shop.product"].values()
        ),
        "shop.counter": sorted((pk, row["value"]) for pk, row in rows["shop.counter"].items()),
        "shop.reading": sorted((pk, row["counter"]) for pk, row in rows["shop.reading"].items()),
    }


TAKEN_AT = "2026-01-01T00:00:00Z"


def brand(shop: Shop, number: int, name: str | None = None) -> Change:
    return shop.put("shop.brand", number, id=uuid_of(number), name=name or f"brand {number}")


def product(shop: Shop, number: int, *, of: int | None = None, parent: int | None = None) -> Change:
    brand_uuid = None if of is None else shop.rows["shop.brand"][of]["id"]
    return shop.put(
        "shop.product",
        number,
        id=uuid_of(1000 + number),
        name=f"product {number}",
        brand=brand_uuid,
        second_brand=brand_uuid,
        parent=None if parent is None else shop.rows["shop.product"][parent]["id"],
        stock=0,
        details={},
    )


def counter(shop: Shop, number: int, value: int = 0) -> Change:
    return shop.put("shop.counter", number, value=value)


def reading(shop: Shop, number: int, of: int) -> Change:
    return shop.put("shop.reading", number, counter=of, taken_at=TAKEN_AT)


def clear() -> None:
    with maintenance("an empty database"), connections["centre"].cursor() as cursor:
        cursor.execute("UPDATE shop_product SET parent_id = NULL")
        for name in ("reading", "counter", "product", "brand"):
            cursor.execute(f"DELETE FROM shop_{name}")

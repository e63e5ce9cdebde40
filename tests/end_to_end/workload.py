"""A writer with Django: for each number on its standard input, so many operations of mixed kinds.

Two things hold at every commit, and a test can ask for them at any moment: the counters sum up to zero,
and tickets come in pairs. What is rolled back is called so.
"""

from __future__ import annotations

import datetime
import random
import sys
import uuid
from collections.abc import Callable
from decimal import Decimal

import django
from django.db import IntegrityError

ROLLED_BACK = "rolled back"


class RollBack(Exception):
    pass


class Writer:
    def __init__(self, seed: int) -> None:
        from django.db import models, transaction

        from tests.project.shop import models as shop

        self.dice = random.Random(seed)
        self.shop = shop
        self.atomic = transaction.atomic
        self.f = models.F
        self.made = 0
        self.operations: list[tuple[int, Callable[[], None]]] = [
            (8, self.create_product),
            (2, self.create_brand),
            (3, self.create_bundle),
            (8, self.save_product),
            (2, self.save_bundle),
            (4, self.update_many),
            (2, self.bulk_update),
            (1, self.bulk_create),
            (1, self.upsert_counters),
            (8, self.transfer),
            (4, self.tag),
            (2, self.untag),
            (2, self.delete_product),
            (1, self.delete_brand),
            (1, self.delete_bundle_only),
            (2, self.delete_tickets),
            (2, self.swap_names),
            (1, self.move_key),
            (1, self.delete_and_create_again),
            (4, self.roll_back),
            (2, self.roll_back_a_part),
            (2, self.long_transaction),
        ]

    def work(self, count: int) -> None:
        weights = [weight for weight, _ in self.operations]
        for _weight, operation in self.dice.choices(self.operations, weights, k=count):
            try:
                operation()
            except IntegrityError:
                # Another writer was quicker: rolled back, as in any application.
                continue

    # Choosing

    def name(self, kind: str) -> str:
        self.made += 1
        return f"{kind} {self.made} " + self.dice.choice(
            ["plain", "ž ¤ 漢字", '🜚 "quoted" \\ \'', "two\nlines", ""]
        )

    def uuid(self) -> uuid.UUID:
        return uuid.UUID(int=self.dice.getrandbits(128), version=4)

    def some(self, model, count: int = 1) -> list:
        found = list(model.objects.order_by("pk").values_list("pk", flat=True))
        chosen = self.dice.sample(found, min(count, len(found)))
        return list(model.objects.filter(pk__in=chosen).order_by("pk"))

    def maybe(self, model):
        return next(iter(self.some(model)), None) if self.dice.random() < 0.7 else None

    def values(self) -> dict:
        dice = self.dice
        return {
            "name": self.name("product"),
            "stock": dice.randrange(-1000, 1000),
            "price": Decimal(dice.randrange(0, 10**9)) / 100,
            "weight": dice.choice([None, 0.1, dice.random() * 10.0 ** dice.randrange(-300, 300), -0.0]),
            "on_sale": dice.random() < 0.5,
            "photo": dice.choice([None, b"", dice.randbytes(dice.randrange(1, 200))]),
            "details": dice.choice(
                [{}, [], "text", 1.5, {"ž": [1, None, {"deep": [True, "🜚"]}], "$json": "1"}, {"n": 2**53}]
            ),
            "listed_at": dice.choice(
                [
                    None,
                    datetime.datetime(2024, 2, 29, 23, 59, 59, dice.randrange(10**6), datetime.UTC),
                    datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC),
                ]
            ),
            "shelf_life": dice.choice([None, datetime.timedelta(microseconds=dice.randrange(10**12))]),
        }

    # One operation each

    def create_brand(self) -> None:
        self.shop.Brand.objects.create(id=self.uuid(), name=self.name("brand"))

    def create_product(self) -> None:
        shop = self.shop
        shop.Product.objects.create(
            id=self.uuid(),
            brand=self.maybe(shop.Brand),
            second_brand=self.maybe(shop.Brand),
            parent=self.maybe(shop.Product) if self.dice.random() < 0.2 else None,
            **self.values(),
        )

    def create_bundle(self) -> None:
        shop = self.shop
        bundle = shop.Bundle.objects.create(
            id=self.uuid(),
            brand=self.maybe(shop.Brand),
            second_brand=self.maybe(shop.Brand),
            discount=self.dice.randrange(100),
            **self.values(),
        )
        bundle.tags.set(self.some(shop.Tag, 2))

    def save_product(self) -> None:
        for product in self.some(self.shop.Product):
            for field, value in self.values().items():
                setattr(product, field, value)
            product.save()

    def save_bundle(self) -> None:
        for bundle in self.some(self.shop.Bundle):
            bundle.discount += 1
            bundle.name = self.name("bundle")
            bundle.save()

    def update_many(self) -> None:
        chosen = [product.pk for product in self.some(self.shop.Product, 6)]
        self.shop.Product.objects.filter(pk__in=chosen).update(stock=self.f("stock") + 1, on_sale=True)

    def bulk_update(self) -> None:
        products = self.some(self.shop.Product, 5)
        for product in products:
            product.price = Decimal(self.dice.randrange(10**6)) / 100
        self.shop.Product.objects.bulk_update(products, ["price"])

    def bulk_create(self) -> None:
        count = 2 * self.dice.randrange(5, 20)
        tickets = [self.shop.Ticket(id=self.uuid(), text=self.name("ticket")) for _ in range(count)]
        self.shop.Ticket.objects.bulk_create(tickets)

    def upsert_counters(self) -> None:
        """An insert that meets its rows: no signal tells of it."""
        numbers = range(1, 9)
        with self.atomic():
            self.shop.Counter.objects.filter(pk__in=numbers).delete()
            total = sum(self.shop.Counter.objects.values_list("value", flat=True))
            counters = [self.shop.Counter(pk=number, value=number) for number in numbers]
            self.shop.Counter.objects.bulk_create(counters)
            counters[0].value -= total + sum(numbers)
            self.shop.Counter.objects.bulk_create(
                counters, update_conflicts=True, update_fields=["value"], unique_fields=["id"]
            )

    def transfer(self) -> None:
        counter = self.shop.Counter
        amount = self.dice.randrange(1, 100)
        with self.atomic():
            if counter.objects.count() < 20:
                counter.objects.bulk_create([counter(value=amount), counter(value=-amount)])
            giver, taker = self.some(counter, 2)
            counter.objects.filter(pk=giver.pk).update(value=self.f("value") - amount)
            counter.objects.filter(pk=taker.pk).update(value=self.f("value") + amount)

    def tag(self) -> None:
        shop = self.shop
        if shop.Tag.objects.count() < 10:
            shop.Tag.objects.create(id=self.uuid(), label=self.name("tag"))
        for product in self.some(shop.Product, 2):
            product.tags.add(*self.some(shop.Tag, 3))

    def untag(self) -> None:
        for product in self.some(self.shop.Product, 2):
            if self.dice.random() < 0.3:
                product.tags.clear()
            else:
                product.tags.remove(*self.some(self.shop.Tag, 3))

    def delete_product(self) -> None:
        for product in self.some(self.shop.Product):
            product.delete()

    def delete_brand(self) -> None:
        """Takes its products along, their bundles and tags; lets go of who had it second."""
        if self.shop.Brand.objects.count() > 5:
            for brand in self.some(self.shop.Brand):
                brand.delete()

    def delete_bundle_only(self) -> None:
        for bundle in self.some(self.shop.Bundle):
            bundle.delete(keep_parents=True)

    def delete_tickets(self) -> None:
        pair = self.some(self.shop.Ticket, 2)
        self.shop.Ticket.objects.filter(pk__in=[ticket.pk for ticket in pair]).delete()

    def swap_names(self) -> None:
        """A unique value changes hands."""
        pair = self.some(self.shop.Brand, 2)
        if len(pair) == 2:
            first, second = pair
            brands = self.shop.Brand.objects
            with self.atomic():
                brands.filter(pk=first.pk).update(name="on the way")
                brands.filter(pk=second.pk).update(name=first.name)
                brands.filter(pk=first.pk).update(name=second.name)

    def move_key(self) -> None:
        for ticket in self.some(self.shop.Ticket):
            self.shop.Ticket.objects.filter(pk=ticket.pk).update(id=self.uuid())

    def delete_and_create_again(self) -> None:
        shop = self.shop
        for brand in self.some(shop.Brand):
            with self.atomic():
                shop.Product.objects.filter(brand=brand).update(brand=None)
                brand.delete()
                shop.Brand.objects.create(id=brand.id, name=brand.name)

    def roll_back(self) -> None:
        try:
            with self.atomic():
                self.create_brand()
                self.update_many()
                self.delete_product()
                self.shop.Brand.objects.create(id=self.uuid(), name=f"{ROLLED_BACK} {self.made}")
                raise RollBack
        except RollBack:
            return

    def roll_back_a_part(self) -> None:
        with self.atomic():
            self.create_product()
            try:
                with self.atomic():
                    self.shop.Tag.objects.create(id=self.uuid(), label=ROLLED_BACK)
                    self.delete_product()
                    raise RollBack
            except RollBack:
                self.tag()

    def long_transaction(self) -> None:
        with self.atomic():
            self.create_brand()
            for _ in range(3):
                self.create_product()
                self.create_bundle()
            self.transfer()
            self.bulk_create()
            self.delete_tickets()


def main() -> None:
    django.setup()
    writer = Writer(int(sys.argv[1]))
    for line in sys.stdin:
        writer.work(int(line))
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

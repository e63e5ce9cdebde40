"""What may happen to a source in memory and the centre that mirrors it, drawn step by step."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from mirror.changes import Change
from tests.mirror.loading_support import LABELS, Mirror, brand, counter, product, reading


class Story:
    """Draws what happens, and has it happen."""

    def __init__(self, data: st.DataObject, mirror: Mirror) -> None:
        self.data, self.mirror, self.shop = data, mirror, mirror.shop

    def pick(self, label: str) -> int | None:
        known = sorted(self.shop.rows[label])
        return self.data.draw(st.sampled_from(known)) if known else None

    def write(self) -> None:
        number = self.data.draw(st.integers(0, 7))
        kind = self.data.draw(st.sampled_from([*LABELS, "drop brand", "drop product", "drop counter"]))
        shop = self.shop
        if kind == "shop.brand":
            shop.commit(brand(shop, number, f"{self.data.draw(st.sampled_from('ab'))}{number}"))
        elif kind == "shop.product":
            parent = self.pick("shop.product")
            shop.commit(
                product(shop, number, of=self.pick("shop.brand"), parent=None if parent == number else parent)
            )
        elif kind == "shop.counter":
            shop.commit(counter(shop, number, self.data.draw(st.integers(0, 3))))
        elif kind == "shop.reading":
            of = self.pick("shop.counter")
            shop.commit(*([] if of is None else [reading(shop, number, of=of)]))
        else:
            self.drop(f"shop.{kind.split()[1]}")

    def drop(self, label: str) -> None:
        """With what refers to it, as Django does it."""
        pk = self.pick(label)
        if pk is None:
            return
        rows = self.shop.rows
        changes: list[Change] = []
        if label == "shop.counter":
            found = [one for one, row in rows["shop.reading"].items() if row["counter"] == pk]
            changes += [self.shop.drop("shop.reading", one) for one in found]
        elif label == "shop.brand":
            changes += self.cut("brand", rows[label][pk]["id"], brand=None, second_brand=None)
        else:
            changes += self.cut("parent", rows[label][pk]["id"], parent=None)
        self.shop.commit(*changes, self.shop.drop(label, pk))

    def cut(self, name: str, uuid: str, **fields: Any) -> list[Change]:
        products = self.shop.rows["shop.product"]
        found = [one for one, row in products.items() if row[name] == uuid]
        return [self.shop.put("shop.product", one, **{**products[one], **fields}) for one in found]

    def go_on(self, *works: str) -> None:
        """``works``: "load", "compare", as often as they shall happen."""
        happens = self.data.draw(st.sampled_from(["write", "write", "sequence", "deliver", *works, "crash"]))
        if happens == "write":
            self.write()
        elif happens == "sequence":
            self.shop.sequence()
        elif happens == "deliver":
            self.mirror.deliver(1)
        elif happens == "load":
            self.mirror.load_a_little()
        elif happens == "compare":
            self.mirror.compare_a_little()
        else:
            self.mirror.crash()

"""Between every two engines: a source's own answers are compared, in ranges where both order rows alike."""

from __future__ import annotations

import random
from uuid import UUID

import pytest
from django.db import connections

from mirror import snapshot, verifying
from mirror.apply import Question
from mirror.models import Difference, Verification
from mirror.registry import mirrored_models
from mirror.rows.keys import order_of
from mirror.wire import Chunk, Piece, decode, pieces
from tests.zoo.models import Numbers, Place, TextKeyed, Times, UuidKeyed
from tests.zoo.pairs import PAIRS, Pair

LABELS = tuple(model._meta.label_lower for model in (Numbers, Place, TextKeyed, Times, UuidKeyed))

pytestmark = pytest.mark.parametrize("engines", PAIRS)


def answer(question: Question) -> Chunk:
    """As it comes over the line."""
    rows = snapshot.read(
        "default",
        question.model,
        after=question.after,
        keys=question.keys,
        digests=question.digests,
        order=question.order,
        limit=4,
        max_bytes=10**6,
    )
    frames = pieces(
        number=1,
        model=question.model,
        at=rows.at,
        rows=rows.rows,
        told=rows.told,
        key=rows.key,
        names=rows.names,
        sum_=rows.sum,
        count=rows.count,
        pending=rows.pending,
        after=rows.next,
        total=rows.total,
        frame_bytes=4096,
    )
    texts = []
    for frame in frames:
        piece = decode(frame.text)
        assert isinstance(piece, Piece)
        texts.append(piece.text)
    chunk = decode("".join(texts))
    assert isinstance(chunk, Chunk)
    return chunk


def compare(pair: Pair) -> list[Question]:
    """Return what was asked."""
    applier = pair.centre.applier
    verifying.request(pair.centre.source, LABELS, repair=False)
    applier.verifier.refresh()
    asked = []
    for _ in range(1000):
        question = applier.comparison()
        if question is None:
            return asked
        if isinstance(question, Question):
            asked.append(question)
            applier.load(question, answer(question))
    raise AssertionError("comparing does not come to an end")


def in_the_same_order(label: str) -> bool:
    mirrored = mirrored_models()[label]
    here, there = (order_of(mirrored, connections[alias]) for alias in ("centre", "default"))
    return here == there != ""


@pytest.fixture
def filled(pair) -> Pair:
    dice = random.Random(7)
    for number in range(23):
        uuid = UUID(int=dice.getrandbits(128), version=dice.choice((1, 3, 4, 5)))
        UuidKeyed.objects.create(id=uuid, value=number)
        Numbers.objects.create(id=UUID(int=dice.getrandbits(128), version=4), whole=number, ratio=0.1)
        Times.objects.create(moment="2026-01-02T03:04:05.6Z")
        Place.objects.create(name=f"place {number}")
        TextKeyed.objects.create(code=f"{dice.choice('aAbBäÄ-_')}{number}", value=number)
    Place.objects.filter(name__in=[f"place {number}" for number in range(3, 9)]).delete()
    pair.follow()
    return pair


def test_what_is_the_same_is_found_to_be_the_same(filled):
    asked = compare(filled)
    assert not Difference.objects.using("centre").exists()
    done = {one.model: one.rows for one in Verification.objects.using("centre")}
    assert done == {"zoo.place": 17, **{label: 23 for label in LABELS if label != "zoo.place"}}
    for label in LABELS:
        together = [one.order != "" for one in asked if one.model == label]
        if in_the_same_order(label):
            assert together == [True] * (5 if label == "zoo.place" else 6)
        else:
            assert not any(together[1:]), "the first may find out"


def test_keys_are_integers_or_uuids_where_ranges_are_compared(filled):
    same = {label for label in LABELS if in_the_same_order(label)}
    alike = len({engine == "mariadb" for engine in filled.engines}) == 1
    uuids = {"zoo.numbers", "zoo.times", "zoo.uuidkeyed"}
    assert same == {"zoo.place", *(uuids if alike else ())}


def test_each_row_that_was_changed_is_found(filled):
    broken = {"zoo.uuidkeyed": "value", "zoo.numbers": "whole", "zoo.place": "name", "zoo.textkeyed": "value"}
    expected = set()
    for label, field in broken.items():
        model = mirrored_models()[label].model
        row = model._base_manager.using("centre").order_by(field)[5]
        key = getattr(row, mirrored_models()[label].key[0].name)
        model._base_manager.using("centre").filter(pk=row.pk).update(**{field: 99})
        expected.add((label, str(key), "different", field))
    gone = Times.objects.using("centre").order_by("id")[11]
    Times.objects.using("centre").filter(pk=gone.pk).delete()
    expected.add(("zoo.times", str(gone.id), "missing", ""))
    asked = compare(filled)
    found = Difference.objects.using("centre").values_list("model", "key", "kind", "fields")
    assert set(found) == expected
    assert len([one for one in asked if not one.digests]) == 4, "one for each model with other fields"

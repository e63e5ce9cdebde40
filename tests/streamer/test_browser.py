from __future__ import annotations

import msgspec
import pytest

from mirror.errors import Malformed, MirrorError, Oversized
from streamer.browser import EMPTY, ROOM, Batch, Filter, Line, Mailbox, Seen, decode, encode


def line(ts: int) -> Line:
    return Line(stream="s", ts=ts, source="paris", op="SAVE", kind="changed", model="m", key="k", summary="")


def cards(**states: str) -> dict[str, bytes]:
    return {name: msgspec.json.encode({"name": name, "state": state}) for name, state in states.items()}


def batch(*times: int, skipped: int = 0) -> Batch:
    return Batch(lines=[line(ts) for ts in times], skipped=skipped)


# Messages


def test_a_filter_and_an_acknowledgement_are_understood() -> None:
    assert decode('{"type":"filter","model":"shop","op":"SAVE"}') == Filter(model="shop", op="SAVE")
    assert decode('{"type":"seen","n":3}') == Seen(n=3)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, Malformed),  # a binary frame
        ("", Malformed),
        ("{", Malformed),
        ("[]", Malformed),
        ('{"type":"other"}', Malformed),
        ('{"type":"filter","colour":"red"}', Malformed),
        ('{"type":"filter","op":"DROP"}', Malformed),
        ('{"type":"filter","text":5}', Malformed),
        ('{"type":"filter","text":"\\u0000"}', Malformed),  # PostgreSQL takes no NUL
        ('{"type":"filter","text":"\\ud800"}', Malformed),  # not a character
        ('{"type":"filter","text":"' + "x" * 201 + '"}', Malformed),
        ('{"type":"seen","n":0}', Malformed),
        ('{"type":"seen","n":1.5}', Malformed),
        ("[" * 4000, Malformed),
        ('{"type":"filter","text":"' + "x" * 5000 + '"}', Oversized),
        ("ö" * 2049, Oversized),  # bytes count, not characters
    ],
)
def test_anything_else_is_refused(text: str | None, error: type[MirrorError]) -> None:
    with pytest.raises(error):
        decode(text)


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        (b"", EMPTY),
        (b"source=paris&text=a+b%C3%B6", Filter(source="paris", text="a bö")),
        (b"utm=1&model=shop", Filter(model="shop")),
        (b"op=DROP", EMPTY),
        (b"&".join(b"a%d=1" % number for number in range(99)), EMPTY),
        (b"\xff\xfe", EMPTY),
        (b"type=seen&n=1", EMPTY),
    ],
)
def test_the_address_of_a_page_says_what_it_wants(query: bytes, wanted: Filter) -> None:
    assert Filter.from_query(query) == wanted


# The mailbox


def test_an_update_carries_what_is_new_and_then_nothing_is() -> None:
    mailbox = Mailbox()
    assert mailbox.put(cards(paris="live"), batch(1, 2), reset=True)
    update = mailbox.take(7)
    assert (update.n, update.now, update.reset, update.skipped) == (1, 7, True, 0)
    assert [change.ts for change in update.changes] == [1, 2]
    assert [msgspec.json.decode(source)["name"] for source in update.sources] == ["paris"]
    assert not mailbox.put(cards(paris="live"), batch(), reset=False)


def test_only_cards_that_differ_are_sent_again_and_those_that_went_are_named() -> None:
    mailbox = Mailbox()
    mailbox.put(cards(paris="live", lyon="live", nice="new"), batch(), reset=False)
    mailbox.take(1)
    mailbox.put(cards(paris="live", lyon="stalled"), batch(), reset=False)
    update = mailbox.take(2)
    assert [bytes(source) for source in update.sources] == [cards(lyon="stalled")["lyon"]]
    assert update.gone == ["nice"]


def test_updates_that_a_slow_browser_misses_are_merged_and_stay_bounded() -> None:
    mailbox = Mailbox()
    for step in range(100_000 // ROOM):
        mailbox.put(cards(paris=f"state {step}"), batch(*range(step * ROOM, (step + 1) * ROOM)), reset=False)
    update = mailbox.take(1)
    assert [change.ts for change in update.changes] == list(range(100_000 - ROOM, 100_000))
    assert update.skipped == 100_000 - ROOM
    assert len(update.sources) == 1
    assert not mailbox.has_news


def test_a_new_filter_throws_away_what_waited_for_the_old_one() -> None:
    mailbox = Mailbox()
    mailbox.put({}, batch(1, 2, skipped=5), reset=False)
    mailbox.put({}, batch(9), reset=True)
    update = mailbox.take(1)
    assert ([change.ts for change in update.changes], update.skipped, update.reset) == ([9], 0, True)


def test_no_more_than_two_updates_are_under_way() -> None:
    mailbox = Mailbox()
    assert mailbox.has_room
    mailbox.take(1)
    mailbox.take(2)
    assert not mailbox.has_room
    mailbox.seen(1)
    assert mailbox.has_room
    mailbox.seen(1)
    mailbox.take(3)
    assert not mailbox.has_room


def test_an_update_that_was_never_sent_cannot_be_acknowledged() -> None:
    with pytest.raises(Malformed):
        Mailbox().seen(1)


def test_more_cards_than_fit_into_a_frame_come_with_the_next_update() -> None:
    mailbox = Mailbox()
    mailbox.put({f"source{number}": b'{"name":"x"}' for number in range(600)}, batch(), reset=False)
    assert [len(mailbox.take(1).sources) for _ in range(3)] == [250, 250, 100]
    assert not mailbox.has_news


def test_the_largest_update_stays_under_the_frame_limit_of_daphne() -> None:
    longest = "\N{GRINNING FACE}" * 200
    lines = [
        Line(
            stream="0" * 36,
            ts=2**53,
            source=longest[:100],
            op="DELETE",
            kind="deleted",
            model=longest,
            key=longest,
            summary=longest[:160],
        )
    ] * ROOM
    mailbox = Mailbox()
    card = msgspec.json.encode({"name": "x" * 100, "text": longest * 2, "spark": [12345.6] * 60})
    mailbox.put({f"source{number}": card for number in range(1000)}, Batch(lines=lines), reset=False)
    assert len(encode(mailbox.take(1)).encode()) < 1_000_000


def test_trouble_is_told_once_and_its_end_too() -> None:
    mailbox = Mailbox()
    mailbox.put({}, batch(), reset=False)
    mailbox.take(1)
    assert mailbox.complain("the database is away")
    assert mailbox.take(2).problem == "the database is away"
    assert not mailbox.complain("the database is away")
    assert mailbox.put({}, batch(), reset=False)
    assert mailbox.take(3).problem == ""

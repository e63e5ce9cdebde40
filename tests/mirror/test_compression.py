"""Frames that travel compressed: what is agreed upon, what is counted, and what a hostile one can do."""

from __future__ import annotations

import json
import random
import tracemalloc
import zlib

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mirror.errors import (
    CODES,
    Corrupt,
    LocalProtocolError,
    Malformed,
    Oversized,
    RemoteProtocolError,
    Unexpected,
)
from mirror.session import Limits, Role, Session
from mirror.wire import (
    Ack,
    Batch,
    Entry,
    Frame,
    Heartbeat,
    Subscribe,
    Subscribed,
    chosen,
    decode,
    deflate,
    encode,
    inflate,
    segments,
)
from tests import strategies
from tests.fakes import SessionPair

FRAME = 256 * 1024
LIMITS = Limits(window=1_000_000, frame=FRAME, change=1_000_000)
ANSWER = Subscribed(
    stream="00000000-0000-0000-0000-000000000000",
    outcome="started",
    cursor=0,
    position=0,
    mark="",
    head=20,
    head_position=9,
    now=30,
)
COMPRESSED = msgspec.structs.replace(ANSWER, compression="deflate")


def streaming(role: Role, *, agreed: bool = True, limits: Limits = LIMITS) -> Session:
    """A session in the middle of a stream, with compression agreed upon or not."""
    session = Session(role, limits)
    request = Subscribe(mirror="m", window=limits.window, compression=["deflate"])
    answer = COMPRESSED if agreed else ANSWER
    if role is Role.SOURCE:
        session.receive(encode(request))
        session.send(answer)
    else:
        session.send(request)
        session.receive(encode(answer))
    return session


def batch(size: int, *, prev: int = 0) -> str:
    """The text of a batch of one change that deflates well."""
    change = json.dumps("x" * size)
    return (
        f'{{"type":"batch","prev":{prev},"last":{prev + 1},"position":{prev + 1},"head":20,'
        f'"head_position":20,"ends":[{prev + 1}],"changes":[{change}]}}'
    )


def frame(text: str, *, packed: bool) -> Frame:
    last = decode(text).last
    made = Frame(text=text, size=len(text.encode()), last=last, end=last)
    if packed:
        made.pack()
    return made


# One frame


@given(st.text(max_size=300), st.integers(1, 500))
def test_what_is_compressed_comes_back_the_same(piece, times):
    text = piece * times
    packed = deflate(text)
    if isinstance(packed, bytes):
        assert len(packed) < len(text.encode())
        assert inflate(packed, len(text.encode())).decode() == text
    else:
        assert packed == text


def test_what_is_small_or_does_not_get_smaller_stays_as_it_is():
    assert deflate("x" * 1023) == "x" * 1023
    assert isinstance(deflate("x" * 1024), bytes)
    noise = every_letter()
    assert len(zlib.compress(noise.encode(), 9)) > len(noise.encode()) > 1024
    assert deflate(noise) is noise


def every_letter() -> str:
    """The rare text without anything to spare: as many letters of one byte as of two, three and four."""
    dice = random.Random(3)
    scripts = [range(0x80, 0x800), range(0x800, 0xD800), range(0x10000, 0x110000)]
    while True:
        letters = [
            dice.choice(dice.choice(scripts) if dice.random() < 0.5 else range(128)) for _ in range(520)
        ]
        text = "".join(map(chr, letters))
        if len(zlib.compress(text.encode(), 9)) > len(text.encode()):
            return text


def test_a_frame_is_compressed_once_for_all_its_subscribers():
    made = frame(batch(5000), packed=True)
    first = made.packed
    made.pack()
    assert made.packed is first


@given(st.integers(1024, 100_000))
def test_a_frame_of_exactly_the_limit_is_unpacked_and_a_byte_more_is_not(size):
    packed = zlib.compress(bytes(size))
    assert len(inflate(packed, size)) == size
    with pytest.raises(Oversized, match=f"more than {size - 1} bytes"):
        inflate(packed, size - 1)


@given(st.data())
def test_a_compressed_frame_that_was_cut_is_corrupt(data):
    packed = zlib.compress(data.draw(st.binary(max_size=5000)))
    with pytest.raises(Corrupt) as caught:
        inflate(packed[: data.draw(st.integers(0, len(packed) - 1))], FRAME)
    assert (caught.value.code, caught.value.close_code) == ("corrupt", 4400)


@given(st.binary(max_size=5000), st.binary(min_size=1, max_size=100))
def test_what_follows_a_compressed_frame_makes_it_corrupt(plain, rest):
    with pytest.raises(Corrupt, match=f"{len(rest)} bytes follow"):
        inflate(zlib.compress(plain) + rest, FRAME)


@given(st.binary(min_size=1, max_size=2000), st.data())
def test_a_compressed_frame_with_a_wrong_byte_never_yields_something_else(plain, data):
    packed = bytearray(zlib.compress(plain))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = inflate(bytes(packed), FRAME)
    except (Corrupt, Oversized):
        return
    assert found == plain  # not every bit of deflate means something


def with_dictionary() -> bytes:
    packing = zlib.compressobj(zdict=b"a dictionary that nobody agreed upon")
    return packing.compress(b"a dictionary") + packing.flush()


@pytest.mark.parametrize(
    "packed",
    [
        zlib.compress(b"text", wbits=31),  # gzip
        zlib.compress(b"text", wbits=-15),  # without header and checksum
        with_dictionary(),
        zlib.compress(b"a") + zlib.compress(b"b"),
    ],
    ids=["gzip", "raw", "dictionary", "two"],
)
def test_another_format_is_corrupt(packed):
    with pytest.raises(Corrupt):
        inflate(packed, FRAME)


def test_a_bomb_costs_no_more_than_the_limit():
    bomb = zlib.compress(bytes(128 * 1024 * 1024), 9)
    assert len(bomb) < FRAME < 1000 * len(bomb) < 128 * 1024 * 1024
    session = streaming(Role.MIRROR)
    tracemalloc.start()
    with pytest.raises(Oversized) as caught:
        session.receive(bomb)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.code == "oversized"
    assert peak < 4 * FRAME


# What is agreed upon


@pytest.mark.parametrize(
    ("offered", "choice"),
    [
        ([], None),
        (["brotli", "zstd"], None),
        (["zstd", "deflate"], "deflate"),
        (["deflate", "deflate"], "deflate"),
        (["DEFLATE", " deflate", ""], None),
    ],
)
def test_the_source_takes_what_it_knows_and_ignores_the_rest(offered, choice):
    request = decode(json.dumps({"type": "subscribe", "mirror": "m", "window": 1, "compression": offered}))
    assert chosen(request.compression) == choice


@pytest.mark.parametrize("offered", [["x" * 21], ["a"] * 11, "deflate", [1], None])
def test_an_offer_that_is_no_short_list_of_names_is_malformed(offered):
    with pytest.raises(Malformed):
        decode(json.dumps({"type": "subscribe", "mirror": "m", "window": 1, "compression": offered}))


def test_peers_that_know_nothing_of_it_are_told_nothing_of_it():
    # Both refuse a field that they do not know.
    assert json.loads(encode(Subscribe(mirror="m", window=5, cursor=7, mark=""))) == {
        "type": "subscribe",
        "mirror": "m",
        "window": 5,
        "cursor": 7,
        "mark": "",
    }
    assert "compression" not in encode(ANSWER)
    assert decode('{"type":"subscribe","mirror":"m","window":5}').compression == []


def test_what_was_not_offered_cannot_be_agreed_upon():
    mirror = Session(Role.MIRROR, LIMITS)
    mirror.send(Subscribe(mirror="m", window=5, compression=["zstd"]))
    with pytest.raises(Unexpected, match="deflate was not offered"):
        mirror.receive(encode(COMPRESSED))
    source = Session(Role.SOURCE, LIMITS)
    source.receive(encode(Subscribe(mirror="m", window=5)))
    with pytest.raises(LocalProtocolError, match="deflate was not offered"):
        source.send(COMPRESSED)


def test_a_compression_that_nobody_knows_is_malformed():
    mirror = Session(Role.MIRROR, LIMITS)
    mirror.send(Subscribe(mirror="m", window=5, compression=["deflate"]))
    with pytest.raises(Malformed, match="compression"):
        mirror.receive(encode(COMPRESSED).replace("deflate", "brotli"))


def test_a_frame_that_others_take_compressed_goes_plain_to_whom_did_not_ask():
    made = frame(batch(5000), packed=True)
    assert streaming(Role.SOURCE).send(made) == made.packed
    assert streaming(Role.SOURCE, agreed=False).send(made) == made.text


def test_a_frame_that_nobody_compressed_goes_plain_whatever_was_agreed():
    made = frame(batch(5000), packed=False)
    assert streaming(Role.SOURCE).send(made) == made.text
    assert streaming(Role.MIRROR).receive(made.text) == decode(made.text)


# What is counted


def test_credit_counts_the_plain_size_on_both_sides():
    made = frame(batch(5000), packed=True)
    source, mirror = streaming(Role.SOURCE), streaming(Role.MIRROR)
    payload = source.send(made)
    assert len(payload) < made.size / 10
    assert mirror.receive(payload) == decode(made.text)
    assert source.outstanding == mirror.outstanding == made.size
    source.receive(mirror.send(Ack(taken=mirror.carried, cursor=1)))
    assert source.outstanding == 0


def test_packing_well_sends_no_more_than_the_window():
    limits = Limits(window=10_000, frame=8192, change=1_000_000)
    session = streaming(Role.MIRROR, limits=limits)

    def flood():
        for prev in range(1000):
            session.receive(zlib.compress(batch(7000, prev=prev).encode()))

    with pytest.raises(Oversized, match="window"):
        flood()
    assert session.carried < 10_000 + 2 * 8192


# A hostile peer


@pytest.mark.parametrize(
    ("role", "agreed"), [(Role.SOURCE, True), (Role.SOURCE, False), (Role.MIRROR, False)]
)
def test_a_binary_message_that_was_not_agreed_upon_is_malformed(role, agreed):
    for payload in (zlib.compress(batch(5000).encode()), encode(Ack(taken=0, cursor=0)).encode(), b""):
        with pytest.raises(Malformed, match="binary"):
            streaming(role, agreed=agreed).receive(payload)


@pytest.mark.parametrize("role", list(Role))
def test_a_binary_message_before_anything_was_said_is_malformed(role):
    with pytest.raises(Malformed, match="binary"):
        Session(role, LIMITS).receive(zlib.compress(b"{}"))


@pytest.mark.parametrize("message", [Heartbeat(head=1, head_position=1, now=1), COMPRESSED])
def test_nothing_but_frames_comes_compressed(message):
    session = streaming(Role.MIRROR)
    with pytest.raises(Malformed, match="came compressed"):
        session.receive(zlib.compress(encode(message).encode()))


def test_a_compressed_payload_over_the_limit_is_not_unpacked():
    with pytest.raises(Oversized, match=f"the limit is {FRAME}"):
        streaming(Role.MIRROR).receive(bytes(FRAME + 1))


hostile = st.one_of(
    st.binary(max_size=3000),
    st.binary(max_size=3000).map(zlib.compress),
    strategies.messages.map(lambda message: zlib.compress(encode(message).encode())),
    st.builds(lambda text, cut: zlib.compress(text.encode())[cut:], st.text(), st.integers(0, 5)),
    st.integers(0, 10**6).map(lambda size: zlib.compress(bytes(size))),
)


@given(st.sampled_from(Role), st.booleans(), st.lists(hostile, max_size=5))
@example(Role.MIRROR, True, [zlib.compress(batch(2000).encode()), zlib.compress(b"\xff\xfe" * 900)])
def test_whatever_comes_in_binary_is_a_frame_or_a_fault_with_a_code(role, agreed, payloads):
    session = streaming(role, agreed=agreed, limits=Limits(window=50_000, frame=20_000, change=50_000))
    fault = None
    for payload in payloads:
        try:
            message = session.receive(payload)
        except RemoteProtocolError as error:
            fault = error
            break
        assert (role, agreed) == (Role.MIRROR, True)
        assert isinstance(message, Batch) or message.text
        assert session.carried < 50_000 + 20_000
    assert fault is None or CODES[fault.code] is type(fault)


# Both sides together


@settings(deadline=None)
@given(
    strategies.entries(largest=20_000),
    st.sampled_from([1024, 4096, 20_000]),
    st.lists(st.booleans(), min_size=1, max_size=20),
)
def test_frames_of_any_size_arrive_as_they_were_whichever_are_compressed(stream, frame_bytes, which):
    prev, entries = stream
    limits = Limits(window=10**9, frame=frame_bytes, change=10**6)
    source, mirror = streaming(Role.SOURCE, limits=limits), streaming(Role.MIRROR, limits=limits)
    source.cursor = mirror.cursor = prev
    mirror.position = entries[0].position - 1 if entries else 0
    bodies: list[str] = []
    made = segments(prev, entries, head=2**60, head_position=2**60, frame_bytes=frame_bytes)
    frames = [one for segment in made for one in segment.frames]
    for place, one in enumerate(frames):
        if which[place % len(which)]:
            one.pack()
        message = mirror.receive(source.send(one))
        if isinstance(message, Batch):
            bodies += [bytes(raw).decode() for raw in message.changes]
    assert bodies == [entry.body for entry in entries]
    assert source.carried == mirror.carried == sum(one.size for one in frames)


def test_a_pair_that_agreed_carries_less_and_applies_the_same():
    log = [
        Entry(ts=number, position=number, ends_group=True, body=json.dumps([number, "text" * 50]))
        for number in range(1, 400)
    ]
    carried = {}
    for compression in (True, False):
        applied: list[str] = []
        pair = SessionPair(LIMITS, log, applied, compression=compression)
        pair.deliver_to_source()
        pair.pump()
        carried[compression] = sum(map(len, pair.to_mirror))
        while pair.to_mirror:
            pair.deliver_to_mirror()
        pair.commit()
        assert applied == [entry.body for entry in log]
    assert carried[True] * 4 < carried[False]

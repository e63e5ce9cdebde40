from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mirror.errors import AckBeyondSent, Gap, LocalProtocolError, Malformed, Oversized, Unexpected
from mirror.session import TRANSITIONS, Limits, Role, Session, State
from mirror.wire import (
    Ack,
    Batch,
    Chunk,
    Entry,
    Error,
    Fetch,
    Fragment,
    Frame,
    Heartbeat,
    Piece,
    Subscribe,
    Subscribed,
    encode,
    inflate,
    pieces,
)
from tests.fakes import SessionPair

LIMITS = Limits(window=2000, frame=1024, change=5000)

MESSAGES = {
    Subscribe: Subscribe(mirror="m", window=2000),
    Subscribed: Subscribed(
        stream="00000000-0000-0000-0000-000000000000",
        outcome="started",
        cursor=10,
        position=3,
        mark="0123456789abcdef",
        head=20,
        head_position=9,
        now=30,
    ),
    Batch: Batch(
        prev=10, last=12, position=5, head=20, head_position=9, ends=[12], changes=[msgspec.Raw(b"0")] * 2
    ),
    Fragment: Fragment(
        prev=10, ts=12, position=4, head=20, head_position=9, index=0, last=False, ends=True, text="0"
    ),
    Heartbeat: Heartbeat(head=20, head_position=9, now=31),
    Ack: Ack(taken=0, cursor=10),
    Fetch: Fetch(number=7, model="shop.tag"),
    Piece: Piece(number=7, at=10, index=0, last=False, text="0"),
    Chunk: Chunk(number=7, model="shop.tag", at=10),
    Error: Error(code="error", message=""),
}


def other(role: Role) -> Role:
    return Role.MIRROR if role is Role.SOURCE else Role.SOURCE


def session_in(state: State, role: Role, **limits) -> Session:
    """A session that came into this state in the ordinary way."""
    session = Session(role, Limits(**{"window": 2000, "frame": 1024, "change": 5000, **limits}))
    by_mirror, by_source = session.send, session.receive
    if role is Role.SOURCE:
        by_mirror, by_source = session.receive, session.send
    for spoken, kind in [(by_mirror, Subscribe), (by_source, Subscribed), (by_source, Error)]:
        if session.state is state:
            break
        message = MESSAGES[kind]
        spoken(message if spoken == session.send else encode(message))
    assert session.state is state
    return session


def mirror(**limits) -> Session:
    return session_in(State.STREAMING, Role.MIRROR, **limits)


def source(**limits) -> Session:
    return session_in(State.STREAMING, Role.SOURCE, **limits)


def asking(**limits) -> Session:
    """A mirror that waits for rows."""
    session = mirror(**limits)
    session.send(MESSAGES[Fetch])
    return session


def asked(**limits) -> Session:
    """A source that was asked for rows."""
    session = source(**limits)
    session.receive(encode(MESSAGES[Fetch]))
    return session


def changed(kind: type, **changes) -> str:
    return encode(msgspec.structs.replace(MESSAGES[kind], **changes))


def frame_of(size: int = 100, prev: int = 10, last: int = 12) -> Frame:
    return Frame(text="x" * size, size=size, last=last, end=last)


# The table

EVERYTHING = [(state, role, kind) for state in State for role in Role for kind in MESSAGES]
ALLOWED = [case for case in EVERYTHING if (case[1], case[2]) in TRANSITIONS[case[0]]]
FORBIDDEN = [case for case in EVERYTHING if case not in ALLOWED]
FRAMES = {Batch, Fragment, Piece}


@pytest.mark.parametrize(("state", "speaker", "kind"), ALLOWED)
def test_an_allowed_message_is_received_and_leads_to_the_tables_state(state, speaker, kind):
    session = asking() if (state, kind) == (State.STREAMING, Piece) else session_in(state, other(speaker))
    assert session.receive(encode(MESSAGES[kind])) == MESSAGES[kind]
    assert session.state is TRANSITIONS[state][speaker, kind]


@pytest.mark.parametrize(("state", "speaker", "kind"), FORBIDDEN)
def test_a_forbidden_message_is_the_senders_fault(state, speaker, kind):
    session = session_in(state, other(speaker))
    with pytest.raises(Unexpected, match=f"{speaker.value} may not say {kind.__name__} when {state.value}"):
        session.receive(encode(MESSAGES[kind]))
    assert session.state is state


@pytest.mark.parametrize(("state", "speaker", "kind"), [case for case in ALLOWED if case[2] not in FRAMES])
def test_an_allowed_message_is_sent_and_leads_to_the_tables_state(state, speaker, kind):
    session = session_in(state, speaker)
    assert session.send(MESSAGES[kind]) == encode(MESSAGES[kind])
    assert session.state is TRANSITIONS[state][speaker, kind]


@pytest.mark.parametrize(("state", "speaker", "kind"), FORBIDDEN)
def test_sending_a_forbidden_message_is_our_own_fault(state, speaker, kind):
    session = session_in(state, speaker)
    with pytest.raises(LocalProtocolError):
        session.send(MESSAGES[kind])
    assert session.state is state


@pytest.mark.parametrize("state", [State.IDLE, State.ASKED])
def test_no_frame_is_sent_before_the_stream_began(state):
    with pytest.raises(LocalProtocolError, match="Batch"):
        session_in(state, Role.SOURCE).send(frame_of())


def test_a_mirror_sends_no_frames():
    with pytest.raises(LocalProtocolError, match="mirror may not say Batch"):
        mirror().send(frame_of())


def test_nobody_may_ever_say_a_chunk():
    # Its size would be that of one frame, whatever the limit of a change.
    assert not any(kind is Chunk for allowed in TRANSITIONS.values() for _, kind in allowed)


@pytest.mark.parametrize("kind", [Batch, Fragment, Piece, Chunk])
def test_changes_and_rows_go_out_as_frames_only(kind):
    # A Batch sent as a message would not be counted against the window.
    with pytest.raises(LocalProtocolError, match="Frames"):
        source().send(MESSAGES[kind])


# Credit


def test_the_source_is_ready_until_the_window_is_full():
    session = source(window=150)
    session.send(frame_of(100))
    assert session.ready
    session.send(frame_of(100, last=13))
    assert (session.ready, session.outstanding) == (False, 200)
    with pytest.raises(LocalProtocolError, match="credit"):
        session.send(frame_of(1, last=14))


def test_what_is_acknowledged_as_taken_is_credit_again():
    session = source(window=150)
    session.send(frame_of(100))
    session.send(frame_of(100, last=13))
    session.receive(encode(Ack(taken=100, cursor=10)))
    assert (session.ready, session.outstanding, session.acked) == (True, 100, 10)
    session.receive(encode(Ack(taken=200, cursor=13)))
    assert (session.outstanding, session.acked) == (0, 13)


@pytest.mark.parametrize(("ours", "theirs", "window"), [(100, 5000, 100), (5000, 100, 100)])
def test_the_smaller_window_of_both_sides_holds(ours, theirs, window):
    session = Session(Role.SOURCE, Limits(window=ours, frame=1024, change=5000))
    session.receive(encode(Subscribe(mirror="m", window=theirs)))
    session.send(MESSAGES[Subscribed])
    session.send(frame_of(window - 1))
    assert session.ready
    session.send(frame_of(1, last=13))
    assert not session.ready


def test_a_window_of_nothing_is_refused():
    with pytest.raises(Malformed, match="window"):
        session_in(State.IDLE, Role.SOURCE).receive(changed(Subscribe, window=0))
    with pytest.raises(LocalProtocolError, match="window"):
        session_in(State.IDLE, Role.MIRROR).send(Subscribe(mirror="m", window=0))


def test_nothing_is_ready_before_or_after_the_stream():
    assert not any(session_in(state, Role.SOURCE).ready for state in State if state is not State.STREAMING)


# A hostile or broken source

BATCHES = {
    "gap": {"prev": 11},
    "repeat": {"prev": 9},
    "reordered": {"prev": 10, "last": 10, "ends": [10]},
    "backwards": {"prev": 10, "last": 9, "ends": [9]},
    "position ahead": {"position": 6},
    "position behind": {"position": 4},
    "no changes": {"changes": [], "position": 3},
    "ends before last": {"ends": [11]},
    "ends after last": {"ends": [13]},
    "ends in disorder": {"ends": [12, 11, 12]},
    "ends twice": {"ends": [12, 12]},
    "ends before the batch": {"ends": [10, 12]},
}


@pytest.mark.parametrize("changes", BATCHES.values(), ids=BATCHES)
def test_a_batch_that_does_not_follow_is_a_gap(changes):
    with pytest.raises(Gap) as caught:
        mirror().receive(changed(Batch, **changes))
    assert caught.value.code == "gap"
    assert caught.value.close_code == 4400


def test_a_batch_that_came_twice_is_a_gap():
    session = mirror()
    session.receive(changed(Batch))
    with pytest.raises(Gap):
        session.receive(changed(Batch))


def test_a_batch_without_an_end_is_fine():
    session = mirror()
    assert session.receive(changed(Batch, ends=[])).last == 12
    assert (session.cursor, session.position) == (12, 5)
    with pytest.raises(LocalProtocolError):
        session.send(Ack(taken=0, cursor=12))  # no group has ended there


FRAGMENTS = {
    "not the first": {"index": 1},
    "after something else": {"prev": 11},
    "last of a change that goes back": {"last": True, "ts": 10},
    "last with a wrong position": {"last": True, "position": 5},
}


@pytest.mark.parametrize("changes", FRAGMENTS.values(), ids=FRAGMENTS)
def test_a_fragment_that_does_not_follow_is_a_gap(changes):
    with pytest.raises(Gap):
        mirror().receive(changed(Fragment, **changes))


@pytest.mark.parametrize("index", [0, 2, 3])
def test_fragments_out_of_order_are_a_gap(index):
    session = mirror()
    session.receive(changed(Fragment))
    with pytest.raises(Gap, match=f"fragment {index}"):
        session.receive(changed(Fragment, index=index))


def test_a_batch_within_a_change_is_a_gap():
    session = mirror()
    session.receive(changed(Fragment))
    with pytest.raises(Gap, match="middle"):
        session.receive(changed(Batch))


def test_fragments_come_back_as_one_batch():
    session = mirror()
    assert isinstance(session.receive(changed(Fragment, text='{"a":')), Fragment)
    batch = session.receive(changed(Fragment, index=1, last=True, text=' "é"}'))
    assert batch == Batch(
        prev=10,
        last=12,
        position=4,
        head=20,
        head_position=9,
        ends=[12],
        changes=[msgspec.Raw('{"a": "é"}'.encode())],
    )
    assert (session.cursor, session.position) == (12, 4)
    assert session.send(Ack(taken=0, cursor=12))


def test_the_pieces_of_one_change_are_forgotten_with_its_last():
    session = mirror()
    session.receive(changed(Fragment, last=True, ends=False))
    batch = session.receive(changed(Fragment, prev=12, ts=14, position=5, last=True, text="1"))
    assert bytes(batch.changes[0]) == b"1"


def test_a_change_over_the_limit_is_oversized():
    session = mirror(change=10)
    session.receive(changed(Fragment, text="é" * 5))
    with pytest.raises(Oversized, match="10 bytes"):
        session.receive(changed(Fragment, index=1, text="a"))


def test_an_empty_fragment_is_malformed():
    # There could be any number of them, each within every limit.
    with pytest.raises(Malformed, match="empty"):
        mirror().receive(changed(Fragment, text=""))


def test_a_frame_over_the_limit_is_oversized_before_it_is_read():
    session = mirror(frame=500)
    with pytest.raises(Oversized, match="501 bytes; the limit is 500") as caught:
        session.receive("x" * 501)
    assert caught.value.close_code == 4413
    with pytest.raises(Oversized, match="502 bytes"):
        session.receive("é" * 251)


@pytest.mark.parametrize("text", ["", "x" * 500, "\ud800", b"\xff"])
def test_a_frame_within_the_limit_that_says_nothing_is_malformed(text):
    with pytest.raises(Malformed):
        mirror(frame=500).receive(text)


def test_a_source_that_ignores_the_window_is_stopped():
    session = mirror(window=1, frame=1024)

    def flood():
        for last in range(11, 100):
            here = {"prev": last - 1, "last": last, "position": last - 7, "ends": [last]}
            session.receive(changed(Batch, **here, changes=[msgspec.Raw(b"0")]))

    with pytest.raises(Oversized, match="window"):
        flood()
    size = len(changed(Batch, changes=[msgspec.Raw(b"0")]))
    assert session.carried - size < 1 + 1024 <= session.carried


def test_heartbeats_cost_no_credit():
    session = mirror()
    session.receive(changed(Heartbeat))
    assert (session.carried, session.cursor) == (0, 10)


def test_what_was_under_way_when_the_line_closed_changes_nothing():
    session = session_in(State.CLOSED, Role.MIRROR)
    session.receive(changed(Batch, prev=999, last=1000, ends=[1000]))
    session.receive(changed(Fragment, index=7))
    assert (session.cursor, session.carried, session.state) == (10, 0, State.CLOSED)


# A hostile or broken mirror

ACKS = {
    "more than was sent": {"taken": 101, "cursor": 10},
    "a change that was not sent": {"taken": 0, "cursor": 13},
    "a cursor before the beginning": {"taken": 0, "cursor": 9},
}


@pytest.mark.parametrize("ack", ACKS.values(), ids=ACKS)
def test_an_ack_of_what_was_not_sent_is_refused(ack):
    session = source()
    session.send(frame_of(100))
    with pytest.raises(AckBeyondSent) as caught:
        session.receive(encode(Ack(**ack)))
    assert caught.value.code == "ack_beyond_sent"


@pytest.mark.parametrize("ack", [{"taken": 49, "cursor": 12}, {"taken": 50, "cursor": 11}])
def test_an_ack_that_goes_back_is_refused(ack):
    session = source()
    session.send(frame_of(100))
    session.receive(encode(Ack(taken=50, cursor=12)))
    with pytest.raises(AckBeyondSent):
        session.receive(encode(Ack(**ack)))
    assert (session.taken, session.acked) == (50, 12)


def test_an_ack_may_be_repeated():
    session = source()
    session.receive(encode(MESSAGES[Ack]))
    session.receive(encode(MESSAGES[Ack]))
    assert session.acked == 10


def test_a_group_that_has_not_ended_is_not_acknowledged():
    session = source()
    session.send(Frame(text="x", size=1, last=12, end=None))
    with pytest.raises(AckBeyondSent):
        session.receive(encode(Ack(taken=1, cursor=12)))


def test_our_own_wrong_ack_does_not_go_out():
    session = mirror()
    session.receive(changed(Batch))
    for ack in [Ack(taken=session.carried + 1, cursor=10), Ack(taken=0, cursor=13), Ack(taken=0, cursor=9)]:
        with pytest.raises(LocalProtocolError):
            session.send(ack)


# Rows that were asked for


def answer(session: Session, texts: list[str], **changes) -> list:
    """What a mirror receives when the source says these pieces."""
    last = len(texts) - 1
    return [
        session.receive(changed(Piece, **{"index": index, "last": index == last, "text": text, **changes}))
        for index, text in enumerate(texts)
    ]


ROWS = Chunk(number=7, model="shop.tag", at=10, rows=[msgspec.Raw('{"a":"é"}'.encode())], total=1)


def halves(message) -> list[str]:
    text = encode(message)
    return [text[: len(text) // 2], text[len(text) // 2 :]]


def test_pieces_come_back_as_one_chunk():
    session = asking()
    first, chunk = answer(session, halves(ROWS))
    assert isinstance(first, Piece)
    assert chunk == ROWS
    assert (session.cursor, session.position, session.asked) == (10, 3, None)


def test_a_chunk_comes_right_after_the_group_whose_state_it_tells():
    session = asking()
    session.receive(changed(Batch))
    chunk = msgspec.structs.replace(ROWS, at=12)
    assert answer(session, halves(chunk), at=12)[-1] == chunk
    assert session.receive(changed(Batch, prev=12, last=14, position=7, ends=[14])).last == 14


def test_a_chunk_comes_right_after_a_change_in_fragments():
    session = asking()
    session.receive(changed(Fragment, text="0"))
    session.receive(changed(Fragment, index=1, last=True, text="0"))
    chunk = msgspec.structs.replace(ROWS, at=12)
    assert answer(session, halves(chunk), at=12)[-1] == chunk


def test_what_carries_no_changes_may_come_between_pieces():
    session = asking()
    first, second = halves(ROWS)
    session.receive(changed(Piece, text=first))
    session.receive(changed(Heartbeat))
    assert session.send(Ack(taken=session.carried, cursor=10))
    assert session.receive(changed(Piece, index=1, last=True, text=second)) == ROWS


PIECES = {
    "not the first": {"index": 1},
    "of another question": {"number": 8},
    "of the question before": {"number": 6},
    "ahead of the stream": {"at": 11},
    "behind the stream": {"at": 9},
}


@pytest.mark.parametrize("changes", PIECES.values(), ids=PIECES)
def test_a_piece_that_does_not_follow_is_a_gap(changes):
    with pytest.raises(Gap):
        asking().receive(changed(Piece, **changes))


@pytest.mark.parametrize("index", [0, 2, 3])
def test_pieces_out_of_order_are_a_gap(index):
    session = asking()
    session.receive(changed(Piece))
    with pytest.raises(Gap, match=f"piece {index}"):
        session.receive(changed(Piece, index=index))


@pytest.mark.parametrize("changes", [{"at": 12}, {"number": 8}])
def test_the_pieces_of_one_chunk_belong_together(changes):
    session = asking()
    session.receive(changed(Piece))
    with pytest.raises(Gap):
        session.receive(changed(Piece, index=1, **changes))


def test_rows_that_nobody_asked_for_are_a_gap():
    with pytest.raises(Gap):
        mirror().receive(changed(Piece))


def test_rows_that_came_twice_are_a_gap():
    session = asking()
    answer(session, halves(ROWS))
    with pytest.raises(Gap):
        session.receive(changed(Piece))


@pytest.mark.parametrize("at", [10, 12])
def test_rows_within_a_group_are_a_gap(at):
    # What the mirror has is not committed there, and no state of the source either.
    session = asking()
    session.receive(changed(Batch, ends=[]))
    with pytest.raises(Gap, match="within a group"):
        session.receive(changed(Piece, at=at))


@pytest.mark.parametrize("at", [10, 12])
def test_rows_within_a_changes_fragments_are_a_gap(at):
    session = asking()
    session.receive(changed(Fragment))
    with pytest.raises(Gap):
        session.receive(changed(Piece, at=at))


@pytest.mark.parametrize("kind", [Batch, Fragment])
def test_changes_within_rows_are_a_gap(kind):
    session = asking()
    session.receive(changed(Piece))
    with pytest.raises(Gap):
        session.receive(changed(kind))


def test_an_empty_piece_is_malformed():
    # There could be any number of them, each within every limit.
    with pytest.raises(Malformed, match="empty"):
        asking().receive(changed(Piece, text=""))


def test_rows_over_the_limit_are_oversized():
    # Beside the largest row there may be others, as many as a source reads at a time.
    session = asking(change=10, frame=2**21)
    for index, text in enumerate(["é" * 2**19, "é" * 2**19, "a" * 10]):
        session.receive(changed(Piece, index=index, text=text))
    with pytest.raises(Oversized, match="rows of more than 2097162 bytes"):
        session.receive(changed(Piece, index=3, text="a"))


def test_a_change_after_rows_has_its_whole_limit():
    session = asking(change=200)
    answer(session, halves(ROWS))
    session.receive(changed(Fragment, text="a" * 200))


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "[",
        "{}",
        encode(ROWS)[:-1],
        encode(ROWS) + encode(ROWS),
        encode(ROWS)[:-1] + ',"also":1}',
        encode(MESSAGES[Batch]),
        encode(MESSAGES[Piece]),
        encode(MESSAGES[Error]),
        encode(msgspec.structs.replace(ROWS, number=8)),
        encode(msgspec.structs.replace(ROWS, at=12)),
    ],
)
def test_pieces_that_make_no_chunk_that_was_asked_for_are_malformed(text):
    session = asking()
    with pytest.raises(Malformed):
        answer(session, [text[:1], text[1:]])
    assert (session.cursor, session.state) == (10, State.STREAMING)


def test_one_question_at_a_time():
    again = msgspec.structs.replace(MESSAGES[Fetch], number=8)
    with pytest.raises(LocalProtocolError, match="one question"):
        asking().send(again)
    with pytest.raises(Malformed, match="one question"):
        asked().receive(encode(again))


def test_the_next_question_may_follow_the_answer():
    session = asking()
    answer(session, halves(ROWS))
    assert session.send(changed_fetch(number=8))
    session = asked()
    session.answered()
    session.receive(encode(changed_fetch(number=8)))
    assert session.asked == 8


def changed_fetch(**changes) -> Fetch:
    return Fetch(**{"number": 7, "model": "shop.tag", **changes})


QUESTIONS = {
    "a place and keys": {"after": 0, "keys": [1]},
    "a place and no keys": {"after": "a", "keys": []},
    "no keys": {"keys": []},
}


@pytest.mark.parametrize("changes", QUESTIONS.values(), ids=QUESTIONS)
def test_rows_are_asked_for_by_a_place_or_by_keys(changes):
    question = changed_fetch(**changes)
    ours, theirs = mirror(), source()
    with pytest.raises(LocalProtocolError, match="by a place or by keys"):
        ours.send(question)
    with pytest.raises(Malformed, match="by a place or by keys"):
        theirs.receive(encode(question))
    # It was not asked, so that another may be.
    assert ours.send(changed_fetch(keys=[None, 0]))
    assert theirs.receive(encode(changed_fetch(after=[]))).after == []


def test_rows_cost_credit_like_changes():
    frames = list(
        pieces(number=7, model="shop.tag", at=10, rows=['"' + "é" * 200 + '"'] * 3, frame_bytes=1024)
    )
    ours, theirs = asking(window=1000), asked(window=1000)
    for frame in frames:
        if not theirs.ready:
            assert theirs.outstanding >= 1000
            with pytest.raises(LocalProtocolError, match="credit"):
                theirs.send(frame)
            theirs.receive(ours.send(Ack(taken=ours.carried, cursor=10)))
        ours.receive(theirs.send(frame))
    assert len(frames) > 3
    assert ours.carried == theirs.carried == sum(frame.size for frame in frames)


def test_rows_leave_the_sources_cursor_and_what_may_be_acknowledged():
    session = asked()
    session.send(frame_of(100))
    (frame,) = pieces(number=7, model="m", at=12, frame_bytes=1024)
    session.send(frame)
    assert session.cursor == 12
    session.receive(encode(Ack(taken=100 + frame.size, cursor=12)))
    assert (session.outstanding, session.acked) == (0, 12)


def test_a_source_that_floods_with_rows_is_stopped_at_the_window():
    session = asking(window=1, change=10**6)

    def flood():
        for index in range(1000):
            session.receive(changed(Piece, index=index, text="x" * 50))

    with pytest.raises(Oversized, match="window"):
        flood()
    assert 1 + 1024 <= session.carried < 1 + 1024 + 200


# Both sides together


class Connections(RuleBasedStateMachine):
    """Any interleaving of writes, deliveries, commits, acknowledgements and lost lines."""

    @initialize()
    def begin(self):
        self.log: list[Entry] = []
        self.applied: list[str] = []
        self.connect()

    def connect(self, *, compression=True):
        self.pair = SessionPair(
            LIMITS, self.log, self.applied, committed=len(self.applied), compression=compression
        )

    @rule(sizes=st.lists(st.sampled_from([1, 40, 300, 480, 3000]), min_size=1, max_size=4))
    def write(self, sizes):
        for size in sizes:
            number = len(self.log) + 1
            body = json.dumps([number, "x" * size])
            self.log.append(Entry(ts=number * 3, position=number, ends_group=False, body=body))
        last = self.log.pop()
        self.log.append(Entry(ts=last.ts, position=last.position, ends_group=True, body=last.body))

    @rule()
    def pump(self):
        self.pair.pump()

    @precondition(lambda self: self.pair.to_source)
    @rule()
    def deliver_to_source(self):
        self.pair.deliver_to_source()

    @precondition(lambda self: self.pair.to_mirror)
    @rule()
    def deliver_to_mirror(self):
        self.pair.deliver_to_mirror()

    @rule()
    def commit(self):
        self.pair.commit()

    @precondition(lambda self: self.pair.streaming and self.pair.mirror.asked is None)
    @rule()
    def ask(self):
        self.pair.ask()

    @precondition(lambda self: self.pair.streaming)
    @rule(aside=st.booleans())
    def acknowledge(self, aside):
        if aside:
            self.pair.set_aside()
        self.pair.acknowledge()

    @rule(compression=st.booleans())
    def lose_the_line(self, compression):
        self.connect(compression=compression)

    @invariant()
    def the_mirror_has_a_prefix_of_whole_groups(self):
        assert self.applied == [entry.body for entry in self.log[: len(self.applied)]]
        assert not self.applied or self.log[len(self.applied) - 1].ends_group

    @invariant()
    def no_more_than_the_window_and_a_frame_is_under_way(self):
        pair = self.pair
        assert pair.source.outstanding < LIMITS.window + LIMITS.frame
        under_way = [
            payload if isinstance(payload, bytes) else payload.encode() for payload in pair.to_mirror
        ]
        plain = [payload if payload.startswith(b"{") else inflate(payload, 1024) for payload in under_way]
        assert sum(map(len, under_way)) <= sum(map(len, plain))
        assert sum(len(text) for text in plain if b'"subscribed"' not in text) <= pair.source.outstanding

    @invariant()
    def rows_are_those_of_the_mirrors_own_place(self):
        pair = self.pair
        for number, chunk in enumerate(pair.chunks, start=1):
            assert chunk.number == number
            assert [bytes(raw).decode() for raw in chunk.rows] == pair.rows_at(chunk.at)
        assert len(pair.chunks) == pair.asked - (pair.mirror.asked is not None)

    @invariant()
    def acknowledged_cursors_never_go_back(self):
        cursors = [ack.cursor for ack in self.pair.acks]
        assert cursors == sorted(cursors)
        assert not cursors or self.pair.source.acked == cursors[-1]

    def teardown(self):
        """Once faults stop, both are equal without anyone's help."""
        if not hasattr(self, "pair"):
            return
        self.connect()
        pair = self.pair
        for _ in range(10 * len(self.log) + 100):
            while pair.to_source:
                pair.deliver_to_source()
            if pair.streaming and not pair.asked:
                pair.ask()
            pair.pump()
            while pair.to_mirror:
                pair.deliver_to_mirror()
            pair.commit()
            pair.set_aside()
            pair.acknowledge()
            if len(self.applied) == len(self.log) and pair.chunks:
                break
        assert self.applied == [entry.body for entry in self.log]
        assert pair.chunks


TestConnections = Connections.TestCase
TestConnections.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

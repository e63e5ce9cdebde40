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
    Entry,
    Error,
    Fragment,
    Frame,
    Heartbeat,
    Subscribe,
    Subscribed,
    encode,
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


def changed(kind: type, **changes) -> str:
    return encode(msgspec.structs.replace(MESSAGES[kind], **changes))


def frame_of(size: int = 100, prev: int = 10, last: int = 12) -> Frame:
    return Frame(text="x" * size, size=size, last=last, end=last)


# The table

EVERYTHING = [(state, role, kind) for state in State for role in Role for kind in MESSAGES]
ALLOWED = [case for case in EVERYTHING if (case[1], case[2]) in TRANSITIONS[case[0]]]
FORBIDDEN = [case for case in EVERYTHING if case not in ALLOWED]
FRAMES = {Batch, Fragment}


@pytest.mark.parametrize(("state", "speaker", "kind"), ALLOWED)
def test_an_allowed_message_is_received_and_leads_to_the_tables_state(state, speaker, kind):
    session = session_in(state, other(speaker))
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


@pytest.mark.parametrize("kind", [Batch, Fragment])
def test_changes_go_out_as_frames_only(kind):
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


# Both sides together


class Connections(RuleBasedStateMachine):
    """Any interleaving of writes, deliveries, commits, acknowledgements and lost lines."""

    @initialize()
    def begin(self):
        self.log: list[Entry] = []
        self.applied: list[str] = []
        self.connect()

    def connect(self):
        self.pair = SessionPair(LIMITS, self.log, self.applied, committed=len(self.applied))

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

    @precondition(lambda self: self.pair.streaming)
    @rule(aside=st.booleans())
    def acknowledge(self, aside):
        if aside:
            self.pair.set_aside()
        self.pair.acknowledge()

    @rule()
    def lose_the_line(self):
        self.connect()

    @invariant()
    def the_mirror_has_a_prefix_of_whole_groups(self):
        assert self.applied == [entry.body for entry in self.log[: len(self.applied)]]
        assert not self.applied or self.log[len(self.applied) - 1].ends_group

    @invariant()
    def no_more_than_the_window_and_a_frame_is_under_way(self):
        pair = self.pair
        assert pair.source.outstanding < LIMITS.window + LIMITS.frame
        assert sum(len(text.encode()) for text in pair.to_mirror if '"subscribed"' not in text) <= (
            pair.source.outstanding
        )

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
            pair.pump()
            while pair.to_mirror:
                pair.deliver_to_mirror()
            pair.commit()
            pair.set_aside()
            pair.acknowledge()
            if len(self.applied) == len(self.log):
                break
        assert self.applied == [entry.body for entry in self.log]


TestConnections = Connections.TestCase
TestConnections.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

from __future__ import annotations

import random
from collections import defaultdict, deque
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.examples import examples
from support.yamux import KIB, MIB, Endpoint, data, memory_share, ping, read_frames, update

from stronghold_p2p.wire.yamux import INITIAL_WINDOW, Flag, FrameType, Stream
from stronghold_p2p.wire.yamux.flow import ReceiveWindow

HALF = INITIAL_WINDOW // 2


class TestReceiveWindow:
    def test_an_update_is_due_when_half_is_used(self) -> None:
        window, budget = ReceiveWindow(0.0), memory_share(MIB)
        window.receivable = 0
        window.consumed = HALF - 1
        assert window.next_window_update(1.0, None, MIB, budget) == 0
        window.consumed = HALF
        assert window.next_window_update(1.0, None, MIB, budget) == HALF
        assert (window.receivable, window.consumed, window.window_size) == (HALF, 0, INITIAL_WINDOW)

    @pytest.mark.parametrize(
        ("rtt", "seconds", "max_size", "budget", "size"),
        [
            (None, 0.0, 4 * MIB, 4 * MIB, INITIAL_WINDOW),
            (0.1, 0.39, 4 * MIB, 4 * MIB, 2 * INITIAL_WINDOW),
            (0.1, 0.41, 4 * MIB, 4 * MIB, INITIAL_WINDOW),
            (0.1, 0.0, 300 * KIB, 4 * MIB, 300 * KIB),
            (0.1, 0.0, INITIAL_WINDOW, 4 * MIB, INITIAL_WINDOW),
            (0.1, 0.0, 4 * MIB, 100 * KIB, INITIAL_WINDOW + 300 * KIB // 8),
            (0.1, 0.0, 4 * MIB, 0, INITIAL_WINDOW),
        ],
        ids=["no rtt", "quick", "slow", "up to the limit", "at the limit", "up to the budget", "no budget"],
    )
    def test_it_doubles_while_round_trips_limit_the_sender(
        self, rtt: float | None, seconds: float, max_size: int, budget: int, size: int
    ) -> None:
        window, receive_budget = ReceiveWindow(10.0), memory_share(budget)
        window.receivable, window.consumed = 0, INITIAL_WINDOW
        assert window.next_window_update(10.0 + seconds, rtt, max_size, receive_budget) == size
        assert (window.receivable, window.window_size) == (size, size)
        assert receive_budget.used == size - INITIAL_WINDOW
        window.close_window(receive_budget)
        window.close_window(receive_budget)
        assert receive_budget.used == 0

    def test_the_time_runs_from_the_last_update(self) -> None:
        window, budget = ReceiveWindow(0.0), memory_share(MIB)
        window.consumed = HALF
        window.next_window_update(5.0, 0.1, MIB, budget)
        window.consumed = HALF
        window.next_window_update(5.3, 0.1, MIB, budget)
        assert window.window_size == 2 * INITIAL_WINDOW


@pytest.fixture(params=[None, 4 * KIB - 1], ids=["whole", "in pieces"])
def cut(request: pytest.FixtureRequest) -> int | None:
    size: int | None = request.param
    return size


class TestFlowOfASession:
    def test_small_messages_need_neither_updates_nor_pings(self, cut: int | None) -> None:
        listener = Endpoint(cut=cut)
        for stream_id in range(1, 400, 2):
            listener.receive(data(stream_id, bytes(HALF - 1), Flag.SYN | Flag.FIN))
            stream = listener.inbound[stream_id]
            listener.credit(stream, HALF - 1)
            listener.session.send_data(stream, b"ok")
            listener.session.send_fin(stream)
        assert {frame.kind for frame in listener.sent()} == {FrameType.DATA}

    def test_a_bulk_transfer_measures_the_round_trip_time(self, cut: int | None) -> None:
        listener = Endpoint(cut=cut)
        stream = listener.accept(1, acknowledge=True)
        listener.receive(data(1, bytes(INITIAL_WINDOW)))
        listener.credit(stream, HALF)
        assert listener.sent() == [update(1, HALF), ping(1)]
        listener.now += 0.02
        listener.credit(stream, HALF)
        assert listener.sent() == [update(1, HALF)], "one ping at a time"
        assert listener.receive(ping(2, Flag.ACK)) == []
        assert listener.session.rtt is None, "another value is no answer"
        listener.now += 0.03
        assert listener.receive(ping(1, Flag.ACK)) == []
        assert listener.session.rtt == pytest.approx(0.05)
        listener.now += 5
        assert listener.receive(ping(1, Flag.ACK)) == []
        assert listener.session.rtt == pytest.approx(0.05), "an answer counts once"

    def test_the_round_trip_time_is_measured_again_after_a_while(self) -> None:
        listener = Endpoint()
        stream = listener.accept(1, acknowledge=True)
        pings = []
        for _ in range(30):
            listener.receive(data(1, bytes(HALF)))
            listener.credit(stream, HALF)
            asked = [frame for frame in listener.sent() if frame.kind == FrameType.PING]
            pings += [(frame.length, listener.now) for frame in asked]
            listener.receive(*(frame._replace(flags=Flag.ACK) for frame in asked))
            listener.now += 1
        assert [value for value, _ in pings] == [1, 2, 3]
        assert [after - before for (_, before), (_, after) in pairwise(pings)] == [11, 11]

    def test_a_ping_without_an_answer_is_not_repeated(self) -> None:
        listener = Endpoint()
        stream = listener.accept(1, acknowledge=True)
        for _ in range(5):
            listener.receive(data(1, bytes(HALF)))
            listener.credit(stream, HALF)
            listener.now += 60
        assert [frame for frame in listener.sent() if frame.kind == FrameType.PING] == [ping(1)]

    @pytest.mark.parametrize(
        ("expected", "budget", "granted"),
        [
            (INITIAL_WINDOW + 5, 4 * MIB, 5),
            (MIB, 4 * MIB, MIB - INITIAL_WINDOW),
            (5 * MIB, 8 * MIB, MIB - INITIAL_WINDOW),
            (MIB, 0, 0),
            (INITIAL_WINDOW, 4 * MIB, 0),
            (0, 4 * MIB, 0),
        ],
        ids=["a little", "up to the limit", "beyond the limit", "no budget", "enough", "nothing"],
    )
    def test_what_is_expected_gets_its_window_at_once(self, expected: int, budget: int, granted: int) -> None:
        listener = Endpoint(budget=budget)
        stream = listener.accept(1, acknowledge=True)
        listener.session.expect(stream, expected)
        assert listener.sent() == ([update(1, granted)] if granted else [])
        assert (stream.receivable, listener.budget.used) == (INITIAL_WINDOW + granted, granted)
        listener.session.expect(stream, expected)
        assert listener.sent() == []
        listener.receive(data(1, flags=Flag.RST))
        assert listener.budget.used == 0

    def test_a_stream_that_has_ended_expects_nothing(self) -> None:
        listener = Endpoint()
        stream = listener.accept(1, acknowledge=True)
        listener.receive(data(1, flags=Flag.FIN))
        listener.session.expect(stream, MIB)
        assert listener.sent() == []

    def test_a_long_fat_pipe_gets_a_wide_window(self, cut: int | None) -> None:
        dialer, listener = Endpoint(initiator=True, cut=cut), Endpoint(cut=cut, max_receive_window=2 * MIB)
        sender = dialer.open()
        dialer.session.send_data(sender, b"x")
        listener.receive(dialer.output())
        receiver = listener.inbound[1]
        sizes = []
        for _ in range(8):
            dialer.session.send_data(sender, bytes(sender.send_window))
            listener.now += 0.05
            sent = listener.receive(dialer.output())
            listener.credit(receiver, sum(len(entry[2]) for entry in sent if entry[0] == "data"))
            listener.now += 0.05
            dialer.receive(listener.output())
            sizes.append(receiver.window_size)
        assert sizes[-4:] == [2 * MIB] * 4
        assert sizes == sorted(sizes)
        assert listener.budget.used == 2 * MIB - INITIAL_WINDOW
        listener.session.reset(receiver)
        assert listener.budget.used == 0

    @pytest.mark.parametrize("end", ["reset", "reset received", "both closed"])
    def test_growth_comes_back_when_the_stream_ends(self, end: str) -> None:
        listener = Endpoint()
        stream = listener.accept(1)
        self.grow(listener, stream)
        assert listener.budget.used == INITIAL_WINDOW
        if end == "reset":
            listener.session.reset(stream)
        elif end == "reset received":
            listener.receive(data(1, flags=Flag.RST))
        else:
            listener.session.send_fin(stream)
            listener.receive(data(1, flags=Flag.FIN))
        assert listener.budget.used == 0

    def test_growth_alone_never_exhausts_the_budget(self) -> None:
        listener = Endpoint(budget=4 * MIB, max_receive_window=16 * MIB)
        for stream_id in range(1, 17, 2):
            stream = listener.accept(stream_id)
            for _ in range(8):
                self.grow(listener, stream)
        assert 1.9 * MIB < listener.budget.used <= 2 * MIB
        assert not listener.budget.exhausted

    def grow(self, endpoint: Endpoint, stream: Stream) -> None:
        """Has the window grow as far as it may: all of it used up within four round trips."""
        endpoint.session.rtt = 1.0
        size = stream.receivable
        endpoint.receive(data(stream.id, bytes(size)))
        endpoint.credit(stream, size)


@dataclass
class Speech:
    """What one side says on one stream, and what becomes of it at the other."""

    said: bytearray = field(default_factory=bytearray)
    heard: bytearray = field(default_factory=bytearray)
    held: int = 0
    """Bytes heard that the application has not taken."""
    withheld: int = 0
    """Bytes taken whose window waits for the budget."""
    end: str = ""
    """How the hearer saw it end: "ended", "reset", or "cut off" by itself."""


class Side(Endpoint):
    """An endpoint with an application that accounts for what it holds, and the wire to the other side."""

    def __init__(self, *, initiator: bool) -> None:
        super().__init__(initiator=initiator, max_inbound_streams=4, max_receive_window=MIB, budget=3 * HALF)
        self.other: Side
        self.says: defaultdict[int, Speech] = defaultdict(Speech)
        """By stream id."""
        self.wire = bytearray()
        self._credits: dict[int, Credit] = {}
        self._written = 0
        self._bodies: deque[tuple[int, int, int]] = deque()
        """The stream, and where on the wire it begins and ends, of each body that has not arrived whole."""

    @property
    def hears(self) -> defaultdict[int, Speech]:
        return self.other.says

    def say(self, stream: Stream, words: bytes) -> None:
        self.session.send_data(stream, words)
        self.says[stream.id].said += words

    def reset(self, stream: Stream, code: int) -> None:
        self.session.reset(stream, code)
        self._hears_no_more(stream.id, "cut off")

    def consume(self, stream_id: int, size: int) -> None:
        """As the transport does it: first the budget, then the window, if the budget allows."""
        speech = self.hears[stream_id]
        size = min(size, speech.held)
        if size:
            speech.held -= size
            speech.withheld += size
            self.budget.give(size)
            credit = self._credits.setdefault(stream_id, Credit(self, stream_id))
            if not self.budget.exhausted or self.budget.may_credit(credit):
                credit.credit_withheld()
            if not speech.held:
                self.budget.leave(credit)

    def flush(self) -> None:
        output = self.output()
        for frame in read_frames(output):
            self._written += len(bytes(frame))
            if frame.body:
                self._bodies.append((frame.stream_id, self._written - len(frame.body), self._written))
        self.wire += output

    def deliver(self, size: int) -> None:
        """Has the next bytes of the wire arrive at the other side."""
        arriving = bytes(self.wire[:size])
        del self.wire[:size]
        for kind, stream_id, *rest in self.other.receive(arriving):
            self.other.hear(kind, stream_id, *rest)

    def hear(self, kind: str, stream_id: int, *rest: bytes) -> None:
        speech = self.hears[stream_id]
        if kind == "data":
            assert not speech.end, "what comes after the end is dropped"
            speech.heard += rest[0]
            speech.held += len(rest[0])
            self.budget.take(len(rest[0]))
        elif kind == "ended":
            assert not speech.end
            speech.end = "ended"
        elif kind == "reset":
            assert speech.end in ("", "ended")
            self._hears_no_more(stream_id, "reset")

    def on_its_way(self, stream_id: int) -> int:
        """The missing bytes of a body of ours whose header has arrived."""
        arrived = self._written - len(self.wire)
        while self._bodies and self._bodies[0][2] <= arrived:
            self._bodies.popleft()
        if self._bodies:
            body_stream, start, end = self._bodies[0]
            if body_stream == stream_id and start <= arrived:
                return end - arrived
        return 0

    def _hears_no_more(self, stream_id: int, how: str) -> None:
        speech = self.hears[stream_id]
        speech.end = how
        self.budget.give(speech.held)
        speech.held = 0
        if stream_id in self._credits:
            self.budget.leave(self._credits[stream_id])

    def credit_withheld(self, stream_id: int) -> None:
        speech = self.hears[stream_id]
        size, speech.withheld = speech.withheld, 0
        for stream in self.session.streams:
            if stream.id == stream_id:
                self.credit(stream, size)


@dataclass(eq=False)
class Credit:
    """What a stream owes its remote."""

    side: Side
    stream_id: int

    def credit_withheld(self) -> None:
        self.side.credit_withheld(self.stream_id)


SIDES = st.sampled_from(["dialer", "listener"])
PICKS = st.integers(0, 7)
SPEECH = random.Random(1).randbytes(2 * MIB)


class Conversation(RuleBasedStateMachine):
    """Two sessions on two wires that cut what they carry anywhere: every byte arrives once and in order."""

    def __init__(self) -> None:
        super().__init__()
        self.dialer, self.listener = Side(initiator=True), Side(initiator=False)
        self.dialer.other, self.listener.other = self.listener, self.dialer
        self.sides = {"dialer": self.dialer, "listener": self.listener}
        self.position = 0

    @property
    def many_streams(self) -> bool:
        return sum(len(side.session) for side in self.sides.values()) > 5

    def end_everything(self) -> None:
        for side in self.sides.values():
            for stream in side.session.streams:
                side.session.send_fin(stream)
            for stream_id in list(side.hears):
                side.consume(stream_id, 4 * MIB)

    def pick(self, side: Side, number: int) -> Stream | None:
        streams = side.session.streams
        return streams[number % len(streams)] if streams else None

    @rule(name=SIDES)
    def open(self, name: str) -> None:
        if self.sides[name].session.outbound_streams < 6:
            self.sides[name].open()

    @rule(name=SIDES, number=PICKS, size=st.sampled_from([0, 1, 1000, 70_000, HALF, MIB]))
    def write(self, name: str, number: int, size: int) -> None:
        stream = self.pick(self.sides[name], number)
        if stream is not None and stream.local_open:
            # No two stretches are alike, so a byte out of place is a byte that differs.
            start = self.position = (self.position + 4099) % MIB
            self.sides[name].say(stream, SPEECH[start : start + min(size, stream.send_window, MIB)])

    @rule(name=SIDES, number=PICKS, delay=st.sampled_from([0.001, 0.1]))
    def stream_in_bulk(self, name: str, number: int, delay: float) -> None:
        """A whole window, taken at once; and the answers, after a while."""
        side = self.sides[name]
        stream = self.pick(side, number)
        if stream is not None:
            self.write(name, number, MIB)
            self.deliver(name, 4 * MIB)
            side.other.consume(stream.id, MIB)
            self.wait(delay)
            side.other.flush()
            side.other.deliver(4 * MIB)

    @precondition(lambda self: self.many_streams)
    @rule(name=SIDES, number=PICKS)
    def close_write(self, name: str, number: int) -> None:
        stream = self.pick(self.sides[name], number)
        if stream is not None:
            self.sides[name].session.send_fin(stream)

    @precondition(lambda self: self.many_streams)
    @rule(name=SIDES, number=PICKS, code=st.sampled_from([0, 0x1003]))
    def reset(self, name: str, number: int, code: int) -> None:
        stream = self.pick(self.sides[name], number)
        if stream is not None:
            self.sides[name].reset(stream, code)

    @rule(name=SIDES, number=PICKS, size=st.sampled_from([1, 70_000, HALF, MIB]))
    def consume(self, name: str, number: int, size: int) -> None:
        side = self.sides[name]
        if side.hears:
            side.consume(sorted(side.hears)[number % len(side.hears)], size)

    @rule(name=SIDES)
    def flush(self, name: str) -> None:
        self.sides[name].flush()

    @rule(name=SIDES, size=st.integers(1, 30) | st.sampled_from([1000, 65_519, 4 * MIB]))
    def deliver(self, name: str, size: int) -> None:
        self.sides[name].flush()
        self.sides[name].deliver(size)

    @rule(seconds=st.sampled_from([0.001, 0.1, 20]))
    def wait(self, seconds: float) -> None:
        for side in self.sides.values():
            side.now += seconds

    @invariant()
    def what_is_heard_was_said(self) -> None:
        for side in self.sides.values():
            for speech in side.says.values():
                assert speech.said.startswith(speech.heard)

    @invariant()
    def windows_add_up(self) -> None:
        for side in self.sides.values():
            grown = 0
            for stream in side.session.streams:
                speech = side.hears[stream.id]
                grown += stream.window_size - INITIAL_WINDOW
                assert stream.send_window >= 0
                assert stream.receivable >= 0
                if stream.remote_open:
                    held = speech.held + speech.withheld + side.other.on_its_way(stream.id)
                    assert stream.receivable + stream.consumed + held == stream.window_size
            assert side.budget.used == grown + sum(speech.held for speech in side.hears.values())

    def teardown(self) -> None:
        self.end_everything()
        while any(side.session.pending or side.wire for side in self.sides.values()):
            for side in self.sides.values():
                side.flush()
                side.deliver(4 * MIB)
            self.end_everything()
        for side in self.sides.values():
            assert len(side.session) == side.session.outbound_streams == 0
            assert side.budget.used == 0
            for stream_id, speech in side.says.items():
                if speech.end in ("ended", "reset"):
                    assert speech.heard == speech.said
                elif not speech.end:
                    assert stream_id not in side.other.inbound, "only a stream that was refused has no end"


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=examples(100), stateful_step_count=60)

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.yamux import KIB, MIB, Endpoint, Frame, Heard, connect, data, go_away, ping, update

from stronghold_p2p.errors import MuxerError
from stronghold_p2p.wire.yamux import INITIAL_WINDOW, Flag, GoAwayCode

SYN, ACK, FIN, RST = Flag.SYN, Flag.ACK, Flag.FIN, Flag.RST


@pytest.fixture(params=[None, 1], ids=["whole", "byte by byte"])
def cut(request: pytest.FixtureRequest) -> int | None:
    size: int | None = request.param
    return size


@pytest.fixture
def listener(cut: int | None) -> Endpoint:
    return Endpoint(cut=cut)


@pytest.fixture
def dialer(cut: int | None) -> Endpoint:
    return Endpoint(initiator=True, cut=cut)


@pytest.fixture
def deliver(dialer: Endpoint, listener: Endpoint) -> Callable[[], tuple[list[Heard], list[Heard]]]:
    return connect(dialer, listener)


class TestOpening:
    def test_the_dialer_opens_odd_streams(self, dialer: Endpoint) -> None:
        assert [dialer.open().id for _ in range(3)] == [1, 3, 5]

    def test_the_listener_opens_even_streams(self, listener: Endpoint) -> None:
        assert [listener.open().id for _ in range(3)] == [2, 4, 6]

    def test_nothing_is_sent_before_the_first_frame(self, dialer: Endpoint) -> None:
        dialer.open()
        assert dialer.sent() == []

    def test_syn_rides_on_the_first_data_only(self, dialer: Endpoint) -> None:
        stream = dialer.open()
        dialer.session.send_data(stream, b"first")
        dialer.session.send_data(stream, memoryview(b"second"))
        assert dialer.sent() == [data(1, b"first", SYN), data(1, b"second")]

    def test_a_stream_of_the_remote(self, listener: Endpoint) -> None:
        assert listener.receive(data(1, b"hello", SYN)) == [("opened", 1), ("data", 1, b"hello")]
        assert not listener.inbound[1].outbound
        assert listener.sent() == []

    def test_a_window_update_opens_a_stream_too(self, listener: Endpoint) -> None:
        assert listener.receive(update(3, 240 * KIB, SYN)) == [("opened", 3), ("window", 3)]
        assert listener.inbound[3].send_window == INITIAL_WINDOW + 240 * KIB

    def test_streams_may_open_out_of_order(self, listener: Endpoint) -> None:
        opened = [update(5, flags=SYN), update(1, flags=SYN), update(0xFFFFFFFF, flags=SYN), update(3, flags=SYN)]
        assert listener.receive(*opened) == [("opened", 5), ("opened", 1), ("opened", 0xFFFFFFFF), ("opened", 3)]

    def test_the_highest_id_of_a_listener(self, dialer: Endpoint) -> None:
        assert dialer.receive(data(0xFFFFFFFE, b"x", SYN)) == [("opened", 0xFFFFFFFE), ("data", 0xFFFFFFFE, b"x")]

    def test_an_id_may_be_used_again_once_its_stream_has_ended(self, listener: Endpoint) -> None:
        assert listener.receive(update(1, flags=SYN), data(1, flags=RST), data(1, b"again", SYN)) == [
            ("opened", 1),
            ("reset", 1, 0),
            ("opened", 1),
            ("data", 1, b"again"),
        ]

    def test_ack_once_on_the_first_data(self, listener: Endpoint) -> None:
        stream = listener.accept(1)
        listener.session.send_data(stream, b"one")
        listener.session.send_data(stream, b"two")
        assert listener.sent() == [data(1, b"one", ACK), data(1, b"two")]

    def test_ack_on_a_window_update_if_that_is_first(self, listener: Endpoint) -> None:
        stream = listener.accept(1)
        listener.receive(data(1, bytes(INITIAL_WINDOW // 2)))
        listener.credit(stream, INITIAL_WINDOW // 2)
        listener.session.send_data(stream, b"answer")
        frames = [frame for frame in listener.sent() if frame.stream_id]
        assert frames == [update(1, INITIAL_WINDOW // 2, ACK), data(1, b"answer")]

    def test_an_ack_of_the_remote_changes_nothing(self, dialer: Endpoint) -> None:
        stream = dialer.open()
        dialer.session.send_data(stream, b"?")
        assert dialer.receive(update(1, flags=ACK), data(1, b"!", ACK), data(1, b"!")) == [("data", 1, b"!!")]
        assert stream.send_window == INITIAL_WINDOW - 1

    def test_ids_run_out(self, dialer: Endpoint) -> None:
        dialer.session._next_id = 0xFFFFFFFF
        assert dialer.session.can_open
        assert dialer.open().id == 0xFFFFFFFF
        assert not dialer.session.can_open

    def test_even_ids_run_out(self, listener: Endpoint) -> None:
        listener.session._next_id = 0xFFFFFFFE
        assert listener.session.can_open
        assert listener.open().id == 0xFFFFFFFE
        assert not listener.session.can_open

    def test_streams_are_counted(self, listener: Endpoint) -> None:
        mine = listener.open()
        listener.accept(1)
        assert len(listener.session) == 2
        assert listener.session.outbound_streams == 1
        assert listener.session.streams == [mine, listener.inbound[1]]
        assert repr(mine) == "<yamux.Stream 2 send_window=262144>"
        listener.receive(data(2, flags=RST))
        assert listener.session.outbound_streams == 0
        assert listener.session.streams == [listener.inbound[1]]


class TestTooManyStreams:
    def test_what_exceeds_is_reset(self, listener: Endpoint) -> None:
        for stream_id in range(1, 17, 2):
            listener.accept(stream_id)
        assert listener.receive(data(17, b"one too many", SYN), data(17, b"and more"), data(1, b"x")) == [
            ("data", 1, b"x")
        ]
        assert listener.sent() == [data(17, flags=RST)]

    def test_our_own_do_not_count(self, listener: Endpoint) -> None:
        for _ in range(8):
            listener.open()
        listener.accept(1)
        assert len(listener.session) == 9

    def test_a_half_closed_one_counts_until_it_has_ended(self, listener: Endpoint) -> None:
        for stream_id in range(1, 17, 2):
            listener.receive(data(stream_id, flags=SYN | FIN))
        listener.receive(update(17, flags=SYN))
        assert listener.sent() == [data(17, flags=RST)]
        listener.session.send_fin(listener.inbound[1])
        assert listener.receive(update(19, flags=SYN)) == [("opened", 19)]

    def test_none_is_taken_while_the_budget_is_exhausted(self, listener: Endpoint) -> None:
        listener.budget.take(64 * MIB)
        assert listener.receive(data(1, b"now", SYN)) == []
        assert listener.sent() == [data(1, flags=RST)]
        listener.budget.give(1)
        assert listener.receive(data(3, b"later", SYN)) == [("opened", 3), ("data", 3, b"later")]


class TestData:
    def test_any_number_of_frames(self, listener: Endpoint) -> None:
        heard = listener.receive(
            data(1, b"a", SYN), data(3, b"b", SYN), data(1, b"c"), data(1, b""), data(1, b"d"), data(3, b"e" * 300)
        )
        assert heard == [
            ("opened", 1),
            ("data", 1, b"a"),
            ("opened", 3),
            ("data", 3, b"b"),
            ("data", 1, b"cd"),
            ("data", 3, b"e" * 300),
        ]

    def test_every_cut(self) -> None:
        wire = b"".join(map(bytes, (data(1, b"hello", SYN), ping(7), data(1, b"world", FIN), update(3, 1, SYN | RST))))
        whole = Endpoint().receive(wire)
        assert whole == [("opened", 1), ("data", 1, b"helloworld"), ("ended", 1), ("opened", 3), ("reset", 3, 1)]
        for first in range(len(wire)):
            for second in range(first, len(wire)):
                endpoint = Endpoint()
                for piece in (wire[:first], wire[first:second], wire[second:]):
                    endpoint.session.receive_data(piece, 0.0)
                assert endpoint.heard() == whole

    def test_no_bytes_are_no_data(self, listener: Endpoint) -> None:
        listener.receive(update(1, flags=SYN), data(1, b"be", length=5))
        for _ in range(3):
            listener.session.receive_data(b"", listener.now)
        assert listener.session.events_received() == []
        assert listener.receive(b"gun") == [("data", 1, b"gun")]

    def test_a_piece_that_is_all_body_is_not_copied(self) -> None:
        endpoint = Endpoint()
        endpoint.receive(data(1, b"", SYN, length=2 * KIB))
        for piece in (bytes(KIB), bytes(KIB)):
            endpoint.session.receive_data(piece, 0.0)
            [event] = endpoint.session.events_received()
            assert getattr(event, "data", None) is piece

    def test_data_for_streams_that_are_not_open_is_dropped(self, listener: Endpoint) -> None:
        assert listener.receive(
            data(1, b"never opened"), data(2, b"x" * 300, FIN), data(0, b"x"), update(7, 5), data(1, b"hello", SYN)
        ) == [("opened", 1), ("data", 1, b"hello")]
        assert listener.sent() == []

    def test_events_are_given_once(self, listener: Endpoint) -> None:
        assert listener.receive(data(1, b"x", SYN)) == [("opened", 1), ("data", 1, b"x")]
        assert listener.heard() == []

    def test_both_ways(
        self, dialer: Endpoint, listener: Endpoint, deliver: Callable[[], tuple[list[Heard], list[Heard]]]
    ) -> None:
        stream = dialer.open()
        dialer.session.send_data(stream, b"request")
        assert deliver() == ([], [("opened", 1), ("data", 1, b"request")])
        listener.session.send_data(listener.inbound[1], b"response")
        listener.session.send_fin(listener.inbound[1])
        assert deliver() == ([("data", 1, b"response"), ("ended", 1)], [])
        dialer.session.send_fin(stream)
        assert deliver() == ([], [("ended", 1)])
        assert len(dialer.session) == len(listener.session) == 0


class TestHalfClosed:
    def test_fin_travels_alone(self, dialer: Endpoint) -> None:
        stream = dialer.open()
        dialer.session.send_data(stream, b"all")
        dialer.session.send_fin(stream)
        assert dialer.sent() == [data(1, b"all", SYN), data(1, flags=FIN)]
        assert not stream.local_open
        assert stream.remote_open

    def test_fin_is_sent_once(self, dialer: Endpoint) -> None:
        stream = dialer.open()
        dialer.session.send_fin(stream)
        dialer.session.send_fin(stream)
        assert dialer.sent() == [update(1, flags=SYN), data(1, flags=FIN)]

    def test_fin_never_carries_the_ack(self, listener: Endpoint) -> None:
        listener.session.send_fin(listener.accept(1))
        assert listener.sent() == [update(1, flags=ACK), data(1, flags=FIN)]

    @pytest.mark.parametrize(
        "end", [data(1, flags=FIN), update(1, flags=FIN), data(1, flags=ACK | FIN), update(1, flags=ACK | FIN)], ids=str
    )
    def test_the_remote_sends_no_more(self, dialer: Endpoint, end: Frame) -> None:
        stream = dialer.open()
        dialer.session.send_data(stream, b"?")
        assert dialer.receive(end) == [("ended", 1)]
        assert not stream.remote_open
        dialer.session.send_data(stream, b"still ours to say")
        dialer.session.send_fin(stream)
        assert len(dialer.session) == 0

    def test_fin_on_a_frame_with_a_body(self, listener: Endpoint) -> None:
        listener.accept(1)
        assert listener.receive(data(1, b"last words", FIN)) == [("data", 1, b"last words"), ("ended", 1)]

    def test_fin_on_a_window_update_with_a_delta(self, listener: Endpoint) -> None:
        stream = listener.accept(1)
        assert listener.receive(update(1, 5, FIN)) == [("window", 1), ("ended", 1)]
        assert stream.send_window == INITIAL_WINDOW + 5

    @pytest.mark.parametrize("opening", [data(1, flags=SYN | FIN), update(1, flags=SYN | FIN)], ids=str)
    def test_opened_and_half_closed_at_once(self, listener: Endpoint, opening: Frame) -> None:
        assert listener.receive(opening) == [("opened", 1), ("ended", 1)]
        stream = listener.inbound[1]
        assert stream.local_open
        listener.session.send_data(stream, b"pushed")
        listener.session.send_fin(stream)
        assert listener.sent() == [data(1, b"pushed", ACK), data(1, flags=FIN)]
        assert len(listener.session) == 0

    def test_a_whole_stream_in_one_frame(self, listener: Endpoint) -> None:
        assert listener.receive(data(1, b"all", SYN | FIN)) == [("opened", 1), ("data", 1, b"all"), ("ended", 1)]

    def test_frames_after_fin_are_dropped(self, listener: Endpoint) -> None:
        listener.accept(1)
        late = data(1, b"late"), data(1, b"later", FIN), data(1, flags=FIN), update(1, flags=FIN)
        assert listener.receive(data(1, flags=FIN), *late) == [("ended", 1)]

    def test_the_window_stays_open_after_fin(self, dialer: Endpoint) -> None:
        stream = dialer.open()
        assert dialer.receive(data(1, flags=FIN), update(1, 10)) == [("ended", 1), ("window", 1)]
        assert stream.send_window == INITIAL_WINDOW + 10

    def test_frames_after_both_fins_are_dropped(self, dialer: Endpoint) -> None:
        stream = dialer.open()
        dialer.session.send_fin(stream)
        late = data(1, b"late"), data(1, flags=FIN), data(1, flags=RST), update(1, 10), update(1, 3, RST)
        assert dialer.receive(data(1, flags=FIN), *late) == [("ended", 1)]

    def test_no_window_is_given_after_fin(self, listener: Endpoint) -> None:
        stream = listener.accept(1, acknowledge=True)
        listener.receive(data(1, bytes(INITIAL_WINDOW), FIN))
        listener.credit(stream, INITIAL_WINDOW)
        assert listener.sent() == []


class TestReset:
    @pytest.mark.parametrize(
        ("frame", "code"),
        [
            (data(1, flags=RST), 0),
            (update(1, flags=RST), 0),
            (update(1, 0x1003, RST), 0x1003),
            (data(1, flags=15 & ~1), 0),
        ],
        ids=str,
    )
    def test_by_the_remote(self, dialer: Endpoint, frame: Frame, code: int) -> None:
        stream = dialer.open()
        assert dialer.receive(frame) == [("reset", 1, code)]
        assert not stream.local_open
        assert not stream.remote_open
        assert stream.send_window == INITIAL_WINDOW, "a code is no window"
        assert len(dialer.session) == 0

    def test_after_the_body_of_its_frame(self, listener: Endpoint) -> None:
        listener.accept(1)
        assert listener.receive(data(1, b"last", RST)) == [("data", 1, b"last"), ("reset", 1, 0)]

    def test_opened_and_reset_at_once(self, listener: Endpoint) -> None:
        assert listener.receive(data(1, flags=SYN | RST)) == [("opened", 1), ("reset", 1, 0)]
        assert len(listener.session) == 0

    def test_of_a_half_closed_stream(self, dialer: Endpoint) -> None:
        stream = dialer.open()
        dialer.session.send_fin(stream)
        assert dialer.receive(data(1, flags=RST)) == [("reset", 1, 0)]

    def test_frames_after_it_are_dropped(self, listener: Endpoint) -> None:
        listener.accept(1)
        late = data(1, b"late"), data(1, flags=FIN), data(1, flags=RST), update(1, 7), update(1, 7, RST)
        assert listener.receive(data(1, flags=RST), *late) == [("reset", 1, 0)]
        assert listener.sent() == []

    def test_by_us(self, dialer: Endpoint) -> None:
        stream = dialer.open()
        dialer.session.send_data(stream, b"?")
        dialer.session.reset(stream)
        assert dialer.sent() == [data(1, b"?", SYN), data(1, flags=RST)]
        assert not stream.local_open
        assert not stream.remote_open
        assert len(dialer.session) == 0

    def test_a_code_needs_a_window_update(self, dialer: Endpoint) -> None:
        stream = dialer.open()
        dialer.session.send_data(stream, b"?")
        dialer.session.reset(stream, 0x1003)
        assert dialer.sent()[1:] == [update(1, 0x1003, RST)]

    def test_it_never_carries_the_ack(self, listener: Endpoint) -> None:
        listener.session.reset(listener.accept(1))
        assert listener.sent() == [data(1, flags=RST)]

    def test_a_stream_that_the_remote_has_never_seen(self, dialer: Endpoint) -> None:
        dialer.session.reset(dialer.open())
        assert dialer.sent() == []
        assert dialer.session.outbound_streams == 0

    def test_a_stream_that_has_ended(self, dialer: Endpoint) -> None:
        stream = dialer.open()
        dialer.session.send_fin(stream)
        dialer.receive(data(1, flags=FIN))
        dialer.sent()
        dialer.session.reset(stream)
        dialer.session.send_fin(stream)
        assert dialer.sent() == []

    def test_what_was_under_way_is_dropped(self, listener: Endpoint) -> None:
        stream = listener.accept(1)
        listener.receive(data(1, b"hel", FIN, length=5))
        listener.session.reset(stream)
        assert listener.receive(b"lo", data(1, b"more"), data(3, b"x", SYN)) == [("opened", 3), ("data", 3, b"x")]

    def test_credit_for_a_stream_that_has_ended(self, listener: Endpoint) -> None:
        stream = listener.accept(1)
        listener.receive(data(1, bytes(INITIAL_WINDOW)), data(1, flags=RST))
        listener.credit(stream, INITIAL_WINDOW)
        assert listener.sent() == []


class TestPing:
    def test_is_answered_once(self, listener: Endpoint) -> None:
        assert listener.receive(ping(0), ping(0xDEADBEEF)) == []
        assert listener.sent() == [ping(0, ACK), ping(0xDEADBEEF, ACK)]

    @pytest.mark.parametrize("flags", [0, ACK, FIN, RST])
    def test_an_answer_that_nobody_asked_for(self, listener: Endpoint, flags: Flag) -> None:
        assert listener.receive(ping(0, flags), ping(1, flags)) == []
        assert listener.sent() == []
        assert listener.session.rtt is None

    def test_of_ours(self, listener: Endpoint) -> None:
        listener.session.ping(listener.now)
        assert listener.sent() == [ping(1)]
        listener.now += 0.25
        assert listener.receive(ping(1, ACK)) == []
        assert (listener.session.ping_pending, listener.session.rtt) == (False, 0.25)

    def test_only_the_last_one_counts(self, listener: Endpoint) -> None:
        for _ in range(2):
            listener.session.ping(listener.now)
            listener.now += 0.25
        assert listener.sent() == [ping(1), ping(2)]
        listener.receive(ping(1, ACK))
        assert listener.session.ping_pending
        listener.receive(ping(2, ACK))
        assert listener.session.rtt == 0.25

    def test_between_other_frames(self, dialer: Endpoint, listener: Endpoint) -> None:
        assert listener.receive(data(1, b"a", SYN), ping(3), data(1, b"b")) == [("opened", 1), ("data", 1, b"ab")]
        assert dialer.receive(listener.output()) == []


class TestGoAway:
    @pytest.mark.parametrize("code", [0, 1, 2, 0xFFFFFFFF])
    def test_of_the_remote(self, dialer: Endpoint, code: int) -> None:
        assert dialer.receive(go_away(code)) == [("go away", code)]
        assert not dialer.session.can_open

    @pytest.mark.parametrize("code", list(GoAwayCode))
    def test_of_ours_is_sent_once(self, dialer: Endpoint, code: GoAwayCode) -> None:
        dialer.session.go_away(code)
        dialer.session.go_away()
        assert dialer.sent() == [go_away(code)]
        assert not dialer.session.can_open

    def test_streams_go_on_but_no_new_one_opens(self, listener: Endpoint) -> None:
        stream = listener.accept(1, acknowledge=True)
        listener.session.go_away()
        assert listener.receive(data(1, b"rest"), data(3, b"new", SYN)) == [("data", 1, b"rest")]
        listener.session.send_data(stream, b"answer")
        assert listener.sent() == [go_away(0), data(3, flags=RST), data(1, b"answer")]

    def test_ours_is_no_answer_to_theirs(self, listener: Endpoint) -> None:
        listener.receive(go_away(0))
        listener.session.go_away()
        assert listener.sent() == []


VIOLATIONS: dict[str, tuple[Frame | bytes, str]] = {
    "version": (b"\x01" + bytes(11), "version 1 is unknown"),
    "type": (Frame(4, 0, 0, 0), "type 4 is unknown"),
    "highest type": (Frame(255, SYN, 0, 0), "type 255 is unknown"),
    "data beyond the window": (data(1, length=INITIAL_WINDOW + 1), "262145 bytes exceed the window"),
    "first data beyond the window": (data(3, flags=SYN, length=INITIAL_WINDOW + 1), "exceed the window"),
    "the longest frame": (data(1, length=0xFFFFFFFF), "4294967295 bytes exceed the window"),
    "the longest frame, first of its stream": (data(3, flags=SYN, length=0xFFFFFFFF), "exceed the window"),
    "the longest frame, for no stream": (data(9, length=0xFFFFFFFF), "a stream that is not open"),
    "a window overflows": (update(1, 0xFFFFFFFF), "a window update by 4294967295 overflows stream 1"),
    "a window overflows by one": (update(1, 0x100000000 - INITIAL_WINDOW), "overflows"),
    "a first window overflows": (update(3, 0xFFFFFFFF, SYN), "overflows stream 3"),
    "parity": (update(4, flags=SYN), "may not open stream 4"),
    "stream 0": (data(0, b"x", SYN), "may not open stream 0"),
    "still open": (update(1, flags=SYN), "stream 1 is already open"),
    "still open, ours": (data(2, flags=SYN), "stream 2 is already open"),
}


class TestViolations:
    @pytest.fixture
    def endpoint(self, listener: Endpoint) -> Endpoint:
        """With stream 1 of the remote, stream 2 of ours."""
        listener.accept(1, acknowledge=True)
        listener.open()
        return listener

    @pytest.mark.parametrize("name", VIOLATIONS)
    def test_ends_the_session(self, endpoint: Endpoint, name: str) -> None:
        frame, reason = VIOLATIONS[name]
        with pytest.raises(MuxerError, match=reason) as caught:
            endpoint.receive(data(1, b"before"), ping(5), frame, data(1, b"after"))
        assert caught.value.protocol == "yamux"
        assert caught.value.code == GoAwayCode.PROTOCOL_ERROR
        assert [entry for entry in endpoint.heard() if entry[0] == "data"] == [("data", 1, b"before")]
        assert endpoint.sent() == [ping(5, ACK), go_away(1)]
        assert not endpoint.session.can_open

    @pytest.mark.parametrize("name", VIOLATIONS)
    def test_nothing_is_taken_after_one(self, endpoint: Endpoint, name: str) -> None:
        frame, _ = VIOLATIONS[name]
        with pytest.raises(MuxerError):
            endpoint.receive(frame)
        endpoint.heard()
        endpoint.sent()
        assert endpoint.receive(frame, data(1, b"after"), ping(5), update(7, flags=SYN)) == []
        assert endpoint.sent() == []

    @pytest.mark.parametrize("stream_id", [0, 7, 0xFFFFFFFF])
    def test_the_remote_of_a_dialer_opens_even_streams(self, dialer: Endpoint, stream_id: int) -> None:
        with pytest.raises(MuxerError, match=f"may not open stream {stream_id}"):
            dialer.receive(update(stream_id, flags=SYN))

    def test_a_half_closed_stream_is_still_open(self, listener: Endpoint) -> None:
        listener.receive(data(1, flags=SYN | FIN))
        with pytest.raises(MuxerError, match="already open"):
            listener.receive(data(1, flags=SYN))

    def test_the_window_shrinks_by_what_has_come(self, listener: Endpoint) -> None:
        listener.accept(1)
        assert listener.receive(data(1, bytes(INITIAL_WINDOW))) == [("data", 1, bytes(INITIAL_WINDOW))]
        with pytest.raises(MuxerError, match="1 bytes exceed the window of 0"):
            listener.receive(data(1, b"x"))

    def test_a_window_is_filled_to_the_brim(self, dialer: Endpoint) -> None:
        stream = dialer.open()
        assert dialer.receive(update(1, 0xFFFFFFFF - INITIAL_WINDOW)) == [("window", 1)]
        assert stream.send_window == 0xFFFFFFFF
        with pytest.raises(MuxerError, match="by 1 overflows"):
            dialer.receive(update(1, 1))

    @pytest.mark.parametrize("frame", [data(1, length=INITIAL_WINDOW), data(9, length=16 * MIB)], ids=str)
    def test_nothing_is_allocated_by_a_declared_length(self, frame: Frame) -> None:
        endpoint = Endpoint(max_receive_window=16 * MIB)
        endpoint.accept(1)
        tracemalloc.start()
        try:
            endpoint.receive(frame, b"x" * 64)
            assert tracemalloc.get_traced_memory()[1] < 16 * KIB
        finally:
            tracemalloc.stop()


class TestFloods:
    """Frames that cost a remote 12 bytes, in numbers: none leaves anything behind, and what no honest remote sends ends
    the session."""

    @pytest.mark.parametrize(
        ("frame", "heard"),
        [
            (data(1), []),
            (data(1, flags=ACK), []),
            (update(1), []),
            (update(1, 1), [("window", 1)]),
            (data(5, b"x"), []),
            (update(5, 1), []),
            (ping(0, ACK), []),
            (data(5, flags=FIN), []),
            (data(5, flags=RST), []),
        ],
        ids=str,
    )
    def test_without_an_answer(self, frame: Frame, heard: list[Heard]) -> None:
        endpoint = Endpoint(max_control_frames=1000)
        endpoint.accept(1)
        assert endpoint.receive(bytes(frame) * 1000) == heard * 1000
        assert endpoint.sent() == []
        assert len(endpoint.session) == 1
        endpoint.now += 1
        assert endpoint.receive(bytes(frame) * 100) == heard * 100
        with pytest.raises(MuxerError, match="without a payload") as failure:
            endpoint.receive(frame)
        assert failure.value.code == GoAwayCode.RATE_LIMIT
        assert endpoint.sent() == [go_away(GoAwayCode.RATE_LIMIT)]

    @pytest.mark.parametrize(
        ("frames", "times"),
        [
            ((ping(0),), 1000),
            ((update(1, flags=SYN), data(1, flags=RST)), 500),
            ((data(1, b"a request", SYN), data(1, flags=RST)), 500),
        ],
        ids=["pings", "opened and reset", "requests reset before their answer"],
    )
    def test_of_work(self, frames: tuple[Frame, ...], times: int) -> None:
        endpoint = Endpoint(max_control_frames=1000)
        flood = b"".join(map(bytes, frames))
        endpoint.receive(flood * times)
        assert len(endpoint.session) == 0
        with pytest.raises(MuxerError, match="without a payload"):
            endpoint.receive(flood)

    def test_of_streams_that_exceed_is_answered_no_louder_than_it_came(self) -> None:
        endpoint = Endpoint(max_inbound_streams=1, max_control_frames=1000)
        flood = b"".join(bytes(update(stream_id, flags=SYN)) for stream_id in range(1, 2003, 2))
        assert endpoint.receive(flood) == [("opened", 1)]
        assert len(endpoint.output()) == len(flood) - 12
        with pytest.raises(MuxerError, match="without a payload"):
            endpoint.receive(update(3001, flags=SYN))

    def test_what_follows_a_stream_that_is_refused_is_free(self) -> None:
        endpoint = Endpoint(max_inbound_streams=1, max_control_frames=100)
        endpoint.accept(1)
        for stream_id in range(3, 203, 2):
            endpoint.receive(data(stream_id, b"x", SYN), data(stream_id, b"x"), data(stream_id, flags=FIN))
            endpoint.now += 0.01  # for the refusal itself
        endpoint.receive(data(201, b"x"), data(201, b"x"))
        for _ in range(98):
            endpoint.receive(data(201, b"x"))
        with pytest.raises(MuxerError, match="without a payload"):
            endpoint.receive(data(201, b"x"), data(201, b"x"), data(201, b"x"))

    def test_what_our_data_causes_is_none(self) -> None:
        endpoint = Endpoint(max_control_frames=8)
        for stream_id in range(1, 2001, 2):
            stream = endpoint.accept(stream_id)
            endpoint.session.send_data(stream, b"a response")
            endpoint.session.send_fin(stream)
            endpoint.receive(bytes(update(stream_id, 1)) * 8 + bytes(data(stream_id, flags=FIN)))
        assert len(endpoint.session) == 0

    def test_some_frames_are_taken_at_once(self) -> None:
        endpoint = Endpoint()
        endpoint.session.receive_data(bytes(data(1, b"x", SYN)) + bytes(data(1, b"x")) * 150, endpoint.now)
        taken = []
        while endpoint.session.unread:
            taken.append(len(endpoint.session.events_received()))
            endpoint.session.go_on(endpoint.now)
        assert taken == [65, 64]  # the first one has opened the stream, too
        assert len(endpoint.session.events_received()) == 151 - 128


def outcome(wire: bytes, cuts: list[int]) -> tuple[list[Heard], bytes, str]:
    """What a session hears, sends and complains of when ``wire`` comes cut at ``cuts``."""
    endpoint = Endpoint(max_inbound_streams=3)
    for _ in range(2):
        endpoint.open()
    error = ""
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        try:
            endpoint.session.receive_data(wire[start:end], endpoint.now)
            while endpoint.session.unread:
                endpoint.session.go_on(endpoint.now)
        except MuxerError as caught:
            assert not error
            error = str(caught)
    return endpoint.heard(), endpoint.output(), error


headers = st.builds(
    Frame,
    st.integers(0, 3) | st.integers(0, 255),
    st.integers(0, 15) | st.integers(0, 0xFFFF),
    st.integers(0, 8) | st.integers(0, 0xFFFFFFFF),
    st.integers(0, 8) | st.integers(0, 0xFFFFFFFF),
)
likely_frames = st.builds(
    lambda header, body: header._replace(kind=0, length=len(body), body=body) if body else header,
    headers,
    st.binary(max_size=20),
)
wires = st.binary(max_size=200) | st.lists(likely_frames, max_size=12).map(lambda frames: b"".join(map(bytes, frames)))


@given(wire=wires, randomness=st.data())
def test_any_bytes_have_one_meaning_however_they_are_cut(wire: bytes, randomness: st.DataObject) -> None:
    cuts = randomness.draw(st.lists(st.integers(0, len(wire)), max_size=8).map(sorted))
    whole = outcome(wire, [])
    assert outcome(wire, cuts) == whole
    assert outcome(wire, list(range(1, len(wire)))) == whole
    assert len(whole[1]) <= len(wire) + 12, "no answer is longer than its question, but for the Go Away"

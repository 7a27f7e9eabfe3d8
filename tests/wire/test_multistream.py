from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples

from stronghold_p2p.errors import EncodeError, NegotiationError, ProtocolNotSupported
from stronghold_p2p.wire.multistream import HEADER, MAX_LINE, Dialer, Listener, encode_line

ECHO = encode_line("/echo/1")
PING = encode_line("/ping/1")
NA = encode_line("na")

Machine = Dialer | Listener
Feed = Callable[[Machine, bytes], bytes]


def feed_whole(machine: Machine, data: bytes) -> bytes:
    return machine.receive_data(data)


def feed_byte_by_byte(machine: Machine, data: bytes) -> bytes:
    return b"".join(machine.receive_data(data[i : i + 1]) for i in range(len(data)))


@pytest.fixture(params=[feed_whole, feed_byte_by_byte])
def feed(request: pytest.FixtureRequest) -> Feed:
    param: Feed = request.param
    return param


def listener(*protocols: str, max_proposals: int = 4) -> Listener:
    return Listener(frozenset(protocols), max_proposals)


def sent_by(machine: Machine) -> bytes:
    return b"".join(machine.data_to_send())


def test_lines_on_the_wire() -> None:
    assert HEADER == b"\x13/multistream/1.0.0\n"
    assert NA == b"\x03na\n"
    assert encode_line("a" * 127) == b"\x80\x01" + b"a" * 127 + b"\n"
    assert encode_line("a" * (MAX_LINE - 1)) == b"\x80\x08" + b"a" * 1023 + b"\n"


@pytest.mark.parametrize("line", ["a" * MAX_LINE, "é" * (MAX_LINE // 2), "/two\n/lines"])
def test_a_protocol_that_fits_no_line(line: str) -> None:
    with pytest.raises(EncodeError):
        Dialer("/good", line)


class TestDialer:
    def test_the_first_flight_is_one_buffer(self) -> None:
        dialer = Dialer("/echo/1")
        assert dialer.data_to_send() == [HEADER + ECHO]
        assert dialer.data_to_send() == []

    def test_agreement(self, feed: Feed) -> None:
        dialer = Dialer("/echo/1")
        assert feed(dialer, HEADER) == b""
        assert dialer.protocol is None
        assert feed(dialer, ECHO) == b""
        assert dialer.protocol == "/echo/1"

    def test_what_follows_belongs_to_the_next_layer(self, feed: Feed) -> None:
        dialer = Dialer("/echo/1")
        assert feed(dialer, HEADER + ECHO + NA + b"\x00") == NA + b"\x00"
        assert feed(dialer, b"more") == b"more"

    def test_refusals_lead_to_the_next_proposal(self, feed: Feed) -> None:
        dialer = Dialer("/a", "/b", "/echo/1")
        assert sent_by(dialer) == HEADER + encode_line("/a")
        assert feed(dialer, HEADER + NA) == b""
        assert sent_by(dialer) == encode_line("/b")
        assert feed(dialer, NA) == b""
        assert sent_by(dialer) == ECHO
        assert feed(dialer, ECHO + b"rest") == b"rest"
        assert dialer.protocol == "/echo/1"

    def test_all_refused(self, feed: Feed) -> None:
        dialer = Dialer("/echo/1", "/ping/1")
        with pytest.raises(ProtocolNotSupported) as caught:
            feed(dialer, HEADER + NA + NA + NA)
        assert caught.value.protocol == "/ping/1"
        assert dialer.protocol is None

    @pytest.mark.parametrize(
        ("answer", "hint"),
        [(b"HTTP/1.1 400 Bad Request", "append /ws"), (b"\x15\x03\x01\x00\x02\x02F", "append /tls/ws")],
    )
    def test_what_another_protocol_is(self, answer: bytes, hint: str) -> None:
        with pytest.raises(NegotiationError, match=hint):
            Dialer("/echo/1").receive_data(answer)

    @pytest.mark.parametrize(
        "answer",
        [
            pytest.param(encode_line("/multistream/2.0.0"), id="another version"),
            pytest.param(ECHO, id="no header"),
            pytest.param(b"HTTP/1.1 400 Bad Request", id="another protocol altogether"),
            pytest.param(HEADER + HEADER, id="the header twice"),
            pytest.param(HEADER + PING, id="a protocol that was not proposed"),
            pytest.param(HEADER + encode_line("ls"), id="a question"),
            pytest.param(HEADER + b"\x08/echo/1 ", id="no newline"),
            pytest.param(HEADER + b"\x88\x00/echo/1\n", id="a length that is not minimal"),
            pytest.param(HEADER + b"\x08/echo/\xff\n", id="not UTF-8"),
            pytest.param(HEADER + b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", id="an endless length"),
            pytest.param(HEADER + NA + HEADER, id="the header after a refusal"),
        ],
    )
    def test_anything_but_an_answer(self, feed: Feed, answer: bytes) -> None:
        dialer = Dialer("/echo/1", "/other/1")
        with pytest.raises(NegotiationError):
            feed(dialer, answer)
        assert dialer.protocol is None


class TestListener:
    def test_it_waits_for_the_header(self) -> None:
        assert listener("/echo/1").data_to_send() == []

    def test_agreement(self, feed: Feed) -> None:
        machine = listener("/echo/1", "/ping/1")
        assert feed(machine, HEADER + ECHO) == b""
        assert machine.protocol == "/echo/1"
        assert sent_by(machine) == HEADER + ECHO
        assert sent_by(machine) == b""

    def test_what_follows_belongs_to_the_next_layer(self, feed: Feed) -> None:
        machine = listener("/echo/1")
        assert feed(machine, HEADER + ECHO + PING + b"\x00") == PING + b"\x00"
        assert feed(machine, b"more") == b"more"
        assert sent_by(machine) == HEADER + ECHO

    @pytest.mark.parametrize("refused", ["/other/1", "ls", "", "na", "/multistream/1.0.0", "a" * (MAX_LINE - 1)])
    def test_refusals(self, feed: Feed, refused: str) -> None:
        machine = listener("/echo/1")
        assert feed(machine, HEADER + encode_line(refused)) == b""
        assert sent_by(machine) == HEADER + NA
        assert feed(machine, ECHO + b"rest") == b"rest"
        assert sent_by(machine) == ECHO

    def test_proposals_are_bounded(self, feed: Feed) -> None:
        machine = listener("/echo/1", max_proposals=3)
        assert feed(machine, HEADER + PING * 3) == b""
        assert sent_by(machine) == HEADER + NA * 3
        with pytest.raises(NegotiationError, match="too many"):
            feed(machine, ECHO)
        assert sent_by(machine) == b""

    def test_a_flood_of_proposals_is_not_answered_beyond_the_bound(self, feed: Feed) -> None:
        machine = listener("/echo/1", max_proposals=3)
        with pytest.raises(NegotiationError, match="too many"):
            feed(machine, HEADER + PING * 1000)
        assert sent_by(machine) == HEADER + NA * 3

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (b"\x00", "newline"),
            (b"\x08/echo/1 ", "newline"),
            (b"\x80\x08" + b"a" * MAX_LINE, "newline"),
            (b"\x81\x08", "1025 bytes"),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "bytes"),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "longer than 9"),
            (b"\x88\x00/echo/1\n", "not minimal"),
            (b"\x03\xff\xfe\n", "UTF-8"),
        ],
    )
    def test_malformed_lines(self, feed: Feed, line: bytes, reason: str) -> None:
        machine = listener("/echo/1")
        with pytest.raises(NegotiationError, match=reason):
            feed(machine, HEADER + line)
        assert machine.protocol is None

    @pytest.mark.parametrize("header", [encode_line("/multistream/2.0.0"), ECHO, b"GET / HTTP/1.1\r\n", b"\x13/x"])
    def test_not_the_header(self, feed: Feed, header: bytes) -> None:
        machine = listener("/echo/1")
        with pytest.raises(NegotiationError, match="header"):
            feed(machine, header)
        assert sent_by(machine) == HEADER

    def test_a_lazy_dialer_is_told_na_before_its_request_is_misread(self, feed: Feed) -> None:
        """What follows a refused proposal was meant for the protocol."""
        machine = listener("/ping/1")
        with pytest.raises(NegotiationError):
            feed(machine, HEADER + ECHO + b"\x02{}\x02{}")
        assert sent_by(machine) == HEADER + NA


PROTOCOLS = st.sampled_from(["/a/1", "/b/1", "/c/1", "/" + "d" * 200])


@settings(max_examples=examples(50))
@given(
    proposed=st.lists(PROTOCOLS, min_size=1, max_size=4, unique=True),
    offered=st.frozensets(PROTOCOLS),
    segment=st.integers(1, 300),
)
def test_both_sides_agree(proposed: list[str], offered: frozenset[str], segment: int) -> None:
    dialer, machine = Dialer(*proposed), Listener(offered, 4)
    expected = next((protocol for protocol in proposed if protocol in offered), None)
    try:
        while dialer.protocol is None:
            for sender, receiver in ((dialer, machine), (machine, dialer)):
                data = sent_by(sender)
                for start in range(0, len(data), segment):
                    assert receiver.receive_data(data[start : start + segment]) == b""
    except ProtocolNotSupported:
        assert expected is None
    assert dialer.protocol == machine.protocol == expected


STREAMS = st.lists(st.sampled_from([HEADER, ECHO, PING, NA, b"\x80\x08", b"\n"]) | st.binary(max_size=8)).map(b"".join)


@settings(max_examples=examples(200))
@given(data=STREAMS, dialing=st.booleans())
def test_any_bytes_have_one_outcome_however_they_are_cut(data: bytes, dialing: bool) -> None:
    def outcome(feed: Feed) -> tuple[object, ...]:
        machine: Machine = Dialer("/echo/1", "/ping/1") if dialing else listener("/echo/1", max_proposals=3)
        try:
            rest: object = feed(machine, data)
        except (NegotiationError, ProtocolNotSupported) as error:
            rest = type(error)
        return rest, machine.protocol, sent_by(machine)

    assert outcome(feed_whole) == outcome(feed_byte_by_byte)

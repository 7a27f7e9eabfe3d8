"""Messages out of whatever pieces a stream brings, and into a stream as far as it takes them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.compiled import replaces_parts

from stronghold_p2p import DecodeError
from stronghold_p2p.encoding import varint
from stronghold_p2p.requests.message import MessageReader, send_message
from stronghold_p2p.transport.buffers import Buffers, MessageBuffer

pytestmark = replaces_parts

WINDOW = 1000
MAX_SIZE = 100_000


class FakeStream:
    """One stream as far as messages see it: ``window`` is what the remote may send now."""

    protocol = "/test/1.0.0"

    def __init__(self) -> None:
        self.window = WINDOW
        self.held = 0
        self.expected: list[int] = []
        self.pushed: list[bytes] = []
        self.takes = True
        self.reserves = False
        self.reserved: MessageBuffer

    def arrive(self, data: bytes) -> bytes:
        self.window -= len(data)
        return data

    def credit(self, size: int) -> None:
        assert size > 0
        self.window += size

    def expect(self, size: int) -> None:
        self.expected.append(size)

    def hold(self, size: int) -> None:
        self.held += size

    def reserve(self, size: int, missing: int) -> MessageBuffer | None:
        if not self.reserves:
            return None
        self.hold(missing)
        self.reserved = MessageBuffer(Buffers(), size)
        return self.reserved

    def let_go(self, size: int) -> None:
        self.held -= size
        assert self.held >= 0

    def write_now(self, data: bytes) -> bool:
        return self.takes and self.push(data)

    def push(self, data: bytes) -> bool:
        self.pushed.append(data)
        return self.takes


def framed(*messages: bytes) -> bytes:
    return b"".join(varint.encode(len(message)) + message for message in messages)


def pair(max_size: int = MAX_SIZE, **arguments: Any) -> tuple[FakeStream, MessageReader]:
    stream: Any = FakeStream()
    return stream, MessageReader(stream, max_size, **arguments)


# -- reading -------------------------------------------------------------------------------------------


def test_a_message_that_comes_whole() -> None:
    stream, reader = pair()
    assert reader.take(stream.arrive(framed(b"whole"))) == b"whole"
    assert (reader.kept, stream.held, stream.window) == (0, 0, WINDOW - 6)
    assert reader.next() is None
    assert stream.window == WINDOW


def test_a_message_in_pieces() -> None:
    stream, reader = pair()
    wire = framed(bytes(300))
    for index in range(len(wire) - 1):
        assert reader.take(stream.arrive(wire[index : index + 1])) is None
        assert reader.kept == stream.held == index + 1
        assert stream.window == WINDOW  # each piece is given back, for the message may be longer than the window
    assert reader.take(stream.arrive(wire[-1:])) == bytes(300)
    assert stream.expected == [300]
    assert reader.kept == stream.held == 0


def test_what_follows_a_message_waits_and_gets_no_window() -> None:
    stream, reader = pair()
    assert reader.take(stream.arrive(framed(b"first", b"second", b"third")[:-1])) == b"first"
    assert reader.kept == stream.held == 12
    assert reader.take(stream.arrive(b"d" + framed(b"fourth"))) is None
    assert reader.kept == stream.held == 20
    assert stream.window == WINDOW - 26
    assert reader.next() == b"second"
    assert stream.window == WINDOW - 20
    assert reader.next() == b"third"
    assert reader.next() == b"fourth"
    assert reader.kept == stream.held == 0
    assert reader.next() is None
    assert stream.window == WINDOW
    assert reader.take(stream.arrive(framed(b"fifth"))) == b"fifth"


def test_a_message_that_is_asked_for_before_it_is_whole() -> None:
    stream, reader = pair()
    assert reader.take(stream.arrive(framed(b"first", bytes(500))[:-1])) == b"first"
    assert reader.next() is None
    assert stream.window == WINDOW  # now the rest of it may come, however long it is
    assert stream.expected == [1]
    assert reader.take(stream.arrive(b"\0")) == bytes(500)


def test_what_is_dropped_counts_no_longer() -> None:
    stream, reader = pair()
    assert reader.take(stream.arrive(framed(b"first", b"second"))) == b"first"
    reader.drop()
    assert reader.kept == stream.held == 0
    assert reader.next() is None


@pytest.mark.parametrize("before", [b"", framed(b"one before"), framed(bytes(5000))])
@pytest.mark.parametrize(
    ("wire", "reason"), [(framed(bytes(101)), "101 bytes is over the limit of 100"), (b"\xff" * 10, "longer than 9")]
)
def test_a_length_that_cannot_be(before: bytes, wire: bytes, reason: str) -> None:
    stream, reader = pair(5000 if before else 100)
    reader._max_size = 5000
    if before:
        assert reader.take(stream.arrive(before)) is not None
        reader.next()
    reader._max_size = 100
    with pytest.raises(DecodeError, match=reason):
        reader.take(stream.arrive(wire))


def test_a_length_that_cannot_be_behind_a_message() -> None:
    stream, reader = pair(100)
    assert reader.take(stream.arrive(framed(b"good", bytes(101)))) == b"good"
    with pytest.raises(DecodeError, match="over the limit"):
        reader.next()


def test_a_window_full_of_empty_messages() -> None:
    """Each is asked for: all of one read at once would hold up everything else."""
    stream, reader = pair()
    wire = framed(*[b""] * 100_000)
    assert reader.take(stream.arrive(wire)) == b""
    count = 1
    while reader.next() is not None:
        count += 1
    assert count == 100_000
    assert reader.kept == stream.held == 0


sizes = st.integers(0, 300) | st.sampled_from([127, 128, 4095, 4096, 4097, 16_383, 16_384, 20_000])


@given(
    messages=st.lists(sizes, max_size=12),
    cuts=st.lists(st.integers(1, 9) | st.integers(1, 20_000), min_size=1, max_size=8),
    eager=st.lists(st.booleans(), min_size=1, max_size=5),
    reserves=st.booleans(),
)
def test_any_messages_cut_anywhere(messages: list[int], cuts: list[int], eager: list[bool], reserves: bool) -> None:
    """``eager``: whether what was given out is done with before the next piece comes."""
    stream, reader = pair()
    stream.reserves = reserves
    bodies = [bytes((index % 256,)) * size for index, size in enumerate(messages)]
    wire = framed(*bodies)
    given_out: list[bytes] = []
    given = False  # and not done with
    came = 0
    cut, may_ask = itertools.cycle(cuts), itertools.cycle(eager)
    while came < len(wire):
        size = next(cut)
        piece = stream.arrive(wire[came : came + size])
        place = reader.place_for(len(piece))
        if place is None:
            message = reader.take(piece)
        else:
            assert reserves
            place[: len(piece)] = piece
            message = reader.take(b"") if reader.fill(len(piece)) else None
        came = min(came + size, len(wire))
        if message is not None:
            assert not given
            given_out.append(message)
            given = True
        while given and next(may_ask):
            message = reader.next()
            given = message is not None
            if message is not None:
                given_out.append(message)
        done = sum(len(framed(body)) for body in given_out)
        assert reader.kept == came - done
        assert stream.held == reader.kept or (reserves and stream.held > reader.kept)
        if not given and stream.held == reader.kept:
            assert stream.window == WINDOW
    while given:
        message = reader.next()
        given = message is not None
        if message is not None:
            given_out.append(message)
    assert given_out == bodies
    assert (reader.kept, stream.held, stream.window) == (0, 0, WINDOW)


def test_a_long_message_is_put_together_in_memory_that_counts_from_the_beginning() -> None:
    stream, reader = pair()
    stream.reserves = True
    wire = framed(bytes(50_000))
    assert reader.take(stream.arrive(wire[:10_000])) is None
    assert stream.held == len(wire)
    assert reader.kept == 10_000
    assert reader.place_for(50_000) is None  # it would not fit
    assert reader.take(stream.arrive(wire[10_000:] + b"\1")) == bytes(50_000)
    assert reader.kept == stream.held == 1
    assert reader.place_for(1) is None


def test_a_long_message_that_is_dropped_counts_no_longer() -> None:
    stream, reader = pair()
    stream.reserves = True
    assert reader.take(stream.arrive(framed(bytes(50_000))[:10_000])) is None
    reader.drop()
    assert reader.kept == stream.held == 0
    assert reader.place_for(1) is None
    with pytest.raises(ValueError, match="released"):
        len(stream.reserved.view)  # the garbage collector would complain of it


# -- sending -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "frames"), [(0, 1), (127, 1), (16_384, 1), (16_385, 2), (1_000_000, 2)])
def test_a_long_message_is_not_copied(size: int, frames: int) -> None:
    stream: Any = FakeStream()
    message = bytes(size)
    assert send_message(stream, message)
    assert b"".join(stream.pushed) == framed(message)
    assert len(stream.pushed) == frames
    assert (stream.pushed[-1] is message) == (frames == 2)


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_message_that_must_wait(size: int) -> None:
    stream: Any = FakeStream()
    stream.takes = False
    assert not send_message(stream, bytes(size))
    stream.takes = True
    assert send_message(stream, b"another")
    assert stream.pushed[-1] == framed(b"another")

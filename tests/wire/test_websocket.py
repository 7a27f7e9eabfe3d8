"""Frames of WebSockets, checked against the machine of the package ``websockets``."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame as TheirFrame
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from stronghold_p2p.errors import WebSocketError
from stronghold_p2p.wire.websocket import BINARY, CLOSE, CONTINUATION, PING, PONG, FrameReader, encode_frame

SIZES = (0, 1, 125, 126, 65_535, 65_536, 200_000)
MASK = b"\x01\x80\xff\x10"


def read(data: bytes, *, masked: bool = False, piece: int | None = None) -> list[tuple[int, bytes]]:
    """What comes of ``data``, given whole or in pieces; what came of one frame piece by piece is joined."""
    return list(joined(FrameReader(masked=masked), data, piece or len(data) or 1))


def joined(reader: FrameReader, data: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    opcode, payload = -1, b""
    for start in range(0, len(data), size):
        left = memoryview(data)[start : start + size]
        while left:
            frame, left = reader.read(left)
            if frame is None:
                continue
            if frame.opcode != opcode or not frame.data or frame.opcode >= CLOSE:
                if opcode >= 0:
                    yield opcode, payload
                opcode, payload = frame.opcode, bytes(frame.data)
            else:
                payload += frame.data
    if opcode >= 0:
        yield opcode, payload


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_frames_that_others_write(size: int, masked: bool) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    frames = TheirFrame(Opcode.BINARY, payload).serialize(mask=masked)
    assert read(frames, masked=masked) == [(BINARY, payload)]
    assert read(frames, masked=masked, piece=997) == [(BINARY, payload)]
    if size < 1000:
        assert read(frames, masked=masked, piece=1) == [(BINARY, payload)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_frames_that_others_read(size: int, masked: bool) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    theirs: ClientProtocol | ServerProtocol
    if masked:
        theirs = ServerProtocol(state=State.OPEN)
    else:
        theirs = ClientProtocol(parse_uri("ws://localhost/"), state=State.OPEN)
    theirs.receive_data(encode_frame(BINARY, bytearray(payload), MASK if masked else b""))
    (frame,) = theirs.events_received()
    assert isinstance(frame, TheirFrame)
    assert (frame.opcode, frame.data, frame.fin) == (Opcode.BINARY, payload, True)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([BINARY, CONTINUATION, PING, PONG, CLOSE]),
            st.binary(max_size=125),
            st.integers(0, 2**32 - 1),
        ),
        max_size=8,
    ),
    st.integers(1, 20),
)
def test_fragments_and_control_frames_between(frames: list[tuple[int, bytes, int]], piece: int) -> None:
    """A message of any fragments is their bytes; a control frame between them is whole."""
    sent, data, control, last = b"", b"", [], -1
    for index, (opcode, _, _) in enumerate(frames):
        if opcode < CLOSE:
            last = index
    begun = False
    for index, (opcode, payload, mask) in enumerate(frames):
        if opcode < CLOSE:
            kind, fin = (CONTINUATION if begun else BINARY), index == last
            begun = True
            data += payload
        else:
            kind, fin = opcode, True
            control.append((opcode, payload))
        frame = bytearray(encode_frame(kind, payload, mask.to_bytes(4)))
        frame[0] = kind | fin << 7
        sent += frame
    reader = FrameReader(masked=True)
    got_data, got_control = b"", []
    for start in range(0, len(sent), piece):
        left = memoryview(sent)[start : start + piece]
        while left:
            got, left = reader.read(left)
            if got is not None and got.opcode < CLOSE:
                got_data += got.data
            elif got is not None:
                got_control.append((got.opcode, got.data))
    assert (got_data, got_control) == (data, control)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (b"\xc2\x00", "reserved bits"),
        (b"\xa2\x00", "reserved bits"),
        (b"\x92\x00", "reserved bits"),
        (b"\x83\x00", "unknown kind, opcode 3"),
        (b"\x8f\x00", "unknown kind, opcode 15"),
        (b"\x82\x80", "expected no masked frame"),
        (b"\x80\x00", "continuation of no message"),
        (b"\x02\x00\x82\x00", "expected a continuation"),
        (b"\x02\x00\x01\x00", "expected a continuation"),
        (b"\x09\x00", "fragmented control frame"),
        (b"\x08\x00", "fragmented control frame"),
        (b"\x89\x7e", "control frame of more than 125 bytes"),
        (b"\x88\x7f", "control frame of more than 125 bytes"),
        (b"\x82\x7f\x80" + bytes(7), "less than 2.63 bytes"),
    ],
)
@pytest.mark.parametrize("piece", [1, None])
def test_frames_that_must_not_be(frames: bytes, reason: str, piece: int | None) -> None:
    with pytest.raises(WebSocketError, match=reason):
        read(frames, piece=piece)


def test_a_client_that_does_not_mask() -> None:
    with pytest.raises(WebSocketError, match="expected a masked frame"):
        read(b"\x82\x00", masked=True)


@given(st.binary(max_size=200), st.booleans(), st.integers(1, 50))
def test_whatever_comes(data: bytes, masked: bool, piece: int) -> None:
    try:
        read(data, masked=masked, piece=piece)
    except WebSocketError:
        pass


@pytest.mark.parametrize("fragment", [4096, 1_000_000_000_000])
def test_nothing_of_a_message_is_kept(fragment: int) -> None:
    """Neither of go-libp2p's fragments of 4,096 bytes, of which a Noise message has sixteen, nor of a frame that may be of
    any size: what has come is given on."""
    reader = FrameReader(masked=True)
    payload = bytes(4096)
    header = b"\x02\xff" + fragment.to_bytes(8) + MASK
    continuation = b"\x00\xff" + fragment.to_bytes(8) + MASK
    first, following = header + payload, (continuation if fragment == 4096 else b"") + payload

    def take(data: bytes) -> None:
        left = memoryview(data)
        while left:
            _, left = reader.read(left)

    take(first)
    tracemalloc.start()
    try:
        for _ in range(1000):
            take(following)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 4096

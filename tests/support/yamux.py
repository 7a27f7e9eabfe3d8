"""Yamux sessions for tests: frames written and read by hand, and a session with a fake clock to throw them at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from stronghold_p2p import Keypair
from stronghold_p2p.resources.memory import Memory, MemoryShare
from stronghold_p2p.wire.yamux import (
    HEADER,
    HEADER_SIZE,
    DataReceived,
    Event,
    Flag,
    FrameType,
    GoAwayReceived,
    Session,
    Stream,
    StreamEnded,
    StreamOpened,
    StreamReset,
    WindowOpened,
)

__all__ = [
    "KIB",
    "MIB",
    "Endpoint",
    "Frame",
    "Heard",
    "connect",
    "data",
    "go_away",
    "memory_share",
    "pieces",
    "ping",
    "read_frames",
    "update",
]

KIB = 1024
MIB = 1024 * KIB

Heard = tuple[Any, ...]
"""An event with its stream's id in place of the stream."""


class Frame(NamedTuple):
    """One frame, its header taken apart."""

    kind: int
    flags: int
    stream_id: int
    length: int
    body: bytes = b""

    def __bytes__(self) -> bytes:
        return HEADER.pack(0, self.kind, self.flags, self.stream_id, self.length) + self.body


def data(stream_id: int, body: bytes = b"", flags: int = 0, *, length: int | None = None) -> Frame:
    """``length`` declares another length than that of the body."""
    return Frame(FrameType.DATA, flags, stream_id, len(body) if length is None else length, body)


def update(stream_id: int, delta: int = 0, flags: int = 0) -> Frame:
    return Frame(FrameType.WINDOW_UPDATE, flags, stream_id, delta)


def ping(value: int, flags: int = Flag.SYN) -> Frame:
    return Frame(FrameType.PING, flags, 0, value)


def go_away(code: int) -> Frame:
    return Frame(FrameType.GO_AWAY, 0, 0, code)


def read_frames(output: bytes) -> list[Frame]:
    """What a session has sent: whole frames of version 0."""
    frames = []
    while output:
        version, kind, flags, stream_id, length = HEADER.unpack_from(output)
        assert version == 0
        end = HEADER_SIZE + (length if kind == FrameType.DATA else 0)
        assert len(output) >= end
        frames.append(Frame(kind, flags, stream_id, length, output[HEADER_SIZE:end]))
        output = output[end:]
    return frames


def pieces(wire: bytes, size: int | None) -> Iterable[bytes]:
    """``wire`` in pieces of ``size`` bytes; None: whole."""
    return (wire[start : start + size] for start in range(0, len(wire), size)) if size else [wire]


def memory_share(size: int) -> MemoryShare:
    """The only one: all of its memory is free for it, and so it may hold a third."""
    return Memory(3 * size).open(("192.0.2.1/32",), Keypair.generate().peer_id)


class Endpoint:
    """One session, its clock, and what happened on it.

    ``cut`` is the size of the pieces in which it is given bytes, None for whole.
    """

    def __init__(
        self,
        *,
        initiator: bool = False,
        cut: int | None = None,
        max_inbound_streams: int = 8,
        max_receive_window: int = 1 * MIB,
        max_control_frames: int = 1024,
        budget: int = 64 * MIB,
    ) -> None:
        self.now = 1000.0
        self.cut = cut
        self.budget = memory_share(budget)
        self.session = Session(
            initiator=initiator,
            max_inbound_streams=max_inbound_streams,
            max_receive_window=max_receive_window,
            max_control_frames=max_control_frames,
            max_control_frames_per_second=100.0,
            budget=self.budget,
        )
        self.inbound: dict[int, Stream] = {}
        """The streams that the remote has opened, also those that have ended."""

    def receive(self, *frames: Frame | bytes) -> list[Heard]:
        """Gives the frames to the session; returns what it heard. Raises MuxerError as the session does."""
        for piece in pieces(b"".join(map(bytes, frames)), self.cut):
            self.session.receive_data(piece, self.now)
            while self.session.unread:
                self.session.go_on(self.now)
        return self.heard()

    def heard(self) -> list[Heard]:
        """The events, with a stream's adjacent data joined: where it was cut says nothing."""
        heard: list[Heard] = []
        for event in self.session.events_received():
            entry = self._note(event)
            if entry[0] == "data" and heard and heard[-1][:2] == entry[:2]:
                heard[-1][2].extend(entry[2])
            else:
                heard.append(entry)
        return heard

    def output(self) -> bytes:
        """The bytes to send; checks that ``pending`` told their number."""
        pending = self.session.pending
        output = b"".join(self.session.data_to_send())
        assert len(output) == pending
        assert self.session.pending == 0
        return output

    def sent(self) -> list[Frame]:
        """The frames to send."""
        return read_frames(self.output())

    def open(self) -> Stream:
        return self.session.open_stream(self.now)

    def accept(self, stream_id: int, *, acknowledge: bool = False) -> Stream:
        """Has the remote open a stream; ``acknowledge``: and sends our ACK."""
        assert self.receive(update(stream_id, flags=Flag.SYN)) == [("opened", stream_id)]
        stream = self.inbound[stream_id]
        if acknowledge:
            self.session.send_data(stream, b"")
            assert self.sent() == [data(stream_id, flags=Flag.ACK)]
        return stream

    def credit(self, stream: Stream, size: int) -> None:
        self.session.credit(stream, size, self.now)

    def _note(self, event: Event) -> Heard:
        match event:
            case StreamOpened(stream=stream):
                self.inbound[stream.id] = stream
                return "opened", stream.id
            case DataReceived(stream=stream, data=body):
                assert body, "no data would be taken for the end of the stream"
                return "data", stream.id, bytearray(body)
            case WindowOpened(stream=stream):
                return "window", stream.id
            case StreamEnded(stream=stream):
                return "ended", stream.id
            case StreamReset(stream=stream, code=code):
                return "reset", stream.id, code
            case GoAwayReceived(code=code):
                return "go away", code


def connect(left: Endpoint, right: Endpoint) -> Callable[[], tuple[list[Heard], list[Heard]]]:
    """A function that delivers everything both ways until nothing is left to send, and returns what either heard."""

    def deliver() -> tuple[list[Heard], list[Heard]]:
        heard: tuple[list[Heard], list[Heard]] = ([], [])
        while left.session.pending or right.session.pending:
            heard[1].extend(right.receive(left.output()))
            heard[0].extend(left.receive(right.output()))
        return heard

    return deliver

"""The machines of ``wire/``: bytes in, cut anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fuzz.target import KEYPAIRS, Outcome, outcome, pieces, target
from stronghold_p2p.encoding import messages, varint
from stronghold_p2p.errors import (
    DecodeError,
    HandshakeError,
    MuxerError,
    NegotiationError,
    ProtocolNotSupported,
    RemoteProtocolError,
)
from stronghold_p2p.resources.memory import Memory
from stronghold_p2p.wire import multistream
from stronghold_p2p.wire.noise import NoiseIdentity, NoiseTransport
from stronghold_p2p.wire.noise_xx import CipherState, HandshakeState, NoiseKey
from stronghold_p2p.wire.upgrade import MUXERS, Upgrade
from stronghold_p2p.wire.websocket import BINARY, CLOSE, CONTINUATION, PING, FrameReader, encode_frame
from stronghold_p2p.wire.yamux import (
    HEADER,
    INITIAL_WINDOW,
    DataReceived,
    Flag,
    FrameType,
    Session,
    Stream,
    StreamOpened,
)

__all__ = ["TARGETS"]

# -- varints ------------------------------------------------------------------------------------------


def varint_seeds() -> Iterator[bytes]:
    yield from (varint.encode(value) for value in (0, 127, 128, 16_383, 16_384, varint.MAX_VALUE))
    yield from (b"\x80\0", b"\x80" * 9 + b"\x01", b"\xff" * 10)


@target("varint", DecodeError, seeds=varint_seeds, max_size=32)
def fuzz_varint(data: bytes) -> None:
    decoded = varint.decode(data)
    if decoded is not None:
        value, end = decoded
        assert data[:end] == varint.encode(value), "there is one form of a value"


# -- multistream-select -------------------------------------------------------------------------------

PROTOCOLS = ("/noise", "/yamux/1.0.0", "/ipfs/id/1.0.0")
MAX_PROPOSALS = 16


def multistream_seeds() -> Iterator[bytes]:
    lines = [multistream.encode_line(line) for line in (*PROTOCOLS, "na", "ls", "x" * 1023)]
    for cut, line in itertools.product((0, 1, 7), lines):
        yield bytes((cut,)) + multistream.HEADER + line
        yield bytes((cut,)) + multistream.HEADER + lines[3] * 3 + line + b"early"


def negotiated(make: Callable[[], multistream.Dialer | multistream.Listener], parts: Iterable[bytes]) -> Outcome:
    machine = make()
    following, sent = bytearray(), bytearray()

    def feed(part: bytes) -> None:
        following.extend(machine.receive_data(part))
        sent.extend(b"".join(machine.data_to_send()))

    error = outcome(feed, parts)
    sent += b"".join(machine.data_to_send())
    assert len(sent) <= (MAX_PROPOSALS + 4) * (multistream.MAX_LINE + 2), "answers are bounded"
    return error, machine.protocol, bytes(following), bytes(sent)


@target("multistream-listener", seeds=multistream_seeds)
def fuzz_listener(data: bytes) -> None:
    whole, parts = pieces(data)

    def make() -> multistream.Listener:
        return multistream.Listener(PROTOCOLS, MAX_PROPOSALS)

    assert negotiated(make, parts) == negotiated(make, [whole]), "where a stream is cut says nothing"


@target("multistream-dialer", seeds=multistream_seeds)
def fuzz_dialer(data: bytes) -> None:
    whole, parts = pieces(data)

    def make() -> multistream.Dialer:
        return multistream.Dialer(*PROTOCOLS)

    assert negotiated(make, parts) == negotiated(make, [whole]), "where a stream is cut says nothing"


# -- the upgrade --------------------------------------------------------------------------------------


def x25519(number: int) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes((number,)) * 32)


OURS, THEIRS = (NoiseIdentity(keypair, x25519(n), MUXERS) for n, keypair in enumerate(KEYPAIRS, 1))


def upgrade(*, initiator: bool, identity: NoiseIdentity = OURS) -> Upgrade:
    return Upgrade(identity, initiator=initiator, ephemeral=NoiseKey(x25519(3 if identity is OURS else 4)))


def upgrade_seeds() -> Iterator[bytes]:
    dialer, listener = upgrade(initiator=True, identity=THEIRS), upgrade(initiator=False)
    sent: list[list[bytes]] = [[], []]
    while not (dialer.done and listener.done):
        for turn, (sender, receiver) in enumerate(((dialer, listener), (listener, dialer))):
            data = sender.data_to_send()
            sent[turn].append(data)
            receiver.receive_data(data)
    for role, flights in enumerate(sent):
        for cut in (0, 1, 100):
            yield bytes((role, cut)) + b"".join(flights)
            yield bytes((role, cut)) + flights[0]


@target("upgrade", RemoteProtocolError, ProtocolNotSupported, seeds=upgrade_seeds, max_size=8192)
def fuzz_upgrade(data: bytes) -> None:
    """What comes before anybody is known, in either role."""
    machine = upgrade(initiator=bool(data[:1] and data[0] & 1))
    _, parts = pieces(data[1:])
    try:
        for part in parts:
            machine.receive_data(part)
            assert len(machine.data_to_send()) < 1024 + 64 * len(part), "answers are bounded"
        machine.receive_eof()
    except (NegotiationError, HandshakeError):
        machine.data_to_send()
        raise


def payload_seeds() -> Iterator[bytes]:
    for flag in (b"\0", b"\1"):
        yield flag
        yield flag + OURS.payload
        yield flag + THEIRS.payload
        yield (
            flag + messages.NoiseHandshakePayload(identity_key=KEYPAIRS[1].public_key.to_protobuf()).SerializeToString()
        )
        for muxers in ((), ("/mplex/6.7.0",), ("/yamux/1.0.0",) * 3):
            extensions = messages.NoiseExtensions(stream_muxers=muxers, webtransport_certhashes=[b"x"])
            yield flag + messages.NoiseHandshakePayload(extensions=extensions).SerializeToString()


@target("noise-payload", RemoteProtocolError, seeds=payload_seeds, max_size=4096)
def fuzz_noise_payload(data: bytes) -> None:
    """What somebody tells in a handshake whose cryptography is right, perhaps behind a valid payload, which it then adds to."""
    machine = upgrade(initiator=False)
    machine.data_to_send()
    remote = HandshakeState(initiator=True, ephemeral=NoiseKey(x25519(4)), static=THEIRS.static)
    machine.receive_data(b"".join(map(multistream.encode_line, ("/multistream/1.0.0", "/noise"))))
    hello = remote.write_message(b"")
    machine.receive_data(len(hello).to_bytes(2) + hello)
    answer = machine.data_to_send()
    remote.read_message(answer[len(multistream.HEADER) + len(multistream.encode_line("/noise")) + 2 :])
    proof = remote.write_message((THEIRS.payload if data[:1] == b"\1" else b"") + data[1:])
    machine.receive_data(len(proof).to_bytes(2) + proof)
    assert machine.remote_peer == KEYPAIRS[1].peer_id, "nobody else can prove to be the remote"


# -- the encrypted channel ----------------------------------------------------------------------------


def channel_seeds() -> Iterator[bytes]:
    for cut in (0, 1, 2, 17):
        yield bytes((cut, 0)) + bytes(range(64))
        yield bytes((cut, 40)) + b"hello" * 40
        yield bytes((cut, 255)) + b"\0" * 300


EMPTY_MESSAGE = b"\0\x10" + bytes(16)


@target("noise-channel", seeds=channel_seeds)
def fuzz_channel(data: bytes) -> None:
    """As many messages as the second byte says are the remote's own, and what follows is anybody's."""
    true = data[1] if len(data) > 1 else 0
    key = bytes(32)
    sender = NoiseTransport(CipherState(key), CipherState(key))
    text = data[2:]
    wire = b"".join(sender.encrypt([text[n : n + 3]]) for n in range(true))
    sent = b"".join(text[n : n + 3] for n in range(true))

    def received(parts: Iterable[bytes]) -> Outcome:
        channel = NoiseTransport(CipherState(key), CipherState(key))
        plain = bytearray()

        def feed(part: bytes) -> None:
            plain.extend(b"".join(channel.decrypt(part)))
            while channel.unread:
                plain.extend(b"".join(channel.decrypt()))

        error = outcome(feed, parts)
        if error is not None:
            assert outcome(feed, [EMPTY_MESSAGE]) is HandshakeError, "nothing is decrypted after a failure"
        return error, plain.startswith(sent), len(plain)

    forged = wire + text
    whole, parts = pieces(data[:1] + forged)
    cut, at_once = received(parts), received([whole])
    assert cut[0] == at_once[0], "where a stream is cut says nothing"
    # With its error, a call loses what it has decrypted itself.
    assert cut[0] is not None or cut == at_once == (None, True, len(sent)), "only what was sent is received"


def large_seeds() -> Iterator[bytes]:
    for cut, flags in itertools.product((0, 1, 200), range(8)):
        yield bytes((cut, flags)) + bytes((1, 255, 64, 65, 66, 3, 128))


@target("noise-large", seeds=large_seeds, max_size=12)
def fuzz_large(data: bytes) -> None:
    """Messages small and large, decrypted into their place or not, from a buffer that is used again."""
    cut, flags, *lengths = data if len(data) > 1 else (0, 0)
    placed, kept, forged = flags & 1, flags & 2, flags & 4
    sender, channel = (NoiseTransport(CipherState(bytes(32)), CipherState(bytes(32))) for _ in range(2))
    # Even ones are small, and odd ones may have up to 65,280 bytes.
    sent = [bytes((n,)) * (length << 8 if length & 1 else length) for n, length in enumerate(lengths)]
    wire = bytearray(b"".join(bytes(sender.encrypt([each])) for each in sent))
    if forged and wire:
        wire[len(wire) // 2] ^= 1
    received = bytearray()
    buffer = bytearray(cut * 256 + 3 if cut else max(len(wire), 1))
    try:
        for start in range(0, len(wire), len(buffer)):
            part = wire[start : start + len(buffer)]
            buffer[: len(part)] = part
            received += b"".join(channel.decrypt(memoryview(buffer)[: len(part)]))
            while channel.unread:
                if kept:
                    channel.keep_unread()
                    buffer[:] = bytes(len(buffer))
                if channel.large and placed:
                    place = bytearray(channel.large + (flags << 8))  # perhaps there is room for more
                    received += place[: channel.decrypt_into(memoryview(place))]
                else:
                    received += b"".join(channel.decrypt())
    except HandshakeError:
        assert forged, "what was sent is taken"
    whole = b"".join(sent)
    # What is forged ends the channel, or has it wait for more.
    assert whole.startswith(received), "only what was sent is received"
    assert forged or received == whole, "all of it"


# -- yamux --------------------------------------------------------------------------------------------

MAX_STREAMS = 8
BUDGET = 1 << 20


def yamux_seeds() -> Iterator[bytes]:
    def frame(kind: FrameType, flags: int, stream: int, length: int, body: bytes = b"") -> bytes:
        return HEADER.pack(0, kind, flags, stream, length) + body

    data, update, syn, fin, rst = FrameType.DATA, FrameType.WINDOW_UPDATE, Flag.SYN, Flag.FIN, Flag.RST
    for role, stream in ((0, 1), (1, 2)):
        streams = [
            frame(data, syn, stream, 5, b"hello") + frame(data, fin, stream, 0),
            frame(update, syn, stream, 0) + frame(update, 0, stream, 0xFFFFFFFF),
            frame(data, syn, stream, INITIAL_WINDOW + 1),
            frame(data, syn, stream, 0xFFFFFFFF),
            frame(update, syn, stream, 1) + frame(data, rst, stream, 3, b"end"),
            frame(FrameType.PING, syn, 0, 7) + frame(FrameType.PING, Flag.ACK, 0, 1) + frame(FrameType.GO_AWAY, 0, 0, 2),
            b"".join(frame(data, syn, stream + 2 * n, 1, b"x") for n in range(MAX_STREAMS + 2)),
        ]  # fmt: skip
        for wire, cut in itertools.product(streams, (0, 1, 13)):
            yield bytes((role, cut)) + wire
        for act in range(1, 8):
            yield bytes((role | act << 1, 0)) + b"".join(streams)


class Application:
    """Drives a session: what it does with each event depends on ``act``."""

    def __init__(self, initiator: bool, act: int) -> None:
        self.act = act
        self.now = 1.0
        self.heard: list[list[object]] = []
        self.held: dict[Stream, int] = {}
        self.memory = Memory(BUDGET)
        self.budget = self.memory.open(("192.0.2.1/32",), KEYPAIRS[1].peer_id)
        self.session = Session(
            initiator=initiator,
            max_inbound_streams=MAX_STREAMS,
            max_receive_window=4 * INITIAL_WINDOW,
            max_control_frames=64,
            max_control_frames_per_second=100.0,
            budget=self.budget,
        )
        if act & 4:
            self.session.send_data(self.session.open_stream(self.now), b"ours")
            self.session.ping(self.now)

    def feed(self, part: bytes) -> None:
        self.now += 0.001
        try:
            self.session.receive_data(part, self.now)
            self._hear()
            while self.session.unread:
                self.session.go_on(self.now)
                self._hear()
        finally:
            self._hear()
            sent = sum(map(len, self.session.data_to_send()))
            assert sent <= 4096 + 64 * len(part), "answers are bounded"

    def _hear(self) -> None:
        session = self.session
        for event in session.events_received():
            stream = getattr(event, "stream", None)
            entry = [type(event).__name__, None if stream is None else stream.id]
            if isinstance(event, DataReceived):
                assert event.data, "no data would be taken for an end"
                if self.heard and self.heard[-1][:2] == entry:
                    self.heard[-1][2] += event.data  # type: ignore[operator]
                else:
                    self.heard.append([*entry, event.data])
                self._take(event.stream, len(event.data))
            else:
                self.heard.append(list(entry))
                if isinstance(event, StreamOpened) and self.act & 2 and event.stream.local_open:
                    session.send_data(event.stream, b"answer")
                    session.send_fin(event.stream)
        assert len(session) - session.outbound_streams <= MAX_STREAMS, "streams are bounded"
        for stream in session.streams:
            held = self.held.get(stream, 0)
            # Less while a part of a body is still to come.
            assert 0 <= stream.receivable + stream.consumed + held <= stream.window_size, "windows add up"
            assert stream.window_size <= 4 * INITIAL_WINDOW
            assert 0 <= stream.send_window <= 0xFFFFFFFF

    def _take(self, stream: Stream, size: int) -> None:
        if self.act & 1 and stream.remote_open:
            self.session.credit(stream, size, self.now)
        elif self.act & 1:
            stream.consumed += size
        else:
            self.held[stream] = self.held.get(stream, 0) + size


@target("yamux", seeds=yamux_seeds, max_size=8192)
def fuzz_yamux(data: bytes) -> None:
    head = data[0] if data else 0

    def run(parts: Iterable[bytes]) -> Outcome:
        application = Application(bool(head & 1), head >> 1)
        error = outcome(application.feed, parts)
        assert error in (None, MuxerError)
        return error, application.heard

    whole, parts = pieces(data[1:])
    cut, at_once = run(parts), run([whole])
    if not head >> 1:  # else acts, or the time of frames, depend on it
        assert cut == at_once, "where a stream is cut says nothing"


# -- WebSocket ----------------------------------------------------------------------------------------


def frame_seeds() -> Iterator[bytes]:
    mask = b"\1\2\3\4"
    for masked, cut in itertools.product((0, 1), (0, 1, 5)):
        head = bytes((masked, cut))
        key = mask if masked else b""
        yield (
            head
            + encode_frame(BINARY, b"hello", key)
            + encode_frame(PING, b"ping", key)
            + encode_frame(CLOSE, b"", key)
        )
        yield head + encode_frame(BINARY, bytes(200), key) + encode_frame(CONTINUATION, b"x", key)
        yield head + encode_frame(BINARY, b"", key) * 3
        yield head + encode_frame(PING, bytes(126), key)
        yield head + b"\x82\xff" + b"\xff" * 8 + key
        yield head + b"\xc2\x85" + mask + b"\0" * 5
        yield head + b"\x02\x81" + mask + b"a" + b"\x80\x81" + mask + b"b"


def frames_of(parts: Iterable[bytes], *, masked: bool) -> Outcome:
    reader = FrameReader(masked=masked)
    heard: list[tuple[int, bytes]] = []

    def feed(part: bytes) -> None:
        left = memoryview(part)
        while left:
            frame, left = reader.read(left)
            if frame is None:
                continue
            assert frame.opcode < CLOSE or len(frame.data) <= 125, "a control frame is bounded"
            if frame.opcode < CLOSE and frame.data and heard and heard[-1][0] == frame.opcode and heard[-1][1]:
                heard[-1] = frame.opcode, heard[-1][1] + bytes(frame.data)  # where pieces end says nothing
            else:
                heard.append((frame.opcode, bytes(frame.data)))

    return outcome(feed, parts), heard


@target("websocket-frames", seeds=frame_seeds)
def fuzz_frames(data: bytes) -> None:
    masked = bool(data[:1] and data[0] & 1)
    whole, parts = pieces(data[1:])
    assert frames_of(parts, masked=masked) == frames_of([whole], masked=masked), "where a stream is cut says nothing"


TARGETS = (
    fuzz_varint,
    fuzz_listener,
    fuzz_dialer,
    fuzz_upgrade,
    fuzz_noise_payload,
    fuzz_channel,
    fuzz_large,
    fuzz_yamux,
    fuzz_frames,
)

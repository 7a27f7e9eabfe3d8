"""Remotes that break the rules, over TCP, against a whole peer: each ends with its own stream or connection, no other.

The remote shakes hands as it should and then speaks raw frames, or does not get as far as that.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from conftest import MakePeer
from support.remote import JSON, Remote, lines, listening
from support.waiting import next_event, until
from support.yamux import Frame, data, go_away, ping, update

from stronghold_p2p import (
    Config,
    ConnectionClosed,
    ConnectionLost,
    DecodeError,
    DialError,
    Direction,
    FirewallRules,
    HandshakeError,
    InboundConnectionFailed,
    Keypair,
    MuxerError,
    NegotiationError,
    NoResponse,
    PeerIdMismatch,
    ProtocolNotSupported,
    RemoteProtocolError,
    Request,
    RequestFailed,
    RequestTimeout,
    StreamReset,
    StrongholdP2p,
)
from stronghold_p2p.encoding import varint
from stronghold_p2p.encoding.messages import NoiseHandshakePayload
from stronghold_p2p.protocols import identify
from stronghold_p2p.transport.state import RemoteIdentify
from stronghold_p2p.transport.stream import Stream
from stronghold_p2p.transport.substream import Substream
from stronghold_p2p.wire import multistream
from stronghold_p2p.wire.yamux import Flag

KIB = 1024
MIB = KIB * KIB
SYN, ACK, FIN, RST = Flag.SYN, Flag.ACK, Flag.FIN, Flag.RST


@pytest.fixture
async def bob(make_peer: MakePeer) -> StrongholdP2p[Any, Any]:
    """Listens, and answers everybody with what they said."""
    peer = await make_peer(firewall=FirewallRules.allow_all())
    peer.on_request(lambda request: request.body)
    await peer.listen()
    return peer


@pytest.fixture
async def alice(make_peer: MakePeer) -> StrongholdP2p[Any, Any]:
    """Asks."""
    return await make_peer()


def address_of(peer: StrongholdP2p[Any, Any]) -> Any:
    return peer.listeners[0].addresses[0]


async def still_serves(bob: StrongholdP2p[Any, Any], remote: Remote | None = None) -> None:
    """Nothing else was disturbed: ``remote``'s connection, or, without one, that of somebody new."""
    other = remote or await Remote.dial(address_of(bob))
    assert await other.request(1001, b'"hello"') == b'\x07"hello"'
    if remote is None:
        await other.close()


# -- before and in the handshake -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "error", "answer"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", NegotiationError, b""),
        (b"\x13/multistream/1.0.0X", NegotiationError, b""),
        (b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", NegotiationError, b""),
        (multistream.HEADER + b"\x81\x08" + b"/" * 1025, NegotiationError, multistream.HEADER),
        (
            multistream.HEADER + multistream.encode_line("/tls/1.0.0") * 17,
            NegotiationError,
            multistream.HEADER + b"\x03na\n" * 16,
        ),
        (lines("/noise") + b"\0\0", HandshakeError, lines("/noise")),
        (lines("/noise") + b"\0\x1f" + bytes(31), HandshakeError, lines("/noise")),
        (lines("/noise") + b"\0\x20" + bytes(32), HandshakeError, lines("/noise")),
        (lines("/noise") + b"\xff\xff", HandshakeError, lines("/noise")),
    ],
    ids=["http", "newline", "varint", "line", "proposals", "empty", "short", "low-order", "long"],
)
@pytest.mark.parametrize("cut", [None, 1])
async def test_bytes_that_are_no_handshake(
    bob: StrongholdP2p[Any, Any], said: bytes, error: type[Exception], answer: bytes, cut: int | None
) -> None:
    events = bob.events()
    remote = await Remote.connect(address_of(bob))
    for start in range(0, len(said), cut or len(said)):
        remote.send_raw(said[start : start + (cut or len(said))])
    assert (await remote.raw_rest()).startswith(answer[:22])
    await remote.close()
    failed = await next_event(events, InboundConnectionFailed)
    assert isinstance(failed.error, error)
    assert failed.address.without_peer() == failed.address
    await still_serves(bob)


@pytest.mark.parametrize("damage", ["tampered", "empty", "foreign", "truncated"])
async def test_a_signature_that_proves_nothing(bob: StrongholdP2p[Any, Any], damage: str) -> None:
    events = bob.events()
    remote = await Remote.connect(address_of(bob))
    identity = remote.noise_identity()
    payload = NoiseHandshakePayload.FromString(identity.payload)
    signature = payload.identity_sig
    signed = b"noise-libp2p-static-key:" + identity.static.public
    payload.identity_sig = {
        "tampered": bytes((signature[0] ^ 1,)) + signature[1:],
        "empty": b"",
        "foreign": Keypair.generate().sign(signed),
        "truncated": signature[:-1],
    }[damage]
    identity.payload = payload.SerializeToString()
    await remote.upgrade(initiator=True, identity=identity)
    assert await remote.rest() == []
    await remote.close()
    assert isinstance((await next_event(events, InboundConnectionFailed)).error, HandshakeError)
    await still_serves(bob)


async def test_a_remote_with_our_own_identity(make_peer: MakePeer) -> None:
    keypair = Keypair.generate()
    bob = await make_peer(keypair=keypair)
    address, events = await bob.listen(), bob.events()
    remote = await Remote.connect(address, keypair)
    with pytest.raises(HandshakeError, match="our own identity"):
        await remote.upgrade(initiator=True)
    await remote.close()
    assert isinstance((await next_event(events, InboundConnectionFailed)).error, HandshakeError)


async def test_a_handshake_that_stalls(make_peer: MakePeer) -> None:
    bob = await make_peer(config=Config(connection_timeout=0.02))
    await bob.listen()
    events = bob.events()
    remote = await Remote.connect(address_of(bob))
    remote.send_raw(lines("/noise"))
    await remote.raw_rest()
    await remote.close()
    assert "stalled" in str((await next_event(events, InboundConnectionFailed)).error)


async def test_a_remote_that_goes_away_in_the_handshake(bob: StrongholdP2p[Any, Any]) -> None:
    events = bob.events()
    remote = await Remote.connect(address_of(bob))
    await remote.close()
    assert isinstance((await next_event(events, InboundConnectionFailed)).error, HandshakeError)


# -- frames --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        b"\x01" + bytes(11),
        Frame(4, 0, 0, 0),
        data(2, b"x", SYN),
        data(0, b"x", SYN),
        data(1, b"again", SYN),
        data(1, b"", length=0xFFFFFFFF),
        data(1, b"", length=256 * KIB + 1),
        data(99, b"", length=0xFFFFFFFF),
        update(1, 0xFFFFFFFF),
        data(3, b"", SYN, length=256 * KIB + 1),
    ],
    ids=["version", "type", "parity", "zero", "open", "length", "window", "unknown", "overflow", "first"],
)
@pytest.mark.parametrize("whole", [True, False])
async def test_frames_that_break_the_protocol_end_the_connection(
    bob: StrongholdP2p[Any, Any], frame: Frame | bytes, whole: bool
) -> None:
    events = bob.events()
    remote = await Remote.dial(address_of(bob))
    remote.send(data(1, lines(JSON), SYN))
    if whole:
        remote.send(frame)
    else:
        for byte in bytes(frame):
            remote.send(bytes((byte,)))
    rest = await remote.rest()
    assert rest[-1] == go_away(1)
    await remote.close()
    closed = await next_event(events, ConnectionClosed)
    assert isinstance(closed.error, MuxerError)
    assert closed.connection.peer == remote.keypair.peer_id
    await still_serves(bob)


@pytest.mark.parametrize("damage", ["altered", "replayed", "empty", "short"])
async def test_messages_that_were_not_sent_like_this(bob: StrongholdP2p[Any, Any], damage: str) -> None:
    events = bob.events()
    remote = await Remote.dial(address_of(bob))
    await still_serves(bob, remote)
    message = bytearray(remote.encrypt(ping(7)))
    match damage:
        case "altered":
            message[-1] ^= 1
        case "replayed":
            message = message * 2
        case "empty":
            message = bytearray(2)
        case "short":
            message = bytearray(b"\0\x0f" + bytes(15))
    remote.send_raw(message)
    await remote.rest()
    await remote.close()
    assert isinstance((await next_event(events, ConnectionClosed)).error, HandshakeError)
    await still_serves(bob)


async def test_what_is_merely_late_disturbs_nothing(bob: StrongholdP2p[Any, Any]) -> None:
    remote = await Remote.dial(address_of(bob))
    assert await remote.request(1, b"1") == b"\x011"
    remote.send(data(1, b"after the end"), data(1, flags=FIN), data(1, flags=RST), update(1, 5), update(77, 5))
    remote.send(update(1, 9, RST), ping(5, ACK), data(8, flags=RST), update(8, 7, ACK))
    await still_serves(bob, remote)
    await remote.close()


async def test_pings_are_answered_once_each(bob: StrongholdP2p[Any, Any]) -> None:
    remote = await Remote.dial(address_of(bob))
    remote.send(ping(7), ping(8))
    assert [await remote.frame(), await remote.frame()] == [ping(7, ACK), ping(8, ACK)]
    await remote.close()


async def test_a_remote_that_says_go_away(bob: StrongholdP2p[Any, Any]) -> None:
    events = bob.events()
    remote = await Remote.dial(address_of(bob))
    remote.send(go_away(0))
    await remote.rest()
    assert (await next_event(events, ConnectionClosed)).error is None
    await remote.close()


@pytest.mark.parametrize("flags", [RST, FIN])
@pytest.mark.parametrize("protocol", [JSON, identify.PROTOCOL, "/unknown/1.0.0"])
async def test_a_stream_that_ends_in_the_flight_that_opened_it(
    bob: StrongholdP2p[Any, Any], flags: Flag, protocol: str
) -> None:
    remote = await Remote.dial(address_of(bob))
    remote.send(data(1, lines(protocol) + b"\x011", SYN), data(1, flags=flags))
    await still_serves(bob, remote)
    await remote.close()


async def test_a_rejected_stream_that_ends_in_the_flight_that_opened_it(make_peer: MakePeer) -> None:
    bob = await make_peer()
    bob.on_request(lambda request: request.body)
    await bob.listen()
    remote = await Remote.dial(address_of(bob))
    remote.send(data(1, lines(JSON) + b"\x011", SYN), data(1, flags=RST), ping(1))
    frames = []
    while (frame := await remote.frame()) != ping(1, ACK):
        frames.append(frame)
    assert frames == []
    await remote.close()


# -- requests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        b"\x05{not}",
        b"\x00",
        b"\x02\xff\xff",
        varint.encode(100_000) + b"[" * 100_000,
        varint.encode(MIB + 1),
        b"\xff" * 9,
        b"\x80\x00",
    ],
    ids=["json", "empty", "utf-8", "deep", "large", "varint", "not-minimal"],
)
async def test_requests_that_are_none(bob: StrongholdP2p[Any, Any], message: bytes) -> None:
    events = bob.events()
    remote = await Remote.dial(address_of(bob))
    remote.send(data(1, lines(JSON) + message, SYN))
    frames = await remote.frames_of(1)
    assert frames[-1].flags & RST
    failed = await next_event(events, RequestFailed)
    assert isinstance(failed.error, DecodeError)
    assert failed.peer == remote.keypair.peer_id
    await still_serves(bob, remote)
    await remote.close()


async def test_a_request_of_another_type_than_the_declared_one(make_peer: MakePeer) -> None:
    bob = await make_peer(firewall=FirewallRules.allow_all(), request_type=int)
    bob.on_request(lambda request: request.body)
    await bob.listen()
    events = bob.events()
    remote = await Remote.dial(address_of(bob))
    assert await remote.request(1, b'"one"') == b""
    assert isinstance((await next_event(events, RequestFailed)).error, DecodeError)
    assert await remote.request(3, b"3") == b"\x013"
    await remote.close()


async def test_a_request_that_is_cut_off(bob: StrongholdP2p[Any, Any]) -> None:
    events = bob.events()
    remote = await Remote.dial(address_of(bob))
    remote.send(data(1, lines(JSON) + b"\x05123", SYN), data(1, flags=FIN))
    assert (await remote.frames_of(1))[-1].flags & RST
    assert isinstance((await next_event(events, RequestFailed)).error, DecodeError)
    await still_serves(bob, remote)
    await remote.close()


async def test_a_request_that_comes_too_slowly(make_peer: MakePeer) -> None:
    bob = await make_peer(firewall=FirewallRules.allow_all(), config=Config(request_timeout=0.02))
    bob.on_request(lambda request: request.body)
    await bob.listen()
    events = bob.events()
    remote = await Remote.dial(address_of(bob))
    remote.send(data(1, lines(JSON) + b"\x05123", SYN))
    assert (await remote.frames_of(1))[-1].flags & RST
    assert isinstance((await next_event(events, RequestFailed)).error, RequestTimeout)
    await still_serves(bob, remote)
    await remote.close()


@pytest.mark.parametrize("whole", [True, False])
async def test_a_request_in_any_pieces(bob: StrongholdP2p[Any, Any], whole: bool) -> None:
    flight = lines(JSON) + b'\x07"piece"' + b"what follows is ignored"
    remote = await Remote.dial(address_of(bob))
    if whole:
        remote.send(data(1, flight, SYN))
    else:
        remote.send(data(1, b"", SYN), *(data(1, bytes((byte,))) for byte in flight))
    frames = await remote.frames_of(1)
    assert b"".join(frame.body for frame in frames) == lines(JSON) + b'\x07"piece"'
    assert frames[-1] == data(1, flags=FIN)  # alone
    assert [frame.flags & ACK for frame in frames] == [ACK] + [0] * (len(frames) - 1)  # once
    await remote.close()


@pytest.mark.parametrize("later", [False, True], ids=["plain", "async"])
async def test_lines_and_response_come_in_one_frame(make_peer: MakePeer, later: bool) -> None:
    async def answer_later(request: Request[Any]) -> Any:
        return request.body

    bob = await make_peer(firewall=FirewallRules.allow_all())
    bob.on_request(answer_later if later else lambda request: request.body)
    await bob.listen()
    remote = await Remote.dial(address_of(bob))
    remote.send(data(1, lines(JSON) + b"\x011", SYN))
    assert await remote.frames_of(1) == [data(1, lines(JSON) + b"\x011", ACK), data(1, flags=FIN)]
    await remote.close()


async def test_streams_over_the_limit_are_reset(make_peer: MakePeer) -> None:
    bob = await make_peer(
        firewall=FirewallRules.allow_all(), config=Config(max_inbound_streams_per_connection=3, request_timeout=0.5)
    )
    bob.on_request(lambda request: request.body)
    await bob.listen()
    remote = await Remote.dial(address_of(bob))
    remote.send(*(update(stream_id, flags=SYN) for stream_id in (1, 3, 5, 7, 9)))
    assert [await remote.frame(), await remote.frame()] == [data(7, flags=RST), data(9, flags=RST)]
    remote.send(*(data(stream_id, flags=RST) for stream_id in (1, 3, 5)))
    await still_serves(bob, remote)
    await remote.close()


async def test_a_handler_whose_stream_was_reset_still_counts(make_peer: MakePeer) -> None:
    held = asyncio.Event()
    begun: list[Stream] = []

    async def hold(stream: Stream) -> None:
        begun.append(stream)
        await held.wait()

    bob = await make_peer(firewall=FirewallRules.allow_all(), config=Config(max_inbound_streams_per_connection=3))
    bob.handle_stream("/held/1.0.0", hold)
    await bob.listen()
    remote = await Remote.dial(address_of(bob))
    remote.send(*(data(stream_id, lines("/held/1.0.0"), SYN) for stream_id in (1, 3, 5)))
    await until(lambda: len(begun) == 3)
    remote.send(*(data(stream_id, flags=RST) for stream_id in (1, 3, 5)))
    remote.send(data(7, lines("/held/1.0.0"), SYN))
    assert (await remote.frames_of(7))[-1] == data(7, flags=RST)
    assert len(begun) == 3
    held.set()
    await remote.close()


async def test_a_flood_of_streams_that_are_reset_leaves_nothing(make_peer: MakePeer) -> None:
    """Neither a stream nor what would wait for it to be too slow."""
    bob = await make_peer(config=Config(max_control_frames=100_000))
    await bob.listen()
    remote = await Remote.dial(address_of(bob))
    for stream_id in range(1, 1000, 2):
        remote.send(update(stream_id, flags=SYN), data(stream_id, flags=RST))
        remote.send(data(stream_id + 1000, b"\x03?!\n", SYN))
    remote.send(ping(1))
    while (frame := await remote.frame()) != ping(1, ACK):
        assert frame is not None
    gc.collect()
    streams = [kept for kept in gc.get_objects() if isinstance(kept, Substream)]
    assert not [stream for stream in streams if stream.direction is Direction.INBOUND]  # outbound is identify's
    await remote.close()


# -- the errors of a requester --------------------------------------------------------------------------


LINES = lines(JSON)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((data(1, multistream.HEADER + b"\x03na\n", ACK), data(1, flags=RST)), ProtocolNotSupported),
        ((data(1, multistream.HEADER + b"\x03na\n", ACK),), ProtocolNotSupported),
        ((data(1, flags=FIN),), ProtocolNotSupported),
        ((data(1, flags=RST),), ProtocolNotSupported),
        ((data(1, multistream.HEADER, ACK), data(1, flags=RST)), ProtocolNotSupported),
        ((data(1, LINES, ACK), data(1, flags=FIN)), NoResponse),
        ((data(1, LINES, ACK), data(1, flags=RST)), StreamReset),
        ((data(1, LINES, ACK), update(1, 42, RST)), StreamReset),
        ((data(1, LINES + b"\x05123", ACK), data(1, flags=RST)), StreamReset),
        ((data(1, LINES + b"\x05123", ACK), data(1, flags=FIN)), RemoteProtocolError),
        ((data(1, LINES + b"\x80", ACK), data(1, flags=FIN)), RemoteProtocolError),
        ((data(1, LINES + b"\x03123", ACK), data(1, flags=FIN)), None),
        ((data(1, LINES + b"\x05{not}", ACK),), RemoteProtocolError),
        ((data(1, LINES + b"\x00", ACK),), RemoteProtocolError),
        ((data(1, LINES + varint.encode(MIB + 1), ACK),), RemoteProtocolError),
        ((data(1, LINES + b"\xff" * 9, ACK),), RemoteProtocolError),
        ((data(1, b"\x13/multistream/1.0.0X", ACK),), RemoteProtocolError),
        ((b"\x01" + bytes(11),), ConnectionLost),
        ((go_away(0),), ConnectionLost),
        ((go_away(0x1007),), ProtocolNotSupported),
        ((go_away(0x1001),), ProtocolNotSupported),
        ((go_away(0x1006),), ConnectionLost),
        ((data(1, LINES, ACK), go_away(0x1007)), ConnectionLost),
    ],
    ids=[
        *("na-reset", "na", "fin", "rst", "header-rst", "no-response", "reset", "reset-code", "reset-within"),
        *("cut-off", "cut-off-length", "answer", "no-json", "empty", "large", "varint", "line", "frame", "go-away"),
        *("gated", "limited", "shutdown", "gated-later"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
async def test_outcomes(
    alice: StrongholdP2p[Any, Any], answer: tuple[Frame | bytes, ...], error: type[Exception] | None, whole: bool
) -> None:
    async with listening() as listener:
        requesting = asyncio.create_task(alice.send_request(listener.address, {"a": 1}))
        remote = await listener.accept_upgraded()
        request = await remote.frame()
        # The identify stream has the first id; the test's answers are written for the stream's own.
        assert request is not None
        assert request.body == lines(JSON) + b'\x07{"a":1}'
        assert request.flags == SYN
        renumbered = b"".join(
            bytes(
                frame._replace(stream_id=request.stream_id) if isinstance(frame, Frame) and frame.stream_id else frame
            )
            for frame in answer
        )
        if whole:
            remote.send(renumbered)
        else:
            for byte in renumbered:
                remote.send(bytes((byte,)))
        if error is None:
            assert await requesting == 123
        else:
            with pytest.raises(error):
                await requesting
        await remote.close()


async def test_the_code_of_a_reset(alice: StrongholdP2p[Any, Any]) -> None:
    async with listening() as listener:
        requesting = asyncio.create_task(alice.send_request(listener.address, 1))
        remote = await listener.accept_upgraded()
        request = await remote.frame()
        assert request is not None
        remote.send(data(request.stream_id, LINES, ACK), update(request.stream_id, 42, RST))
        with pytest.raises(StreamReset) as caught:
            await requesting
        assert caught.value.code == 42
        await remote.close()


async def test_a_connection_that_dies_after_the_request_left(alice: StrongholdP2p[Any, Any]) -> None:
    async with listening() as listener:
        requesting = asyncio.create_task(alice.send_request(listener.address, 1))
        remote = await listener.accept_upgraded()
        assert await remote.frame() is not None
        remote.abort()
        with pytest.raises(ConnectionLost):
            await requesting
        assert not listener.waiting  # it was not sent a second time


async def test_the_fin_of_a_request_waits_for_the_answer(alice: StrongholdP2p[Any, Any]) -> None:
    async with listening() as listener:
        requesting = asyncio.create_task(alice.send_request(listener.address, 1))
        remote = await listener.accept_upgraded()
        request = await remote.frame()
        assert request is not None
        remote.send(ping(1))
        assert await remote.frame() == ping(1, ACK)  # no FIN so far
        remote.send(data(request.stream_id, LINES + b"\x01", ACK))
        remote.send(data(request.stream_id, b"2"))
        assert await requesting == 2
        assert await remote.frame() == data(request.stream_id, flags=FIN)
        remote.send(data(request.stream_id, flags=FIN))
        await remote.close()


async def test_a_large_request_waits_for_the_echo_of_an_unknown_protocol(alice: StrongholdP2p[Any, Any]) -> None:
    body = "x" * 20_000
    async with listening() as listener:
        requesting = asyncio.create_task(alice.send_request(listener.address, body))
        remote = await listener.accept_upgraded()
        request = await remote.frame()
        assert request is not None
        assert request.body == LINES
        remote.send(ping(1))
        assert await remote.frame() == ping(1, ACK)  # nothing more so far
        remote.send(data(request.stream_id, LINES, ACK))
        assert await remote.frame() == data(request.stream_id, varint.encode(20_002))
        assert await remote.frame() == data(request.stream_id, f'"{body}"'.encode())
        remote.send(data(request.stream_id, b"\x012"), data(request.stream_id, flags=FIN))
        assert await requesting == 2
        # Now the protocol is known: one flight.
        requesting = asyncio.create_task(alice.send_request(listener.address, body))
        frame = await remote.frame()
        while frame is not None and not frame.flags & SYN:
            frame = await remote.frame()
        assert frame is not None
        assert frame.body == LINES + varint.encode(20_002)
        assert await remote.frame() == data(frame.stream_id, f'"{body}"'.encode())
        remote.send(data(frame.stream_id, LINES + b"\x013", ACK), data(frame.stream_id, flags=FIN))
        assert await requesting == 3
        await remote.close()


async def test_bytes_that_are_no_text_wait_for_the_echo(make_peer: MakePeer) -> None:
    alice = await make_peer(codec="raw")
    protocol = "/stronghold-p2p/raw/1.0.0"
    async with listening() as listener:
        requesting = asyncio.create_task(alice.send_request(listener.address, b"\xff"))
        remote = await listener.accept_upgraded()
        request = await remote.frame()
        assert request is not None
        assert request.body == lines(protocol)
        remote.send(data(request.stream_id, lines(protocol), ACK))
        assert await remote.frame() == data(request.stream_id, b"\x01\xff")
        remote.send(data(request.stream_id, b"\x01\xfe"), data(request.stream_id, flags=FIN))
        assert await requesting == b"\xfe"
        await remote.close()


async def test_a_request_beyond_the_window_is_answered_before_it_was_sent_whole(
    alice: StrongholdP2p[Any, Any],
) -> None:
    async with listening() as listener:
        requesting = asyncio.create_task(alice.send_request(listener.address, "x" * 300_000))
        remote = await listener.accept_upgraded([JSON])
        received = 0
        stream_id = None
        while received < 256 * KIB:
            frame = await remote.frame()
            assert frame is not None
            if frame.body:
                stream_id = frame.stream_id
                received += len(frame.body)
                if received == len(LINES):
                    remote.send(data(stream_id, LINES, ACK))
        assert received == 256 * KIB  # the lines included
        assert stream_id is not None
        remote.send(data(stream_id, flags=FIN))
        with pytest.raises(NoResponse):
            await requesting
        assert await remote.frame() == data(stream_id, flags=RST)
        await remote.close()


async def test_a_response_gets_its_window_as_soon_as_its_length_is_known(alice: StrongholdP2p[Any, Any]) -> None:
    async with listening() as listener:
        requesting = asyncio.create_task(alice.send_request(listener.address, 1))
        remote = await listener.accept_upgraded()
        request = await remote.frame()
        assert request is not None
        body = b'"' + b"x" * 600_000 + b'"'
        remote.send(data(request.stream_id, LINES + varint.encode(len(body)), ACK))
        assert await remote.frame() == update(request.stream_id, len(body) - 256 * KIB + len(LINES) + 3)
        for start in range(0, len(body), 64 * KIB):
            remote.send(data(request.stream_id, body[start : start + 64 * KIB]))
        assert await requesting == "x" * 600_000
        await remote.close()


@pytest.mark.parametrize(
    ("identify", "flag"), [(RemoteIdentify.UNKNOWN, RST), (RemoteIdentify.SERVED, RST), (RemoteIdentify.MISSING, FIN)]
)
async def test_a_cancelled_request_is_reset_but_where_a_reset_ends_the_connection(
    alice: StrongholdP2p[Any, Any], identify: RemoteIdentify, flag: int
) -> None:
    """The Rust crate closes its connection on one, and is known by having no identify."""
    async with listening() as listener:
        requesting = asyncio.create_task(alice.send_request(listener.address, 1))
        remote = await listener.accept_upgraded([JSON] if identify is RemoteIdentify.SERVED else None)
        request = await remote.frame()
        assert request is not None
        assert alice._parts.swarm is not None
        (connection,) = alice._parts.swarm.connections
        following = asyncio.create_task(remote.frame())  # also answers identify, or resets it
        if identify is RemoteIdentify.UNKNOWN:
            assert connection.remote_identify is identify  # it is asked 10 ms after the connection was made
        await until(lambda: connection.remote_identify is identify)
        requesting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await requesting
        assert await following == data(request.stream_id, flags=flag)
        # What it answers all the same is dropped, and the connection serves the next request.
        remote.send(data(request.stream_id, LINES + b"\x011", ACK), data(request.stream_id, flags=FIN))
        requesting = asyncio.create_task(alice.send_request(listener.address, 2))
        request = await remote.frame()
        assert request is not None
        remote.send(data(request.stream_id, LINES + b"\x012", ACK))
        assert await requesting == 2
        assert alice._parts.swarm.connections == (connection,)
        await remote.close()


# -- dialing -------------------------------------------------------------------------------------------


async def test_another_identity_than_the_one_dialed(alice: StrongholdP2p[Any, Any]) -> None:
    expected = Keypair.generate().peer_id
    async with listening() as listener:
        connecting = asyncio.create_task(alice.connect(listener.address.without_peer().with_peer(expected)))
        remote = await listener.accept()
        upgrading = asyncio.create_task(remote.upgrade(initiator=False))
        with pytest.raises(DialError) as caught:
            await connecting
        ((address, error, *_),) = caught.value.attempts
        assert address == listener.address.without_peer()
        assert isinstance(error, PeerIdMismatch)
        assert (error.expected, error.actual) == (expected, listener.keypair.peer_id)
        with pytest.raises(AssertionError):
            await upgrading
        await remote.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", NegotiationError),
        (multistream.HEADER + b"\x03na\n", ProtocolNotSupported),
        (lines("/noise") + b"\0\x20" + bytes(32), HandshakeError),
        (lines("/noise") + b"\0\x60" + bytes([9] * 96), HandshakeError),
        (lines("/noise") + b"\xff\xff", HandshakeError),
        (b"", HandshakeError),
    ],
    ids=["http", "na", "short", "altered", "long", "nothing"],
)
async def test_listeners_that_do_not_shake_hands(
    alice: StrongholdP2p[Any, Any], answer: bytes, error: type[Exception]
) -> None:
    async with listening() as listener:
        connecting = asyncio.create_task(alice.connect(listener.address))
        remote = await listener.accept()
        remote.send_raw(answer)
        await remote.close()
        with pytest.raises(DialError) as caught:
            await connecting
        ((_, reason, *_),) = caught.value.attempts
        assert isinstance(reason, error)


async def test_a_listener_that_stalls(make_peer: MakePeer) -> None:
    alice = await make_peer(config=Config(connection_timeout=0.05))
    async with listening() as listener:
        with pytest.raises(DialError) as caught:
            await alice.connect(listener.address, timeout=5)
        ((_, reason, *_),) = caught.value.attempts
        assert isinstance(reason, TimeoutError)
        await (await listener.accept()).close()

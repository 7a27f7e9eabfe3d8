from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples

from stronghold_p2p.encoding.messages import NoiseHandshakePayload
from stronghold_p2p.errors import (
    DecodeError,
    HandshakeError,
    NegotiationError,
    PeerIdMismatch,
    ProtocolNotSupported,
    RemoteProtocolError,
)
from stronghold_p2p.identity import Keypair, PeerId
from stronghold_p2p.wire.multistream import HEADER, encode_line
from stronghold_p2p.wire.noise import NoiseIdentity, NoiseTransport
from stronghold_p2p.wire.noise_xx import HandshakeState, NoiseKey
from stronghold_p2p.wire.upgrade import MUXERS, Upgrade

ALICE = Keypair.generate()
BOB = Keypair.generate()

YAMUX, MPLEX = "/yamux/1.0.0", "/mplex/6.7.0"
NOISE_LINES = HEADER + encode_line("/noise")
YAMUX_LINES = HEADER + encode_line(YAMUX)
NA = encode_line("na")
FRAMES = b"the first frames"

WHOLE = 1 << 20


def private_key(fill: int) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes([fill]) * 32)


def dialer(keypair: Keypair = ALICE, expected_peer: PeerId | None = BOB.peer_id) -> Upgrade:
    identity = NoiseIdentity(keypair, private_key(2), MUXERS)
    return Upgrade(identity, initiator=True, ephemeral=NoiseKey(private_key(1)), expected_peer=expected_peer)


def listener(keypair: Keypair = BOB) -> Upgrade:
    return Upgrade(NoiseIdentity(keypair, private_key(4), MUXERS), initiator=False, ephemeral=NoiseKey(private_key(3)))


def is_done(machine: Upgrade) -> bool:
    """A type checker takes the attribute itself for unchanged after the first look."""
    return machine.done


def feed(machine: Upgrade, data: bytes | bytearray | memoryview, segment: int) -> None:
    for start in range(0, len(data), segment):
        machine.receive_data(data[start : start + segment])


def feed_cut(machine: Upgrade, data: bytes, cuts: list[int]) -> None:
    for start, end in pairwise([0, *sorted(cuts), len(data)]):
        machine.receive_data(data[start:end])


def converse(one: Upgrade, other: Upgrade, segment: int = WHOLE) -> tuple[list[bytes], list[bytes]]:
    """Lets them talk until both are silent, and returns the flights of each."""
    flights: tuple[list[bytes], list[bytes]] = [], []
    pairs = (one, other, flights[0]), (other, one, flights[1])
    while any(flying := [(receiver, log, data) for sender, receiver, log in pairs if (data := sender.data_to_send())]):
        for receiver, log, data in flying:
            log.append(data)
            feed(receiver, data, segment)
    return flights


class TestBothOurs:
    @pytest.mark.parametrize("segment", [1, 2, 7, WHOLE])
    def test_the_channel_connects_the_two_peers(self, segment: int) -> None:
        alice, bob = dialer(), listener()
        assert not is_done(alice)
        assert not is_done(bob)
        converse(alice, bob, segment)
        assert is_done(alice)
        assert is_done(bob)
        assert (alice.remote_peer, alice.remote_key) == (BOB.peer_id, BOB.public_key)
        assert (bob.remote_peer, bob.remote_key) == (ALICE.peer_id, ALICE.public_key)
        assert alice.early == bob.early == []
        assert bob.noise.decrypt(alice.noise.encrypt([b"ping"])) == [b"ping"]
        assert alice.noise.decrypt(bob.noise.encrypt([b"pong"])) == [b"pong"]
        alice.receive_eof()  # no longer its business

    def test_three_flights(self) -> None:
        """Noise is proposed and begun at once; what more there is to say travels in the handshake."""
        (first, third), (second,) = converse(dialer(), listener())
        public = private_key(1).public_key().public_bytes_raw()
        assert first == NOISE_LINES + b"\x00\x20" + public
        assert second.startswith(NOISE_LINES)
        assert int.from_bytes(third[:2]) == len(third) - 2

    def test_the_dialer_is_done_first_and_need_not_wait(self) -> None:
        alice, bob = dialer(), listener()
        bob.receive_data(alice.data_to_send())
        alice.receive_data(bob.data_to_send())
        assert is_done(alice)
        assert not is_done(bob)
        wire = alice.data_to_send() + alice.noise.encrypt([FRAMES]) + alice.noise.encrypt([b"cut off"])
        bob.receive_data(memoryview(bytearray(wire[:-3])))
        assert is_done(bob)
        assert bob.early == [FRAMES]
        assert bob.noise.decrypt(wire[-3:]) == [b"cut off"]

    def test_without_an_expected_peer(self) -> None:
        alice, bob = dialer(expected_peer=None), listener()
        converse(alice, bob)
        assert is_done(alice)
        assert alice.remote_peer == BOB.peer_id


def payload(keypair: Keypair, static: X25519PrivateKey, muxers: tuple[str, ...]) -> bytes:
    said = NoiseHandshakePayload(
        identity_key=keypair.public_key.to_protobuf(),
        identity_sig=keypair.sign(b"noise-libp2p-static-key:" + static.public_key().public_bytes_raw()),
    )
    if muxers:
        said.extensions.stream_muxers.extend(muxers)
    return said.SerializeToString()


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2) + message


class OtherDialer:
    """A dialer of another implementation, one flight after the other. It believes whatever it is told."""

    def __init__(self, *muxers: str) -> None:
        self.payload = payload(ALICE, private_key(2), muxers)
        self.handshake = HandshakeState(
            initiator=True, ephemeral=NoiseKey(private_key(1)), static=NoiseKey(private_key(2))
        )
        self.noise: NoiseTransport

    def first_flight(self) -> bytes:
        return NOISE_LINES + framed(self.handshake.write_message(b""))

    def third_flight(self, second: bytes) -> bytes:
        assert second.startswith(NOISE_LINES)
        self.handshake.read_message(second[len(NOISE_LINES) + 2 :])
        third = framed(self.handshake.write_message(self.payload))
        self.noise = NoiseTransport(*self.handshake.split())
        return third


class OtherListener:
    """The same for a listener."""

    def __init__(self, *muxers: str) -> None:
        self.payload = payload(BOB, private_key(4), muxers)
        self.handshake = HandshakeState(
            initiator=False, ephemeral=NoiseKey(private_key(3)), static=NoiseKey(private_key(4))
        )

    def second_flight(self, first: bytes) -> bytes:
        assert first.startswith(NOISE_LINES)
        self.handshake.read_message(first[len(NOISE_LINES) + 2 :])
        return NOISE_LINES + framed(self.handshake.write_message(self.payload))

    def open_channel(self, third: bytes) -> tuple[NoiseTransport, list[bytes]]:
        """The channel, and what came in it together with message 3."""
        end = 2 + int.from_bytes(third[:2])
        self.handshake.read_message(third[2:end])
        theirs, ours = self.handshake.split()
        noise = NoiseTransport(ours, theirs)
        return noise, noise.decrypt(third[end:])


segments = pytest.mark.parametrize("segment", [1, WHOLE])


class TestOtherDialers:
    @segments
    def test_early_muxer(self, segment: int) -> None:
        bob, other = listener(), OtherDialer(MPLEX, YAMUX)
        feed(bob, other.first_flight(), segment)
        feed(bob, other.third_flight(bob.data_to_send()) + other.noise.encrypt([FRAMES]), WHOLE)
        assert is_done(bob)
        assert bob.early == [FRAMES]
        assert bob.data_to_send() == b""

    @segments
    def test_without_a_list_the_muxer_is_negotiated_in_the_channel(self, segment: int) -> None:
        bob, other = listener(), OtherDialer()
        feed(bob, other.first_flight(), segment)
        feed(bob, other.third_flight(bob.data_to_send()), segment)
        assert not is_done(bob)
        feed(bob, other.noise.encrypt([HEADER]), segment)
        assert other.noise.decrypt(bob.data_to_send()) == [HEADER]
        feed(bob, other.noise.encrypt([encode_line(MPLEX)]), segment)
        assert other.noise.decrypt(bob.data_to_send()) == [NA]
        feed(bob, other.noise.encrypt([encode_line(YAMUX)]), segment)
        assert other.noise.decrypt(bob.data_to_send()) == [encode_line(YAMUX)]
        assert is_done(bob)
        assert bob.early == []

    def test_a_lazy_dialer_sends_lines_and_frames_in_one_segment(self) -> None:
        bob, other = listener(), OtherDialer()
        bob.receive_data(other.first_flight())
        third = other.third_flight(bob.data_to_send())
        frames = bytes(other.noise.encrypt([YAMUX_LINES, FRAMES])) + other.noise.encrypt([b"more"])
        bob.receive_data(third + frames)
        assert is_done(bob)
        assert bob.early == [FRAMES, b"more"]
        assert other.noise.decrypt(bob.data_to_send()) == [YAMUX_LINES]

    def test_lines_cut_into_messages(self) -> None:
        bob, other = listener(), OtherDialer()
        bob.receive_data(other.first_flight())
        third = other.third_flight(bob.data_to_send())
        bob.receive_data(third)
        lines_and_frames = YAMUX_LINES + FRAMES
        wire = b"".join(other.noise.encrypt([bytes([byte])]) for byte in lines_and_frames)
        bob.receive_data(wire)
        assert is_done(bob)
        assert b"".join(bob.early) == FRAMES

    @segments
    def test_no_muxer_in_common(self, segment: int) -> None:
        bob, other = listener(), OtherDialer(MPLEX)
        feed(bob, other.first_flight(), segment)
        third = other.third_flight(bob.data_to_send())
        with pytest.raises(HandshakeError, match="muxer"):
            feed(bob, third, segment)
        assert not is_done(bob)

    def test_a_muxer_that_is_never_ours(self) -> None:
        bob, other = listener(), OtherDialer()
        bob.receive_data(other.first_flight())
        bob.receive_data(other.third_flight(bob.data_to_send()))
        with pytest.raises(NegotiationError, match="too many"):
            bob.receive_data(other.noise.encrypt([HEADER, encode_line(MPLEX) * 1000]))
        assert other.noise.decrypt(bob.data_to_send()) == [HEADER + NA * 16]

    @segments
    def test_other_security_protocols_are_refused_first(self, segment: int) -> None:
        bob, other = listener(), OtherDialer(YAMUX)
        feed(bob, HEADER + encode_line("/tls/1.0.0"), segment)
        assert bob.data_to_send() == HEADER + NA
        feed(bob, other.first_flight()[len(HEADER) :], segment)
        second = bob.data_to_send()
        assert second.startswith(encode_line("/noise"))
        feed(bob, other.third_flight(HEADER + second), segment)
        assert is_done(bob)

    @segments
    def test_endless_proposals(self, segment: int) -> None:
        bob = listener()
        with pytest.raises(NegotiationError, match="too many"):
            feed(bob, HEADER + encode_line("/tls/1.0.0") * 1000, segment)
        assert bob.data_to_send() == HEADER + NA * 16

    @segments
    def test_a_lazy_dialer_of_another_security_protocol_gets_its_na(self, segment: int) -> None:
        bob = listener()
        with pytest.raises(NegotiationError):
            feed(bob, HEADER + encode_line("/tls/1.0.0") + b"\x16\x03\x01\x02\x00\x01" + bytes(512), segment)
        assert bob.data_to_send() == HEADER + NA


class TestOtherListeners:
    @pytest.mark.parametrize("muxers", [(YAMUX,), (MPLEX, YAMUX)])
    def test_early_muxer(self, muxers: tuple[str, ...]) -> None:
        alice, other = dialer(), OtherListener(*muxers)
        alice.receive_data(other.second_flight(alice.data_to_send()))
        assert is_done(alice)
        noise, received = other.open_channel(alice.data_to_send())
        assert received == []
        assert alice.noise.decrypt(noise.encrypt([FRAMES])) == [FRAMES]

    @segments
    def test_without_a_list_the_muxer_is_proposed_with_the_third_message(self, segment: int) -> None:
        alice, other = dialer(), OtherListener()
        feed(alice, other.second_flight(alice.data_to_send()), segment)
        assert not is_done(alice)
        noise, received = other.open_channel(alice.data_to_send())
        assert received == [YAMUX_LINES]
        feed(alice, noise.encrypt([YAMUX_LINES, FRAMES]), segment)
        assert is_done(alice)
        assert alice.early == [FRAMES]
        assert alice.data_to_send() == b""

    @segments
    def test_no_muxer_in_common(self, segment: int) -> None:
        alice, other = dialer(), OtherListener(MPLEX)
        second = other.second_flight(alice.data_to_send())
        with pytest.raises(HandshakeError, match="muxer"):
            feed(alice, second, segment)
        assert alice.data_to_send() == b""

    def test_the_muxer_is_refused(self) -> None:
        alice, other = dialer(), OtherListener()
        alice.receive_data(other.second_flight(alice.data_to_send()))
        noise, _ = other.open_channel(alice.data_to_send())
        with pytest.raises(ProtocolNotSupported) as caught:
            alice.receive_data(noise.encrypt([HEADER, NA]))
        assert caught.value.protocol == YAMUX

    @segments
    @pytest.mark.parametrize("refusals", [1, 1000])
    def test_noise_is_refused(self, segment: int, refusals: int) -> None:
        alice = dialer()
        with pytest.raises(ProtocolNotSupported) as caught:
            feed(alice, HEADER + NA * refusals, segment)
        assert caught.value.protocol == "/noise"

    @segments
    def test_another_peer_than_the_one_dialed(self, segment: int) -> None:
        expected = Keypair.generate().peer_id
        alice, bob = dialer(expected_peer=expected), listener()
        alice_first = alice.data_to_send()
        bob.receive_data(alice_first)
        with pytest.raises(PeerIdMismatch) as caught:
            feed(alice, bob.data_to_send(), segment)
        assert (caught.value.expected, caught.value.actual) == (expected, BOB.peer_id)
        assert alice.data_to_send() == b""  # a stranger does not learn who we are

    @pytest.mark.parametrize("expected", [None, ALICE.peer_id], ids=["unknown", "dialed"])
    def test_ourselves(self, expected: PeerId | None) -> None:
        alice, mirror = dialer(expected_peer=expected), listener(keypair=ALICE)
        mirror.receive_data(alice.data_to_send())
        with pytest.raises(HandshakeError, match="our own"):
            alice.receive_data(mirror.data_to_send())

    def test_ourselves_as_the_dialer(self) -> None:
        bob, other = listener(keypair=ALICE), OtherDialer(YAMUX)
        bob.receive_data(other.first_flight())
        third = other.third_flight(bob.data_to_send())
        with pytest.raises(HandshakeError, match="our own"):
            bob.receive_data(third)


def transcripts() -> Iterator[tuple[str, bytes]]:
    """What either side receives in an upgrade, as a recording: its own part repeats itself, for the keys are fixed."""
    (first, third), (second,) = converse(dialer(), listener())
    yield "dialer", second
    yield "listener", first + third


TRANSCRIPTS = dict(transcripts())


def machine(side: str) -> Upgrade:
    return dialer() if side == "dialer" else listener()


def receive_all(upgrade: Upgrade, data: bytes | bytearray | memoryview) -> None:
    """And the end of the stream: where a length was made longer, the message lacks its end."""
    upgrade.receive_data(data)
    upgrade.receive_eof()


both_sides = pytest.mark.parametrize("side", ["dialer", "listener"])


class TestHostileInput:
    @both_sides
    def test_the_recording_is_what_the_other_tests_take_it_for(self, side: str) -> None:
        upgrade = machine(side)
        upgrade.receive_data(TRANSCRIPTS[side])
        assert is_done(upgrade)

    @both_sides
    def test_eof_anywhere(self, side: str) -> None:
        transcript = TRANSCRIPTS[side]
        for length in range(len(transcript)):
            upgrade = machine(side)
            upgrade.receive_data(transcript[:length])
            assert not is_done(upgrade)
            with pytest.raises(HandshakeError, match="ended"):
                upgrade.receive_eof()

    @both_sides
    def test_any_altered_byte(self, side: str) -> None:
        transcript = TRANSCRIPTS[side]
        for index in range(len(transcript)):
            altered = bytearray(transcript)
            altered[index] ^= 1
            upgrade = machine(side)
            with pytest.raises(RemoteProtocolError):
                receive_all(upgrade, altered)
            assert not is_done(upgrade)

    @both_sides
    def test_a_replayed_upgrade(self, side: str) -> None:
        identity = NoiseIdentity(ALICE if side == "dialer" else BOB, private_key(8), MUXERS)
        fresh = Upgrade(identity, initiator=side == "dialer", ephemeral=NoiseKey(private_key(9)))
        with pytest.raises(HandshakeError):
            fresh.receive_data(TRANSCRIPTS[side])

    def test_a_reflected_upgrade(self) -> None:
        alice = dialer()
        with pytest.raises(HandshakeError):
            alice.receive_data(alice.data_to_send())

    def test_a_repeated_message(self) -> None:
        """In the place of the first transport message."""
        alice, second = dialer(), TRANSCRIPTS["dialer"]
        with pytest.raises(HandshakeError):
            alice.receive_data(second + second[len(NOISE_LINES) :])

    @both_sides
    @pytest.mark.parametrize("length", [4097, 65535])
    def test_a_message_is_refused_by_its_length_before_it_is_there(self, side: str, length: int) -> None:
        upgrade = machine(side)
        with pytest.raises(HandshakeError, match="limit"):
            upgrade.receive_data(NOISE_LINES + length.to_bytes(2))

    @both_sides
    @pytest.mark.parametrize("length", [0, 1, 31, 95])
    def test_a_short_message(self, side: str, length: int) -> None:
        upgrade = machine(side)
        with pytest.raises(HandshakeError):
            upgrade.receive_data(NOISE_LINES + length.to_bytes(2) + bytes(length))

    @both_sides
    def test_a_public_key_of_low_order(self, side: str) -> None:
        upgrade = machine(side)
        with pytest.raises(HandshakeError, match="low order"):
            upgrade.receive_data(NOISE_LINES + framed(bytes(32 if side == "listener" else 200)))

    def test_a_malformed_identity(self) -> None:
        alice = dialer()
        forger = OtherListener(YAMUX)
        forger.payload = b"\x0a\x01\xff"
        with pytest.raises(DecodeError):
            alice.receive_data(forger.second_flight(alice.data_to_send()))

    @both_sides
    @pytest.mark.parametrize(
        "line",
        [
            pytest.param(b"\x07/noise ", id="no newline"),
            pytest.param(b"\x81\x08" + b"a" * 1024 + b"\n", id="too long"),
            pytest.param(b"\x07/nois\xff\n", id="not UTF-8"),
            pytest.param(b"\xff" * 10, id="endless length"),
        ],
    )
    @segments
    def test_malformed_lines(self, side: str, line: bytes, segment: int) -> None:
        upgrade = machine(side)
        with pytest.raises(NegotiationError):
            feed(upgrade, HEADER + line, segment)

    @both_sides
    def test_a_failed_upgrade_stays_failed(self, side: str) -> None:
        upgrade = machine(side)
        with pytest.raises(NegotiationError):
            upgrade.receive_data(b"GET / HTTP/1.1\r\n")
        upgrade.receive_data(TRANSCRIPTS[side])
        assert not is_done(upgrade)
        with pytest.raises(HandshakeError):
            upgrade.receive_eof()

    @both_sides
    @settings(max_examples=examples(60))
    @given(
        kept=st.integers(0, 400),
        garbage=st.binary(min_size=1, max_size=300),
        cuts=st.lists(st.integers(0, 600), max_size=6),
    )
    def test_any_bytes_have_one_error(self, side: str, kept: int, garbage: bytes, cuts: list[int]) -> None:
        """After a part of a genuine upgrade, so that every phase is reached; in any pieces."""
        genuine = TRANSCRIPTS[side]
        data = genuine[:kept] + garbage
        upgrade = machine(side)
        try:
            feed_cut(upgrade, data, cuts)
        except (RemoteProtocolError, ProtocolNotSupported):
            assert not is_done(upgrade)
        else:
            assert is_done(upgrade) is data.startswith(genuine)

    @both_sides
    @settings(max_examples=examples(30))
    @given(cuts=st.lists(st.integers(0, 600), max_size=10))
    def test_a_genuine_upgrade_in_any_pieces(self, side: str, cuts: list[int]) -> None:
        upgrade = machine(side)
        feed_cut(upgrade, TRANSCRIPTS[side], cuts)
        assert is_done(upgrade)


def test_empty_messages_in_the_negotiation_of_the_muxer_are_refused() -> None:
    """They cost no limit of the negotiation, and a read brings tens of thousands."""
    bob, other = listener(), OtherDialer()
    bob.receive_data(other.first_flight())
    bob.receive_data(other.third_flight(bob.data_to_send()))
    assert not is_done(bob)
    with pytest.raises(HandshakeError, match="empty messages"):
        bob.receive_data(b"".join(other.noise.encrypt([b""]) for _ in range(600)))


def test_what_follows_the_negotiation_is_left_for_the_connection() -> None:
    """Which takes it in turns, however many messages it is."""
    bob, other = listener(), OtherDialer()
    bob.receive_data(other.first_flight())
    third = other.third_flight(bob.data_to_send())
    lines = other.noise.encrypt([HEADER + encode_line(YAMUX)])
    bob.receive_data(third + lines + b"".join(other.noise.encrypt([FRAMES]) for _ in range(2000)))
    assert is_done(bob)
    received = list(bob.early)
    assert 0 < len(received) < 1000
    for _ in range(2000):  # more than it takes
        received += bob.noise.decrypt()
    assert received == [FRAMES] * 2000

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.noise import decrypted

from stronghold_p2p.encoding.messages import NoiseExtensions, NoiseHandshakePayload
from stronghold_p2p.errors import DecodeError, HandshakeError
from stronghold_p2p.identity import Keypair
from stronghold_p2p.wire.noise import MAX_PLAINTEXT, NoiseHandshake, NoiseIdentity, NoiseTransport
from stronghold_p2p.wire.noise_xx import CipherState, HandshakeState, NoiseKey, SymmetricState

PROTOCOL_NAME = "Noise_XX_25519_ChaChaPoly_SHA256"
SIGNATURE_PREFIX = b"noise-libp2p-static-key:"

ALICE = Keypair.generate()
BOB = Keypair.generate()


def load(name: str) -> dict[str, Any]:
    vectors: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / name).read_text())
    return vectors


def wycheproof(name: str) -> list[dict[str, Any]]:
    vectors = load(name)
    tests = [test for group in vectors["testGroups"] for test in group["tests"]]
    assert len(tests) == vectors["numberOfTests"]
    return tests


def private_key(fill: int) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes([fill]) * 32)


def public_bytes(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def flip(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


# -- known answers ----------------------------------------------------------------------------------------------------


def xx_vectors() -> Iterable[Any]:
    for source in ("cacophony", "snow", "flynn"):
        for index, vector in enumerate(load(f"noise_xx_{source}.json")["vectors"]):
            if vector["protocol_name"] == PROTOCOL_NAME:
                yield pytest.param(source, vector, id=f"{source}-{index}")


@pytest.mark.parametrize(("source", "vector"), list(xx_vectors()))
def test_noise_vectors(source: str, vector: dict[str, Any]) -> None:
    def state(side: str) -> HandshakeState:
        return HandshakeState(
            initiator=side == "init",
            ephemeral=NoiseKey(X25519PrivateKey.from_private_bytes(bytes.fromhex(vector[f"{side}_ephemeral"]))),
            static=NoiseKey(X25519PrivateKey.from_private_bytes(bytes.fromhex(vector[f"{side}_static"]))),
            prologue=bytes.fromhex(vector[f"{side}_prologue"]),
        )

    initiator, responder = state("init"), state("resp")
    messages = [(bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]]
    assert len(messages) > 3
    for index, (payload, ciphertext) in enumerate(messages[:3]):
        writer, reader = (initiator, responder) if index % 2 == 0 else (responder, initiator)
        assert writer.write_message(payload) == ciphertext
        assert reader.read_message(ciphertext) == payload
    assert initiator.handshake_hash == responder.handshake_hash
    assert initiator.handshake_hash.hex() == vector.get("handshake_hash", initiator.handshake_hash.hex())
    assert responder.remote_static.hex() == public_bytes_hex(vector["init_static"])
    assert initiator.remote_static.hex() == public_bytes_hex(vector["resp_static"])

    first, second = initiator.split()
    theirs, ours = responder.split()
    channels = [NoiseTransport(first, second), NoiseTransport(ours, theirs)]
    initiator_is_next = source == "flynn"  # in the other two the turns of the handshake go on
    for payload, ciphertext in messages[3:]:
        sender, receiver = channels if initiator_is_next else channels[::-1]
        wire = len(ciphertext).to_bytes(2) + ciphertext
        assert sender.encrypt([payload]) == wire
        assert receiver.decrypt(wire) == [payload]
        initiator_is_next = not initiator_is_next


def public_bytes_hex(private_hex: str) -> str:
    return public_bytes(X25519PrivateKey.from_private_bytes(bytes.fromhex(private_hex))).hex()


def test_wycheproof_chacha20_poly1305() -> None:
    """Through the cipher state where the vector's nonce can be one of Noise, else through the cipher in it."""
    for test in wycheproof("wycheproof_chacha20_poly1305_test.json"):
        nonce, aad, plaintext = (bytes.fromhex(test[name]) for name in ("iv", "aad", "msg"))
        ciphertext = bytes.fromhex(test["ct"] + test["tag"])
        cipher = CipherState(bytes.fromhex(test["key"]))
        if test["result"] != "valid":
            with pytest.raises((InvalidTag, ValueError)):
                cipher.aead.decrypt(nonce, ciphertext, aad)
        assert (cipher_answer(cipher, nonce, plaintext, aad) == ciphertext) is (test["result"] == "valid")


def cipher_answer(cipher: CipherState, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes | None:
    if len(nonce) != 12:
        return None
    if nonce[:4] != bytes(4):
        return cipher.aead.encrypt(nonce, plaintext, aad)
    cipher.nonce = int.from_bytes(nonce[4:], "little")
    return cipher.encrypt_with_ad(aad, plaintext)


def test_wycheproof_x25519() -> None:
    static = private_key(7)
    for test in wycheproof("wycheproof_x25519_test.json"):
        ephemeral = X25519PrivateKey.from_private_bytes(bytes.fromhex(test["private"]))
        remote_ephemeral, shared = bytes.fromhex(test["public"]), bytes.fromhex(test["shared"])
        responder = HandshakeState(initiator=False, ephemeral=NoiseKey(ephemeral), static=NoiseKey(static))
        responder.read_message(remote_ephemeral)
        if shared == bytes(32):
            with pytest.raises(HandshakeError, match="low order"):
                responder.write_message(b"")
            assert responder.position == 1
            continue
        expected = SymmetricState(PROTOCOL_NAME.encode())
        for data in (b"", remote_ephemeral, b"", public_bytes(ephemeral)):
            expected.mix_hash(data)
        expected.mix_key(shared)
        message = responder.write_message(b"")
        assert message[32:80] == expected.encrypt_and_hash(public_bytes(static)), test["tcId"]


# -- the handshake of Noise -------------------------------------------------------------------------------------------

PAYLOADS = [b"one", b"two", b"three"]


class Handshake:
    """Both sides of one, with keys that make every run the same."""

    def __init__(self) -> None:
        self.sides = (
            HandshakeState(initiator=True, ephemeral=NoiseKey(private_key(1)), static=NoiseKey(private_key(2))),
            HandshakeState(initiator=False, ephemeral=NoiseKey(private_key(3)), static=NoiseKey(private_key(4))),
        )
        self.messages: list[bytes] = []

    def exchange(self, until: int) -> Handshake:
        """Lets the messages before the one of number ``until`` pass."""
        while len(self.messages) < until:
            message = self.write()
            self.reader(len(self.messages) - 1).read_message(message)
        return self

    def write(self) -> bytes:
        number = len(self.messages)
        self.messages.append(self.sides[number % 2].write_message(PAYLOADS[number]))
        return self.messages[number]

    def reader(self, number: int) -> HandshakeState:
        return self.sides[1 - number % 2]


FINAL_HASH = Handshake().exchange(3).sides[0].handshake_hash


@pytest.mark.parametrize("number", [1, 2])
def test_an_altered_message_changes_nothing(number: int) -> None:
    handshake = Handshake().exchange(number)
    message, reader = handshake.write(), handshake.reader(number)
    before = reader.handshake_hash, reader.position, reader.remote_static
    for index in range(len(message)):
        with pytest.raises(HandshakeError):
            reader.read_message(flip(message, index))
        assert (reader.handshake_hash, reader.position, reader.remote_static) == before
    assert reader.read_message(message) == PAYLOADS[number]
    handshake.exchange(3)
    assert [side.handshake_hash for side in handshake.sides] == [FINAL_HASH, FINAL_HASH]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_short_message_changes_nothing(number: int) -> None:
    handshake = Handshake().exchange(number)
    message, reader = handshake.write(), handshake.reader(number)
    for length in range(len(message) - len(PAYLOADS[number])):
        with pytest.raises(HandshakeError):
            reader.read_message(message[:length])
    assert reader.read_message(message) == PAYLOADS[number]
    assert handshake.exchange(3).sides[1].handshake_hash == FINAL_HASH


def test_a_message_that_cannot_be_written_changes_nothing() -> None:
    writer = HandshakeState(initiator=False, ephemeral=NoiseKey(private_key(3)), static=NoiseKey(private_key(4)))
    writer.read_message(bytes(32))  # a key of low order
    before = writer.handshake_hash, writer.position
    for _ in range(2):
        with pytest.raises(HandshakeError, match="low order"):
            writer.write_message(b"")
        assert (writer.handshake_hash, writer.position) == before


@pytest.mark.parametrize("index", range(35))
def test_an_altered_first_message_shows_in_the_next_one(index: int) -> None:
    handshake = Handshake()
    initiator, responder = handshake.sides
    responder.read_message(flip(handshake.write(), index))
    with pytest.raises(HandshakeError):
        initiator.read_message(responder.write_message(b""))


def test_a_longer_message() -> None:
    handshake = Handshake().exchange(1)
    message = handshake.write()
    with pytest.raises(HandshakeError):
        handshake.reader(1).read_message(message + b"\x00")


def test_replayed_messages() -> None:
    recorded = Handshake().exchange(3).messages
    initiator = HandshakeState(initiator=True, ephemeral=NoiseKey(private_key(11)), static=NoiseKey(private_key(2)))
    initiator.write_message(b"")
    with pytest.raises(HandshakeError):
        initiator.read_message(recorded[1])

    responder = HandshakeState(initiator=False, ephemeral=NoiseKey(private_key(13)), static=NoiseKey(private_key(4)))
    responder.read_message(recorded[0])
    responder.write_message(b"")
    for message in recorded:
        with pytest.raises(HandshakeError):
            responder.read_message(message)


def test_reflected_messages() -> None:
    handshake = Handshake().exchange(1)
    initiator, responder = handshake.sides
    with pytest.raises(HandshakeError):
        initiator.read_message(handshake.messages[0])
    with pytest.raises(HandshakeError):
        responder.read_message(responder.write_message(b""))


def test_every_message_has_its_turn() -> None:
    handshake = Handshake()
    initiator, responder = handshake.sides
    with pytest.raises(RuntimeError):
        initiator.read_message(bytes(32))
    with pytest.raises(RuntimeError):
        responder.write_message(b"")
    handshake.exchange(3)
    with pytest.raises(RuntimeError):
        initiator.write_message(b"")
    with pytest.raises(RuntimeError):
        responder.read_message(bytes(64))


def test_prologues_differ() -> None:
    initiator = HandshakeState(
        initiator=True, ephemeral=NoiseKey(private_key(1)), static=NoiseKey(private_key(2)), prologue=b"one"
    )
    responder = HandshakeState(
        initiator=False, ephemeral=NoiseKey(private_key(3)), static=NoiseKey(private_key(4)), prologue=b"two"
    )
    responder.read_message(initiator.write_message(b""))
    with pytest.raises(HandshakeError):
        initiator.read_message(responder.write_message(b""))


# -- what libp2p makes of it ------------------------------------------------------------------------------------------

YAMUX, MPLEX = "/yamux/1.0.0", "/mplex/6.7.0"


def noise_handshake(keypair: Keypair, *, initiator: bool, muxers: tuple[str, ...] = (YAMUX,)) -> NoiseHandshake:
    fill = 1 if initiator else 3
    identity = NoiseIdentity(keypair, private_key(fill + 1), muxers)
    return NoiseHandshake(identity, initiator=initiator, ephemeral=NoiseKey(private_key(fill)))


def body(framed: bytes) -> bytes:
    assert int.from_bytes(framed[:2]) == len(framed) - 2
    return framed[2:]


def shake_hands(initiator: NoiseHandshake, responder: NoiseHandshake) -> None:
    responder.read_message(body(initiator.write_message()))
    initiator.read_message(body(responder.write_message()))
    responder.read_message(body(initiator.write_message()))


def test_both_sides_prove_who_they_are() -> None:
    alice, bob = noise_handshake(ALICE, initiator=True), noise_handshake(BOB, initiator=False)
    shake_hands(alice, bob)
    assert (alice.remote_key, bob.remote_key) == (BOB.public_key, ALICE.public_key)
    ours, theirs = alice.transport(), bob.transport()
    assert theirs.decrypt(ours.encrypt([b"ping"])) == [b"ping"]
    assert ours.decrypt(theirs.encrypt([b"pong"])) == [b"pong"]


def test_the_first_message_is_bare() -> None:
    alice = noise_handshake(ALICE, initiator=True)
    assert body(alice.write_message()) == public_bytes(private_key(1))


def test_a_first_message_with_a_payload() -> None:
    forger = HandshakeState(initiator=True, ephemeral=NoiseKey(private_key(1)), static=NoiseKey(private_key(2)))
    bob = noise_handshake(BOB, initiator=False)
    with pytest.raises(HandshakeError, match="payload"):
        bob.read_message(forger.write_message(b"\x00"))


def test_messages_out_of_order() -> None:
    alice, bob = noise_handshake(ALICE, initiator=True), noise_handshake(BOB, initiator=False)
    first = alice.write_message()
    bob.read_message(body(first))
    alice.read_message(body(bob.write_message()))
    third = alice.write_message()

    with pytest.raises(HandshakeError):
        noise_handshake(BOB, initiator=False).read_message(body(third))
    with pytest.raises(HandshakeError):
        bob.read_message(body(first))
    bob.read_message(body(third))


Payload = Callable[[bytes], bytes]
"""What a forger says, given its static public key."""


def receive_from_forger(payload: Payload, *, by_initiator: bool, muxers: tuple[str, ...] = (YAMUX,)) -> NoiseHandshake:
    victim = noise_handshake(BOB, initiator=by_initiator, muxers=muxers)
    static = private_key(22)
    forger = HandshakeState(initiator=not by_initiator, ephemeral=NoiseKey(private_key(21)), static=NoiseKey(static))
    said = payload(public_bytes(static))
    if by_initiator:
        forger.read_message(body(victim.write_message()))
    else:
        victim.read_message(forger.write_message(b""))
        forger.read_message(body(victim.write_message()))
    victim.read_message(forger.write_message(said))
    return victim


def signed_by(signer: Keypair, *, claiming: Keypair = ALICE, prefix: bytes = SIGNATURE_PREFIX) -> Payload:
    return lambda static: NoiseHandshakePayload(
        identity_key=claiming.public_key.to_protobuf(), identity_sig=signer.sign(prefix + static)
    ).SerializeToString()


def with_signature(change: Callable[[bytes], bytes]) -> Payload:
    def payload(static: bytes) -> bytes:
        said = NoiseHandshakePayload.FromString(signed_by(ALICE)(static))
        said.identity_sig = change(said.identity_sig)
        return said.SerializeToString()

    return payload


both_sides = pytest.mark.parametrize("by_initiator", [True, False], ids=["initiator", "responder"])


@both_sides
def test_a_payload_that_proves_the_identity(by_initiator: bool) -> None:
    assert receive_from_forger(signed_by(ALICE), by_initiator=by_initiator).remote_key == ALICE.public_key


@both_sides
def test_unknown_fields_are_ignored(by_initiator: bool) -> None:
    def payload(static: bytes) -> bytes:
        return signed_by(ALICE)(static) + b"\x1a\x04data" + b"\xfa\x3f\x00"

    assert receive_from_forger(payload, by_initiator=by_initiator).remote_key == ALICE.public_key


@both_sides
@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(with_signature(lambda signature: b""), id="empty signature"),
        pytest.param(with_signature(lambda signature: signature[:-1]), id="short signature"),
        pytest.param(with_signature(lambda signature: flip(signature, 0)), id="tampered signature"),
        pytest.param(with_signature(lambda signature: flip(signature, 63)), id="tampered end of the signature"),
        pytest.param(signed_by(Keypair.generate()), id="foreign signature"),
        pytest.param(signed_by(ALICE, prefix=b""), id="signature over the bare key"),
        pytest.param(lambda static: signed_by(ALICE)(public_bytes(private_key(9))), id="signature over another key"),
    ],
)
def test_a_payload_that_does_not_prove_the_identity(payload: Payload, by_initiator: bool) -> None:
    with pytest.raises(HandshakeError, match="did not sign"):
        receive_from_forger(payload, by_initiator=by_initiator)


@both_sides
@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x0a\xff", id="no protobuf"),
        pytest.param(NoiseHandshakePayload(identity_sig=bytes(64)).SerializeToString(), id="no identity key"),
        pytest.param(NoiseHandshakePayload(identity_key=b"\x08\x01\x12\x01\x00").SerializeToString(), id="short key"),
        pytest.param(NoiseHandshakePayload(identity_key=b"\x08\x09\x12\x00").SerializeToString(), id="unknown type"),
        pytest.param(NoiseHandshakePayload(identity_key=b"\xff").SerializeToString(), id="malformed key"),
        pytest.param(b"\x22\x04\x12\x02\xff\xfe", id="a muxer that is not UTF-8"),
    ],
)
def test_a_malformed_payload(payload: bytes, by_initiator: bool) -> None:
    with pytest.raises(DecodeError):
        receive_from_forger(lambda static: payload, by_initiator=by_initiator)


@both_sides
@pytest.mark.parametrize("name", ["spec-rsa", "spec-ed25519", "spec-secp256k1", "spec-ecdsa"])
def test_identities_of_every_type(name: str, by_initiator: bool) -> None:
    (vector,) = (key for key in load("libp2p_keys.json")["keys"] if key["name"] == name)
    keypair = Keypair.from_protobuf(bytes.fromhex(vector["private_key_hex"]))
    forged = receive_from_forger(signed_by(keypair, claiming=keypair), by_initiator=by_initiator)
    assert str(forged.remote_key.peer_id) == vector["peer_id"]


@pytest.mark.parametrize(
    ("initiators", "responders", "agreed"),
    [
        ((YAMUX,), (YAMUX,), YAMUX),
        ((YAMUX, MPLEX), (MPLEX, YAMUX), YAMUX),
        ((MPLEX, YAMUX), (YAMUX, MPLEX), MPLEX),
        (("/new/1", YAMUX), (MPLEX, YAMUX), YAMUX),
        ((YAMUX,), (), None),
        ((), (YAMUX,), None),
        ((), (), None),
    ],
)
def test_early_muxer(initiators: tuple[str, ...], responders: tuple[str, ...], agreed: str | None) -> None:
    alice = noise_handshake(ALICE, initiator=True, muxers=initiators)
    bob = noise_handshake(BOB, initiator=False, muxers=responders)
    shake_hands(alice, bob)
    assert alice.muxer == bob.muxer == agreed


@both_sides
def test_no_muxer_in_common(by_initiator: bool) -> None:
    def payload(static: bytes) -> bytes:
        extensions = NoiseHandshakePayload(extensions=NoiseExtensions(stream_muxers=[MPLEX]))
        return signed_by(ALICE)(static) + extensions.SerializeToString()

    with pytest.raises(HandshakeError, match="muxer"):
        receive_from_forger(payload, by_initiator=by_initiator)


@both_sides
def test_other_extensions_are_no_list_of_muxers(by_initiator: bool) -> None:
    def payload(static: bytes) -> bytes:
        extensions = NoiseHandshakePayload(extensions=NoiseExtensions(webtransport_certhashes=[b"hash"]))
        return signed_by(ALICE)(static) + extensions.SerializeToString()

    assert receive_from_forger(payload, by_initiator=by_initiator).muxer is None


# -- the channel ------------------------------------------------------------------------------------------------------

LARGE = 16 * 1024
LAST_NONCE = 2**64 - 2


def channels(nonce: int = 0) -> tuple[NoiseTransport, NoiseTransport]:
    def cipher(fill: int) -> CipherState:
        state = CipherState(bytes([fill]) * 32)
        state.nonce = nonce
        return state

    return NoiseTransport(cipher(1), cipher(2)), NoiseTransport(cipher(2), cipher(1))


def frames(wire: bytes | bytearray) -> list[bytes]:
    """The messages in ``wire``, each with its length."""
    found, offset = [], 0
    while offset < len(wire):
        end = offset + 2 + int.from_bytes(wire[offset : offset + 2])
        found.append(bytes(wire[offset:end]))
        offset = end
    return found


def content(size: int) -> bytes:
    return bytes(index % 251 for index in range(size))


@pytest.mark.parametrize(
    ("sizes", "messages"),
    [
        ([0], [0]),
        ([1], [1]),
        ([12, 64, 12, 64], [152]),
        ([LARGE - 1], [LARGE - 1]),
        ([LARGE - 1, 1], [LARGE]),
        ([LARGE], [LARGE]),
        ([12, LARGE, 12], [12, LARGE, 12]),
        ([LARGE, LARGE], [LARGE, LARGE]),
        ([12, MAX_PLAINTEXT], [12, MAX_PLAINTEXT]),
        ([MAX_PLAINTEXT + 1], [MAX_PLAINTEXT, 1]),
        ([12, 262144], [12, MAX_PLAINTEXT, MAX_PLAINTEXT, MAX_PLAINTEXT, MAX_PLAINTEXT, 262144 - 4 * MAX_PLAINTEXT]),
        ([10000] * 6 + [5519], [MAX_PLAINTEXT]),
        ([10000] * 6 + [5520], [60000, 5520]),
        ([10000] * 7, [60000, 10000]),
        ([12, LARGE] + [10000] * 6 + [5520], [12, LARGE, 60000, 5520]),
    ],
)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_buffers_become_messages(kind: type, sizes: list[int], messages: list[int]) -> None:
    sender, receiver = channels()
    buffers = [kind(content(size)) for size in sizes]
    wire = bytes(sender.encrypt(buffers))
    assert [len(frame) - 2 - 16 for frame in frames(wire)] == messages
    assert b"".join(decrypted(receiver, wire)) == b"".join(map(bytes, buffers)) == b"".join(map(content, sizes))


def test_both_directions_have_keys_and_nonces_of_their_own() -> None:
    alice, bob = channels()
    for count in range(3):
        assert decrypted(bob, alice.encrypt([b"ping", bytes([count])])) == [b"ping" + bytes([count])]
        assert decrypted(alice, bob.encrypt([b"pong"])) == [b"pong"]
    assert alice.encrypt([b"same"]) != bob.encrypt([b"same"])
    assert alice.encrypt([b"same"]) != alice.encrypt([b"same"])


def test_buffers_given_out_are_not_touched_again() -> None:
    alice, bob = channels()
    first = alice.encrypt([content(100_000)])
    copy = bytes(first)
    alice.encrypt([content(100_000)])
    assert bytes(first) == copy
    received = decrypted(bob, first)
    assert b"".join(received) == content(100_000)


@pytest.mark.parametrize("cut", [1, 100, LARGE, LARGE + 18, LARGE + 40, 10**6])
def test_a_large_message_is_decrypted_into_its_place(cut: int) -> None:
    alice, bob = channels()
    wire = b"".join([alice.encrypt([b"before"]), alice.encrypt([content(LARGE)]), alice.encrypt([b"behind"])])
    place = bytearray(LARGE + 2)
    received: list[bytes] = []
    for piece in (wire[:cut], wire[cut:]):
        received += bob.decrypt(piece)
        while bob.unread:
            if bob.large:
                assert bob.large == LARGE
                bob.decrypt_into(memoryview(place)[1:-1])
                received.append(b"placed")
            else:
                received += bob.decrypt()
    assert received == [b"before", b"placed", b"behind"]
    assert place == b"\0" + content(LARGE) + b"\0"


@pytest.mark.parametrize("room", [2 * LARGE, 3 * LARGE - 1])
def test_large_messages_fill_their_place_as_far_as_they_fit(room: int) -> None:
    alice, bob = channels()
    wire = b"".join(alice.encrypt([content(LARGE)]) for _ in range(3)) + alice.encrypt([b"behind"])
    bob.decrypt(wire)
    place = bytearray(room)
    assert bob.decrypt_into(memoryview(place)) == 2 * LARGE
    assert place == (2 * content(LARGE)).ljust(room, b"\0")
    assert bob.large == LARGE
    assert decrypted(bob, b"") == [content(LARGE), b"behind"]


@pytest.mark.parametrize("cut", [1, 3, LARGE])
def test_a_large_message_that_has_not_come_whole_waits(cut: int) -> None:
    alice, bob = channels()
    wire = b"".join(alice.encrypt([content(LARGE)]) for _ in range(2))
    bob.decrypt(wire[:-cut])
    assert bob.decrypt_into(memoryview(bytearray(2 * LARGE))) == LARGE
    assert bob.large == 0
    assert decrypted(bob, b"") == []
    assert decrypted(bob, wire[-cut:]) == [content(LARGE)]


def test_an_altered_large_message_ends_the_channel() -> None:
    alice, bob = channels()
    wire = alice.encrypt([content(LARGE)])
    bob.decrypt(flip(bytes(wire), 5000))
    place = bytearray(bob.large)
    with pytest.raises(HandshakeError):
        bob.decrypt_into(memoryview(place))
    assert not any(place)  # nothing that nobody has vouched for
    assert not bob.unread
    with pytest.raises(HandshakeError):
        decrypted(bob, wire)


def test_what_is_unread_can_be_kept() -> None:
    alice, bob = channels()
    wire = b"".join([alice.encrypt([content(LARGE)]), alice.encrypt([content(2 * LARGE)])])
    buffer = bytearray(wire)
    assert bob.decrypt(buffer) == []
    bob.keep_unread()
    buffer.clear()  # would raise if a view were kept
    assert bob.decrypt(alice.encrypt([b"behind"])) == [content(LARGE)]
    assert decrypted(bob, b"") == [content(2 * LARGE), b"behind"]


def test_large_output_lies_in_blocks() -> None:
    alice, bob = channels()
    block = bytearray(100_000)
    asked: list[int] = []

    def take_block(size: int) -> bytearray:
        asked.append(size)
        return block

    alice.take_block = take_block
    wire = alice.encrypt([content(90_000)])
    assert asked == [len(wire)]
    assert bytes(wire) == block[: len(wire)]
    assert b"".join(decrypted(bob, wire)) == content(90_000)


def test_received_data_is_read_during_the_call_only() -> None:
    alice, bob = channels()
    wire = bytes(alice.encrypt([b"one"])) + alice.encrypt([b"two"])
    buffer = bytearray(wire[:-1])
    assert decrypted(bob, memoryview(buffer)) == [b"one"]
    buffer[:] = bytes(len(buffer))
    buffer.clear()  # would raise if a view were kept
    assert decrypted(bob, wire[-1:]) == [b"two"]


WIRE_SIZES = [1, 0, 300, 5, LARGE, 70000, 2]


def wire_of(sizes: list[int]) -> bytes:
    alice, _ = channels()
    return b"".join(alice.encrypt([content(size)]) for size in sizes)


@pytest.mark.parametrize("segment", [1, 2, 3, 17, 4096, 65537, 10**6])
def test_messages_in_any_pieces(segment: int) -> None:
    wire = memoryview(wire_of(WIRE_SIZES))
    _, bob = channels()
    received = [message for start in range(0, len(wire), segment) for message in decrypted(bob, wire[start:][:segment])]
    assert received == [content(size) for size in [1, 0, 300, 5, LARGE, MAX_PLAINTEXT]] + [
        content(70000)[MAX_PLAINTEXT:],
        content(2),
    ]


@settings(max_examples=examples(50))
@given(sizes=st.lists(st.integers(0, 100), max_size=8), cuts=st.lists(st.integers(0, 1000), max_size=12))
def test_messages_in_random_pieces(sizes: list[int], cuts: list[int]) -> None:
    wire = wire_of(sizes)
    _, bob = channels()
    bounds = [0, *sorted(cuts), len(wire)]
    received = [message for start, end in pairwise(bounds) for message in decrypted(bob, wire[start:end])]
    assert received == [content(size) for size in sizes]


def test_an_altered_message_ends_the_channel() -> None:
    genuine = wire_of([20])
    for index in range(2, len(genuine)):
        _, bob = channels()
        with pytest.raises(HandshakeError):
            decrypted(bob, flip(genuine, index))
        with pytest.raises(HandshakeError):
            decrypted(bob, genuine)


def test_a_large_message_behind_an_altered_one_is_not_decrypted() -> None:
    alice, bob = channels()
    with pytest.raises(HandshakeError):
        decrypted(bob, flip(wire_of([20]), 5))
    bob.decrypt(alice.encrypt([content(LARGE)]))
    place = bytearray(bob.large)
    with pytest.raises(HandshakeError):
        bob.decrypt_into(memoryview(place))
    assert not any(place)


def test_an_altered_length() -> None:
    for change in (-17, -1, 1, 200):
        genuine = wire_of([20, 300])
        altered = (36 + change).to_bytes(2) + genuine[2:]
        _, bob = channels()
        with pytest.raises(HandshakeError):
            decrypted(bob, altered)


@pytest.mark.parametrize("length", range(16))
def test_a_message_shorter_than_its_tag(length: int) -> None:
    _, bob = channels()
    with pytest.raises(HandshakeError):
        decrypted(bob, length.to_bytes(2) + bytes(length))


def test_replayed_reordered_dropped_and_reflected_messages() -> None:
    first, second, _ = frames(wire_of([10, 20, 30]))
    for sequence in ([first, first], [second], [first, second, first]):
        _, bob = channels()
        with pytest.raises(HandshakeError):
            decrypted(bob, b"".join(sequence))
    alice, _ = channels()
    with pytest.raises(HandshakeError):
        decrypted(alice, first)


def test_a_forged_message_takes_no_nonce() -> None:
    alice, bob = CipherState(bytes(32)), CipherState(bytes(32))
    with pytest.raises(HandshakeError):
        bob.decrypt_with_ad(b"", bytes(32))
    assert bob.decrypt_with_ad(b"", alice.encrypt_with_ad(b"", b"first")) == b"first"


@pytest.mark.parametrize("size", [64, LARGE])
def test_the_last_nonce_is_never_used(size: int) -> None:
    alice, bob = channels(LAST_NONCE)
    assert decrypted(bob, alice.encrypt([bytes(size)])) == [bytes(size)]
    for _ in range(2):
        with pytest.raises(HandshakeError, match="nonces"):
            alice.encrypt([bytes(size)])
        with pytest.raises(HandshakeError, match="nonces"):
            decrypted(bob, wire_of([size]))


def test_no_nonce_serves_twice_when_they_run_out_within_a_call() -> None:
    alice, bob = channels(LAST_NONCE)
    last = bytes(alice.encrypt([b"last"]))
    with pytest.raises(HandshakeError, match="nonces"):
        decrypted(bob, last + wire_of([1]))
    with pytest.raises(HandshakeError, match="nonces"):
        decrypted(bob, last)


@settings(max_examples=examples(100))
@given(data=st.binary(max_size=200), segment=st.integers(1, 200))
def test_any_bytes_are_refused_with_one_error(data: bytes, segment: int) -> None:
    _, bob = channels()
    try:
        for start in range(0, len(data), segment):
            assert decrypted(bob, data[start : start + segment]) == []
    except HandshakeError:
        pass
    else:
        assert len(data) < 2 + int.from_bytes(data[:2])  # a message that has not ended


@settings(max_examples=examples(100))
@given(message=st.binary(max_size=300), by_initiator=st.booleans())
def test_any_handshake_message_is_refused_with_one_error(message: bytes, by_initiator: bool) -> None:
    victim = noise_handshake(BOB, initiator=by_initiator)
    if by_initiator:
        victim.write_message()
    if by_initiator or len(message) != 32:
        with pytest.raises(HandshakeError):
            victim.read_message(message)


@settings(max_examples=examples(100))
@given(payload=st.binary(max_size=200), by_initiator=st.booleans())
def test_any_payload_is_refused_with_one_error(payload: bytes, by_initiator: bool) -> None:
    with pytest.raises((HandshakeError, DecodeError)):
        receive_from_forger(lambda static: payload, by_initiator=by_initiator)

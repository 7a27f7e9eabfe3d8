from __future__ import annotations

import json
import logging
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import examples

from stronghold_p2p.encoding import varint
from stronghold_p2p.errors import DecodeError, InvalidAddress, KeyFileError
from stronghold_p2p.identity import Keypair, KeyType, PeerId, PublicKey

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "libp2p_keys.json").read_text())
TOO_SMALL = {"go-rsa-512-too-small", "py-interop-rsa-1024"}
KEYS = {vector["name"]: vector for vector in VECTORS["keys"] if vector["name"] not in TOO_SMALL}
PAIRS = {name: vector for name, vector in KEYS.items() if vector["private_key_hex"]}
ONE_OF_EACH = ["spec-ed25519", "spec-ecdsa", "spec-secp256k1", "go-fixture-rsa"]

SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def private_key(name: str) -> bytes:
    return bytes.fromhex(PAIRS[name]["private_key_hex"])


def key_message(key_type: int, data: bytes) -> bytes:
    return bytes((0x08, key_type, 0x12)) + varint.encode(len(data)) + data


def spki(key: Any) -> bytes:
    encoded: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


# -- keys -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", KEYS.values(), ids=KEYS)
def test_public_key_vectors(vector: dict[str, Any]) -> None:
    encoded = bytes.fromhex(vector["public_key_hex"])
    key = PublicKey.from_protobuf(encoded)
    assert key.type is KeyType[vector["key_type"].upper()]
    assert key.to_protobuf() == encoded
    assert str(key.peer_id) == vector["peer_id"]
    assert key.peer_id.to_bytes().hex() == vector["peer_id_multihash_hex"]
    assert key.peer_id.to_cid() == vector["peer_id_cid"]


@pytest.mark.parametrize("vector", PAIRS.values(), ids=PAIRS)
def test_private_key_vectors(vector: dict[str, Any]) -> None:
    encoded = bytes.fromhex(vector["private_key_hex"])
    keypair = Keypair.from_protobuf(encoded)
    assert keypair.public_key.to_protobuf().hex() == vector["public_key_hex"]
    assert (keypair.to_protobuf() == encoded) is vector["private_key_reencodes_identically"]
    assert Keypair.from_protobuf(keypair.to_protobuf()).public_key == keypair.public_key


@pytest.mark.parametrize("name", [name for name in KEYS if "signature_hex" in KEYS[name]])
def test_signature_vectors(name: str) -> None:
    vector = KEYS[name]
    key = PublicKey.from_protobuf(bytes.fromhex(vector["public_key_hex"]))
    signature, data = bytes.fromhex(vector["signature_hex"]), bytes.fromhex(vector["message_hex"])
    assert key.verify(signature, data)
    assert not key.verify(signature, data + b"\0")
    if key.type in (KeyType.ED25519, KeyType.RSA) and name in PAIRS:
        assert Keypair.from_protobuf(private_key(name)).sign(data) == signature


@pytest.mark.parametrize("name", sorted(TOO_SMALL))
def test_small_rsa_keys_are_refused(name: str) -> None:
    vector = next(vector for vector in VECTORS["keys"] if vector["name"] == name)
    with pytest.raises(DecodeError, match=f"RSA key of {vector['key_bits']} bits"):
        PublicKey.from_protobuf(bytes.fromhex(vector["public_key_hex"]))
    with pytest.raises(ValueError, match=f"RSA key of {vector['key_bits']} bits"):
        Keypair.from_protobuf(bytes.fromhex(vector["private_key_hex"]))


@pytest.mark.parametrize(
    ("bits", "accepted"), [(2047, False), (2048, True), (8192, True), (8193, False), (8800, False)]
)
def test_rsa_sizes(bits: int, accepted: bool) -> None:
    modulus = (1 << bits - 1) + 1
    data = key_message(KeyType.RSA, spki_of_numbers(modulus, 65537))
    if accepted:
        assert PublicKey.from_protobuf(data).to_protobuf() == data
    else:
        with pytest.raises(DecodeError):
            PublicKey.from_protobuf(data)


def test_an_rsa_exponent_as_long_as_the_modulus_is_refused() -> None:
    with pytest.raises(DecodeError, match="exponent"):
        PublicKey.from_protobuf(key_message(KeyType.RSA, spki_of_numbers((1 << 2047) + 1, (1 << 2000) + 1)))


def test_a_key_that_is_too_long_is_not_parsed() -> None:
    with pytest.raises(DecodeError, match="a public key of 1201 bytes"):
        PublicKey.from_protobuf(bytes(1201))


@pytest.mark.parametrize("length", ["80", "84ffffffff", "88ffffffffffffffff", "ff" + "ff" * 127])
@pytest.mark.parametrize("place", [0, 19])
def test_a_length_in_der_that_is_a_lie(place: int, length: str) -> None:
    """That of the whole, or of the key's bits in it: nothing is made room for, or waited for."""
    data = spki_of_numbers((1 << 2047) + 1, 65537)
    assert data[place + 1] == 0x82, "its length has two bytes"
    data = data[: place + 1] + bytes.fromhex(length) + data[place + 4 :]
    with pytest.raises(DecodeError, match="public key"):
        PublicKey.from_protobuf(key_message(KeyType.RSA, data))


def spki_of_numbers(modulus: int, exponent: int) -> bytes:
    key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


P256, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "required field", id="empty"),
        pytest.param(b"\x08\x04\x12\x00", "required field", id="unknown type"),
        pytest.param(b"\x08\x01\x12\x20abc", "not a protobuf", id="cut off"),
        pytest.param(key_message(KeyType.ED25519, bytes(31)), "32 bytes", id="short Ed25519"),
        pytest.param(key_message(KeyType.SECP256K1, b"\x02" + b"\xff" * 32), "public key", id="point off the curve"),
        pytest.param(key_message(KeyType.SECP256K1, b""), "public key", id="no point"),
        pytest.param(key_message(KeyType.ECDSA, b"\x30\x82"), "public key", id="DER cut off"),
        pytest.param(key_message(KeyType.ECDSA, spki(P384)), "neither", id="another curve"),
        pytest.param(key_message(KeyType.RSA, spki(P256)), "ECDSA declared as RSA", id="wrong type"),
        pytest.param(key_message(KeyType.RSA, spki(dsa.generate_private_key(1024))), "neither", id="DSA"),
        pytest.param(key_message(KeyType.RSA, bytes(70_000)), "70006 bytes", id="huge"),
    ],
)
def test_malformed_public_keys(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason) as raised:
        PublicKey.from_protobuf(data)
    assert raised.value.protocol == "identity"


def test_a_key_is_its_canonical_encoding() -> None:
    canonical = PublicKey.from_protobuf(bytes.fromhex(KEYS["spec-ed25519"]["public_key_hex"]))
    encoded = canonical.to_protobuf()
    for other in (encoded[2:] + encoded[:2], encoded + b"\x18\x01", encoded[:2] + encoded):
        assert PublicKey.from_protobuf(other) == canonical
        assert PublicKey.from_protobuf(other).peer_id == canonical.peer_id

    point = ec.EllipticCurvePublicKey.from_encoded_point(
        ec.SECP256K1(), bytes.fromhex(KEYS["spec-secp256k1"]["public_key_hex"])[4:]
    ).public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    key = PublicKey.from_protobuf(key_message(KeyType.SECP256K1, point))
    assert str(key.peer_id) == KEYS["spec-secp256k1"]["peer_id"]


@given(st.data())
def test_any_public_key_is_a_key_or_one_error(data: st.DataObject) -> None:
    encoded = bytearray.fromhex(KEYS[data.draw(st.sampled_from(ONE_OF_EACH))]["public_key_hex"])
    for index in data.draw(st.lists(st.integers(0, len(encoded) - 1), min_size=1, max_size=3)):
        encoded[index] = data.draw(st.integers(0, 255))
    try:
        key = PublicKey.from_protobuf(bytes(encoded))
    except DecodeError:
        return
    assert PublicKey.from_protobuf(key.to_protobuf()) == key
    assert not key.verify(bytes(64), b"data")


@pytest.mark.parametrize("name", ONE_OF_EACH)
@settings(max_examples=examples(50))
@given(signature=st.binary(max_size=300), data=st.binary(max_size=20))
def test_verify_takes_any_bytes(name: str, signature: bytes, data: bytes) -> None:
    assert not PublicKey.from_protobuf(bytes.fromhex(KEYS[name]["public_key_hex"])).verify(signature, data)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_altered_signatures_do_not_verify(name: str) -> None:
    keypair = Keypair.from_protobuf(private_key(name))
    signature = keypair.sign(b"data")
    assert keypair.public_key.verify(signature, b"data")
    for altered in (b"", signature[:-1], signature + b"\0", signature[:-1] + bytes([signature[-1] ^ 1])):
        assert not keypair.public_key.verify(altered, b"data")
    assert not Keypair.generate().public_key.verify(signature, b"data")


def test_secp256k1_signatures_have_the_low_s_that_others_insist_on() -> None:
    keypair = Keypair.from_protobuf(private_key("spec-secp256k1"))
    for number in range(16):
        signature = keypair.sign(bytes([number]))
        assert decode_dss_signature(signature)[1] <= SECP256K1_ORDER // 2
        assert keypair.public_key.verify(signature, bytes([number]))


def with_type(encoded: bytes, key_type: int) -> bytes:
    return encoded[:1] + bytes([key_type]) + encoded[2:]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(private_key("spec-ed25519")[:-1], id="cut off"),
        pytest.param(private_key("spec-ed25519")[:-1] + b"\0", id="foreign public half"),
        pytest.param(private_key("go-ed25519-legacy-96-byte")[:-1] + b"\0", id="public halves differ"),
        pytest.param(with_type(private_key("spec-secp256k1"), KeyType.ED25519), id="no public half"),
        pytest.param(b"\x08\x02\x12\x20" + bytes(32), id="secp256k1 zero"),
        pytest.param(b"\x08\x02\x12\x20" + b"\xff" * 32, id="secp256k1 beyond the order"),
        pytest.param(b"\x08\x02\x12\x01\x01", id="secp256k1 too short"),
        pytest.param(with_type(private_key("spec-ecdsa"), KeyType.RSA), id="wrong type"),
        pytest.param(with_type(private_key("spec-ecdsa"), 4), id="unknown type"),
        pytest.param(b"\x08\x03\x12\x02\x30\x82", id="DER cut off"),
    ],
)
def test_malformed_private_keys(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"libp2p's form|declared as"):
        Keypair.from_protobuf(data)


def test_private_keys_of_other_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="neither Ed25519"):
        Keypair(dsa.generate_private_key(1024))
    with pytest.raises(ValueError, match="neither Ed25519"):
        Keypair(P384)


def test_generated_identities_are_ed25519_and_differ() -> None:
    one, other = Keypair.generate(), Keypair.generate()
    assert one.public_key.type is KeyType.ED25519
    assert str(one.peer_id).startswith("12D3Koo")
    assert one.peer_id != other.peer_id


def test_nothing_shows_the_private_key() -> None:
    keypair = Keypair.from_protobuf(private_key("spec-ed25519"))
    assert repr(keypair) == f"Keypair(ED25519, {keypair.peer_id})"
    assert repr(keypair.public_key) == f"PublicKey(ED25519, {keypair.peer_id})"
    with pytest.raises(TypeError):
        pickle.dumps(keypair)


def test_public_keys_compare_by_their_encoding() -> None:
    keypair = Keypair.generate()
    same = PublicKey.from_protobuf(keypair.public_key.to_protobuf())
    assert len({keypair.public_key, same}) == 1
    assert same != Keypair.generate().public_key
    assert same != same.to_protobuf()


# -- peer ids ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["peer_ids"], ids=lambda vector: vector["base58btc"])
def test_peer_id_vectors(vector: dict[str, Any]) -> None:
    peer_id = PeerId.from_bytes(bytes.fromhex(vector["multihash_hex"]))
    assert str(peer_id) == vector["base58btc"]
    assert peer_id.to_cid() == vector["cid_base32"]
    for text in [*vector["text_forms"], vector["cid_base32"]]:
        assert PeerId.parse(text) == peer_id


@pytest.mark.parametrize("vector", VECTORS["invalid_peer_id_text"], ids=lambda vector: vector["text"] or "empty")
def test_invalid_peer_id_vectors(vector: dict[str, Any]) -> None:
    with pytest.raises(InvalidAddress):
        PeerId.parse(vector["text"])


@pytest.mark.parametrize(
    "multihash",
    [
        b"",
        b"\x00",
        b"\x00\x00",
        b"\x12\x20" + bytes(31),
        b"\x12\x1f" + bytes(31),
        b"\x00\x2b" + bytes(43),
        b"\x11\x14" + bytes(20),
    ],
)
def test_malformed_multihashes(multihash: bytes) -> None:
    with pytest.raises(DecodeError, match="not a peer id"):
        PeerId.from_bytes(multihash)


def test_peer_ids_are_values() -> None:
    peer_id = Keypair.generate().peer_id
    for same in (PeerId.from_bytes(bytes(peer_id)), PeerId.parse(str(peer_id)), pickle.loads(pickle.dumps(peer_id))):
        assert same == peer_id
        assert hash(same) == hash(peer_id)
    assert peer_id != str(peer_id)
    assert repr(peer_id) == f"PeerId('{peer_id}')"


@given(st.sampled_from(["", "1", "Qm", "b", "k", "f", "z"]), st.text(max_size=60))
def test_any_text_is_a_peer_id_or_one_error(prefix: str, text: str) -> None:
    try:
        peer_id = PeerId.parse(prefix + text)
    except InvalidAddress:
        return
    assert PeerId.parse(str(peer_id)) == PeerId.from_bytes(peer_id.to_bytes()) == peer_id


# -- key files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("passphrase", [None, "geheim", b"\xff"])
def test_pem_files(name: str, passphrase: str | bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keypair, path = Keypair.from_protobuf(private_key(name)), tmp_path / "key.pem"
    keypair.save(path, passphrase=passphrase)
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE" if passphrase is None else b"-----BEGIN ENCRYPTED")
    assert path.stat().st_mode & 0o777 == 0o600
    assert Keypair.load(path, passphrase).to_protobuf() == keypair.to_protobuf()
    assert os.listdir(tmp_path) == ["key.pem"]
    assert not caplog.records


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_libp2p_files(name: str, tmp_path: Path) -> None:
    keypair, path = Keypair.from_protobuf(private_key(name)), tmp_path / "key"
    keypair.save(str(path), format="libp2p")
    assert path.read_bytes() == private_key(name)
    assert Keypair.load(str(path)).public_key == keypair.public_key


def test_a_passphrase_that_is_not_needed_is_ignored(tmp_path: Path) -> None:
    keypair = Keypair.generate()
    keypair.save(tmp_path / "plain")
    keypair.save(tmp_path / "libp2p", format="libp2p")
    assert Keypair.load(tmp_path / "plain", "geheim").peer_id == keypair.peer_id
    assert Keypair.load(tmp_path / "libp2p", "geheim").peer_id == keypair.peer_id


def test_files_are_not_overwritten_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "key"
    Keypair.generate().save(path)
    before = path.read_bytes()
    keypair = Keypair.generate()
    with pytest.raises(KeyFileError, match="exists"):
        keypair.save(path)
    assert path.read_bytes() == before
    path.chmod(0o644)
    keypair.save(path, force=True)
    assert Keypair.load(path).peer_id == keypair.peer_id
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["key"]


def test_one_of_many_writers_wins(tmp_path: Path) -> None:
    path, start, saved = tmp_path / "key", threading.Barrier(8), list[PeerId]()

    def save() -> None:
        keypair = Keypair.generate()
        start.wait()
        try:
            keypair.save(path)
        except KeyFileError:
            return
        saved.append(keypair.peer_id)

    threads = [threading.Thread(target=save) for _ in range(start.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert saved == [Keypair.load(path).peer_id]


@pytest.mark.parametrize("dangling", [False, True])
def test_a_symbolic_link_is_not_followed(dangling: bool, tmp_path: Path) -> None:
    path, target = tmp_path / "key", tmp_path / "target"
    if not dangling:
        target.write_bytes(b"precious")
    path.symlink_to(target)
    with pytest.raises(KeyFileError, match="exists"):
        Keypair.generate().save(path)
    Keypair.generate().save(path, force=True)
    assert not path.is_symlink()
    assert (target.read_bytes() if target.exists() else None) == (None if dangling else b"precious")


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFileError, match="No space left"):
        Keypair.generate().save(tmp_path / "key")
    assert os.listdir(tmp_path) == []


def test_where_no_file_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="its folder does not exist"):
        Keypair.generate().save(tmp_path / "missing" / "key")
    with pytest.raises(KeyFileError, match="directory"):
        Keypair.generate().save(tmp_path, force=True)


def test_what_cannot_be_encrypted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be encrypted"):
        Keypair.generate().save(tmp_path / "key", format="libp2p", passphrase="geheim")
    with pytest.raises(ValueError, match="1 or more bytes"):
        Keypair.generate().save(tmp_path / "key", passphrase="")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("passphrase", [None, ""])
def test_a_missing_passphrase(passphrase: str | None, tmp_path: Path) -> None:
    Keypair.generate().save(tmp_path / "key", passphrase="geheim")
    with pytest.raises(KeyFileError, match="a passphrase is needed"):
        Keypair.load(tmp_path / "key", passphrase)


def test_a_wrong_passphrase(tmp_path: Path) -> None:
    Keypair.generate().save(tmp_path / "key", passphrase="geheim")
    with pytest.raises(KeyFileError, match="wrong passphrase") as raised:
        Keypair.load(tmp_path / "key", "geraten")
    assert "geraten" not in str(raised.value)
    assert raised.value.path == str(tmp_path / "key")


def test_a_passphrase_is_asked_for_where_one_is_needed(tmp_path: Path) -> None:
    keypair, asked = Keypair.generate(), list[str]()

    def ask() -> str:
        asked.append("asked")
        return "geheim"

    keypair.save(tmp_path / "plain")
    keypair.save(tmp_path / "libp2p", format="libp2p")
    (tmp_path / "damaged").write_bytes(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    for name in ("plain", "libp2p"):
        assert Keypair.load(tmp_path / name, ask).peer_id == keypair.peer_id
    for name in ("damaged", "missing"):
        with pytest.raises(KeyFileError):
            Keypair.load(tmp_path / name, ask)
    assert asked == []
    keypair.save(tmp_path / "encrypted", passphrase="geheim")
    assert Keypair.load(tmp_path / "encrypted", ask).peer_id == keypair.peer_id
    (tmp_path / "openssl").write_bytes(
        rsa.generate_private_key(65537, 2048).private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"geheim")
        )
    )
    assert Keypair.load(tmp_path / "openssl", ask).public_key.type is KeyType.RSA
    assert asked == ["asked"] * 2
    with pytest.raises(KeyFileError, match="a passphrase is needed"):
        Keypair.load(tmp_path / "encrypted", str)


def test_a_passphrase_that_was_no_utf8(tmp_path: Path) -> None:
    """As the environment hands it over."""
    keypair = Keypair.generate()
    keypair.save(tmp_path / "key", passphrase=os.fsdecode(b"\xe9"))
    assert Keypair.load(tmp_path / "key", b"\xe9").peer_id == keypair.peer_id
    assert Keypair.load(tmp_path / "key", lambda: os.fsdecode(b"\xe9")).peer_id == keypair.peer_id


@pytest.mark.parametrize("passphrase", [None, "geheim"])
def test_a_pipe_is_read_once(tmp_path: Path, passphrase: str | None) -> None:
    keypair = Keypair.generate()
    keypair.save(tmp_path / "key", passphrase=passphrase)
    os.mkfifo(tmp_path / "fifo", 0o600)
    writing = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=((tmp_path / "key").read_bytes(),))
    writing.start()
    assert Keypair.load(tmp_path / "fifo", lambda: "geheim").peer_id == keypair.peer_id
    writing.join()


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"no such file; .*key new. makes one"):
        Keypair.load(tmp_path / "missing")
    with pytest.raises(KeyFileError, match="Is a directory"):
        Keypair.load(tmp_path)
    with pytest.raises(KeyFileError, match="over 65,536 bytes"):
        Keypair.load("/dev/zero")


def pkcs8(key: Any, encoding: Encoding = Encoding.PEM, *, encrypted: bool = False) -> bytes:
    encryption = BestAvailableEncryption(b"geheim") if encrypted else NoEncryption()
    encoded: bytes = key.private_bytes(encoding, PrivateFormat.PKCS8, encryption)
    return encoded


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "libp2p's form", id="empty"),
        pytest.param(private_key("spec-ed25519")[:20], "libp2p's form", id="truncated libp2p"),
        pytest.param(pkcs8(P256)[:-40], "damaged", id="truncated PEM"),
        pytest.param(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "damaged", id="no DER"),
        pytest.param(pkcs8(P384), "neither Ed25519", id="another curve"),
        pytest.param(
            key_message(KeyType.ECDSA, pkcs8(P256, Encoding.DER, encrypted=True)), "libp2p's form", id="encrypted DER"
        ),
        pytest.param(
            P256.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "no private key",
            id="public",
        ),
    ],
)
def test_files_that_hold_no_key(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(KeyFileError, match=reason):
        Keypair.load(path)


@pytest.mark.parametrize(("mode", "warns"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_files_open_to_others_are_warned_of(
    mode: int, warns: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Keypair.generate().save(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    Keypair.load(tmp_path / "key")
    assert [(record.name, record.levelno) for record in caplog.records] == [("stronghold_p2p", logging.WARNING)] * warns

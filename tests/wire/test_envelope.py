from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p.encoding import messages
from stronghold_p2p.errors import DecodeError
from stronghold_p2p.identity import Keypair
from stronghold_p2p.multiaddr import Multiaddr
from stronghold_p2p.wire.envelope import MAX_ADDRESSES, PeerRecord, open_envelope, seal

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors" / "envelope.json").read_text())[
    "vectors"
]
VALID = [vector for vector in VECTORS if vector["valid"]]
RECORD_DOMAIN, RECORD_TYPE = "libp2p-peer-record", b"\x03\x01"


def upstream_record() -> bytes:
    return bytes.fromhex(next(vector["envelope_hex"] for vector in VECTORS if vector["kind"] == "upstream"))


@pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector["name"])
def test_valid_vectors(vector: dict[str, Any]) -> None:
    keypair = Keypair.from_protobuf(bytes.fromhex(vector["private_key_hex"]))
    envelope, payload = bytes.fromhex(vector["envelope_hex"]), bytes.fromhex(vector["payload_hex"])
    domain, payload_type = vector["domain"], bytes.fromhex(vector["payload_type_hex"])

    assert open_envelope(envelope, domain, payload_type) == (keypair.public_key, payload)
    resealed = seal(keypair, domain, payload_type, payload)
    assert open_envelope(resealed, domain, payload_type) == (keypair.public_key, payload)
    assert (resealed == envelope) is vector["signature_deterministic"]


@pytest.mark.parametrize(
    "vector", [vector for vector in VECTORS if not vector["valid"]], ids=lambda vector: vector["name"]
)
def test_invalid_vectors(vector: dict[str, Any]) -> None:
    envelope = bytes.fromhex(vector["envelope_hex"])
    if vector.get("signature_valid"):
        open_envelope(envelope, vector["domain"], RECORD_TYPE)
    else:
        with pytest.raises(DecodeError):
            open_envelope(envelope, vector["domain"], RECORD_TYPE)
    if vector["domain"] == RECORD_DOMAIN:
        with pytest.raises(DecodeError):
            PeerRecord.open(envelope)


@pytest.mark.parametrize(
    "vector", [vector for vector in VALID if "peer_record" in vector], ids=lambda vector: vector["name"]
)
def test_peer_record_vectors(vector: dict[str, Any]) -> None:
    envelope = bytes.fromhex(vector["envelope_hex"])
    if vector["domain"] != RECORD_DOMAIN:
        with pytest.raises(DecodeError, match="payload type"):
            PeerRecord.open(envelope)
        return
    expected = vector["peer_record"]
    record = PeerRecord.open(envelope)
    assert str(record.peer_id) == expected["peer_id"]
    assert record.seq == int(expected["seq"])
    assert [str(address) for address in record.addresses] == expected["addresses"]
    assert record.seal(Keypair.from_protobuf(bytes.fromhex(vector["private_key_hex"]))) == envelope


def test_payload_type_is_checked() -> None:
    keypair = Keypair.generate()
    voucher = seal(keypair, RECORD_DOMAIN, b"\x03\x02", b"payload")
    with pytest.raises(DecodeError, match="payload type 0302"):
        open_envelope(voucher, RECORD_DOMAIN, RECORD_TYPE)


def test_unknown_addresses_are_left_out() -> None:
    keypair = Keypair.generate()
    known = Multiaddr.parse("/ip4/127.0.0.1/tcp/4001")
    payload = messages.PeerRecord(
        peer_id=keypair.peer_id.to_bytes(),
        seq=1,
        addresses=[messages.PeerRecord.AddressInfo(multiaddr=data) for data in (b"", b"\xff\x7f", known.to_bytes())],
    ).SerializeToString()
    record = PeerRecord.open(seal(keypair, RECORD_DOMAIN, RECORD_TYPE, payload))
    assert record == PeerRecord(keypair.peer_id, 1, (known,))


def test_no_more_addresses_are_looked_at_than_a_limit_says() -> None:
    keypair = Keypair.generate()
    addresses = tuple(Multiaddr.of_tcp("127.0.0.1", port) for port in range(MAX_ADDRESSES + 1))
    record = PeerRecord.open(PeerRecord(keypair.peer_id, 1, addresses).seal(keypair))
    assert record.addresses == addresses[:-1]


def test_a_record_of_another_peer_is_not_signed() -> None:
    record = PeerRecord(Keypair.generate().peer_id, 1, ())
    with pytest.raises(ValueError, match="its own peer"):
        record.seal(Keypair.generate())


def test_a_record_that_is_no_record() -> None:
    with pytest.raises(DecodeError, match="PeerRecord"):
        PeerRecord.open(seal(Keypair.generate(), RECORD_DOMAIN, RECORD_TYPE, b"\x0a"))


@given(st.data())
def test_every_altered_byte_is_refused_or_changes_nothing(data: st.DataObject) -> None:
    envelope = bytearray(upstream_record())
    index = data.draw(st.integers(0, len(envelope) - 1))
    envelope[index] ^= data.draw(st.integers(1, 255))
    try:
        record = PeerRecord.open(bytes(envelope))
    except DecodeError:
        return
    assert record == PeerRecord.open(upstream_record())


@given(st.binary(max_size=300))
def test_any_bytes_are_one_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        open_envelope(data, RECORD_DOMAIN, RECORD_TYPE)

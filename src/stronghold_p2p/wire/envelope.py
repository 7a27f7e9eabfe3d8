"""Signed envelopes (libp2p/specs RFC 0002) and the peer records that travel in them (RFC 0003)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Final

from ..encoding import messages, varint
from ..errors import DecodeError
from ..identity import Keypair, PeerId, PublicKey
from ..multiaddr import Multiaddr, readable

__all__ = ["PeerRecord", "open_envelope", "peek_record", "seal"]

MAX_ADDRESSES: Final = 256
"""Addresses of a remote that we look at: each takes some 20 us to parse, and a few kilobytes have room for hundreds."""

_PEER_RECORD_DOMAIN = "libp2p-peer-record"
_PEER_RECORD_TYPE = b"\x03\x01"
"""The multicodec 0x0301 as two plain bytes, as go-libp2p has it; RFC 0003's older text has others."""


def seal(keypair: Keypair, domain: str, payload_type: bytes, payload: bytes) -> bytes:
    """An envelope with ``payload``, signed by ``keypair`` for ``domain`` alone."""
    return messages.Envelope(
        public_key=keypair.public_key.to_protobuf(),
        payload_type=payload_type,
        payload=payload,
        signature=keypair.sign(_signed_bytes(domain, payload_type, payload)),
    ).SerializeToString()


def open_envelope(data: bytes, domain: str, payload_type: bytes) -> tuple[PublicKey, bytes]:
    """The key that signed an envelope, and its payload.

    Raises:
        DecodeError: malformed, of another payload type, or not signed by its key for ``domain``.
    """
    envelope = _parse(data, payload_type)
    key = PublicKey.from_protobuf(envelope.public_key)
    if not key.verify(envelope.signature, _signed_bytes(domain, payload_type, envelope.payload)):
        raise DecodeError("envelope", "the signature does not verify")
    return key, envelope.payload


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """The addresses of a peer, as the peer itself has signed them. The record with the higher ``seq`` is the newer."""

    peer_id: PeerId
    seq: int
    addresses: tuple[Multiaddr, ...]

    def seal(self, keypair: Keypair) -> bytes:
        """An envelope with this record.

        Raises:
            ValueError: ``keypair`` is not that of the record's peer.
        """
        if keypair.peer_id != self.peer_id:
            raise ValueError("a peer record is signed by its own peer")
        record = messages.PeerRecord(
            peer_id=self.peer_id.to_bytes(),
            seq=self.seq,
            addresses=[messages.PeerRecord.AddressInfo(multiaddr=address.to_bytes()) for address in self.addresses],
        )
        return seal(keypair, _PEER_RECORD_DOMAIN, _PEER_RECORD_TYPE, record.SerializeToString())

    @classmethod
    def open(cls, data: bytes) -> PeerRecord:
        """The record in an envelope. Addresses of protocols that are unknown here are left out, as in go-libp2p, and those
        after the first 256.

        Raises:
            DecodeError: as for :func:`open_envelope`, or signed by another peer.
        """
        key, payload = open_envelope(data, _PEER_RECORD_DOMAIN, _PEER_RECORD_TYPE)
        record = messages.parse(messages.PeerRecord, payload, "envelope")
        if record.peer_id != key.peer_id.to_bytes():
            raise DecodeError("envelope", "a peer record signed by another peer")
        addresses = tuple(readable(info.multiaddr for info in islice(record.addresses, MAX_ADDRESSES)))
        return cls(peer_id=key.peer_id, seq=record.seq, addresses=addresses)


def peek_record(data: bytes) -> tuple[PeerId, int]:
    """The peer and the ``seq`` that the record in an envelope claims, without the cost of verifying it.

    Raises:
        DecodeError: malformed, or no peer record.
    """
    envelope = _parse(data, _PEER_RECORD_TYPE)
    record = messages.parse(messages.PeerRecord, envelope.payload, "envelope")
    return PeerId.from_bytes(record.peer_id), record.seq


def _parse(data: bytes, payload_type: bytes) -> messages.Envelope:
    envelope = messages.parse(messages.Envelope, data, "envelope")
    if envelope.payload_type != payload_type:
        raise DecodeError("envelope", f"payload type {envelope.payload_type.hex()}, not {payload_type.hex()}")
    return envelope


def _signed_bytes(domain: str, payload_type: bytes, payload: bytes) -> bytes:
    """What the signature covers (RFC 0002, "Signature Production"): each part behind its length."""
    return b"".join(varint.encode(len(part)) + part for part in (domain.encode(), payload_type, payload))

"""Reservation vouchers (libp2p/specs relay/circuit-v2.md, "Reservation Vouchers"): a relay signs that it serves a peer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ...encoding import messages
from ...errors import DecodeError
from ...identity import Keypair, PeerId
from ...wire.envelope import open_envelope, seal

__all__ = ["Voucher"]

_DOMAIN: Final = "libp2p-relay-rsvp"
_TYPE: Final = b"\x03\x02"
"""The multicodec 0x0302 as two plain bytes, as go-libp2p has it."""


@dataclass(frozen=True, slots=True)
class Voucher:
    """``relay`` serves ``peer`` until ``expires``, in seconds since the epoch."""

    relay: PeerId
    peer: PeerId
    expires: int

    def seal(self, keypair: Keypair) -> bytes:
        """An envelope with it, signed by ``keypair``, the relay's."""
        voucher = messages.Voucher(relay=self.relay.to_bytes(), peer=self.peer.to_bytes(), expiration=self.expires)
        return seal(keypair, _DOMAIN, _TYPE, voucher.SerializeToString())

    @classmethod
    def open(cls, data: bytes) -> Voucher:
        """The voucher in an envelope.

        Raises:
            DecodeError: malformed, or not signed by the relay that it names.
        """
        key, payload = open_envelope(data, _DOMAIN, _TYPE)
        voucher = messages.parse(messages.Voucher, payload, "voucher")
        relay, peer = PeerId.from_bytes(voucher.relay), PeerId.from_bytes(voucher.peer)
        if key.peer_id != relay:
            raise DecodeError("voucher", "not signed by the relay that it names")
        return cls(relay, peer, voucher.expiration)

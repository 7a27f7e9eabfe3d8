"""Identify and identify push messages (libp2p/specs identify/README.md)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from ...encoding import messages, varint
from ...errors import DecodeError
from ...identity import PeerId, PublicKey
from ...multiaddr import Multiaddr, readable
from ...transport.stream import Stream
from ...version import VERSION
from ...wire import multistream
from ...wire.envelope import MAX_ADDRESSES, PeerRecord

__all__ = [
    "AGENT_VERSION",
    "PROTOCOL",
    "PROTOCOL_VERSION",
    "PUSH_PROTOCOL",
    "Identity",
    "decode",
    "encode",
    "is_own_agent",
    "read",
    "serve",
]

PROTOCOL: Final = "/ipfs/id/1.0.0"
PUSH_PROTOCOL: Final = "/ipfs/id/push/1.0.0"

_AGENT: Final = "stronghold-p2p-py"
AGENT_VERSION: Final = f"{_AGENT}/{VERSION}"
PROTOCOL_VERSION: Final = "/stronghold-p2p/1.0.0"
"""The protocol family; current peers of any family are compatible."""

MAX_SENT_SIZE: Final = 4096
"""Bytes of our message: rust-libp2p reads no more than this, and only one message."""

MAX_MESSAGES: Final = 10
"""Messages that one identity may come in, as in go-libp2p, which sends its signed record in one of its own."""

MAX_MESSAGE_SIZE: Final = 8192
"""Bytes of one of them, as in go-libp2p."""

MAX_PROTOCOLS: Final = 1024
"""Protocols of a remote that we look at, as in go-libp2p: ten messages have room for 40,000."""

MAX_ADDRESS_SIZE: Final = 512
"""Bytes of an address that we look at: one may have thousands of components, and what is learned of peers is kept."""

MAX_TEXT: Final = 256
"""Characters kept of a version."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The identify information of a peer, within our limits. Only the peer id is authenticated."""

    peer_id: PeerId
    """The sender, authenticated by the connection."""
    protocol_version: str
    """Printable text; empty if missing."""
    agent_version: str
    """Printable text such as ``go-libp2p/0.51``; empty if missing."""
    protocols: tuple[str, ...]
    """The protocols that it offers us."""
    listen_addresses: tuple[Multiaddr, ...]
    """The addresses that it claims to listen on; those of its signed record if there are no others."""
    observed_address: Multiaddr | None
    """Our address as seen by the peer."""
    signed_record: bytes
    """For :attr:`record`; empty if it told none."""

    @property
    def record(self) -> PeerRecord | None:
        """Its listen addresses as it has signed them, for third parties. None without a record, and with one that does
        not verify: rust-libp2p signs its own for another domain. Verified here, since it costs as much as three key
        exchanges, and the connection vouches for what is told over it already."""
        with contextlib.suppress(DecodeError):
            record = PeerRecord.open(self.signed_record)
            if record.peer_id == self.peer_id:
                return record
        return None


def is_own_agent(agent_version: str) -> bool:
    """Whether a peer with this agent version runs this library."""
    return agent_version.startswith(f"{_AGENT}/")


async def read(stream: Stream) -> Identity:
    """What the remote of ``stream``, opened by us to identify it or by it to push, tells of itself.

    Raises:
        DecodeError: the messages are malformed, too large or too many, or name the key of another peer.
    """
    received = bytearray()
    while chunk := await stream.read():
        received += chunk
        if len(received) > MAX_MESSAGES * (MAX_MESSAGE_SIZE + varint.MAX_LENGTH):
            raise DecodeError(PROTOCOL, f"more than {MAX_MESSAGES} messages of {MAX_MESSAGE_SIZE} bytes")
    return decode(bytes(received), stream.peer)


async def serve(stream: Stream, message: bytes) -> None:
    """Sends ``message``, that of :func:`encode`, and closes our side at once: go-libp2p holds its own streams back until
    it has it. To answer a remote that identifies us, and to push."""
    # Not lazily: where a push is not served, it must not be taken for protocol lines; and FIN comes after the lines.
    await stream.negotiated()
    await stream.write(message)
    await stream.close_write()


def encode(
    public_key: PublicKey,
    *,
    protocols: Iterable[str],
    listen_addresses: Iterable[Multiaddr],
    record: bytes | None,
    observed_address: Multiaddr | None,
) -> bytes:
    """What we tell a peer that we see at ``observed_address``, as one message behind its length. None: we see a relay.

    It is always complete, since go-libp2p replaces all it knew by what a push holds. What does not fit 4,096 bytes is
    left out: first the signed record, then listen addresses and then protocols, the last ones first.
    """
    message = messages.Identify(
        publicKey=public_key.to_protobuf(),
        listenAddrs=map(bytes, listen_addresses),
        protocols=protocols,
        observedAddr=None if observed_address is None else bytes(observed_address),
        protocolVersion=PROTOCOL_VERSION,
        agentVersion=AGENT_VERSION,
        signedPeerRecord=record,
    )
    while message.ByteSize() > MAX_SENT_SIZE:
        if message.HasField("signedPeerRecord"):
            message.ClearField("signedPeerRecord")
        elif message.listenAddrs:
            message.listenAddrs.pop()
        else:
            message.protocols.pop()
    encoded = message.SerializeToString()
    return varint.encode(len(encoded)) + encoded


def decode(data: bytes, peer: PeerId) -> Identity:
    """What ``peer`` has told in all the messages that it sent. Raises DecodeError as :func:`read`."""
    merged = messages.Identify()
    for message in _messages(data):
        merged.MergeFrom(message)
    if merged.HasField("publicKey") and PublicKey.from_protobuf(merged.publicKey).peer_id != peer:
        raise DecodeError(PROTOCOL, "the key of another peer")
    told = Identity(
        peer_id=peer,
        protocol_version=_printable(merged.protocolVersion),
        agent_version=_printable(merged.agentVersion),
        protocols=tuple(filter(_is_protocol, dict.fromkeys(islice(merged.protocols, MAX_PROTOCOLS)))),
        listen_addresses=_addresses_of(peer, readable(filter(_is_short, islice(merged.listenAddrs, MAX_ADDRESSES)))),
        observed_address=next(readable(filter(_is_short, [merged.observedAddr])), None),
        signed_record=merged.signedPeerRecord,
    )
    if not told.listen_addresses and (record := told.record):
        return replace(told, listen_addresses=_addresses_of(peer, record.addresses))
    return told


def _messages(data: bytes) -> Iterator[messages.Identify]:
    offset = count = 0
    while offset < len(data) or not count:
        head = varint.decode(data, offset)
        if head is None:
            raise DecodeError(PROTOCOL, "the stream ended in the middle of a message")
        size, start = head
        offset = start + size
        count += 1
        if size > MAX_MESSAGE_SIZE:
            raise DecodeError(PROTOCOL, f"a message of {size} bytes is over the limit of {MAX_MESSAGE_SIZE}")
        if count > MAX_MESSAGES:
            raise DecodeError(PROTOCOL, f"more than {MAX_MESSAGES} messages")
        if offset > len(data):
            raise DecodeError(PROTOCOL, "the stream ended in the middle of a message")
        yield messages.parse(messages.Identify, data[start:offset], PROTOCOL)


def _addresses_of(peer: PeerId, addresses: Iterable[Multiaddr]) -> tuple[Multiaddr, ...]:
    """Without those that name another peer: we would dial that one in this one's place. Nor those that say nothing."""
    return tuple(
        address
        for address in addresses
        if address.peer_id in (None, peer)
        and _is_short(address.to_bytes())
        and (address.peer_id is None or len(address.components) > 1)
    )


def _is_short(address: bytes) -> bool:
    return len(address) <= MAX_ADDRESS_SIZE


def _is_protocol(text: str) -> bool:
    return text.startswith("/") and len(text) < multistream.MAX_LINE and text.isprintable()


def _printable(text: str) -> str:
    """It may be shown on a terminal, or written to a log."""
    return "".join(filter(str.isprintable, text[:MAX_TEXT]))

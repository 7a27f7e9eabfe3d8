"""The text of mDNS answers: the addresses of a peer (libp2p/specs discovery/mdns.md). Pure.

Each string of a TXT record is ``dnsaddr=<address>/p2p/<peer id>``. What real peers add to the specification:

- go takes the last record of an answer alone, so all strings must be in one. It ignores addresses with ``/ws``.
- js discards the whole answer for one address that it cannot parse. Its own answers have a record for each address.
- rust replaces the IP address in what it hears by that of the sender.
- py takes the first string alone. It names its further ones ``dnsaddr2=``, ``dnsaddr3=``, and sends wildcards.
- Answers above 1,500 bytes are lost on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from ipaddress import IPv6Address
from typing import Final, NamedTuple

from ..errors import InvalidAddress
from ..identity import PeerId
from ..multiaddr import Ip, Multiaddr, host_of, with_head

__all__ = ["Sighting", "announced_addresses", "encode_text", "sightings", "strings"]

MAX_ANNOUNCED: Final = 12
MAX_TEXT: Final = 1100
"""Bytes of our record. With the other records of the answer, and the headers of IPv6 and UDP, it fits into 1,400 bytes,
the smallest MTU in wide use."""
MAX_STRING: Final = 255
"""Its length is one byte."""

MAX_STRINGS: Final = 64
"""Strings of one packet that are looked at; parsing one takes some 20 us. js announces every address of its machine."""

MAX_COMPONENTS: Final = 8
"""Of an address that somebody announces. Each takes 100 bytes of memory, and only those of WebTransport have seven."""

KEY: Final = "dnsaddr"
KNOWN_TO_ALL: Final = {"tcp", "ws", "wss", "tls", "sni"}
"""Protocols after the IP address that js-libp2p can parse, and we listen on."""


class Sighting(NamedTuple):
    """One address of a peer, as it was announced."""

    peer: PeerId
    address: Multiaddr
    """Without the peer id."""
    ttl: int
    """Seconds for which it is valid; 0: it is withdrawn."""


def announced_addresses(listening: Iterable[Multiaddr], interface: Collection[Ip]) -> tuple[Multiaddr, ...]:
    """Those of our listen addresses that a neighbour on an interface with these IP addresses can dial, TCP and IPv4
    first."""
    fit = [address for address in listening if host_of(address) in interface and _is_known_to_all(address)]
    fit.sort(key=lambda address: (len(address.components), address.components[0][0]))
    return tuple(fit)


def encode_text(addresses: Iterable[Multiaddr], peer: PeerId) -> bytes:
    """The data of a TXT record with as many of the addresses as fit."""
    all_strings = [f"{KEY}={address.with_peer(peer)}".encode() for address in addresses]
    encoded = b""
    for string in [one for one in all_strings if len(one) <= MAX_STRING][:MAX_ANNOUNCED]:
        if len(encoded) + 1 + len(string) <= MAX_TEXT:
            encoded += len(string).to_bytes() + string
    return encoded


def strings(data: bytes) -> Iterator[bytes]:
    """The strings of a TXT record's data, up to one that is cut short."""
    offset = 0
    while offset < len(data):
        end = offset + 1 + data[offset]
        if end > len(data):
            return
        yield data[offset + 1 : end]
        offset = end


def sightings(texts: Iterable[tuple[str, bytes, int]], source: Ip, *, is_local: bool) -> list[Sighting]:
    """What the TXT records of a packet say: each the name of an instance, the data and the TTL in seconds.

    ``source`` has sent the packet; ``is_local``: it is this machine. Never raises: what cannot be parsed, or dialed from
    here, is skipped, and so are addresses with another peer id than the first one of their instance.
    """
    found: list[Sighting] = []
    peers: dict[str, PeerId] = {}
    left = MAX_STRINGS
    for instance, data, ttl in texts:
        for string in strings(data):
            if not left:
                return found
            left -= 1
            address = _parse(string)
            if address is None or address.peer_id is None or len(address.components) < 2:
                continue
            peer = peers.setdefault(instance, address.peer_id)
            fit = _dialable(address.without_peer(), source, is_local=is_local)
            if fit is not None and address.peer_id == peer:
                found.append(Sighting(peer, fit, ttl))
    return found


def _parse(string: bytes) -> Multiaddr | None:
    key, _, value = string.partition(b"=")
    if key.rstrip(b"0123456789").lower() != KEY.encode():  # RFC 6763, section 6.4: the case does not matter
        return None
    try:
        return Multiaddr.parse(value.decode())
    except (InvalidAddress, UnicodeDecodeError):
        return None


def _dialable(address: Multiaddr, source: Ip, *, is_local: bool) -> Multiaddr | None:
    """``address`` as it can be dialed from here, or None.

    A neighbour does not choose the names that we look up, and a loopback address, or one of a relay, is none of its own.
    """
    ip = host_of(address)
    if len(address.components) > MAX_COMPONENTS or ip is None or ip.is_multicast:
        return None
    if ip.is_unspecified and ip.version == source.version:
        ip = source
        address = with_head(address, Multiaddr.parse(f"/ip{ip.version}/{ip}"))
    if ip.is_unspecified or (ip.is_loopback and not is_local) or address.is_relayed:
        return None
    if isinstance(ip, IPv6Address) and ip.is_link_local:
        return None  # it means nothing without the interface, which an address does not tell
    return address


def _is_known_to_all(address: Multiaddr) -> bool:
    return len(address.components) > 1 and all(name in KNOWN_TO_ALL for name, _ in address.components[1:])

"""mDNS packets: what we ask and answer, and what others do (RFC 6762, RFC 6763). Pure.

``zeroconf`` encodes and decodes DNS messages; its own engine is not used. That one takes in every packet of every
service, forgets honest records first when its cache is full, keeps no limit for a sender, and its ``ServiceInfo`` refuses
the names of rust and all but the last record of js.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

# Names that zeroconf keeps "for backwards compatibility", since Home Assistant and others use them.
from zeroconf import (  # type: ignore[attr-defined]
    DNSAddress,
    DNSIncoming,
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    DNSRecord,
    DNSService,
    DNSText,
)

from ..identity import PeerId
from ..multiaddr import Multiaddr, host_of
from .texts import encode_text, strings

__all__ = [
    "SERVICE",
    "TYPES",
    "Announcement",
    "Answer",
    "Query",
    "announcement",
    "concerns_us",
    "encode_query",
    "goodbye",
    "read",
    "types",
]

SERVICE: Final = "_p2p._udp.local."
TYPES: Final = "_services._dns-sd._udp.local."
"""Asks which services there are (RFC 6763, section 9)."""
MARKS: Final = (b"\x04_p2p", b"\x09_services")
"""One of them is in every packet for us: compression never shortens the first label of a name."""

PTR: Final = 12
TXT: Final = 16
AAAA: Final = 28
A: Final = 1
SRV: Final = 33
ANY: Final = 255
IN: Final = 1
UNIQUE: Final = 0x8000
"""Nobody else has records with this name: those that were told before are forgotten (RFC 6762, section 10.2)."""
QUERY: Final = 0
RESPONSE: Final = 0x8400

TTL: Final = 120
"""Seconds: RFC 6762, section 10, for what depends on an address of a host."""


class Query(NamedTuple):
    """Somebody asks."""

    names: frozenset[str]
    """Of the records that are asked for, in lower case."""
    known: frozenset[str]
    """The instances that it knows, and need not hear of: of at least half of our TTL (RFC 6762, section 7.1)."""


class Answer(NamedTuple):
    """Somebody tells of peers."""

    texts: list[tuple[str, bytes, int]]
    """The TXT records of peers: the instance, the data, and the TTL in seconds."""


class Announcement(NamedTuple):
    """What we tell on one interface."""

    instance: str
    text: bytes
    answer: bytes
    """To whoever asks for peers, or for this instance."""


def announcement(name: str, addresses: Sequence[Multiaddr], peer: PeerId) -> Announcement | None:
    """Tells the addresses of ``peer`` under ``name``; None if there are none.

    go needs an SRV record and its address, though it only takes the text; rust and js need all in one packet.
    """
    text = encode_text(addresses, peer)
    if not text:
        return None
    instance, host = f"{name}.{SERVICE}", f"{name}.local."
    ports = (int(value) for address in addresses for kind, value in address if kind == "tcp" and value)
    ips = {ip.version: ip for ip in map(host_of, reversed(addresses)) if ip is not None}
    out = _pointer_and_text(instance, text, TTL)
    out.add_additional_answer(DNSService(instance, SRV, IN | UNIQUE, TTL, 0, 0, next(ports, 0), host))
    for version, ip in ips.items():
        out.add_additional_answer(DNSAddress(host, A if version == 4 else AAAA, IN | UNIQUE, TTL, ip.packed))
    (answer,) = out.packets()
    return Announcement(instance, text, answer)


def goodbye(announcement: Announcement, *, but: Announcement | None = None) -> bytes:
    """Withdraws the announcement (RFC 6762, section 10.1). The strings of ``but`` stay: their addresses go on."""
    kept = set() if but is None else set(strings(but.text))
    text = b"".join(len(one).to_bytes() + one for one in strings(announcement.text) if one not in kept)
    (packet,) = _pointer_and_text(announcement.instance, text, 0).packets()
    return packet


def _pointer_and_text(instance: str, text: bytes, ttl: int) -> DNSOutgoing:
    out = DNSOutgoing(RESPONSE)
    out.add_answer_at_time(DNSPointer(SERVICE, PTR, IN, ttl, instance), 0)
    out.add_additional_answer(DNSText(instance, TXT, IN | UNIQUE, ttl, text or b"\0"))
    return out


def types() -> bytes:
    """The answer to the question which services there are."""
    out = DNSOutgoing(RESPONSE)
    out.add_answer_at_time(DNSPointer(TYPES, PTR, IN, TTL, SERVICE), 0)
    (encoded,) = out.packets()
    return encoded


def encode_query(known: Iterable[tuple[str, int]]) -> bytes:
    """The question for all peers, but for the ``known`` instances, each with the seconds for which it is still valid.
    js only looks at the first question."""
    out = DNSOutgoing(QUERY)
    out.add_question(DNSQuestion(SERVICE, PTR, IN))
    for instance, seconds in known:
        out.add_answer_at_time(DNSPointer(SERVICE, PTR, IN, seconds, instance), 0)
    return out.packets()[0]


def concerns_us(data: bytes) -> bool:
    """Whether the packet may be about peers; most are about other services."""
    lower = data.lower()
    return any(mark in lower for mark in MARKS)


def read(data: bytes) -> Query | Answer | None:
    """What the packet says; None for what cannot be decoded. Never raises."""
    message = DNSIncoming(data)
    if not message.valid:
        return None
    records = [record for record in message.answers() if record.class_ == IN]
    named = {
        record.alias: record.ttl
        for record in records
        if isinstance(record, DNSPointer) and record.name.lower() == SERVICE
    }
    if message.is_query():
        names = (one.name.lower() for one in message.questions if one.class_ in {IN, ANY})
        return Query(frozenset(names), frozenset(name for name, ttl in named.items() if ttl >= TTL / 2))
    return Answer([_text(record) for record in records if _tells_of_peer(record, named)])


def _tells_of_peer(record: DNSRecord, named: Iterable[str]) -> bool:
    # rust's instances have names outside of the service, and stand in a packet with the pointer to them.
    return isinstance(record, DNSText) and (record.name.lower().endswith(f".{SERVICE}") or record.name in named)


def _text(record: DNSRecord) -> tuple[str, bytes, int]:
    assert isinstance(record, DNSText)
    return record.name, record.text, int(record.ttl)

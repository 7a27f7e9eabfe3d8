"""DNS packets, written byte by byte, and the mDNS answers of other implementations, as they are on the wire."""

from __future__ import annotations

import struct
from collections.abc import Sequence

__all__ = [
    "SERVICE",
    "go_answer",
    "js_answer",
    "name",
    "packet",
    "py_answer",
    "question",
    "record",
    "rust_answer",
    "text",
]

PTR, TXT, SRV, A = 12, 16, 33, 1
FLUSH = 0x8001
IN = 1
SERVICE = "_p2p._udp.local"


def name(dotted: str) -> bytes:
    """Without compression; some write it so."""
    labels = [label.encode() for label in dotted.split(".")]
    return b"".join(len(label).to_bytes() + label for label in labels) + b"\0"


def record(owner: str, kind: int, data: bytes, ttl: int = 120, klass: int = IN) -> bytes:
    return name(owner) + struct.pack("!HHIH", kind, klass, ttl, len(data)) + data


def question(owner: str, kind: int = PTR, klass: int = IN) -> bytes:
    return name(owner) + struct.pack("!HH", kind, klass)


def packet(
    *, questions: Sequence[bytes] = (), answers: Sequence[bytes] = (), additionals: Sequence[bytes] = (), id: int = 0
) -> bytes:
    flags = 0x8400 if not questions else 0
    header = struct.pack("!6H", id, flags, len(questions), len(answers), 0, len(additionals))
    return header + b"".join((*questions, *answers, *additionals))


def text(*strings: str) -> bytes:
    """The data of a TXT record."""
    return b"".join(len(string).to_bytes() + string for string in map(str.encode, strings))


def rust_answer(addresses: Sequence[str], instance: str = "Xk9" * 12, ttl: int = 360) -> bytes:
    """A name outside of the service, anew in each answer; one record an address."""
    pointer = record(SERVICE, PTR, name(instance), ttl)
    texts = [record(instance, TXT, text(f"dnsaddr={address}"), ttl, FLUSH) for address in addresses]
    return packet(answers=[pointer], additionals=texts)


def js_answer(addresses: Sequence[str], instance: str = "j" * 63, ttl: int = 120) -> bytes:
    """All among the answers; one record an address."""
    full = f"{instance}.{SERVICE}"
    texts = [record(full, TXT, text(f"dnsaddr={address}"), ttl) for address in addresses]
    return packet(answers=[record(SERVICE, PTR, name(full), ttl), *texts])


def go_answer(addresses: Sequence[str], instance: str = "g" * 40, ttl: int = 3200) -> bytes:
    """One record with all strings, after the one with a port that says nothing."""
    full = f"{instance}.{SERVICE}"
    return packet(
        answers=[record(SERVICE, PTR, name(full), ttl)],
        additionals=[
            record(full, SRV, struct.pack("!HHH", 0, 0, 4001) + name(f"{instance}.local"), ttl),
            record(full, TXT, text(*(f"dnsaddr={address}" for address in addresses)), ttl),
            record(f"{instance}.local", A, bytes((192, 0, 2, 1)), ttl, FLUSH),
        ],
    )


def py_answer(addresses: Sequence[str], instance: str = "p" * 63, ttl: int = 4500) -> bytes:
    """One record, with a key of its own for each string."""
    full = f"{instance}.{SERVICE}"
    keys = ["dnsaddr", *(f"dnsaddr{number}" for number in range(2, len(addresses) + 1))]
    strings = [f"{key}={address}" for key, address in zip(keys, addresses, strict=True)]
    return packet(
        answers=[record(SERVICE, PTR, name(full), ttl)], additionals=[record(full, TXT, text(*strings), ttl, FLUSH)]
    )

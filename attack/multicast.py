"""Attacks by mDNS: floods of questions, of peers that do not exist, and of packets that are dear to read. The senders are
addresses of 127/8, as those of a neighbor that lies about its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count

from attack.relays import address
from attack.remote import Target
from attack.terms import Attack, Must, Victim
from stronghold_p2p import Multiaddr, PeerId
from stronghold_p2p.discovery import packets
from stronghold_p2p.discovery.links import GROUPS, PORT

SENDERS = 250
BURST = 100
PAUSE = 0.01
"""Seconds between two bursts: up to 10,000 packets a second, of which 2,000 are read."""

STRINGS = 60
"""In a packet, as many as are looked at."""


def questions() -> Iterator[bytes]:
    """The same one: an answer goes to everybody."""
    while True:
        yield packets.encode_query([])


def peers(strings: int) -> Iterator[bytes]:
    """New ones, each with so many addresses."""
    addresses = [Multiaddr.of_tcp("192.0.2.1", 1 + port) for port in range(strings)]
    for number in count():
        peer = PeerId(b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32))
        announced = packets.announcement(f"{number:040}", addresses, peer)
        assert announced is not None
        yield announced.answer


async def flood(make: Iterator[bytes], senders: int, target: Target) -> None:
    """Made in advance: an attacker must be cheaper than its victim."""
    made = [next(make) for _ in range(4096)]
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(senders)]
        for number, sender in enumerate(sockets):
            sender.bind((address(number), 0))
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        for number in count():
            sockets[number % senders].sendto(made[number % len(made)], (GROUPS[4], PORT))
            if number % BURST == 0:
                await asyncio.sleep(PAUSE)


HELD = Must(kept=99, kept_p99=200, fresh=95, turn=50, memory=50, log_lines=2)

FLOODS = {
    "mdns-questions": (questions(), 1),
    "mdns-questions-of-many": (questions(), SENDERS),
    "mdns-peers": (peers(1), 1),
    "mdns-peers-of-many": (peers(1), SENDERS),
    "mdns-addresses": (peers(STRINGS), SENDERS),
}

ATTACKS = tuple(
    Attack(
        name=name,
        drive=partial(flood, make, senders),
        must=HELD,
        victim=Victim(mdns=True),
        quick=name == "mdns-questions-of-many",
    )
    for name, (make, senders) in FLOODS.items()
)

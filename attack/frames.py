"""Attacks with cheap frames: to take one costs the victim far more than it costs the attacker to send it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import cycle
from typing import NamedTuple

from attack.remote import PIECE, Connection, Streams, Target, WebSocket, again, frame, lines, masked, message
from attack.terms import Attack, Must
from stronghold_p2p import Multiaddr
from stronghold_p2p.encoding import messages
from stronghold_p2p.protocols import ping
from stronghold_p2p.protocols.identify import message as identify
from stronghold_p2p.requests.codec import PROTOCOLS
from stronghold_p2p.wire import multistream
from stronghold_p2p.wire.yamux import Flag, FrameType

DATA, WINDOW_UPDATE, PING, _ = FrameType
SYN, FIN, RST = Flag.SYN, Flag.FIN, Flag.RST

MANY = 4
"""Connections of most attacks."""

OPEN_STREAMS = 500
"""A victim takes 512."""

CHEAP = Must(kept_p99=100, fresh=95, turn=50, closed=True)
HELD = Must(kept_p99=100, fresh=95, turn=50)


class Flood(NamedTuple):
    """What a connection sends: once, and then again and again."""

    opening: bytes
    make: Callable[[], bytes | bytearray]


def on_streams(*frames: bytes) -> Flood:
    """On one new stream after the other."""
    return Flood(b"", Streams(frames))


def on_one(opening: bytes, repeated: bytes) -> Flood:
    """On one stream, or on none."""
    piece = repeated * (PIECE // len(repeated))
    return Flood(opening, lambda: piece)


def opened(protocol: str, body: bytes = b"") -> bytes:
    """A stream begins, with what its protocol says first."""
    return frame(DATA, SYN, body=lines(protocol) + body)


def identify_pushes() -> Flood:
    """Each with as many addresses as the victim looks at."""
    addresses = [Multiaddr.parse(f"/ip4/192.0.2.1/tcp/{port}").to_bytes() for port in range(1, 257)]
    identity = messages.Identify(listenAddrs=addresses).SerializeToString()
    return on_streams(opened(identify.PUSH_PROTOCOL, message(identity)), frame(DATA, FIN))


def reset_requests() -> Flood:
    """As many requests as there may be streams, and before one is answered all are reset: HTTP/2's Rapid Reset."""
    requests = Streams([opened(PROTOCOLS["json"], message(b'"slow"'))], OPEN_STREAMS)
    resets = Streams([frame(WINDOW_UPDATE, RST)], OPEN_STREAMS)
    pieces = cycle((requests, resets))
    return Flood(b"", lambda: next(pieces)())


def unknown_proposals() -> Flood:
    """Sixteen on each stream: one more would be refused."""
    proposals = multistream.HEADER + 16 * multistream.encode_line("/x")
    return on_streams(frame(DATA, SYN, body=proposals), frame(DATA, FIN))


FLOODS: dict[str, Callable[[], Flood]] = {
    "identify-pushes": identify_pushes,
    "syn-and-rst": lambda: on_streams(frame(WINDOW_UPDATE, SYN), frame(WINDOW_UPDATE, RST)),
    "window-updates": lambda: on_one(frame(WINDOW_UPDATE, SYN, 1), frame(WINDOW_UPDATE, 0, 1, length=1)),
    "pings": lambda: on_one(b"", frame(PING, SYN)),
    "empty-frames": lambda: on_one(frame(WINDOW_UPDATE, SYN, 1), frame(DATA, 0, 1)),
    "unknown-streams": lambda: on_streams(frame(WINDOW_UPDATE, length=1)),
    "reset-requests": reset_requests,
    "identify-streams": lambda: on_streams(opened(identify.PROTOCOL), frame(DATA, FIN)),
    "ping-streams": lambda: on_streams(opened(ping.PROTOCOL, bytes(ping.SIZE)), frame(DATA, FIN)),
    "unknown-proposals": unknown_proposals,
}


async def flood(make: Callable[[], Flood], connections: int, target: Target) -> None:
    async def once() -> None:
        opening, piece = make()
        with closing(await Connection.dial(target)) as connection:
            await connection.send(opening)
            await connection.flood(piece)

    await asyncio.gather(*(again(once) for _ in range(connections)))


async def tiny_messages(target: Target) -> None:
    """Noise messages with nothing in them."""

    async def once() -> None:
        with closing(await Connection.dial(target)) as connection:
            await connection.pipe.flood(lambda: b"".join(connection.encrypt(b"") for _ in range(4096)))

    await asyncio.gather(*(again(once) for _ in range(MANY)))


async def tiny_frames(target: Target) -> None:
    """WebSocket frames of one byte each."""

    async def once() -> None:
        with closing(await Connection.dial(target, WebSocket)) as connection:
            empty = bytes(PIECE // 64)  # frames of no stream, each 12 zeros

            def cut() -> bytearray:
                data = connection.encrypt(empty)
                frames = bytearray(masked(b"x") * len(data))
                frames[6::7] = data
                return frames

            await connection.pipe.flood(cut)

    await asyncio.gather(*(again(once) for _ in range(MANY)))


async def websocket_frames(opcode: int, target: Target) -> None:
    """Empty WebSocket frames."""
    piece = masked(b"", opcode) * (PIECE // 6)

    async def once() -> None:
        with closing(await Connection.dial(target, WebSocket)) as connection:
            await connection.pipe.flood(lambda: piece)

    await asyncio.gather(*(again(once) for _ in range(MANY)))


ATTACKS = (
    *(
        # An honest peer may ping as often as it likes, and one may ping in a loop: pings are served, by turns.
        Attack(name=name, drive=partial(flood, make, MANY), must=HELD if name == "ping-streams" else CHEAP, quick=True)
        for name, make in FLOODS.items()
    ),
    *(
        Attack(name=f"{name}-alone", drive=partial(flood, FLOODS[name], 1), must=CHEAP)
        for name in ("identify-pushes", "syn-and-rst", "pings")
    ),
    Attack(name="noise-empty", drive=tiny_messages, must=HELD),
    Attack(name="websocket-tiny", drive=tiny_frames, must=HELD),
    Attack(name="websocket-empty", drive=partial(websocket_frames, 2), must=HELD),
    Attack(name="websocket-pings", drive=partial(websocket_frames, 9), must=HELD),
)

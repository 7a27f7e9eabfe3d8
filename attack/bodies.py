"""Attacks with large bodies that are dear to decode, or to encode again."""

from __future__ import annotations

import asyncio
from contextlib import closing
from functools import partial
from itertools import count

from attack.remote import Connection, Target, again, frame, lines, message
from attack.terms import Attack, Must, Victim
from stronghold_p2p.requests.codec import CodecName
from stronghold_p2p.wire.yamux import INITIAL_WINDOW, Flag, FrameType

MIB = 1024 * 1024

CONNECTIONS = 2

ANY = Must(kept=99, fresh=95, turn=100)
"""The worst message that is decoded takes 25 ms on one machine and 50 on another, and a decoder in C cannot be interrupted."""


def msgpack_array(member: bytes) -> bytes:
    number = (MIB - 5) // len(member)
    return b"\xdd" + number.to_bytes(4) + member * number


def json_array(member: bytes) -> bytes:
    number = (MIB - 1) // (len(member) + 1)
    return b"[" + b",".join([member] * number) + b"]"


BODIES: dict[str, tuple[CodecName, bytes]] = {
    "msgpack-deep": ("msgpack", msgpack_array(b"\x91" * 899 + b"\x90")),
    "msgpack-empty": ("msgpack", msgpack_array(b"\x90")),
    "json-empty": ("json", json_array(b"[]")),
    "json-floats": ("json", json_array(b"1.7976931348623157e308")),
    "json-exponents": ("json", json_array(b"1e308")),
    "json-nested": ("json", json_array(b"[" * 900 + b"]" * 900)),
}


async def send_bodies(body: bytes, target: Target) -> None:
    """One request after the other on each connection, as fast as the victim lets its window grow."""
    opening = lines(target.protocol) + message(body)

    async def once() -> None:
        with closing(await Connection.dial(target)) as connection:
            for stream_id in count(1, 2):
                await send_request(connection, stream_id, opening)

    await asyncio.gather(*(again(once) for _ in range(CONNECTIONS)))


async def send_request(connection: Connection, stream_id: int, request: bytes) -> None:
    """Until all of it has left, or the victim ends the stream."""
    await connection.send(frame(FrameType.DATA, Flag.SYN, stream_id, body=request[:INITIAL_WINDOW]))
    unsent = request[INITIAL_WINDOW:]
    async for came in connection.frames():
        if came.stream_id == stream_id:
            piece, unsent = unsent[: came.length], unsent[came.length :]
            if came.kind == FrameType.WINDOW_UPDATE and piece:
                await connection.send(frame(FrameType.DATA, 0, stream_id, body=piece))
            if came.ends or not unsent:
                return


ATTACKS = (
    *(
        Attack(
            name=f"body-{name}",
            drive=partial(send_bodies, body),
            victim=Victim(firewall="ask strangers", codec=codec),
            must=ANY,
            quick=name in {"msgpack-deep", "json-exponents"},
        )
        for name, (codec, body) in BODIES.items()
    ),
    *(
        Attack(
            name=f"body-{name}-echoed",
            drive=partial(send_bodies, BODIES[name][1]),
            victim=Victim(codec=BODIES[name][0]),
            must=ANY,
        )
        for name in ("msgpack-deep", "json-exponents")
    ),
)

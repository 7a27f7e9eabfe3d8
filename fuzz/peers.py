"""A whole peer, and somebody who has shaken hands with it, and then sends anything."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any, Final

from attack.remote import Connection, Target, frame, lines, message
from fuzz.target import KEYPAIRS, pieces, target
from stronghold_p2p import (
    Config,
    ConnectionClosed,
    FirewallRules,
    InboundConnectionFailed,
    RelayServer,
    Request,
    Stream,
    StrongholdP2p,
)
from stronghold_p2p.encoding import messages, varint
from stronghold_p2p.protocols import identify, ping
from stronghold_p2p.protocols.hole_punching import PROTOCOL as HOLE_PUNCHING
from stronghold_p2p.protocols.relay.message import HOP, STOP, HopType
from stronghold_p2p.requests.codec import PROTOCOLS
from stronghold_p2p.wire.yamux import Flag, FrameType

__all__ = ["TARGETS"]

OWN: Final = "/fuzz"
"""A protocol of a user's own."""

IDENTIFY_AFTER: Final = 0.012
"""Seconds until the peer has asked who is there, and has us as an open question."""

GONE_WITHIN: Final = 5.0
"""Seconds until nothing is left of a connection that has ended: a few turns of the loop, on any machine."""


class Complaints(logging.Handler):
    """What nobody may see."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


async def answer(request: Request[Any]) -> Any:
    await asyncio.sleep(0)
    return request.body


async def echo(stream: Stream) -> None:
    while data := await stream.read():
        await stream.write(data)


async def meet(data: bytes) -> None:
    """The first byte says whether the peer asks first; then see :func:`pieces`."""
    peer = StrongholdP2p[Any, Any](
        keypair=KEYPAIRS[0],
        firewall=FirewallRules.allow_all(),
        relay=RelayServer(),
        autonat=False,  # it would dial what it is told
        config=Config(close_timeout=0.001),
    )
    peer.on_request(answer)
    peer.handle_stream(OWN, echo)
    async with peer:
        events = peer.events(buffer=10_000)
        address = await peer.listen()
        endpoint = "127.0.0.1", int(address.components[1][1] or 0)
        at = Target(endpoint, endpoint, "", endpoint)
        with closing(await Connection.dial(at, keypair=KEYPAIRS[1], source=endpoint[0])) as connection:
            await asyncio.sleep(IDENTIFY_AFTER if data[:1] == b"\1" else 0)
            with suppress(OSError):
                for part in pieces(data[1:])[1]:
                    await connection.send(part)
                    await asyncio.sleep(0)
            for _ in range(10):
                await asyncio.sleep(0)
        async with asyncio.timeout(GONE_WITHIN):
            async for event in events:
                if isinstance(event, ConnectionClosed | InboundConnectionFailed):
                    break
        assert not peer.connections
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks are left: {left}"


def peer_seeds() -> Iterator[bytes]:
    data, syn, fin, ack = FrameType.DATA, Flag.SYN, Flag.FIN, Flag.ACK
    hop = messages.HopMessage(type=HopType.CONNECT, peer=messages.CircuitPeer(id=bytes(KEYPAIRS[1].peer_id)))
    opened = (
        lines(PROTOCOLS["json"]) + message(b'{"a":1}'),
        lines(identify.PROTOCOL),
        lines(identify.PUSH_PROTOCOL) + message(messages.Identify(agentVersion="x").SerializeToString()),
        lines(ping.PROTOCOL) + bytes(32),
        lines(HOP) + message(messages.HopMessage(type=HopType.RESERVE).SerializeToString()),
        lines(HOP) + message(hop.SerializeToString()),
        lines(STOP) + message(b""),
        lines(HOLE_PUNCHING) + message(messages.HolePunch(type=100).SerializeToString()),
        lines(OWN) + b"hello",
        lines("/unknown"),
    )
    for body in opened:
        for ending in (0, fin):
            yield b"\0\0" + frame(data, syn, 1, body=body) + frame(data, ending, 1)
    yield b"\0\7" + b"".join(frame(data, syn | fin, 2 * n + 1, body=body) for n, body in enumerate(opened))
    told = lines(identify.PROTOCOL) + varint.encode(3) + b"\x32\x01x"
    yield b"\1\0" + frame(data, ack, 2, body=told) + frame(data, fin, 2)
    yield b"\1\0" + frame(FrameType.GO_AWAY, 0, 0, length=1)


@target("peer", seeds=peer_seeds, max_size=8192)
def fuzz_peer(data: bytes) -> None:
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    try:
        with asyncio.Runner() as runner:
            runner.get_loop().set_exception_handler(lambda _, context: complaints.texts.append(repr(context)))
            runner.run(meet(data))
    finally:
        logging.getLogger().removeHandler(complaints)
    assert not complaints.texts, complaints.texts[0]


TARGETS = (fuzz_peer,)

"""Attacks on a relay, while an honest pair reaches each other through it: places that are taken, circuits that are held or
that cost more to forward than to send."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial

from attack.clients import HOST, keypair
from attack.frames import Flood, flood, on_streams
from attack.remote import Connection, Target, again, frame, lines, message
from attack.requests import hold, hold_streams
from attack.terms import Attack, Must, Victim
from stronghold_p2p import Keypair, Multiaddr, PeerId
from stronghold_p2p.encoding import messages
from stronghold_p2p.protocols.autonat.message import DIAL_REQUEST
from stronghold_p2p.protocols.relay.message import HOP, STOP, HopType, Status, StopType
from stronghold_p2p.wire.yamux import INITIAL_WINDOW, Flag, FrameType

DATA, WINDOW_UPDATE, _, _ = FrameType
SYN, ACK, FIN = Flag.SYN, Flag.ACK, Flag.FIN

RESERVE = lines(HOP) + message(messages.HopMessage(type=HopType.RESERVE).SerializeToString())
AGREED = lines(STOP) + message(messages.StopMessage(type=StopType.STATUS, status=Status.OK).SerializeToString())

PAIRS = 64
CIRCUITS = 16
"""Of each pair: together as many as a relay has."""

NETWORKS = 8
"""Of the pairs, which are addresses of 127/8. In a minute a relay gives one network no more than 240 circuits."""

RESERVING_NETWORKS = 40
RESERVATIONS = 16
"""Of each of those networks, as many as one may have: more than there are."""

FIRST_WINDOW = INITIAL_WINDOW - 1024
"""Bytes that may be sent on a circuit that nobody reads, after what has asked for it."""

DIALS_AT_ONCE = 16
STREAMS = 500
"""On a connection, where 512 are taken."""


def address(number: int) -> str:
    """One that is a network of its own."""
    return f"127.1.0.{1 + number}"


def connect_to(peer: PeerId) -> bytes:
    """With which a stream begins that asks for a circuit."""
    target = messages.CircuitPeer(id=peer.to_bytes())
    return lines(HOP) + message(messages.HopMessage(type=HopType.CONNECT, peer=target).SerializeToString())


# -- reservations --------------------------------------------------------------------------------------


async def reserve(target: Target, *, keypair: Keypair | None = None, source: str | None = None) -> Connection:
    """A connection on which the victim has answered, and be it no; ``source``: an address of 127/8."""
    connection = await Connection.dial(target, keypair=keypair, source=source)
    try:
        await connection.send(frame(DATA, SYN, 1, body=RESERVE))
        async for came in connection.frames():
            if came.stream_id == 1 and came.ends:
                break
    except BaseException:
        connection.close()
        raise
    return connection


async def churn(target: Target) -> None:
    """New identities that reserve and leave, as many as there is time for."""

    async def once() -> None:
        (await reserve(target)).close()

    await asyncio.gather(*(again(once, pause=0.0) for _ in range(DIALS_AT_ONCE)))


async def take_reservations(target: Target) -> None:
    """All that many networks may have; each is kept."""
    dialing = asyncio.Semaphore(DIALS_AT_ONCE)

    async def once(source: str) -> None:
        async with dialing:
            connection = await reserve(target, source=source)
        with closing(connection):
            await connection.pipe.discard()

    places = range(RESERVING_NETWORKS * RESERVATIONS)
    await asyncio.gather(*(again(partial(once, address(place % RESERVING_NETWORKS)), pause=1.0) for place in places))


# -- circuits ------------------------------------------------------------------------------------------

Serve = Callable[[Connection], Awaitable[object]]
"""What a target does on its connection with the victim."""
Use = Callable[[Connection, PeerId], Awaitable[object]]
"""What a source does there; the peer is the target that it asks for."""


async def circuits(serve: Serve, use: Use, target: Target) -> None:
    """As many as the relay has, between pairs of the attacker's own."""

    async def listen(keypair: Keypair, source: str) -> None:
        with closing(await reserve(target, keypair=keypair, source=source)) as connection:
            await serve(connection)

    async def ask(peer: PeerId, source: str) -> None:
        with closing(await Connection.dial(target, source=source)) as connection:
            await use(connection, peer)

    async def pair(number: int) -> None:
        keypair, source = Keypair.generate(), address(number % NETWORKS)
        listening = again(partial(listen, keypair, source))
        await asyncio.gather(listening, again(partial(ask, keypair.peer_id, source), pause=0.5))

    await asyncio.gather(*map(pair, range(PAIRS)))


async def agree(connection: Connection) -> None:
    """A target that takes each circuit, and what comes on it."""
    async for came in connection.frames():
        if came.flags & SYN and STOP.encode() in came.body:
            await connection.send(frame(DATA, ACK, came.stream_id, body=AGREED))


async def agree_and_stop(connection: Connection) -> None:
    """A target that takes circuits until something comes on one, and then reads nothing any more."""
    async for came in connection.frames():
        if came.flags & SYN and STOP.encode() in came.body:
            await connection.send(frame(DATA, ACK, came.stream_id, body=AGREED))
        elif came.length > 1024 and came.kind == DATA:
            await asyncio.Event().wait()


async def say_nothing(connection: Connection) -> None:
    await connection.pipe.discard()


async def stay(connection: Connection, peer: PeerId) -> None:
    """Circuits on which nothing is sent. A lost one is asked for again."""
    await hold_streams(connection, [connect_to(peer)] * CIRCUITS, pause=1.0)


async def fill(connection: Connection, peer: PeerId) -> None:
    """Sends all that the windows take."""
    ids = await open_circuits(connection, peer)
    for stream_id in ids:
        await connection.send(frame(DATA, 0, stream_id, body=bytes(FIRST_WINDOW)))
    async for came in connection.frames():
        if came.kind == WINDOW_UPDATE and came.length and came.stream_id in ids:
            await connection.send(frame(DATA, 0, came.stream_id, body=bytes(min(came.length, INITIAL_WINDOW))))


async def trickle(connection: Connection, peer: PeerId) -> None:
    """As much, a byte in each frame."""
    for stream_id in await open_circuits(connection, peer):
        piece = frame(DATA, 0, stream_id, body=b"x") * (FIRST_WINDOW // 15)
        for _ in range(15):
            await connection.send(piece)


async def open_circuits(connection: Connection, peer: PeerId) -> list[int]:
    """The ids of the streams of those that stand."""
    asked = dict.fromkeys(range(1, 2 * CIRCUITS, 2), 0)
    opened = []
    await connection.send(b"".join(frame(DATA, SYN, stream_id, body=connect_to(peer)) for stream_id in asked))
    async for came in connection.frames():
        if came.stream_id in asked:
            asked[came.stream_id] += len(came.body)
            if came.ends or asked[came.stream_id] > len(lines(HOP)):
                del asked[came.stream_id]
                if not came.ends:
                    opened.append(came.stream_id)
        if not asked:
            break
    return opened


HELD = Must(kept=99, kept_p99=200, fresh=95, turn=75, memory=200)
CHEAP = Must(kept=99, kept_p99=200, fresh=95, turn=75, closed=True)
"""A relayed request passes the victim four times, and waits for its turn each time. What asks for circuits is read in one
turn, and answered by as many tasks after it."""


def dial_requests() -> Flood:
    """Of AutoNAT, which a relay serves, too: each with as many addresses as the victim looks at, none of which it may dial."""
    address = Multiaddr.parse("/ip4/127.0.0.1/tcp/1").to_bytes()
    request = messages.AutonatMessage()
    request.dialRequest.addrs.extend([address] * 50)
    return on_streams(
        frame(DATA, SYN, body=lines(DIAL_REQUEST) + message(request.SerializeToString())), frame(DATA, FIN)
    )


FLOODS: dict[str, Callable[[], Flood]] = {
    "reserve-again": lambda: on_streams(frame(DATA, SYN, body=RESERVE), frame(DATA, FIN)),
    "circuits-to-nobody": lambda: on_streams(
        frame(DATA, SYN, body=connect_to(Keypair.generate().peer_id)), frame(DATA, FIN)
    ),
    "dial-requests": dial_requests,
    "circuits-to-honest": lambda: on_streams(frame(DATA, SYN, body=connect_to(keypair(HOST).peer_id))),
}
HELD_CIRCUITS: dict[str, tuple[Serve, Use]] = {
    "circuits-idle": (agree, stay),
    "circuits-unread": (agree_and_stop, fill),
    "circuits-of-bytes": (agree, trickle),
    "circuits-not-agreed": (say_nothing, stay),
}


def relayed(name: str, drive: Callable[[Target], Awaitable[object]], must: Must, setup: float = 0.0) -> Attack:
    return Attack(
        name=name,
        drive=drive,
        must=must,
        victim=Victim(relay=True),
        setup=setup,
        fresh_per_second=2.0,
        quick=name in {"circuits-to-honest", "circuits-idle"},
    )


ATTACKS = (
    *(relayed(name, partial(flood, make, 4), CHEAP) for name, make in FLOODS.items()),
    relayed("half-hops", partial(hold, [RESERVE[:-1]] * STREAMS, 4), CHEAP),
    relayed("reservation-churn", churn, HELD),
    relayed("all-reservations", take_reservations, HELD, setup=10.0),
    *(relayed(name, partial(circuits, serve, use), HELD, setup=3.0) for name, (serve, use) in HELD_CIRCUITS.items()),
)

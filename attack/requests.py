"""Attacks with requests that are held: answers that are not read, halves, streams that say nothing, questions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from itertools import count

from attack.remote import Connection, Streams, Target, again, frame, lines, message
from attack.terms import Attack, Must, Victim
from stronghold_p2p import Keypair
from stronghold_p2p.requests.codec import PROTOCOLS
from stronghold_p2p.wire.yamux import INITIAL_WINDOW, Flag, FrameType

LINES = lines(PROTOCOLS["json"])
SMALL = LINES + message(b'"x"')
HALF = LINES + message(bytes(1024 * 1024))[: 512 * 1024]
ARRAYS = [LINES + message(b"[" + b",".join([b"[]"] * number) + b"]") for number in (20_000, 2_000, 200, 20, 2)]
"""Of the first, 60 KB, the victim says that it takes 2.7 MB. The others fit where that one does not any more."""

STREAMS = 500
"""On a connection, where 512 are taken."""

DIALS_AT_ONCE = 32
REOPENINGS_PER_SECOND = 100
"""Of all connections together: the attack is what is held."""


async def hold(openings: Sequence[bytes], identities: int, target: Target) -> None:
    """So many connections, each with a stream for each of ``openings``, which sends that and waits. One that the victim
    ends is opened anew."""
    dialing = asyncio.Semaphore(DIALS_AT_ONCE)

    async def once() -> None:
        async with dialing:
            connection = await Connection.dial(target)
        with closing(connection):
            await hold_streams(connection, openings, identities / REOPENINGS_PER_SECOND)

    await asyncio.gather(*(again(once) for _ in range(identities)))


async def hold_streams(connection: Connection, openings: Sequence[bytes], pause: float) -> None:
    ids = count(1, 2)
    held: dict[int, bytes] = {}
    unsent: dict[int, bytes] = {}

    async def open_stream(opening: bytes) -> None:
        stream_id = next(ids)
        held[stream_id], unsent[stream_id] = opening, opening[INITIAL_WINDOW:]
        await connection.send(frame(FrameType.DATA, Flag.SYN, stream_id, body=opening[:INITIAL_WINDOW]))

    for opening in openings:
        await open_stream(opening)
    async for came in connection.frames():
        if came.ends and came.stream_id in held:
            del unsent[came.stream_id]
            await asyncio.sleep(pause)
            await open_stream(held.pop(came.stream_id))
        elif came.kind == FrameType.WINDOW_UPDATE and (rest := unsent.get(came.stream_id)):
            unsent[came.stream_id] = rest[came.length :]
            await connection.send(frame(FrameType.DATA, 0, came.stream_id, body=rest[: came.length]))


async def unread_answers(target: Target) -> None:
    """Requests of 5 bytes whose answers are a megabyte, of which nothing is read: three peers, two connections each."""
    requests = Streams([frame(FrameType.DATA, Flag.SYN, body=LINES + message(b'"big"'))], STREAMS)()

    async def once(keypair: Keypair) -> None:
        with closing(await Connection.dial(target, keypair=keypair)) as connection:
            await connection.send(requests)
            while True:  # as nothing is read, only this shows that the victim has closed the connection
                await asyncio.sleep(0.5)
                await connection.send(frame(FrameType.PING, Flag.SYN))

    peers = [Keypair.generate() for _ in range(3)]
    await asyncio.gather(*(again(partial(once, peer)) for peer in 2 * peers))


ATTACKS = (
    Attack(
        name="unread-answers",
        drive=unread_answers,
        must=Must(kept=99, fresh=99, memory=150, memory_after=50),
    ),
    Attack(
        name="half-requests",
        drive=partial(hold, [HALF] * STREAMS, 1),
        victim=Victim(firewall="ask strangers"),
        must=Must(kept=99, fresh=99),
        quick=True,
    ),
    Attack(
        name="half-requests-of-five",
        drive=partial(hold, [HALF] * STREAMS, 5),
        victim=Victim(firewall="ask strangers"),
        must=Must(kept=99, fresh=99),
        quick=True,
    ),
    Attack(
        name="silent-streams",
        drive=partial(hold, [LINES] * STREAMS, 1),
        victim=Victim(iterates=True),
        must=Must(kept=99, fresh=99),
        quick=True,
    ),
    Attack(
        name="waiting-bytes",
        drive=partial(hold, 3 * ARRAYS, 48),
        victim=Victim(firewall="ask all"),
        must=Must(kept=99, fresh=99),
        quick=True,
    ),
    Attack(
        name="many-questions",
        drive=partial(hold, [SMALL], 1024),
        victim=Victim(firewall="ask all"),
        must=Must(kept=99, fresh=95),
    ),
    Attack(
        name="questions-to-a-person",
        drive=partial(hold, [SMALL], 100),
        victim=Victim(firewall="ask newcomers"),
        must=Must(fresh=99, shown_after=2),
        setup=3.0,
        fresh_per_second=0.4,
    ),
    Attack(
        name="stdout-stops",
        drive=partial(hold, [SMALL], 100),
        victim=Victim(command=True),
        must=Must(kept=99, fresh=99),
    ),
)

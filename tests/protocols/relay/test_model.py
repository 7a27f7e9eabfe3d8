"""Whatever peers do to a relay, in whatever order: it counts right, keeps its limits, and has nothing left in the end."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.examples import examples
from support.loop import Loop
from support.relays import Node, RelayNet, relay_net
from support.waiting import settled

from stronghold_p2p import Stream, StrongholdError
from stronghold_p2p.encoding import messages
from stronghold_p2p.protocols.framing import read, write
from stronghold_p2p.protocols.relay.message import Status, StopType

PATIENCE = 10.0
"""Seconds of one example, which takes a fraction of one."""

MAX_RESERVATIONS = 2
MAX_CIRCUITS = 3
MAX_OF_A_PEER = 2
LIMITS = {
    "max_reservations_per_network": MAX_RESERVATIONS,
    "max_circuits": MAX_CIRCUITS,
    "max_circuits_per_peer": MAX_OF_A_PEER,
}

PEERS = st.sampled_from(range(3))
ANSWERS = st.sampled_from([Status.OK, Status.OK, Status.PERMISSION_DENIED, None])
STEPS = st.one_of(
    st.tuples(st.just("reserve"), PEERS),
    st.tuples(st.just("ask"), PEERS, PEERS, ANSWERS),
    st.tuples(st.just("ask"), PEERS, PEERS, ANSWERS),
    st.tuples(st.just("answer"), st.integers(0, 2), st.sampled_from([Status.OK, Status.PERMISSION_DENIED])),
    st.tuples(st.sampled_from(["reset", "finish"]), st.integers(0, 2), st.booleans()),
    st.tuples(st.just("leave"), PEERS),
)


@dataclass(eq=False)
class Asked:
    """A circuit, from when it is asked for."""

    source: int
    target: int
    stream: Stream
    answer: asyncio.Task[int]
    """The relay's."""
    at_target: Stream | None
    ends: list[asyncio.Task[bool]] = field(default_factory=list)
    """Each reads until its end; True: in order."""

    @property
    def pending(self) -> bool:
        return not self.answer.done()

    @property
    def is_open(self) -> bool:
        """The two ends have not closed, both, nor has one failed."""
        over = [end.result() for end in self.ends if end.done()]
        return bool(self.ends) and len(over) < 2 and all(over)


class World:
    """The relay, three peers, and what they should find."""

    def __init__(self, net: RelayNet) -> None:
        self.net = net
        self.nodes: list[Node] = [net.node() for _ in range(3)]
        self.reserved: set[int] = set()
        self.asked: list[Asked] = []

    async def reserve(self, who: int) -> None:
        may = who in self.reserved or len(self.reserved) < MAX_RESERVATIONS
        assert await self.nodes[who].reserve() == (Status.OK if may else Status.RESERVATION_REFUSED)
        if may:
            self.reserved.add(who)

    async def ask(self, source: int, target: int, answer: Status | None) -> None:
        node, other = self.nodes[source], self.nodes[target]
        other.answer = answer
        live = [one for one in self.asked if one.pending or one.is_open]
        room = len(live) < MAX_CIRCUITS and all(
            sum(peer in {one.source, one.target} for one in live) < MAX_OF_A_PEER for peer in (source, target)
        )
        stream = await node.ask(other.peer)
        reading = asyncio.create_task(status_of(stream))
        await settled()
        asked = Asked(source, target, stream, reading, None if other.stops.empty() else other.stops.get_nowait())
        if source == target:
            assert reading.result() == Status.PERMISSION_DENIED
        elif target not in self.reserved:
            assert reading.result() == Status.NO_RESERVATION
        elif reading.done() and reading.result() == Status.RESOURCE_LIMIT_EXCEEDED:
            assert not room
        else:  # room, or that of another one, which has ended
            expected = Status.OK if answer is Status.OK else Status.CONNECTION_FAILED
            assert reading.result() == expected if answer is not None else not reading.done()
            assert asked.at_target is not None
            self.asked.append(asked)
            self.begin(asked)
            return
        assert asked.at_target is None  # the target has heard nothing

    def begin(self, asked: Asked) -> None:
        """Watches the ends of a circuit that stands."""
        if not asked.pending and asked.answer.result() == Status.OK and not asked.ends:
            assert asked.at_target is not None
            asked.ends = [asyncio.create_task(end_of(stream)) for stream in (asked.stream, asked.at_target)]

    async def answer(self, which: int, status: Status) -> None:
        pending = [one for one in self.asked if one.pending]
        if which < len(pending):
            asked = pending[which]
            assert asked.at_target is not None
            await write(asked.at_target, messages.StopMessage(type=StopType.STATUS, status=status))
            await settled()
            assert asked.answer.result() == (Status.OK if status is Status.OK else Status.CONNECTION_FAILED)
            self.begin(asked)

    async def end(self, how: str, which: int, at_source: bool) -> None:
        live = [one for one in self.asked if one.is_open]
        if which < len(live):
            asked = live[which]
            stream = asked.stream if at_source else asked.at_target
            assert stream is not None
            if how == "reset":
                stream.reset()
            else:
                await stream.close_write()

    async def leave(self, who: int) -> None:
        (await self.nodes[who].connection()).abort()
        self.reserved.discard(who)

    async def check(self) -> None:
        await settled()
        live = [one for one in self.asked if one.pending or one.is_open]
        assert self.net.service.reservations == len(self.reserved)
        assert self.net.service.circuits == len(live) <= MAX_CIRCUITS
        for peer in range(3):
            assert sum(peer in {one.source, one.target} for one in live) <= MAX_OF_A_PEER


async def status_of(stream: Stream) -> int:
    """0: none comes."""
    try:
        return (await read(stream, messages.HopMessage)).status
    except StrongholdError:
        return 0


async def end_of(stream: Stream) -> bool:
    try:
        while await stream.read():
            pass
    except StrongholdError:
        return False
    return True


async def run(steps: list[tuple[Any, ...]]) -> None:
    async with asyncio.timeout(PATIENCE), relay_net(**LIMITS) as net:
        world = World(net)
        for step, *arguments in steps:
            if step in {"reset", "finish"}:
                await world.end(str(step), *arguments)
            else:
                await getattr(world, str(step))(*arguments)
            await world.check()
    await asyncio.gather(*(task for one in world.asked for task in (one.answer, *one.ends)))


EACH_ONCE = [
    ("reserve", 0),
    ("ask", 1, 0, Status.OK),
    ("reset", 0, True),
    ("ask", 1, 0, None),
    ("answer", 0, Status.PERMISSION_DENIED),
    ("ask", 1, 0, Status.PERMISSION_DENIED),
    ("ask", 1, 0, None),
    ("leave", 1),
    ("ask", 2, 0, Status.OK),
    ("finish", 0, True),
    ("finish", 0, False),
    ("ask", 2, 0, Status.OK),
    ("ask", 1, 0, Status.OK),
    ("leave", 0),
    ("reserve", 1),
    ("reserve", 2),
    ("reserve", 0),
]


@settings(max_examples=examples(60))
@example(EACH_ONCE)
@given(st.lists(STEPS, min_size=8, max_size=25))
def test_any_order(steps: list[tuple[Any, ...]]) -> None:
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(run(steps))

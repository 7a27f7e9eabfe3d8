"""A model of swarms, and swarms that must agree with it: who is connected to whom, whatever is dialed, listened on, closed,
banned, kept, and given up in between; within all limits, and with nothing left of what has ended.

The swarms are whole but for sockets; time passes when the model says so. What happens one thing after the other, the model
foretells. Of what happens while another thing does, it knows only what must hold at both ends when all is settled.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule
from support.clock import Clock
from support.examples import examples
from support.loop_machine import LoopMachine
from support.network import MemoryTransport
from support.swarms import make_swarm
from support.waiting import settled, turns

from stronghold_p2p import (
    Config,
    ConnectionClosed,
    ConnectionEstablished,
    DialError,
    Direction,
    Event,
    Keypair,
    Multiaddr,
    NotPermitted,
    Path,
    PeerId,
    StrongholdError,
)
from stronghold_p2p.firewall.admission import Admission
from stronghold_p2p.transport.connection import Connection

KEYPAIRS: Final = [Keypair.generate() for _ in range(5)]
NUMBERS: Final[dict[PeerId, int]] = {keypair.peer_id: number for number, keypair in enumerate(KEYPAIRS)}
IDLE: Final = 1.0
LAG: Final = 3
"""Turns of the loop that bytes are on the way: dials may cross."""
LIMITS: Final = (
    {"max_inbound_connections": 2, "max_outbound_connections": 2, "max_connections": 3, "max_connections_per_peer": 2},
    {"max_connections_per_peer": 1},
)
Outcome: TypeAlias = Literal["connected", "banned", "failed"]


# -- the model -------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Link:
    """A connection."""

    dialer: Node
    listener: Node

    def joins(self, one: Node, other: Node) -> bool:
        return {self.dialer, self.listener} == {one, other}

    @property
    def is_kept(self) -> bool:
        """Both ends want it."""
        return self in self.dialer.keeps and self in self.listener.keeps


@dataclass(eq=False)
class Node:
    """What a swarm is to be like."""

    number: int
    limits: dict[str, int]
    listens: bool = False
    banned: set[Node] = field(default_factory=set)
    keeps: set[Link] = field(default_factory=set)

    def limit(self, name: str) -> int:
        return self.limits.get(name, 1000)


class Model:
    def __init__(self, limits: dict[str, int]) -> None:
        self.nodes = [Node(number, limits) for number in range(len(KEYPAIRS))]
        self.links: list[Link] = []
        """The oldest first."""

    def between(self, one: Node, other: Node) -> list[Link]:
        return [link for link in self.links if link.joins(one, other)]

    def dial(self, dialer: Node, listener: Node) -> Outcome:
        """Of a dial while nothing else happens."""
        if listener in dialer.banned:
            return "banned"
        if self.between(dialer, listener):
            return "connected"
        if not listener.listens:
            return "failed"
        ours = [link for link in self.links if link.dialer is dialer]
        if len(ours) >= dialer.limit("max_outbound_connections") or not self._make_room(dialer):
            return "failed"
        # The dialer hears a moment later if the listener refuses.
        if dialer not in listener.banned:
            theirs = [link for link in self.links if link.listener is listener]
            if len(theirs) >= listener.limit("max_inbound_connections"):
                self._evict(listener, theirs)
            if self._make_room(listener):
                self.links.append(Link(dialer, listener))
        return "connected"

    def end(self, links: list[Link]) -> None:
        for link in links:
            self.links.remove(link)
            for node in link.dialer, link.listener:
                node.keeps.discard(link)

    def _make_room(self, node: Node) -> bool:
        """For one connection more in all."""
        theirs = [link for link in self.links if link.listener is node]
        if len([link for link in self.links if node in (link.dialer, link.listener)]) < node.limit("max_connections"):
            return True
        if theirs:
            self._evict(node, theirs)
        return bool(theirs)

    def _evict(self, node: Node, theirs: list[Link]) -> None:
        self.end([next((link for link in theirs if link not in node.keeps), theirs[-1])])


# -- both, side by side ----------------------------------------------------------------------------------


class Real:
    """A swarm, and what it has told of itself."""

    def __init__(self, number: int, network: MemoryTransport, limits: dict[str, int]) -> None:
        self.address = Multiaddr.parse(f"/memory/{number}")
        self.events: list[Event] = []
        self.admission = Admission()
        config = Config(idle_timeout=IDLE, **limits)
        self.swarm = make_swarm(
            (network,), (), self.events, config=config, keypair=KEYPAIRS[number], admission=self.admission
        )

    def connections(self, number: int, direction: Direction | None = None) -> list[Connection]:
        """Those with the swarm of that number."""
        peer = KEYPAIRS[number].peer_id
        return [one for one in self.swarm.connections if one.peer == peer and direction in (None, one.direction)]

    def dial(self, other: Real, clock: Clock) -> Coroutine[Any, Any, Connection]:
        return self.swarm.connect(other.swarm.peer_id, (other.address,), clock.now + 100)

    def ban(self, peer: PeerId) -> None:
        self.admission.ban(peer)
        self.swarm.admission_changed()

    def check(self) -> None:
        """Nothing is left of what has ended, and all has been told of."""
        swarm = self.swarm
        assert swarm._dialer.dials == {}
        assert swarm._upgrading == {}
        assert len(swarm._places._pending) == 0
        assert swarm._places._ours | set(swarm._places._theirs) == set(swarm.connections)
        assert sum(share.members for share in swarm.memory._shares.values()) == len(swarm.connections)
        assert swarm.memory.used == 0
        deadlines = [item for items in swarm.deadlines._ticks.values() for item in items]
        assert Counter(deadlines) == Counter(swarm.connections)
        open_: Counter[tuple[PeerId, Direction]] = Counter()
        for event in self.events:
            match event:
                case ConnectionEstablished(connection):
                    open_[connection.peer, connection.direction] += 1
                case ConnectionClosed(connection):
                    open_[connection.peer, connection.direction] -= 1
                    assert open_[connection.peer, connection.direction] >= 0
                case _:
                    pass
        assert +open_ == Counter((one.peer, one.direction) for one in swarm.connections)


NODES = st.integers(0, len(KEYPAIRS) - 1)
PAIRS = st.lists(NODES, min_size=2, max_size=2, unique=True)
DISTURBANCES: Final = (
    "leave",
    "ban",
    "be banned",
    "disconnect",
    "be disconnected",
    "stop",
    "dial back",
    "close",
    "be closed",
)


class SwarmMachine(LoopMachine):
    @initialize(limits=st.sampled_from(LIMITS))
    def begin(self, limits: dict[str, int]) -> None:
        self.limits = limits
        self.model = Model(limits)
        self.network = MemoryTransport(range(len(KEYPAIRS)), Path("memory"), lag=LAG)
        self.reals: list[Real] = []
        for node in self.model.nodes:
            self.reals.append(self.run(self.make(node.number)))
            self.listen(node.number)

    async def make(self, number: int) -> Real:
        return Real(number, self.network, self.limits)

    # -- one thing after the other --

    @rule(number=NODES)
    def listen(self, number: int) -> None:
        node, real = self.model.nodes[number], self.reals[number]
        if not node.listens:
            self.run(real.swarm.listen(real.address))
            node.listens = True

    @rule(number=NODES)
    def stop_listening(self, number: int) -> None:
        self.reals[number].swarm.stop_listening()
        self.model.nodes[number].listens = False

    @rule(pairs=st.lists(PAIRS, min_size=1, max_size=6), callers=st.sampled_from([1, 3]))
    def connect(self, pairs: list[list[int]], callers: int) -> None:
        """One after the other."""
        for dialer, listener in pairs:
            expected = self.model.dial(self.model.nodes[dialer], self.model.nodes[listener])
            outcomes = self.run(self.dial(dialer, listener, callers))
            kinds = {"connected": Connection, "banned": NotPermitted, "failed": DialError}
            assert [type(outcome) for outcome in outcomes] == [kinds[expected]] * callers
            self.agree()

    async def dial(self, dialer: int, listener: int, callers: int) -> list[object]:
        one, other = self.reals[dialer], self.reals[listener]
        dials = [one.dial(other, self.clock) for _ in range(callers)]
        return [*await asyncio.gather(*dials, return_exceptions=True)]

    @rule(pair=PAIRS)
    def disconnect(self, pair: list[int]) -> None:
        one, other = (self.model.nodes[number] for number in pair)
        self.run(self.reals[one.number].swarm.disconnect(KEYPAIRS[other.number].peer_id))
        self.model.end(self.model.between(one, other))
        self.agree()

    @rule(pair=PAIRS)
    def ban(self, pair: list[int]) -> None:
        one, other = (self.model.nodes[number] for number in pair)
        self.reals[one.number].ban(KEYPAIRS[other.number].peer_id)
        one.banned.add(other)
        self.model.end(self.model.between(one, other))
        self.agree()

    @rule(pair=PAIRS)
    def unban(self, pair: list[int]) -> None:
        one, other = (self.model.nodes[number] for number in pair)
        self.reals[one.number].admission.unban(KEYPAIRS[other.number].peer_id)
        one.banned.discard(other)

    @rule(pair=PAIRS, by=st.sampled_from(["one", "both"]))
    def keep(self, pair: list[int], by: str) -> None:
        """Both, or one of them, need what connects them, or need it no more."""
        nodes = [self.model.nodes[number] for number in pair]
        links = self.model.between(*nodes)
        if len(links) != 1:
            return
        for node, other in (nodes, nodes[::-1])[: 1 if by == "one" else 2]:
            (connection,) = self.reals[node.number].connections(other.number)
            connection.keep(kept=links[0] not in node.keeps)
            node.keeps ^= {links[0]}

    @rule()
    def pass_time(self) -> None:
        """So much that what one end does not need is closed."""
        self.run(self.clock.advance(2.5 * IDLE))
        self.model.end([link for link in self.model.links if not link.is_kept])
        self.agree()

    @rule(number=NODES)
    def restart(self, number: int) -> None:
        self.run(self.close(number))
        self.model.end([link for link in self.model.links if number in (link.dialer.number, link.listener.number)])
        node = self.model.nodes[number]
        node.listens, node.banned = False, set()
        self.reals[number] = self.run(self.make(number))
        self.agree()

    async def close(self, number: int) -> None:
        closing = asyncio.ensure_future(self.reals[number].swarm.close())
        await settled()
        assert closing.done(), "it has nothing to wait for"
        await closing
        assert self.reals[number].swarm.connections == ()
        self.reals[number].check()

    # -- one thing while another happens --

    @rule(pair=PAIRS, after=st.integers(0, 8 * LAG), what=st.sampled_from(DISTURBANCES))
    def disturb_a_dial(self, pair: list[int], after: int, what: str) -> None:
        dialer, listener = (self.model.nodes[number] for number in pair)
        outcomes = self.run(self.disturb(dialer.number, listener.number, after, what))
        for outcome in outcomes:
            assert isinstance(outcome, Connection | StrongholdError | asyncio.CancelledError | None), outcome
        if what == "ban":
            dialer.banned.add(listener)
        elif what == "be banned":
            listener.banned.add(dialer)
        elif what == "stop":
            listener.listens = False
        elif what in ("close", "be closed"):
            node = dialer if what == "close" else listener
            node.listens, node.banned = False, set()
            self.reals[node.number] = self.run(self.make(node.number))
        elif what == "dial back":
            self.dialed_back(dialer, listener)
        self.adopt()

    def dialed_back(self, *nodes: Node) -> None:
        """Both have dialed: unless something keeps them apart, they are connected now."""
        one, other = nodes
        apart = other in one.banned or one in other.banned or not (one.listens or other.listens)
        if not apart and "max_connections" not in self.limits:
            assert self.reals[one.number].connections(other.number), "both have dialed, and are not connected"

    async def disturb(self, dialer: int, listener: int, after: int, what: str) -> list[object]:
        one, other = self.reals[dialer], self.reals[listener]
        tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(one.dial(other, self.clock))]
        acts: dict[str, Callable[[], Any]] = {
            "leave": tasks[0].cancel,
            "ban": lambda: one.ban(other.swarm.peer_id),
            "be banned": lambda: other.ban(one.swarm.peer_id),
            "disconnect": lambda: one.swarm.disconnect(other.swarm.peer_id),
            "be disconnected": lambda: other.swarm.disconnect(one.swarm.peer_id),
            "stop": other.swarm.stop_listening,
            "dial back": lambda: other.dial(one, self.clock),
            "close": one.swarm.close,
            "be closed": other.swarm.close,
        }
        await turns(after)
        act = acts[what]()
        if isinstance(act, Coroutine):
            tasks.append(asyncio.ensure_future(act))
        await settled()
        assert all(task.done() for task in tasks), "nothing is there to wait for"
        return [*await asyncio.gather(*tasks, return_exceptions=True)]

    # -- what must hold --

    def agree(self) -> None:
        """The swarms have the connections that the model has."""
        self.run(settled())
        expected = Counter((link.dialer.number, link.listener.number) for link in self.model.links)
        assert self.counted(Direction.OUTBOUND) == self.counted(Direction.INBOUND) == expected
        self.check()

    def adopt(self) -> None:
        """Has the model take the connections that there are, as far as both ends know of them."""
        self.run(settled())
        there = self.counted(Direction.OUTBOUND)
        assert there == self.counted(Direction.INBOUND)
        known = Counter((link.dialer.number, link.listener.number) for link in self.model.links)
        gone = known - there
        for link in list(self.model.links):
            pair = link.dialer.number, link.listener.number
            if gone[pair]:
                gone[pair] -= 1
                self.model.end([link])
        for dialer, listener in (there - known).elements():
            self.model.links.append(Link(self.model.nodes[dialer], self.model.nodes[listener]))
        self.check()

    def check(self) -> None:
        for node, real in zip(self.model.nodes, self.reals, strict=True):
            real.check()
            connections = real.swarm.connections
            peers = Counter((connection.peer, connection.direction) for connection in connections)
            inbound = [one for one in connections if not real.swarm._places.is_ours(one)]
            assert len(connections) <= node.limit("max_connections")
            assert len(inbound) <= node.limit("max_inbound_connections")
            assert max(peers.values(), default=0) <= node.limit("max_connections_per_peer")
            assert not {self.model.nodes[NUMBERS[peer]] for peer, _ in peers} & node.banned
        assert not self.complaints

    def counted(self, direction: Direction) -> Counter[tuple[int, int]]:
        """All connections, by the dialer and the listener, as one end knows them."""
        pairs = (
            (real_number, NUMBERS[connection.peer])
            for real_number, real in enumerate(self.reals)
            for connection in real.swarm.connections
            if connection.direction is direction
        )
        return Counter(pair if direction is Direction.OUTBOUND else pair[::-1] for pair in pairs)

    def teardown(self) -> None:
        try:
            for number in range(len(getattr(self, "reals", ()))):
                self.run(self.close(number))
            self.run(settled())
            self.check_nothing_is_left()
        finally:
            asyncio._set_running_loop(None)
            self.loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Between the steps the loop counts as running too: what a step does is done from one of its callbacks."""
        asyncio._set_running_loop(None)
        try:
            return super().run(work)
        finally:
            asyncio._set_running_loop(self.loop)


SwarmMachine.TestCase.settings = settings(
    max_examples=examples(60), stateful_step_count=30, suppress_health_check=list(HealthCheck)
)
TestSwarm = SwarmMachine.TestCase

"""Which of our addresses can be dialed, as servers find out, and what follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.autonat import ALICE, BOB, CAROL, Node, everywhere, nodes
from support.clock import Clock
from support.compiled import replaces_parts
from support.waiting import settled, until

from stronghold_p2p import (
    AddressOrigin,
    AddressReachability,
    Keypair,
    Multiaddr,
    Reachability,
    ReachabilityChanged,
)
from stronghold_p2p.protocols.autonat.client import AutonatClient
from stronghold_p2p.protocols.autonat.results import Outcome
from stronghold_p2p.protocols.ping import PROTOCOL as PING
from stronghold_p2p.swarm.listeners import Listeners
from stronghold_p2p.transport.connection import Connection

REACHABLE, UNREACHABLE, UNKNOWN = Reachability.REACHABLE, Reachability.UNREACHABLE, Reachability.UNKNOWN

NOW = 1_800_000_000.0

ELSEWHERE = Multiaddr.parse("/ip4/127.0.0.9/tcp/9")
"""Announced, and nobody listens there."""


def changes(node: Node) -> list[tuple[Multiaddr, Reachability, Reachability]]:
    """Of each address: what it was, and is."""
    return [
        (event.address.without_peer(), event.before, event.reachability.state)
        for event in node.events
        if isinstance(event, ReachabilityChanged)
    ]


def states(node: Node) -> dict[Multiaddr, Reachability]:
    return {address.without_peer(): known.state for address, known in node.reachability.reachability.items()}


async def server_at(address: str) -> Node:
    server = Node(serves=True)
    await server.listen(address)
    return server


async def test_what_can_be_dialed_and_what_not() -> None:
    client, server = Node(), await server_at(BOB)
    async with nodes(client, server):
        await client.swarm.listen(Multiaddr.parse(ALICE), announce=(ELSEWHERE,))
        address = client.address
        assert states(client) == {address: UNKNOWN, ELSEWHERE: UNKNOWN}
        assert changes(client) == []
        await client.connect(server)
        await until(lambda: len(changes(client)) == 2)
        assert set(changes(client)) == {(address, UNKNOWN, REACHABLE), (ELSEWHERE, UNKNOWN, UNREACHABLE)}
        known = client.reachability.reachability
        dialed, not_dialed = known[address.with_peer(client.peer)], known[ELSEWHERE.with_peer(client.peer)]
        assert (dialed.state, dialed.origin) == (REACHABLE, AddressOrigin.INTERFACE)
        assert (dialed.dialed_by, dialed.not_dialed_by) == ((server.peer,), ())
        assert (not_dialed.state, not_dialed.origin) == (UNREACHABLE, AddressOrigin.ANNOUNCED)
        assert (not_dialed.dialed_by, not_dialed.not_dialed_by) == ((), (server.peer,))
        assert dialed.at == pytest.approx(NOW)


async def test_an_address_of_the_servers_network_is_not_asked_about() -> None:
    """The server may be behind our own router."""
    client, server = Node(), await server_at(ALICE)
    async with nodes(client, server):
        await client.listen(ALICE)
        await client.connect(server)
        await settled()
        assert server.server.answers == {}
        assert set(states(client).values()) == {UNKNOWN}


async def test_a_server_inside_is_not_asked() -> None:
    client, server = Node(is_public=lambda address: "127.0.0.2" not in str(address)), await server_at(BOB)
    async with nodes(client, server):
        await client.listen(ALICE)
        await client.connect(server)
        await settled()
        assert server.server.answers == {}


async def test_private_addresses_are_not_asked_about() -> None:
    client, server = Node(is_public=lambda address: "127.0.0.1/" not in str(address)), await server_at(BOB)
    async with nodes(client, server):
        await client.listen(ALICE)
        await client.connect(server)
        await settled()
        assert server.server.answers == {}
        assert client.reachability.reachability == {}


# -- with a client that asks nobody ------------------------------------------------------------------


class Oracle(AutonatClient):
    """Answers for the servers, and notes who is asked about what."""

    def __init__(self, outcome: Callable[[Multiaddr], Outcome]) -> None:
        super().__init__(is_public=everywhere)
        self.outcome = outcome
        self.asked: list[tuple[Multiaddr, Multiaddr]] = []
        """Server and address."""

    async def ask(self, connection: Connection, address: Multiaddr, *, pay: bool = True) -> Outcome:
        self.asked.append((connection.remote_address, address))
        return self.outcome(address)


class Foreseen(Node):
    """Whose questions an oracle answers."""

    def __init__(self, outcome: Callable[[Multiaddr], Outcome], **parts: Any) -> None:
        super().__init__(client=Oracle(outcome), **parts)

    @property
    def asked(self) -> list[tuple[Multiaddr, Multiaddr]]:
        assert isinstance(self.client, Oracle)
        return self.client.asked

    def foresee(self, outcome: Outcome) -> None:
        assert isinstance(self.client, Oracle)
        self.client.outcome = lambda address: outcome


@asynccontextmanager
async def with_servers(client: Foreseen, *places: str) -> AsyncIterator[list[Node]]:
    servers = [await server_at(place) for place in places]
    async with nodes(client, *servers):
        await client.listen(ALICE)
        for server in servers:
            await client.connect(server)
        yield servers


def stopped_clock() -> Clock:
    """From now on, time passes only when the test says so."""
    loop = asyncio.get_running_loop()
    clock = loop.time = Clock(loop.time())  # type: ignore[method-assign]
    return clock


async def test_three_networks_are_asked_and_no_more() -> None:
    client = Foreseen(lambda address: Outcome.REACHED)
    async with with_servers(client, *(f"/ip4/127.0.0.{number}/tcp/0" for number in range(2, 7))) as servers:
        await settled()
        assert len(client.asked) == 3
        assert len({server for server, _ in client.asked}) == 3
        assert changes(client) == [(client.address, UNKNOWN, REACHABLE)]
        (known,) = client.reachability.reachability.values()
        assert set(known.dialed_by) < {server.peer for server in servers}


class Silent(AutonatClient):
    """Whose servers never answer."""

    def __init__(self) -> None:
        super().__init__(is_public=everywhere)
        self.given_up = False

    async def ask(self, connection: Connection, address: Multiaddr, *, pay: bool = True) -> Outcome:
        never: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        try:
            return await never
        finally:
            self.given_up = True


async def test_closing_does_not_wait_for_an_answer() -> None:
    silent = Silent()
    client, server = Node(client=silent), await server_at(BOB)
    async with nodes(client, server):
        await client.listen(ALICE)
        await client.connect(server)
        await settled()
        assert not silent.given_up
        client.reachability.close()
        await settled()
        assert silent.given_up


async def test_it_is_asked_again_when_time_has_passed() -> None:
    client = Foreseen(lambda address: Outcome.NOT_REACHED)
    async with with_servers(client, BOB):
        clock = stopped_clock()
        await settled()
        assert len(client.asked) == 1
        assert states(client) == {client.address: UNREACHABLE}
        await clock.advance(290, step=10)
        assert len(client.asked) == 1
        client.foresee(Outcome.REACHED)  # somebody has set up the router
        await clock.advance(20, step=10)
        assert len(client.asked) == 2
        assert changes(client)[-1] == (client.address, UNREACHABLE, REACHABLE)


async def test_a_server_that_is_busy_gets_a_pause() -> None:
    client = Foreseen(lambda address: Outcome.BUSY)
    async with with_servers(client, BOB):
        clock = stopped_clock()
        await client.swarm.listen(Multiaddr.parse(ALICE), announce=(ELSEWHERE,))
        await settled()
        assert len(client.asked) == 1
        assert set(states(client).values()) == {UNKNOWN}
        await clock.advance(125, step=5)
        assert len(client.asked) == 2


async def test_another_network_makes_all_unknown() -> None:
    client = Foreseen(lambda address: Outcome.REACHED)
    async with with_servers(client, BOB):
        await settled()
        assert states(client) == {client.address: REACHABLE}
        client.foresee(Outcome.NOT_REACHED)
        client.reachability.network_changed()
        assert states(client) == {client.address: UNKNOWN}
        await settled()
        assert states(client) == {client.address: UNREACHABLE}


async def test_an_address_that_goes_in_the_turn_in_which_it_is_asked_about(caplog: pytest.LogCaptureFixture) -> None:
    client = Foreseen(lambda address: Outcome.REACHED)
    async with with_servers(client, BOB):
        await until(lambda: client.reachability._servers)
        client.reachability._look()
        client.swarm.stop_listening()
        await settled()
        assert client.reachability.reachability == {}
    assert caplog.records == []


async def test_a_stranger_does_not_prove_an_address_of_which_we_have_remotes_word_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It dials us where we are, and we would tell everybody of a third party's address."""
    victim = Multiaddr.parse("/ip4/127.0.0.77/tcp/1")
    monkeypatch.setattr(Listeners, "direct", property(lambda self: {victim: AddressOrigin.OBSERVED}))
    client, stranger, chosen = Foreseen(lambda address: Outcome.REACHED), await server_at(BOB), await server_at(CAROL)
    async with nodes(client, stranger, chosen):
        await client.listen(ALICE)
        await stranger.connect(client)
        await until(lambda: client.swarm.connections and client.swarm.connections[0].serves(PING))
        await settled()
        assert client.asked == []
        assert states(client) == {victim: UNKNOWN}
        client.foresee(Outcome.NOT_REACHED)
        await client.connect(chosen)
        await settled()
        assert client.asked == [(chosen.address, victim)]
        assert states(client) == {victim: UNREACHABLE}  # there is nobody else to ask


async def test_an_address_that_is_ours_no_more() -> None:
    client = Foreseen(lambda address: Outcome.NOT_REACHED)
    async with with_servers(client, BOB):
        await settled()
        client.swarm.stop_listening()
        assert client.reachability.reachability == {}
        await settled()
        assert len(client.asked) == 1


@replaces_parts
async def test_what_public_remotes_are_not_told() -> None:
    """What two networks could not dial; one server may be unable to dial at all."""
    told: list[tuple[frozenset[Multiaddr], frozenset[Multiaddr]]] = []
    client = Foreseen(lambda address: Outcome.NOT_REACHED)
    client.swarm.own_addresses.set_reachable = lambda *sets: told.append(sets)  # type: ignore[method-assign]
    second = await server_at(CAROL)
    async with with_servers(client, BOB), nodes(second):
        await settled()
        assert states(client) == {client.address: UNREACHABLE}
        assert told[-1] == (frozenset(), frozenset())
        await client.connect(second)
        await until(lambda: told[-1] == (frozenset(), frozenset({client.address})))
        client.swarm.stop_listening()
        assert told[-1] == (frozenset(), frozenset())


async def test_a_server_that_leaves_leaves_what_it_found_out() -> None:
    client = Foreseen(lambda address: Outcome.REACHED)
    async with with_servers(client, BOB) as (server,):
        await settled()
        await client.swarm.disconnect(server.peer)
        assert states(client) == {client.address: REACHABLE}


def test_in_words() -> None:
    server, other = (Keypair.generate().peer_id for _ in range(2))
    origin = AddressOrigin.INTERFACE
    assert AddressReachability(UNKNOWN, origin).how == "of an interface, no peer has tried it"
    assert (
        AddressReachability(REACHABLE, origin, (server,), (), NOW).how
        == f"of an interface, dialed back by {server}, last tried at 2027-01-15 08:00 UTC"
    )
    assert (
        AddressReachability(UNREACHABLE, origin, (), (server, other), NOW).how
        == f"of an interface, not by 2 peers, the last one {other}, last tried at 2027-01-15 08:00 UTC"
    )

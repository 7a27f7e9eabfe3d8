"""A peer whose router maps its ports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from support.router import Router
from support.waiting import next_event, settled

from stronghold_p2p import AddressesChanged, Multiaddr, PortMapped, PortMappingFailed, StrongholdP2p
from stronghold_p2p.port_mapping.gateway import Gateway
from stronghold_p2p.port_mapping.mapping import PortProtocol
from stronghold_p2p.port_mapping.router_protocols import NatPmp, Pcp
from stronghold_p2p.swarm.own_addresses import Scope, select


@pytest.fixture
async def router() -> AsyncIterator[Router]:
    router = await Router.open()
    yield router
    router.close()


def protocols(gateway: Gateway, secret: bytes) -> Sequence[PortProtocol]:
    return Pcp(gateway, secret), NatPmp(gateway)


def peer_behind(router: Router) -> StrongholdP2p[Any, Any]:
    peer: StrongholdP2p[Any, Any] = StrongholdP2p(port_mapping=True)
    service = peer._parts.port_mapping
    assert service is not None

    async def find() -> Gateway:
        return router.gateway

    service._find_gateway, service._make_protocols = find, protocols
    return peer


def port_of(address: Multiaddr) -> int:
    return int(address.components[1][1] or 0)


@pytest.mark.parametrize("version", [0, 2])
async def test_public_remotes_are_told_the_external_address(router: Router, version: int) -> None:
    router.speaks = {version}
    async with peer_behind(router) as peer:
        events = peer.events()
        port = port_of(await peer.listen("/ip4/0.0.0.0/tcp/0/ws"))
        mapped = await next_event(events, PortMapped)
        assert mapped.address == Multiaddr.parse(f"/ip4/1.2.3.4/tcp/{port}/ws/p2p/{peer.peer_id}")
        assert mapped.protocol == ("PCP" if version == 2 else "NAT-PMP")
        assert (await next_event(events, AddressesChanged)).new == (mapped.address,)
        assert mapped.address in peer.listeners[0].addresses
        assert peer._parts.swarm is not None
        told = select(peer._parts.swarm._listeners._own, Scope.PUBLIC, None)
        assert told[-1:] == (mapped.address.without_peer(),)
        assert list(router.mappings) == [port]
    assert not router.mappings


async def test_mappings_follow_the_listeners(router: Router) -> None:
    async with peer_behind(router) as peer:
        events = peer.events()
        first = port_of(await peer.listen("/ip4/0.0.0.0/tcp/0"))
        await next_event(events, PortMapped)
        second = port_of(await peer.listen("/ip4/127.0.0.1/tcp/0"))
        third = port_of(await peer.listen("/ip4/0.0.0.0/tcp/0"))
        await next_event(events, PortMapped)
        assert router.mappings.keys() == {first, third}
        assert second not in router.mappings
        await peer.stop_listening(f"/ip4/1.2.3.4/tcp/{first}")
        await settled()
        assert list(router.mappings) == [third]


async def test_what_fails_is_told(router: Router) -> None:
    router.result = 2
    async with peer_behind(router) as peer:
        events = peer.events()
        port = port_of(await peer.listen("/ip4/0.0.0.0/tcp/0"))
        failed = await next_event(events, PortMappingFailed)
        assert failed.listener == Multiaddr.parse(f"/ip4/0.0.0.0/tcp/{port}/p2p/{peer.peer_id}")
        refusal = "the router refuses: NOT_AUTHORIZED"
        assert failed.reason == f"PCP: {refusal}; NAT-PMP: {refusal}"
        assert not any("1.2.3.4" in str(address) for address in peer.listeners[0].addresses)


async def test_after_a_crash_pcp_knows_its_mapping_again(router: Router) -> None:
    router.speaks = {2}
    async with peer_behind(router) as peer:
        await peer.listen("/ip4/0.0.0.0/tcp/0")
        await next_event(peer.events(), PortMapped)
        left = dict(router.mappings)
    router.mappings = left
    (port,) = left
    again: StrongholdP2p[Any, Any] = peer_behind(router)
    again._parts.keypair = peer._parts.keypair
    async with again:
        await again.listen(f"/ip4/0.0.0.0/tcp/{port}")
        await next_event(again.events(), PortMapped)


async def test_off_unless_it_is_asked_for() -> None:
    assert StrongholdP2p[Any, Any]()._parts.port_mapping is None


async def test_closing_before_the_start_and_while_a_router_is_asked(router: Router) -> None:
    await peer_behind(router).close()
    router.silent = True
    async with peer_behind(router) as peer:
        await peer.listen("/ip4/0.0.0.0/tcp/0")
        await settled()
        router.silent = False
    assert not router.mappings

"""Two peers that only a relay joins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from conftest import MakePeer
from support.clock import Clock

from stronghold_p2p import Config, FirewallRules, Multiaddr, RelayServer, Request, StrongholdP2p
from stronghold_p2p.protocols.relay.server import RelayService

Peer = StrongholdP2p[Any, Any]


class Net:
    """Alice and Bob, who can be dialed nowhere, and the relay; Bob answers with what he is asked."""

    def __init__(self, relay: Peer, address: Multiaddr, alice: Peer, bob: Peer) -> None:
        self.relay = relay
        self.address = address
        self.alice, self.bob = alice, bob
        self.service = service_of(relay)


MakeNet = Callable[..., Awaitable[Net]]


def service_of(relay: Peer) -> RelayService:
    (service,) = (one for one in relay._parts.relaying.services if isinstance(one, RelayService))
    return service


async def echo(request: Request[Any]) -> Any:
    return request.body


@pytest.fixture
async def make_net(make_peer: MakePeer) -> MakeNet:
    async def make(*, alice: dict[str, Any] | None = None, bob: dict[str, Any] | None = None, **limits: Any) -> Net:
        relay = await make_peer(relay=RelayServer(**limits), config=Config(close_timeout=0.1))
        address = await relay.listen()
        made = Net(
            relay,
            address,
            await make_peer(**(alice or {})),
            await make_peer(**{"firewall": FirewallRules.allow_all(), **(bob or {})}),
        )
        made.bob.on_request(echo)
        return made

    return make


@pytest.fixture
async def clock(make_peer: MakePeer) -> AsyncIterator[Clock]:
    """Time passes only when the test says so, until its peers are closed."""
    loop = asyncio.get_running_loop()
    clock = Clock(loop.time())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "time", clock)
        yield clock

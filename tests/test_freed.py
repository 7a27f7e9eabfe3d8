"""What is over is freed at once, with its keys, and not when the collector comes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import MakePeer
from support.compiled import COMPILED
from support.waiting import next_event, settled, until

from stronghold_p2p import FirewallRules, Multiaddr, PeerIdentified, StrongholdP2p
from stronghold_p2p.transport.connection import Connection
from stronghold_p2p.transport.upgrade import PipeUpgrade
from stronghold_p2p.wire.noise import NoiseTransport
from stronghold_p2p.wire.noise_xx import HandshakeState

pytestmark = pytest.mark.skipif(
    COMPILED, reason="what mypyc makes of generators and coroutines may hold on to what they had"
)

Peer = StrongholdP2p[Any, Any]

KINDS = Connection, NoiseTransport, PipeUpgrade, HandshakeState
ADDRESSES = ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"]


Left = Callable[..., list[object]]


@pytest.fixture
def left() -> Iterator[Left]:
    """What there is of some kinds, but for what was there before the test. Nothing is collected meanwhile."""
    gc.collect()
    gc.disable()
    others = [one for one in gc.get_objects() if type(one) in KINDS]

    def find(*kinds: type) -> list[object]:
        return [one for one in gc.get_objects() if type(one) in kinds and not any(one is other for other in others)]

    yield find
    gc.enable()


@pytest.mark.parametrize("address", ADDRESSES)
async def test_a_handshake_is_freed_when_it_is_over(left: Left, make_peer: MakePeer, address: str) -> None:
    alice, bob = await make_peer(), await make_peer()
    await alice.connect(await bob.listen(address))
    await until(lambda: bob.connections)
    await settled()
    assert len(left(NoiseTransport)) == 2
    assert left(PipeUpgrade, HandshakeState) == []


async def ask(alice: Peer, bob: Peer, address: Multiaddr) -> None:
    """Returns when each knows who the other is; nobody reads events then, whose errors know the frames that they came through."""
    events = alice.events(), bob.events()
    await alice.send_request(address, "hello")
    for reader in events:
        await next_event(reader, PeerIdentified)


@pytest.mark.parametrize("address", ADDRESSES)
async def test_a_connection_is_freed_when_it_ends(left: Left, make_peer: MakePeer, address: str) -> None:
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    bob.on_request(lambda request: request.body)
    await ask(alice, bob, await bob.listen(address))
    assert len(left(Connection)) == 2
    await alice.disconnect(bob.peer_id)
    await until(lambda: not bob.connections)
    await settled()
    assert left(Connection, NoiseTransport) == []

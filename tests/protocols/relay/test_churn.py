"""Peers that reserve and leave, in great numbers: nothing is left of them."""

from __future__ import annotations

import asyncio
import gc

import pytest
from support.relays import relay_net
from support.waiting import until

from stronghold_p2p.protocols.relay.message import Status

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("count", [4, 40])
async def test_ten_thousand_reservations_that_run_out(count: int) -> None:
    """Each before its peer reserves again: all of them are new ones. Half of them by few peers, half by many."""
    async with relay_net(reservation_ttl=1e-6, max_reservations_per_network=count) as net:
        peers = [net.node() for _ in range(count)]

        async def churn(times: int) -> int:
            for _ in range(times):
                assert await asyncio.gather(*(peer.reserve() for peer in peers)) == [Status.OK] * len(peers)
            await until(lambda: not net.service.reservations)
            return objects()

        before = await churn(500 // count)
        assert await churn(4500 // count) - before < 450, "one reservation in ten leaves something"


async def test_peers_that_leave() -> None:
    """Some are the target of a circuit, some its source."""
    async with relay_net() as net:
        counted = []
        for number in range(60):
            alice, bob, carol = (net.node() for _ in range(3))
            assert [await peer.reserve() for peer in (alice, bob, carol)] == [Status.OK] * 3
            for source, target in (alice, bob), (bob, carol):
                assert (await source.circuit(target.peer))[0] == Status.OK
            assert net.service.circuits == 2
            await asyncio.gather(*(peer.swarm.close() for peer in (bob, alice, carol)))
            await until(lambda: not net.service.reservations and not net.service.circuits)
            net.nodes.clear()
            net.relay.events.clear()
            del alice, bob, carol, source, target
            if number % 20 == 19:
                counted.append(objects())
        assert counted[2] - counted[1] < 60, "each peer leaves something"


def objects() -> int:
    """All but sets: of those, removed deadlines leave some until their time has come."""
    gc.collect()
    return sum(type(one) is not set for one in gc.get_objects())

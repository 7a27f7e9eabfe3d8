"""Identify between peers: what changes is pushed, and the last word counts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import MakePeer
from support.waiting import next_event, settled, turns

from stronghold_p2p import Multiaddr, PeerIdentified, Stream, StreamReset, StrongholdP2p
from stronghold_p2p.encoding import messages, varint
from stronghold_p2p.protocols.identify import PUSH_PROTOCOL

Peer = StrongholdP2p[Any, Any]


async def ignore(stream: Stream) -> None: ...


async def acquainted(make_peer: MakePeer) -> tuple[Peer, Peer, Multiaddr]:
    """Alice and Bob, who know who the other is; Bob listens."""
    alice, bob = await make_peer(), await make_peer()
    events = alice.events(), bob.events()
    address = await bob.listen()
    await alice.connect(address)
    for reader in events:
        await next_event(reader, PeerIdentified)
    return alice, bob, address


def pushed(agent_version: str) -> bytes:
    encoded = messages.Identify(agentVersion=agent_version).SerializeToString()
    return varint.encode(len(encoded)) + encoded


@pytest.mark.parametrize("moment", range(12))
async def test_of_two_changes_in_quick_succession_the_last_one_is_heard(make_peer: MakePeer, moment: int) -> None:
    alice, bob, _ = await acquainted(make_peer)
    events = alice.events()
    bob.handle_stream("/first/1.0.0", ignore)
    await turns(moment)
    bob.handle_stream("/second/1.0.0", ignore)
    await settled()
    await alice.close()
    *_, last = [event async for event in events if isinstance(event, PeerIdentified)]
    assert {"/first/1.0.0", "/second/1.0.0"} <= set(last.protocols)


async def test_a_newer_push_takes_the_place_of_one_that_is_being_received(make_peer: MakePeer) -> None:
    alice, bob, address = await acquainted(make_peer)
    events = bob.events()
    older, newer = [await alice.open_stream(address, PUSH_PROTOCOL) for _ in range(2)]
    await older.write(pushed("older")[:-1])
    await settled()
    async with newer:
        await newer.write(pushed("newer"))
    assert (await next_event(events, PeerIdentified)).agent_version == "newer"
    with pytest.raises(StreamReset):
        await older.read()
    async with await alice.open_stream(address, PUSH_PROTOCOL) as another:
        await another.write(pushed("another"))
    assert (await next_event(events, PeerIdentified)).agent_version == "another"


async def test_pushes_that_come_at_once(make_peer: MakePeer) -> None:
    alice, bob, address = await acquainted(make_peer)
    events = bob.events()

    async def push(number: int) -> None:
        async with await alice.open_stream(address, PUSH_PROTOCOL) as stream:
            await stream.write(pushed(f"agent/{number}"))

    await asyncio.gather(*map(push, range(20)))
    await settled()
    await bob.close()
    *_, last = [event async for event in events if isinstance(event, PeerIdentified)]
    assert last.agent_version == "agent/19"


async def test_an_address_that_is_listened_on_no_more_is_pushed(make_peer: MakePeer) -> None:
    alice, bob, address = await acquainted(make_peer)
    events = alice.events()
    other = await bob.listen()
    assert len((await next_event(events, PeerIdentified)).listen_addresses) == 2
    await bob.stop_listening(other)
    assert (await next_event(events, PeerIdentified)).listen_addresses == (address.without_peer(),)
    assert alice.addresses.get(bob.peer_id) == (address.without_peer(),)
    await bob.stop_listening()
    assert (await next_event(events, PeerIdentified)).listen_addresses == ()

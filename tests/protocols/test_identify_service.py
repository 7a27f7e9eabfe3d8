"""Identify between peers: what changes is pushed, and the last word counts; what is known of who was asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import MakePeer
from support.connections import ECHO, Pair, connected
from support.waiting import next_event, settled, turns, until

from stronghold_p2p import (
    Config,
    ConnectionClosed,
    ConnectionLost,
    Multiaddr,
    PeerIdentified,
    Stream,
    StreamReset,
    StrongholdP2p,
)
from stronghold_p2p.encoding import messages, varint
from stronghold_p2p.protocols import identify
from stronghold_p2p.protocols.identify import PUSH_PROTOCOL, IdentifyService, message
from stronghold_p2p.transport.state import RemoteIdentify

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


async def test_a_flood_of_pushes_is_read_in_part(make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stronghold_p2p.protocols.identify.service.PUSH_INTERVAL", 1000)
    alice, bob, address = await acquainted(make_peer)
    events = bob.events()
    for number in range(12):
        async with await alice.open_stream(address, PUSH_PROTOCOL) as stream:
            await stream.write(pushed(f"agent/{number}"))
            await stream.negotiated()
        await settled()
    for number in range(8):
        assert (await next_event(events, PeerIdentified)).agent_version == f"agent/{number}"
    assert events._waiting == 0  # type: ignore[attr-defined]


async def test_a_remote_that_pushes_without_an_end_is_cut_off(make_peer: MakePeer) -> None:
    alice, bob, address = await acquainted(make_peer)
    events = bob.events()

    async def push_without_an_end() -> None:
        for _ in range(100):
            async with await alice.open_stream(address, PUSH_PROTOCOL) as stream:
                await stream.write(pushed("agent"))
                await stream.negotiated()

    with pytest.raises(ConnectionLost):
        await push_without_an_end()
    assert "without a payload" in str((await next_event(events, ConnectionClosed)).error)


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
    await bob.listen()
    assert len((await next_event(events, PeerIdentified)).listen_addresses) == 2
    await bob.stop_listening()
    assert (await next_event(events, PeerIdentified)).listen_addresses == ()
    await bob.stop_listening()
    await settled()
    await alice.close()
    assert [event async for event in events if isinstance(event, PeerIdentified)] == []  # once for all, and for none


# -- what is known of a remote once it was asked -------------------------------------------------------

UNKNOWN, MISSING, SERVED = RemoteIdentify.UNKNOWN, RemoteIdentify.MISSING, RemoteIdentify.SERVED


class Alice:
    """Asks ``bob``: the swarm, as far as the service knows it."""

    def __init__(self, pair: Pair) -> None:
        self.config = pair.alice_host.config
        self.keypair = pair.alice_host.keypair
        self.protocols: tuple[str, ...] = ()
        self.told: list[identify.Identity] = []
        self.pair = pair
        self.service = IdentifyService()
        self.service.attach(self)  # type: ignore[arg-type]
        self.service.connected(pair.alice)

    def connection(self, peer: object) -> Any:
        return self.pair.alice

    def offered(self, peer: object) -> tuple[str, ...]:
        return self.protocols

    def told_to(self, connection: object) -> tuple[Multiaddr, ...]:
        return ()

    def identified(self, connection: Any, identity: identify.Identity) -> None:
        self.told.append(identity)
        connection.remote_identified(identity.protocols, own_kind=False)


async def bob_answers(pair: Pair) -> Stream:
    return await pair.bob_host.inbound.get()


async def test_a_remote_that_tells_has_identify() -> None:
    async with connected() as pair:
        pair.bob_host.offered.add(identify.PROTOCOL)
        alice = Alice(pair)
        stream = await bob_answers(pair)
        assert pair.alice.remote_identify is UNKNOWN
        key = pair.bob_host.keypair.public_key
        observed = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")
        told = message.encode(key, protocols=[ECHO], listen_addresses=(), record=None, observed_address=observed)
        await message.serve(stream, told)
        await until(lambda: alice.told)
        assert pair.alice.remote_identify is SERVED
        pair.alice.remote_without_identify()
        assert pair.alice.remote_identify is SERVED


async def test_what_has_changed_since_a_remote_asked_is_pushed_once_it_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with connected() as pair:
        pair.bob_host.offered |= {identify.PROTOCOL, PUSH_PROTOCOL}
        pair.alice_host.offered.add(identify.PROTOCOL)
        alice = Alice(pair)
        monkeypatch.setattr(
            pair.alice_host, "stream_opened", lambda *opened: alice.service.protocols[identify.PROTOCOL](*opened)
        )
        answer = await bob_answers(pair)
        assert (await message.read(await pair.bob.open_stream(identify.PROTOCOL))).protocols == ()
        alice.protocols = (ECHO,)
        alice.service.offer_changed(pair.alice.peer)  # it is not known yet that Bob takes pushes
        key = pair.bob_host.keypair.public_key
        told = message.encode(key, protocols=[PUSH_PROTOCOL], listen_addresses=(), record=None, observed_address=None)
        await message.serve(answer, told)
        push = await bob_answers(pair)
        assert push.protocol == PUSH_PROTOCOL
        assert (await message.read(push)).protocols == (ECHO,)


async def test_a_remote_that_does_not_serve_it_has_none() -> None:
    async with connected() as pair:
        Alice(pair)
        await until(lambda: pair.alice.remote_identify is MISSING)
        pair.alice.remote_identified((ECHO,), own_kind=False)  # a push may still tell
        assert pair.alice.remote_identify is SERVED


async def test_a_remote_that_does_not_answer_in_time_has_none() -> None:
    async with connected(Config(request_timeout=0.02)) as pair:
        pair.bob_pipe.reading = False
        Alice(pair)
        await until(lambda: pair.alice.remote_identify is MISSING)


@pytest.mark.parametrize("answer", ["nothing", "nonsense", "reset"])
async def test_a_remote_that_agrees_to_it_has_it_whatever_it_tells(answer: str) -> None:
    async with connected(Config(request_timeout=0.05), bob_config=Config()) as pair:
        pair.bob_host.offered.add(identify.PROTOCOL)
        alice = Alice(pair)
        stream = await bob_answers(pair)
        await until(lambda: pair.alice.serves(identify.PROTOCOL))
        if answer == "reset":
            stream.reset()
        elif answer == "nonsense":
            await stream.write(b"\xff" * 20)
            await stream.close_write()
        await until(lambda: not pair.alice.info.streams)
        await settled()
        assert pair.alice.remote_identify is UNKNOWN
        assert not alice.told


async def test_a_remote_that_has_no_stream_to_spare_was_not_asked() -> None:
    async with connected(Config(request_timeout=0.02, max_outbound_streams_to_others=1)) as pair:
        await pair.streams()
        Alice(pair)
        await until(lambda: not pair.alice.tasks.fewer_than(1))
        await until(lambda: pair.alice.tasks.fewer_than(1))
        assert pair.alice.remote_identify is UNKNOWN

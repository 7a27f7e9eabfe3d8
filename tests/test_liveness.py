"""Peers over real sockets: a wire that dies without a word, and a remote that says nothing of use."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from conftest import MakePeer
from support.certificates import Authority
from support.remote import Remote, listening
from support.waiting import next_event, until
from support.wire import wired
from support.yamux import ping

from stronghold_p2p import (
    Config,
    ConnectionClosed,
    ConnectionEstablished,
    ConnectionLost,
    FirewallRules,
    InvalidAddress,
    KeepFailed,
    NotPermitted,
    RequestTimeout,
    StrongholdP2p,
)
from stronghold_p2p.transport.connection import Connection
from stronghold_p2p.transport.tcp import USER_TIMEOUT
from stronghold_p2p.wire.yamux import Flag, FrameType

ALLOW = FirewallRules.allow_all()

QUICK = Config(liveness_interval=0.1, liveness_timeout=0.4)


@pytest.mark.parametrize("form", ["", "/ws", "/tls/ws"])
async def test_a_request_on_a_wire_that_dies(make_peer: MakePeer, tmp_path: Path, form: str) -> None:
    authority = Authority(tmp_path)
    alice = await make_peer(config=QUICK, authorities=authority.file)
    bob = await make_peer(config=QUICK, firewall=ALLOW)
    asked = asyncio.Event()

    @bob.on_request
    async def never(request: Any) -> None:
        asked.set()
        await asyncio.Event().wait()

    certificate = authority.issue("127.0.0.1") if "tls" in form else None
    async with wired(await bob.listen(f"/ip4/127.0.0.1/tcp/0{form}", certificate=certificate)) as wire:
        events = [peer.events() for peer in (alice, bob)]
        request = asyncio.create_task(alice.send_request(wire.address, "hello"))
        await asked.wait()
        wire.dead = True
        with pytest.raises(ConnectionLost, match=r"nothing came from the remote for 0\.4 s, not even an answer"):
            await request
        for each in events:
            closed = await next_event(each, ConnectionClosed)
            assert isinstance(closed.error, ConnectionLost)
        assert not alice.connections
        assert not bob.connections


async def answer_pings(remote: Remote) -> None:
    """And nothing else."""
    while frame := await remote.frame():
        if frame.kind == FrameType.PING and frame.flags & Flag.SYN:
            remote.send(ping(frame.length, Flag.ACK))


async def test_a_remote_that_answers_pings_alone_costs_the_request_and_not_the_connection() -> None:
    config = Config(liveness_interval=0.01, liveness_timeout=0.05)
    async with StrongholdP2p(config=config) as peer, listening() as listener:
        request = asyncio.create_task(peer.send_request(listener.address, "hello", timeout=0.5))
        remote = await listener.accept_upgraded()
        answering = asyncio.create_task(answer_pings(remote))
        with pytest.raises(RequestTimeout):
            await request
        assert peer.is_connected(listener.keypair.peer_id)
        answering.cancel()
        await remote.close()


@pytest.mark.skipif(USER_TIMEOUT is None, reason="the system has no such option")
async def test_the_system_gives_up_as_early_at_both_ends(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    await alice.connect(await bob.listen())
    await until(lambda: bob.connections)
    for peer in (alice, bob):
        [connection] = _connections(peer)
        pipe: Any = connection._pipe
        connected = pipe._transport.get_extra_info("socket")
        assert USER_TIMEOUT is not None
        assert connected.getsockopt(socket.IPPROTO_TCP, USER_TIMEOUT) == 15_000


# -- kept peers --------------------------------------------------------------------------------------------


async def test_a_peer_that_is_kept_from_the_start(make_peer: MakePeer) -> None:
    bob = await make_peer(config=Config(idle_timeout=0.05))
    address = await bob.listen()
    alice: StrongholdP2p[Any, Any] = StrongholdP2p(config=Config(idle_timeout=0.05))
    alice.keep(str(bob.peer_id))
    alice.keep(address)
    async with alice:
        events = alice.events()
        established = await next_event(events, ConnectionEstablished)
        assert established.connection.peer == bob.peer_id
        await until(lambda: [one for one in _connections(bob) if one._alive.held])
        alice.unkeep(str(bob.peer_id))
        closed = await next_event(events, ConnectionClosed)
        assert closed.error is None


async def test_a_peer_that_is_kept_is_dialed_once_its_address_is_known(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    address = await bob.listen()
    events = alice.events()
    alice.keep(bob.peer_id)
    failed = await next_event(events, KeepFailed)
    assert failed.peer == bob.peer_id
    assert "no address is known" in str(failed.error)
    assert failed.retry_after > 0
    alice.addresses.add(address)
    await until(lambda: alice.is_connected(bob.peer_id))


async def test_a_banned_peer_is_not_kept_until_it_is_unbanned(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    alice.addresses.add(await bob.listen())
    events = alice.events()
    alice.keep(bob.peer_id)
    await next_event(events, ConnectionEstablished)
    await alice.ban_peer(bob.peer_id)
    failed = await next_event(events, KeepFailed)
    assert isinstance(failed.error, NotPermitted)
    assert not alice.is_connected(bob.peer_id)
    await alice.unban_peer(bob.peer_id)
    await next_event(events, ConnectionEstablished)


async def test_a_peer_that_a_policy_refuses_is_kept_once_it_does_not(make_peer: MakePeer, tmp_path: Path) -> None:
    bob = await make_peer()
    address = await bob.listen()
    policy = tmp_path / "policy.toml"
    policy.write_text(f'[peer_ids]\ndeny = ["{bob.peer_id}"]\n')
    alice = await make_peer(policy=policy)
    events = alice.events()
    alice.addresses.add(address)
    alice.keep(bob.peer_id)
    failed = await next_event(events, KeepFailed)
    assert isinstance(failed.error, NotPermitted)
    policy.write_text(f'[peer_ids]\nallow = ["{bob.peer_id}"]\n')
    await alice.reload_policy()
    await next_event(events, ConnectionEstablished)


async def test_what_cannot_be_kept(make_peer: MakePeer) -> None:
    peer = await make_peer()
    for wrong in ("bob", str(peer.peer_id), f"/ip4/127.0.0.1/tcp/1/p2p/{peer.peer_id}", "/ip4/127.0.0.1/tcp/1"):
        with pytest.raises(InvalidAddress):
            peer.keep(wrong)
    peer.unkeep(peer.peer_id)


def _connections(peer: StrongholdP2p[Any, Any]) -> tuple[Connection, ...]:
    assert peer._parts.swarm is not None
    return peer._parts.swarm.connections

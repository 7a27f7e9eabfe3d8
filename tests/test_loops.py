"""A peer, and what it hands out, is used on its own event loop alone: elsewhere everything says so at once."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from stronghold_p2p import (
    FirewallRequest,
    FirewallRules,
    Keypair,
    Multiaddr,
    Request,
    Rule,
    Stream,
    StrongholdP2p,
)

Peer = StrongholdP2p[Any, Any]
Act = Callable[..., Any]

OTHER = Keypair.generate().peer_id
PROTOCOL = "/own/1.0.0"
ADDRESS = "/ip4/127.0.0.1/tcp/1"


async def ignore(stream: Stream) -> None: ...


PEER_ACTS: dict[str, Act] = {
    "close": lambda peer: peer.close(),
    "send_request": lambda peer: peer.send_request(OTHER, 1),
    "connect": lambda peer: peer.connect(OTHER),
    "disconnect": lambda peer: peer.disconnect(OTHER),
    "is_connected": lambda peer: peer.is_connected(OTHER),
    "keep": lambda peer: peer.keep(OTHER),
    "unkeep": lambda peer: peer.unkeep(OTHER),
    "ping": lambda peer: peer.ping(OTHER),
    "on_request": lambda peer: peer.on_request(lambda request: None),
    "requests": lambda peer: peer.requests(),
    "listeners": lambda peer: peer.listeners,
    "observed_addresses": lambda peer: peer.observed_addresses,
    "nat_kind": lambda peer: peer.nat_kind,
    "reachability": lambda peer: peer.reachability,
    "relay_status": lambda peer: peer.relay_status,
    "listen": lambda peer: peer.listen(),
    "listen_via_relay": lambda peer: peer.listen_via_relay(OTHER),
    "stop_listening": lambda peer: peer.stop_listening(),
    "add_dialing_relay": lambda peer: peer.add_dialing_relay(OTHER),
    "remove_dialing_relay": lambda peer: peer.remove_dialing_relay(OTHER),
    "set_relay_mode": lambda peer: peer.set_relay_mode("never"),
    "set_relay_fallback": lambda peer: peer.set_relay_fallback(OTHER, False),
    "use_specific_relay": lambda peer: peer.use_specific_relay(OTHER, OTHER),
    "set_firewall_default": lambda peer: peer.set_firewall_default(Rule.ASK),
    "remove_firewall_default": lambda peer: peer.remove_firewall_default(),
    "set_peer_rule": lambda peer: peer.set_peer_rule(OTHER, Rule.ASK),
    "remove_peer_rule": lambda peer: peer.remove_peer_rule(OTHER),
    "get_firewall_config": lambda peer: peer.get_firewall_config(),
    "rules_in_force": lambda peer: peer.rules_in_force(),
    "on_firewall_request": lambda peer: peer.on_firewall_request(lambda question: None),
    "remove_firewall_handler": lambda peer: peer.remove_firewall_handler(print),
    "firewall_requests": lambda peer: peer.firewall_requests(),
    "suspend_requests": lambda peer: peer.suspend_requests(),
    "resume_requests": lambda peer: peer.resume_requests(),
    "approval_requests": lambda peer: peer.approval_requests([OTHER]),
    "reload_policy": lambda peer: peer.reload_policy(),
    "ban_peer": lambda peer: peer.ban_peer(OTHER),
    "unban_peer": lambda peer: peer.unban_peer(OTHER),
    "banned": lambda peer: peer.banned,
    "name_of": lambda peer: peer.name_of(OTHER),
    "set_name": lambda peer: peer.set_name(OTHER, "alice"),
    "connections": lambda peer: peer.connections,
    "events": lambda peer: peer.events(),
    "open_stream": lambda peer: peer.open_stream(OTHER, PROTOCOL),
    "handle_stream": lambda peer: peer.handle_stream(PROTOCOL, ignore),
    "addresses.add": lambda peer: peer.addresses.add(ADDRESS, OTHER),
    "addresses.remove": lambda peer: peer.addresses.remove(ADDRESS, OTHER),
    "addresses.get": lambda peer: peer.addresses.get(OTHER),
    "addresses.entries": lambda peer: peer.addresses.entries(OTHER),
    "addresses, whether": lambda peer: OTHER in peer.addresses,
    "addresses, which": lambda peer: list(peer.addresses),
}

STREAM_ACTS: dict[str, Act] = {
    "negotiated": lambda stream: stream.negotiated(),
    "read": lambda stream: stream.read(),
    "readexactly": lambda stream: stream.readexactly(1),
    "readinto": lambda stream: stream.readinto(bytearray(1)),
    "write": lambda stream: stream.write(b"a"),
    "close_write": lambda stream: stream.close_write(),
    "close": lambda stream: stream.close(),
    "reset": lambda stream: stream.reset(),
}


def test_every_act_is_tried() -> None:
    def public(class_: type) -> set[str]:
        return {name for name, _ in inspect.getmembers(class_) if not name.startswith("_")}

    assert public(StrongholdP2p) - {"addresses"} - PEER_ACTS.keys() == {"peer_id", "start"}
    assert public(Stream) - STREAM_ACTS.keys() == {"peer", "protocol", "direction"}


async def do(act: Act, what: Any) -> Any:
    done = act(what)
    return await done if inspect.isawaitable(done) else done


def refused(act: Act, what: Any) -> None:
    """On another event loop."""
    with pytest.raises(RuntimeError, match="the peer runs on another event loop"):
        asyncio.run(do(act, what))


def refused_without_a_loop(act: Act, what: Any) -> None:
    with pytest.raises(RuntimeError, match="the peer runs on another event loop"):
        act(what)


@pytest.fixture
def elsewhere() -> Iterator[Callable[..., Any]]:
    """Has a function called in another thread."""
    with ThreadPoolExecutor(1) as thread:

        async def call(*arguments: Any) -> None:
            await asyncio.get_running_loop().run_in_executor(thread, *arguments)

        yield call


@pytest.mark.parametrize("name", PEER_ACTS)
def test_a_peer_whose_loop_has_ended(name: str) -> None:
    peer = Peer()
    asyncio.run(peer.start())
    refused(PEER_ACTS[name], peer)
    if not inspect.iscoroutinefunction(getattr(Peer, name, None)):
        refused_without_a_loop(PEER_ACTS[name], peer)


async def test_a_peer_from_another_thread(elsewhere: Callable[..., Any]) -> None:
    async with Peer() as peer:
        rules = peer.get_firewall_config()
        for name, act in PEER_ACTS.items():
            await elsewhere(refused, act, peer)
            if not inspect.iscoroutinefunction(getattr(Peer, name, None)):
                await elsewhere(refused_without_a_loop, act, peer)
        assert peer.get_firewall_config() == rules
        peer.on_request(lambda request: None)  # which nobody has done
        assert await peer.listen()


async def test_a_peer_that_starts_or_closes_in_another_thread() -> None:
    with ThreadPoolExecutor(1) as thread:
        may_end, running = threading.Event(), threading.Event()
        peer = Peer()

        async def run() -> None:
            async with peer:
                running.set()
                await asyncio.get_running_loop().run_in_executor(None, may_end.wait)

        ended = asyncio.get_running_loop().run_in_executor(thread, asyncio.run, run())
        await asyncio.to_thread(running.wait)
        with pytest.raises(RuntimeError, match="already running"):
            await peer.start()
        with pytest.raises(RuntimeError, match="another event loop"):
            await peer.close()
        may_end.set()
        await ended
        await peer.close()  # it is of no loop any more


def test_before_its_start_and_after_its_close_it_is_of_no_loop() -> None:
    peer = Peer()
    peer.set_firewall_default(Rule.ALLOW_ALL)
    asyncio.run(peer.ban_peer(OTHER))
    asyncio.run(peer.unban_peer(OTHER))
    events = peer.events()

    async def live() -> None:
        async with peer:
            await peer.listen()

    asyncio.run(live())
    peer.set_firewall_default(Rule.ALLOW_ALL)
    assert peer.get_firewall_config() == FirewallRules.allow_all()
    assert (peer.listeners, peer.connections) == ((), ())

    async def read() -> list[Any]:
        return [event async for event in events]

    assert len(asyncio.run(read())) == 2
    asyncio.run(peer.close())


def test_a_start_that_failed_on_one_loop_may_be_tried_on_another(tmp_path: Any) -> None:
    policy = tmp_path / "policy.toml"
    peer = Peer(policy=policy)
    with pytest.raises(Exception, match="no such file"):
        asyncio.run(peer.start())
    policy.write_text("[default]")

    async def live() -> Multiaddr:
        async with peer:
            return await peer.listen()

    assert asyncio.run(live()).peer_id == peer.peer_id


@pytest.mark.parametrize("name", STREAM_ACTS)
async def test_a_stream_from_another_thread(elsewhere: Callable[..., Any], name: str) -> None:
    async with Peer() as alice, Peer(firewall=FirewallRules.allow_all()) as bob:
        bob.handle_stream(PROTOCOL, lambda stream: stream.write(b"still there"))
        async with await alice.open_stream(await bob.listen(), PROTOCOL) as stream:
            await stream.negotiated()
            await elsewhere(refused, STREAM_ACTS[name], stream)
            await elsewhere(refused, lambda stream: stream.__aenter__(), stream)
            assert await stream.readexactly(11) == b"still there"


async def test_iterators_from_another_thread(elsewhere: Callable[..., Any]) -> None:
    async with Peer() as peer:
        for iterator in peer.events(), peer.requests(), peer.firewall_requests(), peer.approval_requests([OTHER]):
            await elsewhere(refused, anext, iterator)


async def test_requests_and_questions_from_another_thread(elsewhere: Callable[..., Any]) -> None:
    async with Peer() as alice, Peer() as bob:
        requests, questions = bob.requests(), bob.firewall_requests()
        asking = asyncio.create_task(alice.send_request(await bob.listen(), 1))
        question: FirewallRequest = await anext(questions)
        for act in FirewallRequest.approve, FirewallRequest.reject, lambda question: question.set_rule(Rule.ALLOW_ALL):
            await elsewhere(refused, act, question)
            await elsewhere(refused_without_a_loop, act, question)
        assert question.approve()
        request: Request[Any] = await anext(requests)
        for answer in Request.decline, lambda request: request.respond(2):
            await elsewhere(refused, answer, request)
        await request.respond(1)
        assert await asking == 1

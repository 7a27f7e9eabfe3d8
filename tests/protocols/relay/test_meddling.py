"""Relays that do something to the bytes: Noise notices, and nobody takes them for the other's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
from conftest import MakePeer
from support.meddler import Meddler
from support.waiting import begun, settled, until

from stronghold_p2p import (
    ConnectionLost,
    DialError,
    FirewallRules,
    Multiaddr,
    PeerIdMismatch,
    Request,
    RequestTimeout,
    StreamReset,
    StrongholdP2p,
)

Peer = StrongholdP2p[Any, Any]
PIECES = range(6)
"""Of each direction, and so of the negotiation of Noise, its handshake, the negotiation of Yamux and of identify, and
requests."""
FAILURES = (ConnectionLost, RequestTimeout, DialError, StreamReset)


class Net:
    """Alice asks Bob through a relay that meddles. ``handled`` counts what Bob was asked."""

    def __init__(self, alice: Peer, bob: Peer, meddler: Meddler, relay: Multiaddr) -> None:
        self.alice = alice
        self.bob = bob
        self.meddler = meddler
        self.relay = relay
        self.circuit = relay.encapsulate(Multiaddr.parse("/p2p-circuit")).with_peer(bob.peer_id)
        self.handled: Counter[Any] = Counter()
        bob.on_request(self._answer)

    def _answer(self, request: Request[Any]) -> Any:
        self.handled[request.body] += 1
        return request.body

    async def ask(self, body: Any, timeout: float = 10.0) -> Any:
        return await self.alice.send_request(self.circuit, body, timeout=timeout)


MakeNet = Callable[..., Awaitable[Net]]


@pytest.fixture
async def make_net(make_peer: MakePeer) -> MakeNet:
    async def make() -> Net:
        relay, alice = await make_peer(), await make_peer()
        bob = await make_peer(firewall=FirewallRules.allow_all())
        net = Net(alice, bob, Meddler(relay), await relay.listen())
        await bob.listen_via_relay(net.relay)
        return net

    return make


def flipped(data: bytes) -> Iterable[bytes]:
    return (data[:-1] + bytes([data[-1] ^ 1]),)


def zeros(data: bytes) -> Iterable[bytes]:
    return (bytes(len(data)),)


def repeated(data: bytes) -> Iterable[bytes]:
    return (data, data)


def dropped(data: bytes) -> Iterable[bytes]:
    return ()


def shortened(data: bytes) -> Iterable[bytes]:
    return (data[1:],)


def turned(data: bytes) -> Iterable[bytes]:
    """Its halves in the wrong order."""
    half = len(data) // 2
    return (data[half:], data[:half])


@pytest.mark.parametrize("to_target", [True, False])
@pytest.mark.parametrize("change", [flipped, zeros, repeated, dropped, shortened, turned])
async def test_a_piece_is_changed(
    make_net: MakeNet, change: Callable[[bytes], Iterable[bytes]], to_target: bool
) -> None:
    """Whichever it is: requests are answered right, or fail; none is handled twice, or as another one."""
    net = await make_net()
    changed = 0
    for number in PIECES:

        def meddle(way: bool, piece: int, data: bytes, number: int = number) -> Iterable[bytes]:
            nonlocal changed
            if (way, piece) != (to_target, number):
                return (data,)
            changed += 1
            return change(data)

        net.meddler.change = meddle
        sent = [f"{number} {which}" for which in range(3)]
        failed = 0
        for body in sent:
            try:
                assert await net.ask(body, timeout=0.2) == body
            except FAILURES:
                failed += 1
        assert set(net.handled) <= {f"{before} {which}" for before in range(number + 1) for which in range(3)}
        assert set(net.handled.values()) <= {1}
        assert failed or number, "a change of the handshake went unnoticed"
        await net.alice.disconnect(net.bob.peer_id)
        await until(lambda: not net.meddler.circuits)
    assert changed >= len(PIECES) - 1
    net.meddler.change = lambda way, piece, data: (data,)
    assert await net.ask("at last") == "at last"


async def test_pieces_in_the_wrong_order(make_net: MakeNet) -> None:
    net = await make_net()
    for first in PIECES:
        kept: list[bytes] = []

        def swap(
            to_target: bool, number: int, data: bytes, first: int = first, kept: list[bytes] = kept
        ) -> Iterable[bytes]:
            if to_target and number == first:
                kept.append(data)
                return ()
            return (data, kept.pop()) if to_target and kept else (data,)

        net.meddler.change = swap
        failed = 0
        for body in (f"{first} {which}" for which in range(8)):
            try:
                assert await net.ask(body, timeout=0.2) == body
            except FAILURES:
                failed += 1
        assert failed
        assert set(net.handled.values()) <= {1}
        await net.alice.disconnect(net.bob.peer_id)
        await until(lambda: not net.meddler.circuits)
    net.meddler.change = lambda way, piece, data: (data,)
    assert await net.ask("at last") == "at last"


async def test_bytes_that_come_late_and_one_by_one(make_net: MakeNet) -> None:
    """That alone harms nobody."""
    net = await make_net()
    net.meddler.change = lambda way, piece, data: (data[at : at + 1] for at in range(len(data)))
    bodies = [f"{number} {'x' * 500}" for number in range(5)]
    assert await asyncio.gather(*(net.ask(body) for body in bodies)) == bodies
    assert net.handled == Counter(bodies)


async def test_a_relay_that_says_something_of_its_own(make_net: MakeNet) -> None:
    net = await make_net()
    assert await net.ask("before") == "before"
    for end in (0, 1):
        [circuit] = net.meddler.circuits
        await circuit[end].write(b"\x00\x10" + bytes(16))
        await until(lambda: not net.meddler.circuits)
        assert await net.ask(f"after {end}") == f"after {end}"
    assert set(net.handled.values()) == {1}


# -- circuits that are swapped -------------------------------------------------------------------------------


async def test_circuits_are_swapped_when_they_are_made(make_net: MakeNet, make_peer: MakePeer) -> None:
    """Alice asks for Bob, and gets Dave; Carol the other way round. The handshake says who answers."""
    net = await make_net()
    carol, dave = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    dave.on_request(lambda request: pytest.fail("nobody asks Dave"))
    to_dave = await dave.listen_via_relay(net.relay)
    net.meddler.misdirect = {net.alice.peer_id: dave.peer_id, carol.peer_id: net.bob.peer_id}
    for caller, callee in (net.alice, net.circuit), (carol, to_dave):
        with pytest.raises(DialError) as caught:
            await caller.send_request(callee, "for whom?")
        assert [type(attempt.error) for attempt in caught.value.attempts] == [PeerIdMismatch]
    assert not net.handled


async def test_circuits_are_swapped_while_they_are_used(make_net: MakeNet, make_peer: MakePeer) -> None:
    """What Alice says reaches Dave, and what Carol says Bob: both end the connection."""
    net = await make_net()
    carol, dave = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    heard: list[Any] = []
    dave.on_request(lambda request: heard.append(request.body))
    to_dave = await dave.listen_via_relay(net.relay)
    await net.ask("before")
    await carol.send_request(to_dave, "before")
    (_, to_bob), (_, at_dave) = net.meddler.circuits
    await settled()  # nothing but what is asked now is on its way
    waiting: list[bytes] = []

    def cross(to_target: bool, number: int, data: bytes) -> Iterable[bytes]:
        if to_target:
            waiting.append(data)
            return ()
        return (data,)

    net.meddler.change = cross
    calls = []
    for asking, elsewhere in (
        (net.ask("crossed"), at_dave),
        (carol.send_request(to_dave, "crossed"), to_bob),
    ):
        calls.append(await begun(asking))
        await until(lambda: waiting)
        await elsewhere.write(waiting.pop())
    await asyncio.wait(calls)
    assert [type(call.exception()) for call in calls] == [ConnectionLost, ConnectionLost]
    assert (net.handled, heard) == ({"before": 1}, ["before"])

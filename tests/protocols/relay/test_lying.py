"""Relays that promise what they do not keep, and answer as none should."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from conftest import MakePeer
from support.compiled import replaces_parts
from support.meddler import Meddler
from support.waiting import next_event, settled, until

from stronghold_p2p import (
    Config,
    ConnectionLost,
    FirewallRules,
    Keypair,
    ListenError,
    Multiaddr,
    PathLimits,
    RelayRefused,
    RelayServer,
    ReservationLost,
    ReservationMade,
    Rule,
    Stream,
    StrongholdP2p,
    wiring,
)
from stronghold_p2p.encoding import messages, varint
from stronghold_p2p.protocols.framing import read, write
from stronghold_p2p.protocols.relay import reservations
from stronghold_p2p.protocols.relay.message import HOP, HopType, Status
from stronghold_p2p.protocols.relay.voucher import Voucher
from stronghold_p2p.swarm.own_addresses import Scope

Peer = StrongholdP2p[Any, Any]
CIRCUIT = Multiaddr.parse("/p2p-circuit")
LATER = 2**40
"""Seconds since the epoch."""


# -- limits that are announced, and others that strike -------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (None, None),
        (messages.CircuitLimit(), PathLimits(None, None)),
        (messages.CircuitLimit(duration=0, data=0), PathLimits(None, None)),
        (messages.CircuitLimit(duration=120_000, data=2**17), PathLimits(120_000.0, 2**17)),
        (messages.CircuitLimit(duration=2**32 - 1, data=2**64 - 1), PathLimits(2.0**32 - 1, 2**64 - 1)),
    ],
    ids=["none", "empty", "zeros", "milliseconds", "greatest"],
)
async def test_a_circuit_is_cut_before_the_announced_limit(
    make_peer: MakePeer, limit: messages.CircuitLimit | None, told: PathLimits | None
) -> None:
    """As js-libp2p does, whose seconds are milliseconds. No announced limit is waited for, and zero is none."""
    relay, alice = await make_peer(), await make_peer()
    bob = await make_peer(firewall=FirewallRules.allow_all())
    bob.on_request(lambda request: request.body)
    meddler = Meddler(relay)
    meddler.limit = limit
    events = bob.events()
    address = await bob.listen_via_relay(await relay.listen())
    assert (await next_event(events, ReservationMade)).limits == told
    body = "x" * 100_000
    for _ in range(2):
        assert await alice.send_request(address, body) == body
        [path] = [one.path for one in alice.connections if one.peer == bob.peer_id]
        assert (path.relay, path.limits) == (relay.peer_id, told)
        stream = await alice.open_stream(bob.peer_id, "/ipfs/ping/1.0.0")
        await stream.negotiated()
        meddler.cut()
        with pytest.raises(ConnectionLost, match=f"the relay {relay.peer_id} ended the circuit"):
            await stream.read()


# -- reservations --------------------------------------------------------------------------------------------


Answer = Callable[[Stream, messages.HopMessage], Awaitable[None]]


class Liar:
    """Answers reservations with ``answer``, which gets one that is in order."""

    def __init__(self, peer: Peer, answer: Answer) -> None:
        self.peer = peer
        self.asked = 0
        self._answer = answer
        peer.set_firewall_default(Rule.ALLOW_ALL)
        peer.handle_stream(HOP, self._serve)

    async def _serve(self, stream: Stream) -> None:
        await read(stream, messages.HopMessage)
        self.asked += 1
        reservation = messages.CircuitReservation(expire=LATER)
        await self._answer(stream, messages.HopMessage(type=HopType.STATUS, status=Status.OK, reservation=reservation))


async def slowly(stream: Stream, answer: messages.HopMessage) -> None:
    encoded = answer.SerializeToString()
    for byte in varint.encode(len(encoded)) + encoded:
        await stream.write(bytes([byte]))
        await asyncio.sleep(0)


async def twice(stream: Stream, answer: messages.HopMessage) -> None:
    await write(stream, answer)
    await write(stream, answer)


async def once_and_garbage(stream: Stream, answer: messages.HopMessage) -> None:
    await write(stream, answer)
    await stream.write(b"\xff" * 100_000)


async def without_a_reservation(stream: Stream, answer: messages.HopMessage) -> None:
    await write(stream, messages.HopMessage(type=HopType.STATUS, status=Status.OK))


def expiring(when: int) -> Answer:
    async def give(stream: Stream, answer: messages.HopMessage) -> None:
        answer.reservation.expire = when
        await write(stream, answer)

    return give


def with_voucher(voucher: bytes) -> Answer:
    async def give(stream: Stream, answer: messages.HopMessage) -> None:
        answer.reservation.voucher = voucher
        await write(stream, answer)

    return give


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def with_addresses(*addresses: bytes) -> Answer:
    async def give(stream: Stream, answer: messages.HopMessage) -> None:
        answer.reservation.addrs.extend(addresses)
        await write(stream, answer)

    return give


async def many_addresses(stream: Stream, answer: messages.HopMessage) -> None:
    """As many as a message has room for."""
    answer.reservation.addrs.extend(
        bytes(Multiaddr.parse(f"/ip4/192.0.2.{1 + n % 250}/tcp/{1 + n}")) for n in range(400)
    )
    await write(stream, answer)


async def too_many_addresses(stream: Stream, answer: messages.HopMessage) -> None:
    answer.reservation.addrs.extend(bytes(Multiaddr.parse(f"/ip4/192.0.2.1/tcp/{1 + n}")) for n in range(5000))
    encoded = answer.SerializeToString()
    await stream.write(varint.encode(len(encoded)) + encoded)


@pytest.mark.parametrize(
    "answer",
    [slowly, twice, once_and_garbage, expiring(0), expiring(1), expiring(2**64 - 1), many_addresses],
    ids=["slowly", "twice", "garbage", "never", "past", "far", "many"],
)
async def test_a_strange_reservation_is_used(make_peer: MakePeer, answer: Answer) -> None:
    """It is asked for once, and what a relay says of itself is bounded."""
    relay, bob = await make_peer(), await make_peer()
    liar = Liar(relay, answer)
    address = await relay.listen()
    circuit = await bob.listen_via_relay(address)
    assert circuit == address.encapsulate(CIRCUIT).with_peer(bob.peer_id)
    await settled()
    assert liar.asked == 1
    [listener] = bob.listeners
    assert listener.addresses[0] == circuit
    assert len(listener.addresses) == (17 if answer is many_addresses else 1)
    assert [one.peer for one in bob.connections] == [relay.peer_id]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (without_a_reservation, "expected a reservation"),
        (too_many_addresses, "over the limit of 4096"),
    ],
)
async def test_no_reservation(make_peer: MakePeer, answer: Answer, reason: str) -> None:
    relay, bob = await make_peer(), await make_peer()
    Liar(relay, answer)
    with pytest.raises(ListenError, match=reason):
        await bob.listen_via_relay(await relay.listen())
    assert bob.listeners == ()


async def test_addresses_that_lead_elsewhere(make_peer: MakePeer) -> None:
    """A relay speaks for itself: not for another peer, nor for a circuit, nor in words that nobody understands."""
    relay, bob = await make_peer(), await make_peer()
    good = Multiaddr.parse("/ip4/192.0.2.7/tcp/4001")
    other = Keypair.generate().peer_id
    circuit = Multiaddr.parse(f"/ip4/192.0.2.7/tcp/1/p2p/{other}/p2p-circuit")
    path = Multiaddr.parse("/ip4/192.0.2.7/unix/socket")  # behind which no peer id can stand
    nonsense = (b"", b"\xff" * 40, bytes(good)[:-1], bytes(good.with_peer(other)), bytes(circuit), bytes(path))
    Liar(relay, with_addresses(*nonsense, bytes(good), bytes(good.with_peer(relay.peer_id))))
    first = await bob.listen_via_relay(await relay.listen())
    second = good.with_peer(relay.peer_id).encapsulate(CIRCUIT).with_peer(bob.peer_id)
    assert bob.listeners[0].addresses == (first, second)


@replaces_parts
async def test_a_public_relay_does_not_have_others_dial_into_their_networks(
    make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "scope_of", lambda remote: Scope.PUBLIC)
    relay, bob = await make_peer(), await make_peer()
    told = [Multiaddr.parse(f"/ip4/{ip}/tcp/22") for ip in ("192.168.1.1", "127.0.0.1", "8.8.8.8")]
    Liar(relay, with_addresses(*map(bytes, told)))
    first = await bob.listen_via_relay(await relay.listen())
    assert bob.listeners[0].addresses == (
        first,
        told[2].with_peer(relay.peer_id).encapsulate(CIRCUIT).with_peer(bob.peer_id),
    )


async def test_a_relay_with_many_addresses_leaves_room_for_another(make_peer: MakePeer) -> None:
    """Others are told a few, and dial the first ones."""
    relay, other, bob = await make_peer(relay=RelayServer()), await make_peer(), await make_peer()
    Liar(other, with_addresses(*(bytes(Multiaddr.parse(f"/ip4/192.0.2.{last}/tcp/1")) for last in range(16))))
    firsts = [await bob.listen_via_relay(await one.listen()) for one in (other, relay)]
    assert bob._parts.relaying.reservations.addresses[:2] == tuple(one.without_peer() for one in firsts)


# -- vouchers ------------------------------------------------------------------------------------------------


RELAY, BOB, OTHER = Keypair.generate(), Keypair.generate(), Keypair.generate()


@pytest.mark.parametrize(
    ("voucher", "reason"),
    [
        (Voucher(OTHER.peer_id, BOB.peer_id, LATER).seal(OTHER), f"is of {OTHER.peer_id} for"),
        (Voucher(RELAY.peer_id, OTHER.peer_id, LATER).seal(RELAY), f"for {OTHER.peer_id}"),
        (Voucher(RELAY.peer_id, BOB.peer_id, LATER).seal(OTHER), "not signed by the relay that it names"),
        (Voucher(OTHER.peer_id, BOB.peer_id, LATER).seal(RELAY), "not signed by the relay that it names"),
        (Voucher(RELAY.peer_id, BOB.peer_id, LATER).seal(RELAY)[:-1], "not a protobuf message"),
        (flipped(Voucher(RELAY.peer_id, BOB.peer_id, LATER).seal(RELAY)), "signature"),
        (b"", "payload type"),
        (bytes(100), "not a protobuf message"),
    ],
    ids=["other relay", "other peer", "other signer", "other name", "cut off", "altered", "empty", "zeros"],
)
async def test_a_false_voucher(make_peer: MakePeer, voucher: bytes, reason: str) -> None:
    relay, bob = await make_peer(keypair=RELAY), await make_peer(keypair=BOB)
    Liar(relay, with_voucher(voucher))
    with pytest.raises(ListenError, match=reason):
        await bob.listen_via_relay(await relay.listen())
    assert bob.listeners == ()


async def test_an_expired_voucher(make_peer: MakePeer) -> None:
    """The clocks of two hosts differ, ours may be wrong: what the relay promises is renewed soon, and used."""
    relay, bob = await make_peer(keypair=RELAY), await make_peer(keypair=BOB)
    liar = Liar(relay, with_voucher(Voucher(RELAY.peer_id, BOB.peer_id, 1).seal(RELAY)))
    assert await bob.listen_via_relay(await relay.listen())
    await settled()
    assert liar.asked == 1


# -- renewals ------------------------------------------------------------------------------------------------


async def test_a_relay_that_refuses_to_renew(make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reservation is lost, with the reason, and made again when the relay wants to."""
    monkeypatch.setattr(reservations, "SHORTEST", 0.01)
    monkeypatch.setattr(reservations, "FIRST_PAUSE", 0.01)
    relay, bob = await make_peer(), await make_peer()
    refusing = False

    async def answer(stream: Stream, answer: messages.HopMessage) -> None:
        if refusing:
            answer = messages.HopMessage(type=HopType.STATUS, status=Status.RESOURCE_LIMIT_EXCEEDED)
        answer.reservation.expire = 1
        await write(stream, answer)

    Liar(relay, answer)
    events = bob.events()
    circuit = await bob.listen_via_relay(await relay.listen())
    refusing = True
    lost = await next_event(events, ReservationLost)
    assert isinstance(lost.error, RelayRefused)
    assert lost.error.status == Status.RESOURCE_LIMIT_EXCEEDED
    assert [listener.addresses for listener in bob.listeners] == [()]
    refusing = False
    assert (await next_event(events, ReservationMade)).addresses == (circuit,)


async def test_a_relay_that_falls_silent(make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reservations, "SHORTEST", 0.01)
    relay, bob = await make_peer(), await make_peer(config=Config(request_timeout=1.0))
    answering = True

    async def answer(stream: Stream, answer: messages.HopMessage) -> None:
        if not answering:
            await stream.read()
        answer.reservation.expire = 1
        await write(stream, answer)

    Liar(relay, answer)
    events = bob.events()
    await bob.listen_via_relay(await relay.listen())
    answering = False
    lost = await next_event(events, ReservationLost)
    assert str(lost.error) == "no answer within 1 s"


async def test_a_relay_that_ends_each_reservation_at_once(make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would have us dial it, and tell everybody of our addresses, several times a second for ever."""
    relay, bob = await make_peer(), await make_peer()
    pauses: list[float] = []

    def shortest(least: float, most: float) -> float:
        pauses.append(most)
        return 0.0

    async def answer(stream: Stream, answer: messages.HopMessage) -> None:
        await write(stream, answer)
        await stream.close()
        relay._parts.running().connections[0].close()

    liar = Liar(relay, answer)
    monkeypatch.setattr(random, "uniform", shortest)
    await bob.listen_via_relay(await relay.listen())
    await until(lambda: liar.asked > 7)
    assert pauses[:7] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]

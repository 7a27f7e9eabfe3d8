"""Peers that find each other on the loopback interface, on a clock that stands still."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import pytest
from support import dns
from support.clock import Clock
from support.multicast import Neighbor, neighbor, only_loopback
from support.waiting import begun, settled

from stronghold_p2p import (
    AddressBook,
    AddressSource,
    Config,
    Event,
    Keypair,
    LimitReached,
    ListenError,
    Multiaddr,
    PeerDiscovered,
    PeerExpired,
    PeerId,
)
from stronghold_p2p.discovery import links, mdns, packets
from stronghold_p2p.discovery.intake import MAX_BYTES_PER_SENDER, MAX_PACKETS
from stronghold_p2p.discovery.mdns import FIND_TIME, Mdns
from stronghold_p2p.discovery.packets import TTL, Answer
from stronghold_p2p.resources.refusals import Refusals
from stronghold_p2p.resources.turns import Turns
from stronghold_p2p.transport import interfaces
from stronghold_p2p.transport.interfaces import InterfaceAddress, InterfaceWatch

STRANGER = Keypair.generate().peer_id
HERE = Multiaddr.parse("/ip4/127.0.0.1/tcp/4001")
ALSO_HERE = Multiaddr.parse("/ip6/::1/tcp/4002")
ELSEWHERE = Multiaddr.parse("/ip4/192.0.2.7/tcp/4001")
SERVICE = f"{dns.SERVICE}."
HOURS = 36_000
"""Seconds that the clock is slow, so that a test is not ended as one that takes too long."""


@dataclass
class Node:
    """A peer, as far as mDNS goes."""

    config: Config
    clock: Clock
    peer: PeerId = field(default_factory=lambda: Keypair.generate().peer_id)
    own_addresses: Any = field(default_factory=lambda: SimpleNamespace(addresses=()))
    dialed: list[tuple[PeerId, tuple[Multiaddr, ...]]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.book = AddressBook(clock=self.clock)
        self.turns = Turns(asyncio.get_running_loop(), self.config.turn_time)
        self.interfaces = InterfaceWatch()
        self.mdns = Mdns(
            self.peer,
            self.config,
            addresses=self.book,
            interfaces=self.interfaces,
            turns=self.turns,
            refusals=Refusals(self.events.append, clock=lambda: self.clock() + HOURS),
            emit=self.events.append,
        )

    def found(self, peer: PeerId, addresses: tuple[Multiaddr, ...]) -> None:
        self.dialed.append((peer, addresses))

    def listen(self, *addresses: Multiaddr) -> None:
        self.own_addresses.addresses = addresses
        self.mdns.offer_changed(None)

    def move_to(self, *addresses: InterfaceAddress) -> None:
        """Other interfaces come up, or none."""
        self.interfaces.addresses = addresses
        self.mdns.network_changed()


class World:
    """Nodes on one network, and the time."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.clock = Clock(loop.time() - HOURS)
        loop.time = self.clock  # type: ignore[method-assign]
        self.nodes: list[Node] = []

    def node(self, *addresses: Multiaddr, **config: Any) -> Node:
        node = Node(Config(**config), self.clock)
        node.mdns.open()
        node.mdns.attach(node)  # type: ignore[arg-type]
        node.listen(*addresses)
        self.nodes.append(node)
        return node


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> Any:
    only_loopback(monkeypatch)
    world = World()
    yield world
    for node in world.nodes:
        node.mdns.close()
        node.interfaces.close()


@pytest.fixture
def remote(world: World) -> Iterator[Neighbor]:
    """Somebody else on the network, who sends what the test says."""
    with neighbor() as remote:
        yield remote


def found(*addresses: Multiaddr, peer: PeerId = STRANGER) -> PeerDiscovered:
    return PeerDiscovered(peer, addresses)


def answer(*addresses: Multiaddr, peer: PeerId = STRANGER, ttl: int = 120, instance: str = "x" * 40) -> bytes:
    return dns.go_answer([str(address.with_peer(peer)) for address in addresses], instance, ttl)


def answers(remote: Neighbor) -> list[Answer]:
    read = map(packets.read, remote.received())
    return [message for message in read if isinstance(message, Answer)]


QUESTION = dns.packet(questions=[dns.question(dns.SERVICE)])

# -- finding and being found ---------------------------------------------------------------------------


async def test_two_peers_find_each_other(world: World) -> None:
    alice, bob = world.node(HERE), world.node(ALSO_HERE, ELSEWHERE)
    await world.clock.advance(0.25)
    assert alice.events == [found(ALSO_HERE, peer=bob.peer)], "bob's other address is not on this interface"
    assert bob.events == [found(HERE, peer=alice.peer)]
    (entry,) = alice.book.entries(bob.peer)
    assert (entry.address, entry.source) == (ALSO_HERE, AddressSource.MDNS)
    assert entry.expires is not None
    assert TTL - 0.25 <= entry.expires - world.clock.now <= TTL


async def test_who_does_not_listen_finds_and_is_not_found(world: World) -> None:
    alice, bob = world.node(), world.node(HERE)
    await world.clock.advance(0.25)
    assert alice.events == [found(HERE, peer=bob.peer)]
    assert bob.events == []


async def test_who_comes_later_is_heard_of_before_anybody_asks(world: World) -> None:
    alice = world.node()
    await world.clock.advance(20.0)
    bob = world.node()
    await world.clock.advance(10.0)
    bob.listen(HERE)
    await world.clock.advance(0.25)
    assert alice.events == [found(HERE, peer=bob.peer)]


async def test_those_who_stay_are_known_for_ever_and_told_of_once(world: World) -> None:
    alice, bob = world.node(HERE), world.node(ALSO_HERE)
    await world.clock.advance(20 * TTL, step=1.0)
    assert len(alice.events) == len(bob.events) == 1
    assert alice.book.get(bob.peer) == (ALSO_HERE,)


async def test_who_says_goodbye_is_gone_at_once(world: World) -> None:
    alice, bob = world.node(), world.node(HERE)
    await world.clock.advance(0.25)
    bob.mdns.close()
    await settled()
    assert alice.events == [found(HERE, peer=bob.peer), PeerExpired(bob.peer)]
    assert bob.peer not in alice.book


async def test_who_falls_silent_is_gone_when_its_time_has_run_out(world: World, remote: Neighbor) -> None:
    alice = world.node()
    remote.send(answer(HERE, ttl=60))
    await world.clock.advance(59.0, step=1.0)
    assert alice.events == [found(HERE)]
    await world.clock.advance(1.25)
    assert alice.events == [found(HERE), PeerExpired(STRANGER)]
    assert STRANGER not in alice.book


async def test_a_short_time_after_a_long_one_is_kept_too(world: World, remote: Neighbor) -> None:
    alice = world.node()
    remote.send(answer(HERE, ttl=4000))
    await world.clock.advance(10.0)
    brief = Keypair.generate().peer_id
    remote.send(answer(HERE, peer=brief, ttl=10))
    await world.clock.advance(11.25)
    assert alice.events == [found(HERE), found(HERE, peer=brief), PeerExpired(brief)]


async def test_other_addresses_are_told_without_a_gap(world: World) -> None:
    alice, bob = world.node(), world.node(HERE)
    await world.clock.advance(0.25)
    bob.listen(HERE, ALSO_HERE)
    await world.clock.advance(1.5)
    bob.listen(ALSO_HERE)
    await world.clock.advance(1.5)
    assert alice.events == [
        found(HERE, peer=bob.peer),
        found(HERE, ALSO_HERE, peer=bob.peer),
        found(ALSO_HERE, peer=bob.peer),
    ]
    bob.listen()
    await settled()
    assert alice.events[3:] == [PeerExpired(bob.peer)]


async def test_a_change_has_a_new_name_since_go_reports_each_name_once(world: World, remote: Neighbor) -> None:
    bob = world.node(HERE)
    await world.clock.advance(2.5)
    bob.listen(ALSO_HERE)
    await world.clock.advance(2.5)
    told = [(instance, ttl) for message in answers(remote) for instance, _, ttl in message.texts]
    first, second = dict.fromkeys(instance for instance, _ in told)
    assert told.index((second, TTL)) == told.index((first, 0)) - 1, (
        "the new one first, so that nobody is gone meanwhile"
    )
    assert {len(name.removesuffix(f".{SERVICE}")) for name in (first, second)} <= set(links.NAME_LENGTH)
    changes = len(told)
    bob.mdns.offer_changed(None)  # a firewall rule
    bob.mdns.network_changed()
    await settled()
    assert len(told) == changes
    assert answers(remote) == []


async def test_what_nobody_has_heard_of_needs_no_goodbye(world: World, remote: Neighbor) -> None:
    bob = world.node()
    for addresses in ((HERE,), (ALSO_HERE,), (HERE, ALSO_HERE)):
        bob.listen(*addresses)
    await world.clock.advance(0.25)
    assert [ttl for message in answers(remote) for _, _, ttl in message.texts] == [TTL]


# -- questions and answers -----------------------------------------------------------------------------


async def test_questions_come_at_growing_intervals(world: World, remote: Neighbor) -> None:
    world.node()
    asked = []
    began = world.clock.now
    while world.clock.now < began + 250:
        await world.clock.advance(0.25)
        asked += [round(world.clock.now - began)] * len(remote.questions())
    assert asked == [0, 1, 3, 7, 15, 31, 63, 103, 143, 183, 223]


async def test_a_question_tells_what_is_known_and_will_be(world: World, remote: Neighbor) -> None:
    world.node(HERE)
    await world.clock.advance(0.25)
    remote.send(answer(HERE, instance="long", ttl=4000))
    remote.send(answer(HERE, instance="short", ttl=120))
    remote.send(answer(HERE, instance="gone", ttl=120))
    remote.send(answer(HERE, instance="gone", ttl=0))
    await settled()
    remote.received()
    known = []
    for _ in range(8):
        await world.clock.advance(32.0)
        known += [question.known for question in remote.questions()]
    both = frozenset({f"long.{SERVICE}", f"short.{SERVICE}"})
    assert known == [both] * 4 + [frozenset({f"long.{SERVICE}"})] * (len(known) - 4), "we ourselves are not known to us"


async def test_a_question_has_room_for_those_heard_of_last(world: World, remote: Neighbor) -> None:
    world.node()
    await world.clock.advance(0.25)
    instances = [f"{number:063}" for number in range(2 * links.MAX_KNOWN)]
    for instance in instances:
        remote.send(answer(HERE, instance=instance, ttl=4000))
        await settled()
    remote.received()
    await world.clock.advance(1.0)
    (question,) = remote.questions()
    assert question.known == {f"{instance}.{SERVICE}" for instance in instances[-links.MAX_KNOWN :]}


async def test_many_who_ask_get_one_answer_a_second(world: World, remote: Neighbor) -> None:
    world.node(HERE)
    await world.clock.advance(10.0)
    remote.received()
    told = 0
    for _ in range(40):
        for _ in range(3):
            remote.send(QUESTION)
        await world.clock.advance(0.1, step=0.05)
        told += len(answers(remote))
    assert told in {3, 4}


async def test_who_knows_of_us_gets_no_answer(world: World, remote: Neighbor) -> None:
    world.node(HERE)
    await world.clock.advance(2.5)
    ((instance, _, _), *_) = answers(remote)[0].texts

    async def answered(ttl: int) -> bool:
        await world.clock.advance(1.5)
        remote.received()
        remote.send(packets.encode_query([(instance, ttl)]))
        await world.clock.advance(0.25)
        return bool(answers(remote))

    assert not await answered(TTL // 2)
    assert await answered(TTL // 2 - 1)


@pytest.mark.parametrize("asked", ["the instance", "the types", "another service"])
async def test_who_asks_for_one_name(world: World, remote: Neighbor, asked: str) -> None:
    world.node(HERE)
    await world.clock.advance(2.5)
    ((instance, _, _), *_) = answers(remote)[0].texts
    names = {
        "the instance": instance.rstrip("."),
        "the types": packets.TYPES.rstrip("."),
        "another service": "_p2p._tcp.local",
    }
    await world.clock.advance(2.0)
    remote.received()
    question = dns.packet(questions=[dns.question(names[asked], dns.TXT)])
    remote.send(question)
    await world.clock.advance(0.25)
    received = [packet for packet in remote.received() if packet != question]
    assert len(received) == {"the instance": 1, "the types": 2, "another service": 0}[asked]
    assert (packets.types() in received) is (asked == "the types")


# -- dials by peer id alone ------------------------------------------------------------------------------


async def test_a_peer_that_is_known_is_found_at_once(world: World, remote: Neighbor) -> None:
    alice = world.node()
    remote.send(answer(HERE))
    await world.clock.advance(10.0)
    remote.received()
    assert await alice.mdns.find(STRANGER) == (HERE,)
    await world.clock.advance(0.25)
    assert len(remote.questions()) == 1, "it may have moved"
    remote.send(answer(ELSEWHERE))
    await settled()
    assert alice.dialed == [(STRANGER, (HERE,)), (STRANGER, (ELSEWHERE, HERE))]


async def test_a_peer_that_is_asked_for_is_found(world: World) -> None:
    alice, bob = world.node(), world.node()
    await world.clock.advance(60.0, step=1.0)  # now it asks once a minute
    bob.own_addresses.addresses = (HERE,)  # it does not say so by itself
    calls = [await begun(alice.mdns.find(bob.peer)) for _ in range(2)]
    bob.mdns.offer_changed(None)
    await world.clock.advance(0.25)
    assert [await call for call in calls] == [(HERE,)] * 2


async def test_who_is_sought_is_asked_for_again_and_again(world: World, remote: Neighbor) -> None:
    alice = world.node()
    remote.send(answer(HERE, ttl=4000))
    await world.clock.advance(60.0, step=1.0)
    remote.received()
    call = await begun(alice.mdns.find(Keypair.generate().peer_id))
    await world.clock.advance(FIND_TIME - 0.25)
    assert not call.done()
    asked = remote.questions()
    assert len(asked) == 3
    assert not asked[0].known, "whoever is sought may be known by that name"
    await world.clock.advance(0.25)
    with pytest.raises(TimeoutError, match="nobody on the local network answered within 5 s"):
        await call
    await world.clock.advance(120.0, step=1.0)
    assert len(remote.questions()) <= 6, "it asks no more for it"


async def test_many_who_seek_ask_once_a_second(world: World, remote: Neighbor) -> None:
    alice = world.node()
    await world.clock.advance(0.25)
    remote.received()
    calls = []
    for _ in range(200):
        calls.append(await begun(alice.mdns.find(Keypair.generate().peer_id)))
        await world.clock.advance(0.02)
    assert 3 <= len(remote.questions()) <= 4
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert alice.mdns._waiting == {}


# -- interfaces --------------------------------------------------------------------------------------------


async def test_interfaces_come_and_go(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loopback = interfaces.list_addresses()
    bob = world.node(HERE)
    await world.clock.advance(2.5)
    monkeypatch.setattr(interfaces, "list_addresses", list)
    alice = world.node()
    assert caplog.messages == ["mDNS: no interface is up; it begins with the first one"]
    await world.clock.advance(2.5)
    assert alice.events == []
    alice.move_to(*loopback)
    await world.clock.advance(1.25)
    assert alice.events == [found(HERE, peer=bob.peer)]
    bob.move_to(*(address._replace(usable=False) for address in loopback))
    await settled()
    assert alice.events[1:] == [PeerExpired(bob.peer)]


async def test_an_address_that_is_new_is_announced(world: World) -> None:
    alice, bob = world.node(), world.node(HERE, ALSO_HERE)
    first, second = sorted(interfaces.list_addresses(), key=lambda address: address.ip.version)
    bob.move_to(first)
    await world.clock.advance(2.5)
    bob.move_to(first, second)
    await world.clock.advance(1.25)
    assert alice.events == [found(HERE, peer=bob.peer), found(HERE, ALSO_HERE, peer=bob.peer)]


async def test_what_the_system_says_no_to_is_left_out(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "stronghold_p2p")
    alice, bob = world.node(), world.node(HERE)
    bob.move_to(*bob.interfaces.addresses, InterfaceAddress(ip_address("192.0.2.1"), 2**30))
    assert caplog.messages[-1] == "mDNS: not on every interface: [Errno 19] No such device"
    await world.clock.advance(1.25)
    assert alice.events == [found(HERE, peer=bob.peer)]


@pytest.mark.usefixtures("world")
async def test_a_system_that_lists_no_interfaces_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[InterfaceAddress]:
        raise OSError("the table is full")

    monkeypatch.setattr(interfaces, "list_addresses", fail)
    with pytest.raises(ListenError, match="mDNS: the table is full"):
        Node(Config(), Clock(0.0)).mdns.open()


async def test_a_packet_that_cannot_be_sent_is_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = world.node(), world.node()
    for link in bob.mdns._links.values():
        monkeypatch.setattr(link, "_group", ("255.255.255.255", links.PORT))  # needs a permission of its own
    bob.listen(HERE)
    await world.clock.advance(2.5)
    assert alice.events == []


@pytest.mark.usefixtures("world")
async def test_a_port_that_is_not_shared_is_a_clear_error() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", links.PORT))
        node = Node(Config(), Clock(0.0))
        with pytest.raises(
            ListenError, match=r"^cannot listen on /ip4/224\.0\.0\.251/udp/\d+: mDNS: address already in use$"
        ):
            node.mdns.open()


# -- what others may send ----------------------------------------------------------------------------------


async def test_what_names_our_own_id_is_ignored(world: World, remote: Neighbor) -> None:
    alice = world.node()
    remote.send(answer(ELSEWHERE, peer=alice.peer))
    await settled()
    assert alice.events == []
    assert alice.peer not in alice.book


def random_bytes() -> bytes:
    return os.urandom(1000)


def for_us_and_broken() -> bytes:
    return answer(HERE)[:60] + os.urandom(1000)


def huge() -> bytes:
    return answer(HERE, instance=os.urandom(8).hex()) + bytes(links.MAX_PACKET)


@pytest.mark.parametrize("packet", [random_bytes, for_us_and_broken, huge, bytes], ids=lambda made: made.__name__)
async def test_what_is_nothing_is_ignored(world: World, remote: Neighbor, packet: Callable[[], bytes]) -> None:
    alice = world.node()
    for _ in range(500):
        remote.send(packet())
        await settled()
    await world.clock.advance(1.0)
    remote.send(answer(HERE))
    await settled()
    assert alice.events == [found(HERE)]


async def test_a_thousand_peers_are_known_as_far_as_there_is_room(world: World, remote: Neighbor) -> None:
    alice = world.node(max_discovered_peers=20)
    peers = [PeerId(b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32)) for number in range(1000)]
    for number, peer in enumerate(peers):
        remote.send(answer(HERE, peer=peer))
        await settled()
        if number % 100 == 99:
            await world.clock.advance(1.0)
    assert set(alice.book) == set(peers[-20:])
    discovered = [event.peer for event in alice.events if isinstance(event, PeerDiscovered)]
    expired = [event.peer for event in alice.events if isinstance(event, PeerExpired)]
    assert (discovered, expired) == (peers, peers[:-20])
    limits = [event for event in alice.events if isinstance(event, LimitReached)]
    assert {(event.limit, event.network) for event in limits} == {("max_discovered_peers", "127.0.0.1/32")}
    assert len(limits) <= 11


async def test_who_comes_from_elsewhere_is_not_heard(world: World, remote: Neighbor) -> None:
    """Else a neighbor could be any number of senders."""
    alice = world.node()
    loopback = next(one for one in alice.interfaces.addresses if one.ip.version == 4)
    alice.move_to(loopback._replace(prefix=24))
    with neighbor("127.0.1.1") as elsewhere, neighbor("127.0.0.7") as near:
        elsewhere.send(answer(ELSEWHERE))
        await settled()
        assert alice.events == []
        near.send(answer(ELSEWHERE))
        await settled()
    assert alice.events == [found(ELSEWHERE)]


async def test_an_address_that_is_alone_has_neighbors_everywhere(world: World, remote: Neighbor) -> None:
    """As that of a tunnel."""
    alice = world.node()
    loopback = next(one for one in alice.interfaces.addresses if one.ip.version == 4)
    alice.move_to(loopback._replace(prefix=32))
    with neighbor("127.0.1.1") as elsewhere:
        elsewhere.send(answer(ELSEWHERE))
        await settled()
    assert alice.events == [found(ELSEWHERE)]


async def test_who_is_sought_is_found_though_its_place_is_lost_at_once(world: World, remote: Neighbor) -> None:
    alice = world.node(max_discovered_peers=1)
    finding = await begun(alice.mdns.find(STRANGER))
    remote.send(answer(HERE))
    remote.send(answer(ELSEWHERE, peer=Keypair.generate().peer_id))
    await settled()
    assert await finding == (HERE,)


async def test_thousands_of_packets_a_second_are_not_looked_at(world: World, remote: Neighbor) -> None:
    alice = world.node()
    await world.clock.advance(1.0)
    packet = answer(HERE)
    for number in range(MAX_PACKETS + 100):
        remote.send(packet if number else answer(HERE, peer=alice.peer))
        if number % 50 == 0:
            await settled()
    await settled()
    (link,) = alice.mdns._links.values()
    assert link._pausing is not None
    seen = len(alice.events)
    second = Keypair.generate().peer_id
    remote.send(answer(HERE, peer=second))
    await settled()
    assert len(alice.events) == seen == 1, "nothing is read for the rest of the second"
    await world.clock.advance(1.25)
    remote.send(answer(HERE, peer=second))
    await world.clock.advance(0.25)
    assert alice.events == [found(HERE), found(HERE, peer=second)]


async def test_one_sender_has_its_share_of_what_is_looked_at(
    world: World, remote: Neighbor, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0

    def count(*_: object) -> None:
        nonlocal taken
        taken += 1

    world.node()
    await world.clock.advance(1.0)
    monkeypatch.setattr(packets, "read", count)
    packet = answer(*[HERE] * 12)
    for _ in range(200):
        remote.send(packet)
        await settled()
    most = MAX_BYTES_PER_SENDER // len(packet)
    assert taken in {most - 1, most}, "its own packets come from there, too"


async def test_packets_wait_for_their_turn(world: World, remote: Neighbor) -> None:
    alice = world.node()
    await settled()
    alice.turns.over = True
    remote.send(answer(HERE))
    for _ in range(10):
        await asyncio.sleep(0)
    assert alice.events == []
    alice.turns.over = False
    await settled()
    assert alice.events == [found(HERE)]


async def test_closed_it_hears_and_says_nothing(world: World, remote: Neighbor) -> None:
    alice = world.node(HERE)
    await world.clock.advance(0.25)
    remote.send(answer(HERE))
    await settled()
    alice.mdns.close()
    remote.received()
    remote.send(answer(HERE, peer=Keypair.generate().peer_id))
    remote.send(QUESTION)
    alice.listen(ALSO_HERE)
    await world.clock.advance(2 * TTL, step=10.0)
    assert alice.events == [found(HERE)]
    assert len(remote.received()) == 2, "its own"
    assert mdns.FIND_TIME == FIND_TIME

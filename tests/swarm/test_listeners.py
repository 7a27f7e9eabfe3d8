"""Where a peer can be dialed as its interfaces change, and what it tells whom. See test_interface_changes.py for real ones."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import MakePeer
from support.interfaces import FakeInterfaces, on
from support.waiting import begun, next_event, settled, until

from stronghold_p2p import (
    AddressesChanged,
    AddressOrigin,
    ConnectionClosed,
    ConnectionLost,
    Direction,
    Event,
    InvalidAddress,
    Keypair,
    Listener,
    ListenerClosed,
    Multiaddr,
    NatKind,
    NewListener,
    Path,
    PeerIdentified,
    StrongholdP2p,
)
from stronghold_p2p.protocols.service import Service
from stronghold_p2p.swarm.listeners import PACE, Listeners
from stronghold_p2p.swarm.own_addresses import MAX_TOLD, OBSERVERS, REPORT_LIFETIME
from stronghold_p2p.transport.pipe import NullReceiver
from stronghold_p2p.transport.transport import (
    DIAL_PLAINLY,
    LISTEN_PLAINLY,
    Connected,
    DialOptions,
    ListenOptions,
    nothing_to_close,
)

LO = on(1, "127.0.0.1")
LAN = on(2, "192.168.1.2")
VPN = on(3, "10.0.0.2")
PUBLIC = on(4, "1.2.3.4")
RELAY = Keypair.generate().peer_id


def texts(addresses: tuple[Multiaddr, ...]) -> list[str]:
    return [str(address.without_peer()) for address in addresses]


# -- a peer, with interfaces that a test makes up ------------------------------------------------------


async def on_wildcard(peer: StrongholdP2p[Any, Any], *interfaces: Any) -> tuple[FakeInterfaces, str]:
    """Has ``peer`` listen on all interfaces; returns these, and the part of an address behind the host."""
    system = FakeInterfaces(*interfaces)
    system.of(peer)
    address = await peer.listen("/ip4/0.0.0.0/tcp/0")
    return system, f"/tcp/{address.components[1][1]}"


async def test_a_wildcard_follows_the_interfaces_and_others_hear_of_it(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    system, port = await on_wildcard(bob, *LAN, *LO)
    events, alices = bob.events(), alice.events()
    loopback = bob.listeners[0].addresses[-1]
    await alice.connect(loopback)
    identified = await next_event(alices, PeerIdentified)
    assert texts(identified.listen_addresses) == [f"/ip4/127.0.0.1{port}", f"/ip4/192.168.1.2{port}"]
    system.change(*VPN, *LO)
    changed = await next_event(events, AddressesChanged)
    assert texts(changed.addresses) == [f"/ip4/10.0.0.2{port}", f"/ip4/127.0.0.1{port}"]
    assert texts(changed.new) == [f"/ip4/10.0.0.2{port}"]
    assert all(address.peer_id == bob.peer_id for address in changed.addresses)
    assert bob.listeners[0].addresses == changed.addresses
    identified = await next_event(alices, PeerIdentified)
    assert texts(identified.listen_addresses) == [f"/ip4/127.0.0.1{port}", f"/ip4/10.0.0.2{port}"]
    assert alice.addresses.get(bob.peer_id)[-1] == identified.listen_addresses[-1]
    await bob.close()
    system.close()


async def test_what_is_listened_on_and_closed_is_no_change_of_addresses(make_peer: MakePeer) -> None:
    bob = await make_peer()
    events = bob.events()
    system, _ = await on_wildcard(bob, *LO)
    await bob.listen()
    await bob.stop_listening()
    await bob.close()
    system.close()
    kinds = [type(event) for event in [event async for event in events]]
    assert kinds == [NewListener, NewListener, ListenerClosed, ListenerClosed]


async def test_a_wildcard_on_a_machine_without_an_interface(make_peer: MakePeer) -> None:
    bob = await make_peer()
    system, _ = await on_wildcard(bob)
    events = bob.events()
    (listener,) = bob.listeners
    assert listener.addresses == ()
    system.change(*LAN)
    changed = await next_event(events, AddressesChanged)
    assert changed.addresses == bob.listeners[0].addresses == changed.new
    await bob.stop_listening(listener.address)
    assert bob.listeners == ()
    system.close()


async def test_a_listener_closes_by_the_address_that_it_had_first(make_peer: MakePeer) -> None:
    bob = await make_peer()
    system = FakeInterfaces(*LAN)
    system.of(bob)
    address = await bob.listen("/ip4/0.0.0.0/tcp/0")
    events = bob.events()
    system.change(*VPN)
    await next_event(events, AddressesChanged)
    await bob.stop_listening(address)
    assert bob.listeners == ()
    system.close()


async def test_the_interfaces_are_watched_while_a_listener_needs_them(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    system = FakeInterfaces(*LO)
    system.of(bob)
    await alice.connect(await bob.listen())
    assert system.looks == 0
    first, second = [await bob.listen("/ip4/0.0.0.0/tcp/0") for _ in range(2)]
    assert (system.looks, len(system.monitors)) == (1, 1)
    await bob.stop_listening(first)
    assert system.monitors[0].fileno() >= 0
    await bob.stop_listening(second)
    assert system.monitors[0].fileno() < 0
    await bob.listen("/ip4/0.0.0.0/tcp/0")
    await bob.close()
    assert system.monitors[1].fileno() < 0
    system.close()


async def test_connections_end_with_the_address_that_they_come_from(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    bob.on_request(lambda request: asyncio.get_running_loop().create_future())
    bob.set_firewall_default(None)
    address = await bob.listen()
    await alice.connect(address)
    system, _ = await on_wildcard(alice, *LO, *LAN)
    events = alice.events()
    asking = await begun(alice.ping(address))
    system.change(*LO)
    await next_event(events, AddressesChanged)
    assert len(alice.connections) == 1
    await asking
    stream = await alice.open_stream(bob.peer_id, "/ipfs/ping/1.0.0")
    system.change(*LAN)
    closed = await next_event(events, ConnectionClosed)
    assert isinstance(closed.error, ConnectionLost)
    assert str(closed.error) == "connection lost: the local address 127.0.0.1 is gone"
    with pytest.raises(ConnectionLost) as caught:
        await stream.read()
    assert str(caught.value) == str(closed.error)
    await until(lambda: not bob.connections)
    assert not alice.is_connected(bob.peer_id)
    system.close()


class Following(Service):
    """Counts changes of the network."""

    def __init__(self) -> None:
        self.changes = 0

    def network_changed(self) -> None:
        self.changes += 1


async def test_services_hear_of_changes_while_they_need_them(make_peer: MakePeer) -> None:
    bob = await make_peer()
    service = Following()
    swarm = bob._parts.swarm
    assert swarm is not None
    service.attach(swarm)
    swarm._services = (service,)
    system = FakeInterfaces(*LO)
    system.of(bob)
    service.host.watch_network(service)
    system.change(*LAN)
    await until(lambda: service.changes == 1)
    service.host.unwatch_network(service)
    assert system.monitors[0].fileno() < 0
    system.error = OSError(errno.EACCES, "Permission denied")
    with pytest.raises(OSError, match="Permission denied"):
        service.host.watch_network(service)
    system.close()


# -- announced addresses -------------------------------------------------------------------------------


async def test_what_is_announced_is_told_beside_the_rest(make_peer: MakePeer) -> None:
    alice, bob = await make_peer(), await make_peer()
    address = await bob.listen(announce=("/dns4/example.com/tcp/443/wss", f"/ip4/1.2.3.4/tcp/80/p2p/{bob.peer_id}"))
    told = [str(address.without_peer()), "/dns4/example.com/tcp/443/wss", "/ip4/1.2.3.4/tcp/80"]
    assert texts(bob.listeners[0].addresses) == told
    events = alice.events()
    await alice.connect(address)
    assert texts((await next_event(events, PeerIdentified)).listen_addresses) == told
    await bob.stop_listening(address)
    assert (await next_event(events, PeerIdentified)).listen_addresses == ()
    await bob.listen(announce="/ip4/1.2.3.4/tcp/80")
    assert len((await next_event(events, PeerIdentified)).listen_addresses) == 2


@pytest.mark.parametrize(
    "announced",
    [
        "nonsense",
        "/ip4/0.0.0.0/tcp/1",
        "/ip6/::/tcp/1/ws",
        "/ip4/1.2.3.4/tcp/0",
        "/unix/tmp/socket",
        pytest.param(f"/ip4/1.2.3.4/tcp/1/p2p/{RELAY}", id="of another peer"),
    ],
)
async def test_what_cannot_be_announced(make_peer: MakePeer, announced: str) -> None:
    bob = await make_peer()
    with pytest.raises(InvalidAddress):
        await bob.listen(announce=announced)
    with pytest.raises(TypeError):
        await bob.listen(announce=[b"/ip4/1.2.3.4/tcp/1"])  # type: ignore[list-item]
    assert bob.listeners == ()


# -- listeners alone, on a machine that is made up -----------------------------------------------------


class Transport:
    """Listens on whatever it is told to, and binds port 0 to 9, and names to 192.168.1.2."""

    name = "fake"

    def supports(self, address: Multiaddr) -> bool:
        return True

    async def dial(self, address: Multiaddr, connected: Connected, options: DialOptions = DIAL_PLAINLY) -> None:
        raise NotImplementedError

    async def listen(
        self, address: Multiaddr, connected: Connected, options: ListenOptions = LISTEN_PLAINLY
    ) -> Transport.Listener:
        (kind, host), (_, port), *rest = address.components
        suffix = f"/tcp/{9 if port == '0' else port}" + "".join(f"/{name}" for name, _ in rest)
        bound = f"/ip4/192.168.1.2{suffix}" if kind == "dns4" else f"/{kind}/{host}{suffix}"
        return Transport.Listener(Multiaddr.parse(bound))

    async def close(self) -> None: ...

    class Listener:
        def __init__(self, address: Multiaddr) -> None:
            self.address = address

        def close(self) -> None: ...


@dataclass(eq=False)
class Remote:
    """What is asked of a connection."""

    direction: Direction
    remote_address: Multiaddr
    local_address: Multiaddr | None
    path: Path
    now: Callable[[], float]


class Machine:
    """Listeners, the interfaces under them, and what they tell."""

    def __init__(self, *interfaces: Any) -> None:
        self.system = FakeInterfaces(*interfaces)
        self.events: list[Event] = []
        self.changes = 0
        self.now = -1e6  # far from any timer of the test's own
        asyncio.get_running_loop().time = lambda: self.now  # type: ignore[method-assign]
        self.watch = self.system.watch()
        self.watch.changed = lambda before: self.listeners.update()
        self.listeners = Listeners(
            RELAY,
            (Transport(),),
            self.watch,
            connected=lambda pipe: NullReceiver(),
            exhausted=nothing_to_close,
            emit=self.events.append,
            changed=self._changed,
        )

    def _changed(self) -> None:
        self.changes += 1

    async def listen(self, address: str, *announce: str) -> Listener:
        return await self.listeners.listen(
            Multiaddr.parse(address), tuple(map(Multiaddr.parse, announce)), LISTEN_PLAINLY
        )

    def become(self, *interfaces: Any) -> None:
        self.system.addresses = list(interfaces)
        self.watch._look()

    @property
    def addresses(self) -> list[str]:
        return texts(self.listeners.addresses)

    def told_to(self, remote: str, local: str | None, relay: Any = None) -> list[str]:
        return texts(self.listeners.told_to(self.connection(remote, local, relay=relay)))

    def connection(
        self,
        remote: str,
        local: str | None = "/ip4/10.0.0.2/tcp/9",
        *,
        direction: Direction = Direction.INBOUND,
        relay: Any = None,
    ) -> Remote:
        return Remote(
            direction,
            Multiaddr.parse(f"{remote}/tcp/5555" if "/tcp" not in remote else remote),
            None if local is None else Multiaddr.parse(local),
            Path("tcp", relay=relay),
            asyncio.get_running_loop().time,
        )

    def close(self) -> None:
        self.listeners.close()
        self.watch.close()
        self.system.close()


@pytest.fixture
async def machine() -> Any:
    made = Machine(*LO, *LAN, *VPN, *PUBLIC)
    yield made
    made.close()


async def test_each_remote_is_told_what_it_can_reach(machine: Machine) -> None:
    await machine.listen("/ip4/0.0.0.0/tcp/9", "/dns4/example.com/tcp/443/wss")
    lan, vpn, public, name = (
        "/ip4/192.168.1.2/tcp/9",
        "/ip4/10.0.0.2/tcp/9",
        "/ip4/1.2.3.4/tcp/9",
        "/dns4/example.com/tcp/443/wss",
    )
    assert machine.told_to("/ip4/8.8.8.8", public) == [public, name]
    assert machine.told_to("/ip4/8.8.8.8", vpn) == [public, name]  # by a router that forwards a port
    assert machine.told_to("/ip4/192.168.1.9", lan) == [lan, public, name, vpn]
    assert machine.told_to("/ip4/10.0.0.9", vpn) == [vpn, public, name, lan]
    assert machine.told_to("/ip4/127.0.0.1", "/ip4/127.0.0.1/tcp/9")[0] == "/ip4/127.0.0.1/tcp/9"
    assert len(machine.told_to("/ip4/127.0.0.1", "/ip4/127.0.0.1/tcp/9")) == 5
    assert machine.told_to("/ip4/192.168.1.9", None, relay=RELAY) == [public, name]
    assert machine.told_to("/memory/1/tcp/1", None) == [public, name]


async def test_what_is_told_is_selected_once_for_all_who_are_told_the_same(machine: Machine) -> None:
    await machine.listen("/ip4/0.0.0.0/tcp/9")
    one, other = (machine.connection(f"/ip4/8.8.{number}.8") for number in range(2))
    assert machine.listeners.told_to(one) is machine.listeners.told_to(other)
    machine.become(*LAN, *on(4, "1.2.3.5"))
    assert texts(machine.listeners.told_to(one)) == ["/ip4/1.2.3.5/tcp/9"]


async def test_an_interface_that_does_not_run_has_no_address(machine: Machine) -> None:
    await machine.listen("/ip4/0.0.0.0/tcp/9")
    machine.become(*LAN, *on(3, "10.0.0.2", usable=False))
    assert machine.addresses == ["/ip4/192.168.1.2/tcp/9"]


async def test_a_listener_on_one_address_is_told_while_that_is_there(machine: Machine) -> None:
    await machine.listen("/ip4/10.0.0.2/tcp/9")
    assert machine.told_to("/ip4/10.0.0.9", "/ip4/10.0.0.2/tcp/9") == ["/ip4/10.0.0.2/tcp/9"]
    machine.become(*LAN)
    assert machine.addresses == []
    machine.become(*LAN, *VPN)
    assert machine.addresses == ["/ip4/10.0.0.2/tcp/9"]
    assert [type(event) for event in machine.events] == [NewListener, AddressesChanged, AddressesChanged]
    assert machine.changes == 3


async def test_a_listener_on_an_address_of_no_interface_is_told_all_the_same(machine: Machine) -> None:
    """As where a route has the machine take all of a network."""
    await machine.listen("/ip4/10.9.9.9/tcp/9")
    machine.become(*LAN)
    assert machine.addresses == ["/ip4/10.9.9.9/tcp/9"]


async def test_interfaces_that_cannot_be_listed_matter_to_a_wildcard_alone(machine: Machine) -> None:
    machine.system.error = OSError(errno.EACCES, "Permission denied")
    await machine.listen("/ip4/10.0.0.2/tcp/9")
    assert machine.addresses == ["/ip4/10.0.0.2/tcp/9"]


async def test_a_listener_by_name_is_told_by_name(machine: Machine) -> None:
    await machine.listen("/dns4/example.com/tcp/0")
    assert machine.addresses == ["/ip4/192.168.1.2/tcp/9", "/dns4/example.com/tcp/9"]
    machine.listeners.stop()
    for tls in "/tls/ws", "/wss":
        await machine.listen(f"/dns4/example.com/tcp/0{tls}")
        assert machine.addresses == [f"/dns4/example.com/tcp/9{tls}"]  # the certificate is for the name
        machine.listeners.stop()


async def test_a_machine_with_many_addresses_tells_some(machine: Machine) -> None:
    machine.become(*[one for number in range(40) for one in on(2, f"192.168.1.{number}")], *PUBLIC)
    await machine.listen("/ip4/0.0.0.0/tcp/9")
    machine.become(*[one for number in range(40) for one in on(2, f"192.168.1.{number}")], *PUBLIC)
    assert len(machine.addresses) == 41
    assert len(machine.told_to("/ip4/192.168.1.99", "/ip4/192.168.1.1/tcp/9")) == MAX_TOLD


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("/ip4/192.168.1.5/tcp/9", True),
        ("/ip4/192.168.1.5/tcp/9/ws", True),  # whatever is spoken there
        ("/ip6/::ffff:192.168.1.5/tcp/9", True),
        ("/ip4/127.9.9.9/tcp/9", True),
        ("/ip4/192.168.1.5/tcp/8", False),
        ("/ip4/192.168.1.6/tcp/9", False),
        ("/ip6/::1/tcp/9", False),  # another socket
        ("/ip4/10.0.0.9/tcp/9", True),  # of no interface, but listened on
        ("/ip4/9.9.9.9/tcp/443/wss", False),  # a proxy, which may stand before others, too
        ("/dns4/example.com/tcp/9", False),
        ("/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X", False),
    ],
)
async def test_which_addresses_lead_to_ourselves(machine: Machine, address: str, own: bool) -> None:
    machine.become(*LO, *on(2, "192.168.1.5"))
    await machine.listen("/ip4/0.0.0.0/tcp/9", "/ip4/9.9.9.9/tcp/443/wss")
    await machine.listen("/ip4/10.0.0.9/tcp/9")
    assert machine.listeners.is_own(Multiaddr.parse(address)) is own


# -- what was found out by dialing ---------------------------------------------------------------------


async def test_an_address_that_cannot_be_dialed_is_not_told_outside(machine: Machine) -> None:
    await machine.listen("/ip4/0.0.0.0/tcp/9", "/dns4/example.com/tcp/9")
    public = "/ip4/1.2.3.4/tcp/9"
    machine.listeners.set_reachable(frozenset(), frozenset({Multiaddr.parse(public)}))
    assert machine.told_to("/ip4/8.8.8.8", public) == ["/dns4/example.com/tcp/9"]
    assert public in machine.told_to("/ip4/10.0.0.9", None)
    assert public in machine.addresses
    assert machine.changes == 2
    machine.listeners.set_reachable(frozenset(), frozenset({Multiaddr.parse(public)}))
    assert machine.changes == 2  # nothing new


async def test_an_address_that_was_dialed_is_told_though_few_have_observed_it(machine: Machine) -> None:
    await machine.listen("/ip4/10.0.0.2/tcp/9")
    machine.listeners.set_reachable(frozenset({Multiaddr.parse(SEEN)}), frozenset())
    assert machine.told_to("/ip4/8.8.8.8", None) == [SEEN]
    (changed,) = [event for event in machine.events if isinstance(event, AddressesChanged)]
    assert texts(changed.new) == [SEEN]
    assert SEEN not in texts(tuple(machine.listeners.direct))  # how we know of it is not known here
    machine.listeners.set_reachable(frozenset(), frozenset())
    assert machine.told_to("/ip4/8.8.8.8", None) == []


async def test_how_we_know_of_each_address(machine: Machine) -> None:
    await machine.listen("/ip4/0.0.0.0/tcp/9", "/ip4/9.9.9.9/tcp/80")
    machine.listeners.map_listeners({Multiaddr.parse("/ip4/0.0.0.0/tcp/9"): Multiaddr.parse("/ip4/5.5.5.5/tcp/9")})
    observe(machine, SEEN, OBSERVERS, local="/ip4/10.0.0.2/tcp/9")
    known = {str(address): origin for address, origin in machine.listeners.direct.items()}
    assert known["/ip4/1.2.3.4/tcp/9"] is known["/ip4/10.0.0.2/tcp/9"] is AddressOrigin.INTERFACE
    assert known["/ip4/5.5.5.5/tcp/9"] is AddressOrigin.MAPPED
    assert known["/ip4/9.9.9.9/tcp/80"] is AddressOrigin.ANNOUNCED
    assert known[SEEN] is AddressOrigin.OBSERVED


@pytest.mark.parametrize(
    ("address", "local", "leads"),
    [
        ("/ip4/1.2.3.4/tcp/9", "/ip4/1.2.3.4/tcp/9", True),
        ("/ip4/1.2.3.4/tcp/9", "/ip4/10.0.0.2/tcp/9", False),  # by another interface
        ("/ip4/1.2.3.4/tcp/9", "/ip4/1.2.3.4/tcp/8", False),
        ("/ip4/1.2.3.4/tcp/9", None, False),
        ("/ip4/5.5.5.5/tcp/9", "/ip4/10.0.0.2/tcp/9", True),
        ("/ip4/5.5.5.5/tcp/9", "/ip4/10.0.0.2/tcp/7", False),  # mapped to the other listener
        ("/ip4/9.9.9.9/tcp/80", "/ip4/10.0.0.2/tcp/7", True),  # announced: wherever that leads
        ("/ip4/9.9.9.9/tcp/80", "/ip4/10.0.0.2/tcp/6", False),  # but to one of ours
    ],
)
async def test_which_listener_an_address_leads_to(
    machine: Machine, address: str, local: str | None, leads: bool
) -> None:
    await machine.listen("/ip4/0.0.0.0/tcp/9", "/ip4/9.9.9.9/tcp/80")
    await machine.listen("/ip4/0.0.0.0/tcp/7")
    machine.listeners.map_listeners({Multiaddr.parse("/ip4/0.0.0.0/tcp/9"): Multiaddr.parse("/ip4/5.5.5.5/tcp/9")})
    connection = machine.connection("/ip4/8.8.8.8", local)
    assert machine.listeners.leads_to(Multiaddr.parse(address), connection) is leads


async def test_who_came_by_a_public_address_of_ours_has_dialed_that_and_none_that_was_observed(
    machine: Machine,
) -> None:
    """Or a server could have us tell everybody of an address of somebody else."""
    await machine.listen("/ip4/0.0.0.0/tcp/9")
    observe(machine, SEEN, 1, local="/ip4/10.0.0.2/tcp/9")
    for address in SEEN, "/ip4/9.9.9.9/tcp/4002":  # the other one is reported no more
        for local, leads in ("/ip4/10.0.0.2/tcp/9", True), ("/ip4/1.2.3.4/tcp/9", False):
            connection = machine.connection("/ip4/8.8.8.8", local)
            assert machine.listeners.leads_to(Multiaddr.parse(address), connection) is leads


# -- what remotes observe ------------------------------------------------------------------------------

SEEN = "/ip4/9.9.9.9/tcp/4001"


def observe(machine: Machine, observed: str, count: int, **connection: Any) -> list[Remote]:
    made = [machine.connection(f"/ip4/8.8.{number}.8", **connection) for number in range(count)]
    for one in made:
        machine.listeners.observe(one, Multiaddr.parse(observed))
    return made


async def test_an_address_that_several_networks_have_dialed_is_told(machine: Machine) -> None:
    await machine.listen("/ip4/10.0.0.2/tcp/9/ws")
    observe(machine, f"{SEEN}/ws", OBSERVERS - 1)
    assert not machine.listeners.observed
    assert machine.changes == 1
    connections = observe(machine, f"{SEEN}/ws", OBSERVERS)
    assert texts(machine.listeners.observed) == [f"{SEEN}/ws"]
    assert machine.told_to("/ip4/8.8.8.8", None) == [f"{SEEN}/ws"]
    event = machine.events[-1]
    assert isinstance(event, AddressesChanged)
    assert texts(event.new) == [f"{SEEN}/ws"]
    assert machine.changes == 2
    for connection in connections:
        machine.listeners.connection_closed(connection)
    assert machine.listeners.observed
    machine.now += REPORT_LIFETIME
    observe(machine, "/ip4/9.9.9.8/tcp/4001", 1)
    assert not machine.listeners.observed
    assert machine.told_to("/ip4/8.8.8.8", None) == []


async def test_remotes_that_change_their_words_cause_a_change_at_intervals_alone(machine: Machine) -> None:
    await machine.listen("/ip4/10.0.0.2/tcp/9")
    fickle, *_ = observe(machine, SEEN, OBSERVERS)
    assert machine.changes == 2
    for word in ["/ip4/9.9.9.8/tcp/4001", SEEN] * 8 + ["/ip4/9.9.9.8/tcp/4001"]:
        machine.listeners.observe(fickle, Multiaddr.parse(word))
    assert machine.changes == 2
    assert texts(machine.listeners.observed) == [SEEN]
    machine.now += PACE
    await until(lambda: machine.changes == 3)
    assert machine.listeners.observed == ()


async def test_the_listener_that_was_dialed_of_those_that_share_a_port(machine: Machine) -> None:
    await machine.listen("/ip4/10.0.0.2/tcp/9/ws")
    await machine.listen("/ip4/10.0.0.2/tcp/9/tls/ws")
    for number in range(OBSERVERS):
        remote = machine.connection(f"/ip4/8.8.{number}.8/tcp/5555/tls/ws")
        machine.listeners.observe(remote, Multiaddr.parse(f"{SEEN}/tls/ws"))
    assert texts(machine.listeners.observed) == [f"{SEEN}/tls/ws"]


@pytest.mark.parametrize("port", [9, 10])
async def test_where_we_dial_from_is_told_to_nobody(machine: Machine, port: int) -> None:
    """Even from the port of the listener: our router may let nobody in."""
    await machine.listen("/ip4/10.0.0.2/tcp/9")
    local = f"/ip4/10.0.0.2/tcp/{port}"
    for number in range(OBSERVERS):
        observe_outbound(machine, f"/ip4/8.8.{number}.8", f"/ip4/9.9.9.9/tcp/{50000 + number}", local)
    assert texts(machine.listeners.observed) == ["/ip4/9.9.9.9"]
    assert machine.addresses == ["/ip4/10.0.0.2/tcp/9"]
    assert [type(event) for event in machine.events] == [NewListener]


def observe_outbound(machine: Machine, remote: str, observed: str, local: str = "/ip4/10.0.0.2/tcp/9") -> Remote:
    connection = machine.connection(remote, local, direction=Direction.OUTBOUND)
    machine.listeners.observe(connection, Multiaddr.parse(observed))
    return connection


async def test_candidates_are_our_public_addresses_and_those_that_one_network_sees(machine: Machine) -> None:
    machine.become(*PUBLIC, *LAN, *LO)
    await machine.listen("/ip4/0.0.0.0/tcp/9/ws", "/dns4/example.com/tcp/443/wss", "/ip4/10.0.0.7/tcp/9/ws")
    machine.listeners.set_relayed((Multiaddr.parse(f"/ip4/8.8.8.8/tcp/1/p2p/{RELAY}/p2p-circuit"),))
    observe(machine, "/ip4/9.9.9.8/tcp/4001/ws", 1)
    observe_outbound(machine, "/ip4/8.8.8.8/tcp/1/ws", "/ip4/9.9.9.9/tcp/4001/ws", "/ip4/192.168.1.2/tcp/9")
    observe_outbound(machine, "/ip4/8.8.8.9/tcp/1/ws", "/ip4/9.9.9.9/tcp/4002/ws", "/ip4/192.168.1.2/tcp/10")
    observe_outbound(machine, "/ip4/8.8.8.7/tcp/1/ws", "/ip4/9.9.9.9/tcp/0/ws", "/ip4/192.168.1.2/tcp/9")
    assert texts(machine.listeners.candidates) == [
        "/ip4/1.2.3.4/tcp/9/ws",
        "/dns4/example.com/tcp/443/wss",
        "/ip4/9.9.9.9/tcp/4001/ws",
        "/ip4/9.9.9.8/tcp/4001/ws",
    ]
    machine.listeners.stop()
    assert machine.listeners.candidates == ()


async def test_the_kind_of_nat_is_what_those_see_that_we_have_dialed(machine: Machine) -> None:
    await machine.listen("/ip4/10.0.0.2/tcp/9")
    observe_outbound(machine, "/ip4/8.8.8.8", SEEN)
    kinds = [machine.listeners.nat_kind]
    observe_outbound(machine, "/ip4/8.8.8.9", SEEN)
    kinds.append(machine.listeners.nat_kind)
    machine.listeners.network_left()
    kinds.append(machine.listeners.nat_kind)
    machine.become(*PUBLIC)
    observe_outbound(machine, "/ip4/8.8.8.9", "/ip4/1.2.3.4/tcp/50000", "/ip4/1.2.3.4/tcp/50000")
    kinds.append(machine.listeners.nat_kind)
    assert kinds == [None, NatKind.ENDPOINT_INDEPENDENT, None, NatKind.NONE]


async def test_an_ipv6_address_that_nobody_translates_says_nothing_of_nat(machine: Machine) -> None:
    machine.become(*on(2, "10.0.0.2", "2600::2"))
    observe_outbound(machine, "/ip6/2600::9", "/ip6/2600::2/tcp/50000", "/ip6/2600::2/tcp/50000")
    assert machine.listeners.nat_kind is None


@pytest.mark.parametrize(
    ("observed", "remote", "local", "relay"),
    [
        (SEEN, "/ip4/8.8.8.8", "/ip4/10.0.0.2/tcp/9", RELAY),
        ("/ip4/10.1.1.1/tcp/9", "/ip4/8.8.8.8", "/ip4/10.0.0.2/tcp/9", None),
        ("/ip4/127.0.0.1/tcp/9", "/ip4/8.8.8.8", "/ip4/10.0.0.2/tcp/9", None),
        (SEEN, "/ip4/192.168.1.9", "/ip4/10.0.0.2/tcp/9", None),
        ("/ip4/1.2.3.4/tcp/9", "/ip4/8.8.8.8", "/ip4/10.0.0.2/tcp/9", None),  # of an interface
        ("/ip4/9.9.9.9/udp/9/quic-v1", "/ip4/8.8.8.8", "/ip4/10.0.0.2/tcp/9", None),
        ("/ip4/9.9.9.9", "/ip4/8.8.8.8", "/ip4/10.0.0.2/tcp/9", None),
        ("/dns4/example.com/tcp/9", "/ip4/8.8.8.8", "/ip4/10.0.0.2/tcp/9", None),
        ("/memory/1", "/ip4/8.8.8.8", "/ip4/10.0.0.2/tcp/9", None),
        (SEEN, "/ip4/8.8.8.8", "/ip4/10.0.0.2/tcp/10", None),  # none of our listeners
        (SEEN, "/ip4/8.8.8.8", "/ip4/10.0.0.3/tcp/9", None),
        (SEEN, "/ip4/8.8.8.8", None, None),
        (SEEN, "/ip4/8.8.8.8/tcp/0/ws", "/ip4/10.0.0.2/tcp/9", None),  # it sees our reverse proxy
    ],
)
async def test_what_says_nothing_of_where_we_are(
    machine: Machine, observed: str, remote: str, local: str | None, relay: Any
) -> None:
    await machine.listen("/ip4/10.0.0.2/tcp/9")
    machine.listeners.observe(machine.connection(remote, local, relay=relay), Multiaddr.parse(observed))
    assert machine.listeners._observations._reports == {}


async def test_it_is_forgotten_with_its_listener_and_with_the_network(machine: Machine) -> None:
    await machine.listen("/ip4/0.0.0.0/tcp/9")
    observe(machine, SEEN, OBSERVERS)
    assert SEEN in machine.addresses
    machine.listeners.stop()
    assert not machine.addresses
    assert not machine.listeners.observed
    await machine.listen("/ip4/0.0.0.0/tcp/9")
    observe(machine, SEEN, OBSERVERS)
    machine.listeners.network_left()
    machine.become(*LAN)
    assert machine.addresses == ["/ip4/192.168.1.2/tcp/9"]
    assert machine.listeners.observed == ()


async def test_a_peer_shows_what_is_observed(make_peer: MakePeer) -> None:
    bob = await make_peer()
    assert bob.observed_addresses == ()
    await settled()

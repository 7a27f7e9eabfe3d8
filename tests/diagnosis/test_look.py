from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest
from conftest import MakePeer
from support.name_server import NameServer, name_server

from stronghold_p2p import Keypair, Listener, Multiaddr
from stronghold_p2p.diagnosis import look
from stronghold_p2p.diagnosis.look import look_at_machine, look_at_router, look_for_neighbors, look_up
from stronghold_p2p.discovery import links
from stronghold_p2p.port_mapping.gateway import Gateway
from stronghold_p2p.transport import interfaces
from stronghold_p2p.transport.dnsaddr import TxtRecords

PEER = Keypair.generate().peer_id
DNSADDR = Multiaddr.parse("/dnsaddr/a.example")
ADDRESS = "/ip4/192.0.2.1/tcp/4001"


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    async with name_server() as server:
        yield server


def at(server: NameServer, time: float = 5.0) -> TxtRecords:
    return TxtRecords([("127.0.0.1", server.port)], time)


async def test_this_machine() -> None:
    machine = await look_at_machine()
    assert machine.ips is not None
    assert ip_address("127.0.0.1") in machine.ips
    assert machine.clock_synchronized in {True, False, None}
    for server in machine.name_servers or ():
        assert ip_address(server)


async def test_interfaces_that_cannot_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("not permitted")

    monkeypatch.setattr(interfaces, "list_addresses", fail)
    assert (await look_at_machine()).ips is None


async def test_a_host() -> None:
    lookup = await look_up(Multiaddr.parse("/dns4/localhost/tcp/4001"), None, 5.0)
    assert (lookup.name, lookup.found, lookup.error) == ("/dns4/localhost/tcp/4001", ("/ip4/127.0.0.1/tcp/4001",), None)
    assert lookup.seconds >= 0


async def test_records_of_a_peer_and_of_any(server: NameServer) -> None:
    other = Keypair.generate().peer_id
    server.add("a.example", f"{ADDRESS}/p2p/{PEER}", f"/ip4/192.0.2.2/tcp/4001/p2p/{other}")
    assert (await look_up(DNSADDR, PEER, 5.0, at(server))).found == (ADDRESS,)
    both = (await look_up(DNSADDR, None, 5.0, at(server))).found
    assert both == (f"{ADDRESS}/p2p/{PEER}", f"/ip4/192.0.2.2/tcp/4001/p2p/{other}")


@pytest.mark.parametrize("peer", [PEER, None], ids=["peer", "any"])
async def test_names_that_lead_nowhere(server: NameServer, peer: None) -> None:
    lookup = await look_up(DNSADDR, peer, 5.0, at(server))
    assert (lookup.found, lookup.error) == ((), "there is no name _dnsaddr.a.example")
    lookup = await look_up(Multiaddr.parse("/dnsaddr/a..example"), peer, 5.0, at(server))
    assert str(lookup.error).startswith("not a host name")


async def test_a_name_server_that_is_dead(server: NameServer) -> None:
    server.answers["_dnsaddr.a.example."] = lambda question: None
    lookup = await look_up(DNSADDR, PEER, 5.0, at(server, 0.02))
    assert str(lookup.error).startswith("no name server has answered for _dnsaddr.a.example within 0.02 s")
    lookup = await look_up(DNSADDR, PEER, 0.02, at(server, 0.2))
    assert lookup.error == "no name server has answered within 0.02 s"


async def test_neighbors(make_peer: MakePeer) -> None:
    bob = await make_peer(mdns=True)
    address = await bob.listen()
    found = await look_for_neighbors(0.25)
    while not (found.own and found.others):  # a busy machine takes longer
        found = await look_for_neighbors(2 * found.seconds)
    assert found.error is None
    assert found.others == {bob.peer_id: (address.without_peer(),)}
    assert {host for own in found.own for name, host in own if name == "ip4"} == {"127.0.0.1"}


async def test_a_port_that_somebody_keeps() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("", links.PORT))
        found = await look_for_neighbors(0.1)
    assert (found.error, found.own, found.others) == ("mDNS: address already in use", (), {})


def listener(address: str) -> Listener:
    return Listener(Multiaddr.parse(address), ())


async def test_the_router(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway(ip_address("192.168.1.1"), ip_address("192.168.1.2"))  # type: ignore[arg-type]

    async def find() -> Gateway:
        return gateway

    monkeypatch.setattr(look, "find_gateway", find)
    router = await look_at_router([listener("/ip4/0.0.0.0/tcp/1"), listener("/ip6/::/tcp/1")])
    assert (router.address, router.local, router.asked) == (*gateway[:2], True)
    router = await look_at_router([listener("/ip4/127.0.0.1/tcp/1"), listener("/ip6/::/tcp/1")])
    assert not router.asked


async def test_no_router(monkeypatch: pytest.MonkeyPatch) -> None:
    async def find() -> Gateway:
        raise OSError("there is no default route")

    monkeypatch.setattr(look, "find_gateway", find)
    assert (await look_at_router([])).address is None

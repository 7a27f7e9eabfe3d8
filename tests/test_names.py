"""Peers that are dialed by name, with a name server and a system's resolver of the tests' own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import dns.resolver
import pytest
from conftest import MakePeer
from support.name_server import NameServer, name_server
from support.waiting import until

from stronghold_p2p import AddressSource, DialError, FirewallRules, Keypair, ListenError, Multiaddr


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NameServer]:
    """The one that this machine is configured with."""

    def read(resolver: dns.resolver.Resolver, file: object) -> None:
        resolver.nameservers = ["127.0.0.1"]
        resolver.port = here.port

    async with name_server() as here:
        monkeypatch.setattr(dns.resolver.Resolver, "read_resolv_conf", read)
        yield here


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Names that the system knows, by name."""

    def getaddrinfo(host: str, *_: object, **__: object) -> list[Any]:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (known[host], 0))]

    known: dict[str, str] = {}
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


async def test_a_peer_by_the_records_of_a_name(make_peer: MakePeer, server: NameServer, hosts: dict[str, str]) -> None:
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    bob.on_request(lambda request: request.body)
    address = await bob.listen("/ip4/127.0.0.1/tcp/0")
    port = address.components[1][1]
    hosts["one.example"] = "127.0.0.1"
    server.add("bob.example", f"/dnsaddr/more.example/p2p/{bob.peer_id}", f"/ip4/127.0.0.1/tcp/1/p2p/{alice.peer_id}")
    server.add("more.example", f"/dns4/one.example/tcp/{port}")
    target = f"/dnsaddr/bob.example/p2p/{bob.peer_id}"
    assert await alice.send_request(target, "hello") == "hello"
    (connection,) = alice.connections
    assert connection.path.dialed == Multiaddr.parse("/dnsaddr/bob.example")
    told = {str(entry.address): entry for entry in alice.addresses.entries(bob.peer_id)}
    assert told["/dnsaddr/bob.example"].source is AddressSource.GIVEN
    record = told[f"/dns4/one.example/tcp/{port}"]
    assert record.source is AddressSource.DNSADDR
    assert record.last_success is not None

    carol = await make_peer()
    carol.addresses.add(target)
    assert await carol.connect(bob.peer_id) == bob.peer_id
    await carol.ping(target)


async def test_what_is_wrong_with_every_record(make_peer: MakePeer, server: NameServer, hosts: dict[str, str]) -> None:
    alice, bob = await make_peer(), Keypair.generate().peer_id
    await alice.listen("/ip4/127.0.0.1/tcp/0")
    (own,) = alice.listeners
    server.add(
        "bob.example",
        "/dnsaddr/unknown.example",
        "/dns4/unknown.example/tcp/1",
        "/ip4/127.0.0.1/udp/1/quic-v1",
        "/ip6/fe80::1/tcp/1",
        str(own.address.without_peer()),
        f"/ip4/127.0.0.1/tcp/1/p2p/{alice.peer_id}/p2p-circuit",
        "nonsense",
    )
    with pytest.raises(DialError) as caught:
        await alice.connect(f"/dnsaddr/bob.example/p2p/{bob}")
    name = "from /dnsaddr/bob.example"
    for reason in (
        f"/dnsaddr/unknown.example {name}: there is no name _dnsaddr.unknown.example",
        f"/dns4/unknown.example/tcp/1 {name}: the name cannot be resolved: name or service not known",
        f"/ip4/127.0.0.1/udp/1/quic-v1 {name}: no transport supports it",
        f"/ip6/fe80::1/tcp/1 {name}: a link-local address cannot be dialed",
        f"{own.address.without_peer()} {name}: we listen on it ourselves",
        f"/p2p-circuit {name}: we are the relay ourselves",
    ):
        assert reason in str(caught.value)


async def test_slow_names_that_a_remote_told_do_not_hold_up_others(
    make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getaddrinfo(host: str, *_: object, **__: object) -> list[Any]:
        if host.startswith("slow"):
            asked.append(host)
            end.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    asked: list[str] = []
    end = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    alice, bob = await make_peer(), await make_peer()
    port = (await bob.listen("/ip4/127.0.0.1/tcp/0")).components[1][1]
    hostile = Keypair.generate().peer_id
    alice.addresses.tell(
        hostile, AddressSource.IDENTIFY, [Multiaddr.parse(f"/dns4/slow{number}/tcp/1") for number in range(16)]
    )
    dialing = asyncio.create_task(alice.connect(hostile))
    await until(lambda: asked)
    assert await alice.connect(f"/dns4/bob.example/tcp/{port}/p2p/{bob.peer_id}") == bob.peer_id
    dialing.cancel()
    await asyncio.wait([dialing])
    end.set()
    assert len(asked) < 16


async def test_listening(make_peer: MakePeer) -> None:
    alice = await make_peer()
    with pytest.raises(ListenError, match="/dnsaddr is for dialing only: listen on /ip4, /ip6, /dns4 or /dns6"):
        await alice.listen("/dnsaddr/alice.example")

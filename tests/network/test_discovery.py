"""Peers find each other on the local network, by mDNS."""

from __future__ import annotations

import pytest
from support.namespaces import INTERFACE, Host

from stronghold_p2p.discovery import links

from .conftest import peer_of

pytestmark = pytest.mark.slow


def test_a_peer_is_asked_and_pinged_by_its_id_alone(pair: tuple[Host, Host]) -> None:
    alice, bob = pair
    with bob.stronghold_p2p("listen", "--mdns", "--allow-all") as listener:
        peer = peer_of(listener)
        with (
            alice.stronghold_p2p("request", peer, '"you"') as asker,
            alice.stronghold_p2p("ping", peer, "--count", "1") as pinger,
        ):
            assert asker.line() == "you"
            assert "rtt_ms" in pinger.line()


def test_a_peer_is_discovered_with_its_address(pair: tuple[Host, Host]) -> None:
    alice, bob = pair
    with (
        bob.stronghold_p2p("listen", f"/ip4/{bob.ip4}/tcp/0", "--mdns", "--allow-all") as listener,
        alice.stronghold_p2p("discover", "--seconds", "30") as discoverer,
    ):
        address = listener.event("listening")["address"]
        found = discoverer.event("discovered")
        assert found["peer"] == address.rpartition("/p2p/")[2]
        assert found["addresses"] == [address]


def test_ipv6_is_enough(pair: tuple[Host, Host]) -> None:
    alice, bob = pair
    for host in pair:
        host.ip(f"address delete {host.ip4}/24 dev {INTERFACE}")
    with (
        bob.stronghold_p2p("listen", "--mdns", "--allow-all") as listener,
        alice.stronghold_p2p("request", peer_of(listener), '"you"') as asker,
    ):
        assert asker.line() == "you"


def test_ipv4_is_enough(pair: tuple[Host, Host]) -> None:
    alice, bob = pair
    for host in pair:
        host.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    with (
        bob.stronghold_p2p("listen", "--mdns", "--allow-all") as listener,
        alice.stronghold_p2p("request", peer_of(listener), '"you"') as asker,
    ):
        assert asker.line() == "you"


def test_addresses_that_hosts_give_themselves_are_enough(pair: tuple[Host, Host]) -> None:
    alice, bob = pair
    for number, host in enumerate(pair, 1):
        host.ip(f"address flush dev {INTERFACE}", f"address add 169.254.7.{number}/16 dev {INTERFACE}")
    with (
        bob.stronghold_p2p("listen", "--mdns", "--allow-all") as listener,
        alice.stronghold_p2p("request", peer_of(listener), '"you"') as asker,
    ):
        assert asker.line() == "you"


def test_an_address_that_is_gone_is_announced_no_more(pair: tuple[Host, Host]) -> None:
    """Nothing can be sent when it goes, so it is taken back with the next one."""
    alice, bob = pair
    for host in pair:
        host.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    with (
        bob.stronghold_p2p("listen", "/ip4/0.0.0.0/tcp/0", "--mdns", "--allow-all") as listener,
        alice.stronghold_p2p("discover", "--seconds", "60") as discoverer,
    ):
        peer = peer_of(listener)
        (first,) = discoverer.event("discovered")["addresses"]
        assert f"/{bob.ip4}/" in first
        other = "10.16.0.77"
        bob.ip(f"address delete {bob.ip4}/24 dev {INTERFACE}", f"address add {other}/24 dev {INTERFACE}")
        bob.ip(f"route add 224.0.0.0/4 dev {INTERFACE}")
        addresses = [first]
        while first in addresses:
            addresses = discoverer.event("discovered")["addresses"]
        assert addresses == [first.replace(bob.ip4, other)]
        assert peer in addresses[0]


def test_of_several_workers_one_alone_announces(pair: tuple[Host, Host]) -> None:
    _, bob = pair

    def sockets(*options: str) -> int:
        with bob.stronghold_p2p("listen", "--mdns", "--allow-all", *options) as listener:
            listener.event("listening")
            return bob.run("cat", "/proc/net/udp", "/proc/net/udp6").count(f":{links.PORT:04X} ")

    assert sockets("--workers", "2") == sockets() > 0

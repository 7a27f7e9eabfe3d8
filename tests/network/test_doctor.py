"""``doctor`` in networks of several kinds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.namespaces import INTERFACE, Host, hosts, missing_for_hosts, require
from support.nat import Nat

from .conftest import MakeInternet, peer_of
from .test_reachability import forward

pytestmark = pytest.mark.slow

ROUTER = Path(__file__).with_name("programs") / "router.py"

NOBODY = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmtyKBCHqkM"
INNER, OWN = "192.168.1.1", "192.168.1.2"


def diagnosed(host: Host, *arguments: str) -> dict[str, Any]:
    """The findings by the names of their checks, and the summary."""
    found: dict[str, Any] = {}
    with host.stronghold_p2p("doctor", "--seconds", "8", *arguments) as doctor:
        while "summary" not in found:
            line = doctor.line()
            found[line.get("check", line["event"])] = line
    return found


@pytest.fixture
def home() -> Iterator[tuple[Host, Host]]:
    """A host, and the router that it is behind, which forwards nothing."""
    require(missing_for_hosts())
    with hosts() as (host, router):
        router.ip(
            f"link add {INTERFACE} type veth peer name {INTERFACE} netns {host.pid}",
            f"address add {INNER}/24 dev {INTERFACE}",
            f"link set {INTERFACE} up",
        )
        host.ip(f"address add {OWN}/24 dev {INTERFACE}", f"link set {INTERFACE} up", f"route add default via {INNER}")
        # The system takes up to a second to notice that the other end is there.
        host.run("sh", "-c", f"until ip link show {INTERFACE} | grep -q 'state UP'; do :; done")
        yield host, router


def test_no_network_at_all() -> None:
    require(missing_for_hosts())
    with hosts(1) as (host,):
        found = diagnosed(host, "--seconds", "2", "--peer", f"/ip4/8.8.8.8/tcp/4001/p2p/{NOBODY}")
    assert found["interfaces"]["verdict"] == "problem"
    assert found["mdns"]["verdict"] == found["port_mapping"]["verdict"] == "skipped"
    assert "network is unreachable" in found["peer"]["what"]
    assert "has IPv4" in found["peer"]["advice"]
    assert found["summary"]["reach"] == "not at all"


@pytest.mark.parametrize(("outer", "reach"), [("11.0.0.1", "directly"), ("100.64.0.1", "unknown")])
def test_a_router_that_maps_ports(home: tuple[Host, Host], outer: str, reach: str) -> None:
    host, router = home
    router.ip(f"address add {outer}/32 dev lo")
    with router.python(str(ROUTER), INNER, OWN, outer) as forwarder:
        assert forwarder.line() == "ready"
        found = diagnosed(host, "--listen", "/ip4/0.0.0.0/tcp/4001")
        assert forwarder.line()["ports"] == [4001]
        assert forwarder.line()["ports"] == []  # nothing stays
    mapping = found["port_mapping"]
    assert mapping["data"]["external"] == f"/ip4/{outer}/tcp/4001"
    assert mapping["verdict"] == ("ok" if reach == "directly" else "note")
    assert found["summary"]["reach"] == reach
    assert ("--port-mapping" in found["summary"]["advice"]) is (reach == "directly")


def test_whoever_interrupts_it_leaves_no_mapping(home: tuple[Host, Host]) -> None:
    host, router = home
    router.ip("address add 11.0.0.1/32 dev lo")
    with router.python(str(ROUTER), INNER, OWN, "11.0.0.1") as forwarder:
        assert forwarder.line() == "ready"
        with host.stronghold_p2p("doctor", "--listen", "/ip4/0.0.0.0/tcp/4001", "--seconds", "60"):
            assert forwarder.line()["ports"] == [4001]
        assert forwarder.line()["ports"] == []


def test_a_router_that_leads_nowhere(home: tuple[Host, Host]) -> None:
    """Nothing is refused there: what is asked gets no answer, and ends by our own limit."""
    host, router = home
    router.ip("route add blackhole default")
    router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    found = diagnosed(
        host, "--seconds", "3", "--relay", f"/ip4/8.8.8.8/tcp/4001/p2p/{NOBODY}", "--name", "relay.example"
    )
    assert found["interfaces"]["data"]["addresses"]["private"] == [OWN]
    assert found["dns"]["verdict"] == "problem"
    assert "no name server has answered within 1 s" in found["dns"]["what"]
    assert found["relay"]["verdict"] == "problem"
    assert "no answer in time" in found["relay"]["what"]
    assert "use another relay" in found["summary"]["advice"]
    assert f"forward TCP port 4001 to {OWN}" in found["summary"]["advice"]


CLOSED = """
table ip filter {
    chain to_us {
        type filter hook input priority filter; policy accept
        tcp dport 4001 ct state new reject with tcp reset
    }
}
"""
"""A firewall that answers, since a silent one takes a server 10 s to believe."""


@pytest.mark.parametrize(
    ("nat", "kind", "punching"),
    [(Nat.ENDPOINT_INDEPENDENT, "endpoint-independent", "ok"), (Nat.SYMMETRIC, "endpoint-dependent", "note")],
)
def test_a_home_behind_nat(make_internet: MakeInternet, nat: Nat, kind: str, punching: str) -> None:
    with make_internet(2, nat, nat) as (servers, (home, other)), ExitStack() as stack:
        relays = []
        for server in servers:
            relay = stack.enter_context(server.stronghold_p2p("relay", f"/ip4/{server.ip4}/tcp/4001"))
            relays.append(relay.event("listening")["address"])
        listener = stack.enter_context(
            other.host.stronghold_p2p(
                "listen", f"/ip4/{other.host.ip4}/tcp/4001", "--allow-all", "--via-relay", relays[0]
            )
        )
        peer = peer_of(listener)
        # Not the port that the hole leads to: routers remember a dial that was not answered. Over any distance that is mended
        # by the next SYN, which goes out before the other's comes in; here the two are as fast.
        direct = f"/ip4/{other.router.ip4}/tcp/4002/p2p/{peer}"
        found = diagnosed(home.host, "--relay", relays[0], "--relay", relays[1], "--peer", direct)
    assert found["relay"]["verdict"] == "ok"
    assert found["nat"]["data"]["kind"] == kind
    assert found["hole_punching"]["verdict"] == punching
    assert found["peer"]["verdict"] == "note"
    assert "no answer in time" in found["peer"]["what"]
    assert found["peer_by_relay"]["verdict"] == "note"  # the last one is of the second relay
    assert "status 204" in found["peer_by_relay"]["what"]
    assert found["ping"]["verdict"] == found["requests"]["verdict"] == "ok"
    assert found["summary"]["problems"] == 0
    assert found["summary"]["reach"] == "through a relay only"
    assert f"--via-relay {relays[0]}" in found["summary"]["advice"]


def test_a_public_host(make_internet: MakeInternet) -> None:
    with make_internet(3) as ((host, *servers), _), ExitStack() as stack:
        relays = []
        for server in servers:
            relay = stack.enter_context(server.stronghold_p2p("relay", f"/ip4/{server.ip4}/tcp/4001"))
            relays.append(relay.event("listening")["address"])
        found = diagnosed(host, "--relay", relays[0], "--relay", relays[1])
    assert found["interfaces"]["verdict"] == "ok"
    assert found["nat"]["data"]["kind"] == "none"
    assert found["port_mapping"]["verdict"] == "skipped"
    assert found["reachability"]["verdict"] == "ok"
    assert found["summary"]["reach"] == "directly"


def test_a_firewall_on_a_public_host(make_internet: MakeInternet) -> None:
    with make_internet(2) as ((host, server), _), ExitStack() as stack:
        relay = stack.enter_context(server.stronghold_p2p("relay", f"/ip4/{server.ip4}/tcp/4001"))
        via = relay.event("listening")["address"]
        host.run("nft", "-f", "-", text=CLOSED)
        found = diagnosed(host, "--listen", "/ip4/0.0.0.0/tcp/4001", "--relay", via)
    assert found["reachability"]["verdict"] == "note"  # the relay brings those from elsewhere
    assert "Let TCP port 4001 through" in found["reachability"]["advice"]
    assert found["summary"]["reach"] == "through a relay only"


def test_a_port_that_is_forwarded_by_hand(make_internet: MakeInternet) -> None:
    with make_internet(1, Nat.ENDPOINT_INDEPENDENT) as ((server,), (home,)), ExitStack() as stack:
        relay = stack.enter_context(server.stronghold_p2p("relay", f"/ip4/{server.ip4}/tcp/4001"))
        via = relay.event("listening")["address"]
        address = forward(home)
        found = diagnosed(home.host, "--listen", "/ip4/0.0.0.0/tcp/4001", "--announce", address, "--relay", via)
    assert f"can dial us at {address} (" in found["reachability"]["what"]
    assert found["summary"]["reach"] == "directly"
    assert "listen /ip4/0.0.0.0/tcp/4001" in found["summary"]["advice"]

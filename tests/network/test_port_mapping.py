"""A router between two networks forwards the port of a peer that asks it to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.namespaces import INTERFACE, Host, hosts, missing_for_hosts, require

ROUTER = Path(__file__).with_name("programs") / "router.py"

OUTSIDE = "net1"
"""The interface of the router towards everybody else."""

INNER, OUTER, STRANGER = "192.168.1.1", "11.0.0.1", "11.0.0.2"
"""The router's two addresses, of which the second counts as public, and that of a host on the outer network."""


@pytest.fixture
def trio() -> Iterator[tuple[Host, Host, Host]]:
    """A host at home, a router, and a host elsewhere."""
    require(missing_for_hosts())
    with hosts(3) as (home, router, elsewhere):
        router.ip(
            f"link add {INTERFACE} type veth peer name {INTERFACE} netns {home.pid}",
            f"link add {OUTSIDE} type veth peer name {INTERFACE} netns {elsewhere.pid}",
            f"address add {INNER}/24 dev {INTERFACE}",
            f"address add {OUTER}/24 dev {OUTSIDE}",
            f"link set {INTERFACE} up",
            f"link set {OUTSIDE} up",
        )
        home.ip(
            f"address add 192.168.1.2/24 dev {INTERFACE}",
            f"link set {INTERFACE} up",
            f"route add default via {INNER}",
        )
        elsewhere.ip(f"address add {STRANGER}/24 dev {INTERFACE}", f"link set {INTERFACE} up")
        yield home, router, elsewhere


def test_a_peer_behind_a_router_is_asked_from_elsewhere(trio: tuple[Host, Host, Host]) -> None:
    home, router, elsewhere = trio
    arguments = ("listen", "/ip4/0.0.0.0/tcp/4001", "--allow-all", "--port-mapping")
    with router.python(str(ROUTER), INNER, "192.168.1.2", OUTER) as forwarder:
        assert forwarder.line() == "ready"
        with home.stronghold_p2p(*arguments) as listener:
            mapped = listener.event("port_mapped")
            assert mapped["address"].startswith(f"/ip4/{OUTER}/tcp/4001/p2p/")
            assert mapped["protocol"] == "PCP"
            assert forwarder.line()["ports"] == [4001]
            assert mapped["address"] in listener.event("addresses")["addresses"]
            with elsewhere.stronghold_p2p("request", mapped["address"], '"you"') as asker:
                assert asker.line() == "you"
        assert forwarder.line()["ports"] == []


def test_a_router_that_comes_later_is_found(trio: tuple[Host, Host, Host]) -> None:
    home, router, _ = trio
    home.ip("route delete default")
    with home.stronghold_p2p("listen", "/ip4/0.0.0.0/tcp/4001", "--allow-all", "--port-mapping") as listener:
        assert "no default route" in listener.event("port_mapping_failed")["reason"]
        with router.python(str(ROUTER), INNER, "192.168.1.2", OUTER) as forwarder:
            assert forwarder.line() == "ready"
            home.ip(f"route add default via {INNER}", f"address add 192.168.1.3/24 dev {INTERFACE}")
            assert listener.event("port_mapped")["address"].startswith(f"/ip4/{OUTER}/tcp/4001/p2p/")
            assert forwarder.line()["ports"] == [4001]

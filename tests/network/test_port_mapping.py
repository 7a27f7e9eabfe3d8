"""A router between two networks forwards the port of a peer that asks it to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.namespaces import INTERFACE, HostProcess
from support.nat import Home, Nat

from .conftest import MakeInternet

pytestmark = pytest.mark.slow

ROUTER = Path(__file__).with_name("programs") / "router.py"

LISTEN = ("listen", "/ip4/0.0.0.0/tcp/4001", "--allow-all", "--port-mapping")


@contextmanager
def forwarding(home: Home) -> Iterator[HostProcess]:
    """Has the router of ``home`` forward what it is asked to."""
    with home.router.python(str(ROUTER), home.gateway, home.host.ip4, home.router.ip4) as forwarder:
        assert forwarder.line() == "ready"
        yield forwarder


def test_a_peer_behind_a_router_is_asked_from_elsewhere(make_internet: MakeInternet) -> None:
    with make_internet(1, Nat.SYMMETRIC) as ((elsewhere,), (home,)), forwarding(home) as forwarder:
        with home.host.stronghold_p2p(*LISTEN) as listener:
            mapped = listener.event("port_mapped")
            assert mapped["address"].startswith(f"/ip4/{home.router.ip4}/tcp/4001/p2p/")
            assert mapped["protocol"] == "PCP"
            assert forwarder.line()["ports"] == [4001]
            assert mapped["address"] in listener.event("addresses")["addresses"]
            with elsewhere.stronghold_p2p("request", mapped["address"], '"you"') as asker:
                assert asker.line() == "you"
        assert forwarder.line()["ports"] == []


def test_a_router_that_comes_later_is_found(make_internet: MakeInternet) -> None:
    with make_internet(0, Nat.SYMMETRIC) as (_, (home,)):
        home.host.ip("route delete default")
        with home.host.stronghold_p2p(*LISTEN) as listener:
            assert "no default route" in listener.event("port_mapping_failed")["reason"]
            with forwarding(home) as forwarder:
                home.host.ip(f"route add default via {home.gateway}", f"address add 192.168.1.3/24 dev {INTERFACE}")
                assert listener.event("port_mapped")["address"].startswith(f"/ip4/{home.router.ip4}/tcp/4001/p2p/")
                assert forwarder.line()["ports"] == [4001]

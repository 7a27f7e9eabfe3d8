"""From circuits to direct connections, each peer at home behind NAT, and our relay on the public network between them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from support.namespaces import Host, require
from support.nat import Internet, Nat, internet, missing_for_nat

from .driver import command_line

US = "us"

PAIRS = [pair for other in ("go", "rust") for pair in ((US, other), (other, US))]
"""Who is reached through the relay, and so begins to punch; and who dials."""


class Place(NamedTuple):
    net: Internet
    relay: str
    """The address of our relay."""


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """Two homes behind NAT as most have it, one behind symmetric NAT, a public host, and one for the relay."""
    require(missing_for_nat())
    nats = (Nat.ENDPOINT_INDEPENDENT, Nat.ENDPOINT_INDEPENDENT, Nat.SYMMETRIC)
    with internet(2, *nats) as net:
        server = net.public[0]
        with server.stronghold_p2p("relay", f"/ip4/{server.ip4}/tcp/4001") as relay:
            yield Place(net, relay.event("listening")["address"])


@pytest.mark.parametrize(("listener", "dialer"), PAIRS)
def test_a_hole_is_punched(place: Place, listener: str, dialer: str) -> None:
    """Whoever begins. Ours requests something before and after, and the circuit ends."""
    alice, bob, _ = place.net.homes
    told = upgraded(place, (listener, alice.host), (dialer, bob.host))
    assert told.seen_by_dialer.startswith(f"/ip4/{alice.router.ip4}/tcp/")
    assert told.seen_by_listener.startswith(f"/ip4/{bob.router.ip4}/tcp/")


def test_js_dials_back(place: Place) -> None:
    """As it has no other way: it never dials from its port, so that its routers let nobody in."""
    home, public = place.net.homes[0], place.net.public[1]
    told = upgraded(place, ("js", home.host), (US, public))
    assert told.seen_by_dialer.startswith(f"/ip4/{home.router.ip4}/tcp/")
    assert told.seen_by_listener.startswith(f"/ip4/{public.ip4}/tcp/")


def test_js_is_let_in(place: Place) -> None:
    """We ask it to dial us."""
    home, public = place.net.homes[0], place.net.public[1]
    told = upgraded(place, (US, public), ("js", home.host))
    assert told.seen_by_dialer.startswith(f"/ip4/{public.ip4}/tcp/")
    assert told.seen_by_listener.startswith(f"/ip4/{home.router.ip4}/tcp/")


def test_the_circuit_goes_on_without_a_hole(place: Place) -> None:
    """Behind a NAT that has another port for each connection."""
    alice, _, symmetric = place.net.homes
    with (
        symmetric.host.process(*program("rust"), *at(place.relay, symmetric.host)) as listening,
        alice.host.process(*program(US), "dial", address_of(listening), "punch", alice.host.ip4) as dialing,
    ):
        failed = dialing.event("failed")
        assert failed["attempt"] == 1
        assert f"/ip4/{symmetric.router.ip4}/tcp/" in failed["error"]
        assert dialing.event("answered")["response"] == "by the relay still"


class Upgraded(NamedTuple):
    """The address of each other that the ends have seen on the direct connection."""

    seen_by_dialer: str
    seen_by_listener: str


def upgraded(place: Place, listener: tuple[str, Host], dialer: tuple[str, Host]) -> Upgraded:
    """Has the one dial the other through the relay, and both wait for a direct connection."""
    (one, host), (other, from_host) = listener, dialer
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(host.process(*program(one), *at(place.relay, host)))
        circuit = address_of(listening)
        dialing = stack.enter_context(from_host.process(*program(other), "dial", circuit, "punch", from_host.ip4))
        direct = listening.event("direct")["address"]
        if one == US:
            listening.event("circuit_ended")
        printed = dialing.line()
        assert set(printed) == {"direct"}, printed
        return Upgraded(printed["direct"], direct)


def program(name: str) -> list[str]:
    return [sys.executable, "-m", "interop.punching_peer"] if name == US else command_line(name)


def at(relay: str, host: Host) -> tuple[str, ...]:
    return "listen", "--via-relay", relay, "--punch", host.ip4


def address_of(listening: Any) -> str:
    address: str = listening.event("listening")["address"]
    assert "/p2p-circuit/" in address
    return address

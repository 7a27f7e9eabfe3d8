"""Which addresses can be dialed from outside, in networks with and without NAT."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from support.namespaces import Host, HostProcess
from support.nat import OUTSIDE, Home, Nat

from .conftest import MakeInternet

pytestmark = pytest.mark.slow


def serve(stack: ExitStack, host: Host) -> str:
    """The address of a peer on a public host."""
    server = stack.enter_context(host.stronghold_p2p("listen", f"/ip4/{host.ip4}/tcp/4001", "--allow-all"))
    return str(server.event("listening")["address"])


def listen(stack: ExitStack, host: Host, server: str, *options: str) -> HostProcess:
    """A peer that keeps connected with the server."""
    arguments = "listen", "/ip4/0.0.0.0/tcp/4001", "--allow-all", "--keep", server, *options
    return stack.enter_context(host.stronghold_p2p(*arguments))


def found_out(peer: HostProcess) -> tuple[str, str]:
    """The next address of which more is known, without the peer id, and what."""
    line: Any = peer.event("reachability")
    return line["address"].partition("/p2p/")[0], line["state"]


ROUTER: Final = Path(__file__).with_name("programs") / "router.py"
"""Maps ports by PCP."""

FORWARD: Final = """
table ip forward {{
    chain in {{
        type nat hook prerouting priority dstnat
        iifname {outside} tcp dport 4001 dnat to {inside}
    }}
}}
insert rule ip filter through_us ct status dnat accept
"""

REFUSE: Final = "insert rule ip filter to_us tcp dport 4001 reject with tcp reset"
"""In place of silence, which takes a server 10 s to believe."""


def forward(home: Home) -> str:
    """Has the router forward the port; returns where that is."""
    home.router.run("nft", "-f", "-", text=FORWARD.format(outside=OUTSIDE, inside=home.host.ip4))
    return outside_of(home)


def outside_of(home: Home) -> str:
    """Where remotes see the port."""
    return f"/ip4/{home.router.ip4}/tcp/4001"


def test_a_public_host_is_reachable(make_internet: MakeInternet) -> None:
    with make_internet(2) as ((server, host), ()), ExitStack() as stack:
        peer = listen(stack, host, serve(stack, server))
        assert found_out(peer) == (f"/ip4/{host.ip4}/tcp/4001", "reachable")


def test_behind_nat_what_remotes_observe_is_unreachable(make_internet: MakeInternet) -> None:
    with make_internet(2, Nat.ENDPOINT_INDEPENDENT) as (servers, (home,)), ExitStack() as stack:
        home.router.run("nft", "-f", "-", text=REFUSE)
        one, other = (serve(stack, server) for server in servers)
        peer = listen(stack, home.host, one, "--keep", other)
        assert found_out(peer) == (outside_of(home), "unreachable")


def test_a_port_that_the_router_forwards_is_reachable(make_internet: MakeInternet) -> None:
    """And told to others, though two remotes alone observe it."""
    with make_internet(2, Nat.ENDPOINT_INDEPENDENT) as ((server, other), (home,)), ExitStack() as stack:
        address = forward(home)
        peer = listen(stack, home.host, serve(stack, server))
        own = peer.event("listening")["address"].rpartition("/p2p/")[2]
        assert found_out(peer) == (address, "reachable")
        with other.stronghold_p2p("request", f"{address}/p2p/{own}", '"you"') as asker:
            assert asker.line() == "you"


def test_what_a_router_maps_is_reachable(make_internet: MakeInternet) -> None:
    """This one passes on what comes there, from an address of its own."""
    with make_internet(1, Nat.ENDPOINT_INDEPENDENT) as ((server,), (home,)), ExitStack() as stack:
        home.router.run("nft", "-f", "-", text="insert rule ip filter to_us tcp dport 4001 accept")
        mapper = stack.enter_context(home.router.python(str(ROUTER), home.gateway, home.host.ip4, home.router.ip4))
        assert mapper.line() == "ready"
        peer = listen(stack, home.host, serve(stack, server), "--port-mapping")
        line = peer.event("reachability")
        assert line["address"].startswith(f"{outside_of(home)}/p2p/")
        assert (line["state"], line["how"].partition(" by 12D3")[0]) == ("reachable", "mapped by a router, dialed back")


def test_what_is_announced_and_does_not_lead_here_is_unreachable(make_internet: MakeInternet) -> None:
    with make_internet(1, Nat.SYMMETRIC) as ((server,), (home,)), ExitStack() as stack:
        home.router.run("nft", "-f", "-", text=REFUSE)
        peer = listen(stack, home.host, serve(stack, server), "--announce", outside_of(home))
        assert found_out(peer) == (outside_of(home), "unreachable")

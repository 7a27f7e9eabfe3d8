"""Homes behind NAT: what their routers let through, and peers in them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Final

import pytest
from support.namespaces import Host
from support.nat import Nat

from .conftest import MakeInternet

SERVE: Final = """
import json, socket
server = socket.create_server(("0.0.0.0", 4001))
print(json.dumps("ready"), flush=True)
while True:
    print(json.dumps(server.accept()[1]), flush=True)
"""
"""Prints from where connections come."""

DIAL: Final = """
import json, socket, sys
client = socket.socket()
client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection before may linger
client.bind(("0.0.0.0", 4001))
client.settimeout(0.3)  # here an answer takes some microseconds
try:
    client.connect((sys.argv[1], 4001))
except TimeoutError:
    print(json.dumps("no answer"))
else:
    print(json.dumps("connected"))
"""

BOTH: Final = pytest.mark.parametrize("nat", Nat)


def dial(host: Host, ip4: str) -> Any:
    """How a connection to ``ip4`` went, from port 4001."""
    with host.python("-c", DIAL, ip4) as dialer:
        return dialer.line()


def seen_ports(home: Host, servers: tuple[Host, ...]) -> list[int]:
    """The ports at which the servers see connections from one port at home."""
    ports = []
    for server in servers:
        with server.python("-c", SERVE) as serving:
            assert serving.line() == "ready"
            assert dial(home, server.ip4) == "connected"
            _, port = serving.line()
            ports.append(port)
    return ports


def test_the_port_is_kept_or_another_one_each_time(make_internet: MakeInternet) -> None:
    with make_internet(2, *Nat) as (servers, (kept, symmetric)):
        assert seen_ports(kept.host, servers) == [4001, 4001]
        one, other = seen_ports(symmetric.host, servers)
        assert one != other


@BOTH
def test_a_router_drops_what_nobody_at_home_has_asked_for(make_internet: MakeInternet, nat: Nat) -> None:
    with make_internet(1, nat) as ((stranger,), (home,)), home.host.python("-c", SERVE) as serving:
        assert serving.line() == "ready"
        assert dial(home.router, home.host.ip4) == "connected"  # it does listen
        assert dial(stranger, home.router.ip4) == "no answer"


@BOTH
def test_peers_in_two_homes_talk_through_a_relay_alone(make_internet: MakeInternet, nat: Nat) -> None:
    with make_internet(1, nat, nat) as ((server,), (alice, bob)), ExitStack() as stack:
        relay = stack.enter_context(server.stronghold_p2p("relay", f"/ip4/{server.ip4}/tcp/4001"))
        via = relay.event("listening")["address"]
        listener = stack.enter_context(
            bob.host.stronghold_p2p("listen", f"/ip4/{bob.host.ip4}/tcp/4001", "--allow-all", "--via-relay", via)
        )
        peer = listener.event("listening")["address"].rpartition("/p2p/")[2]
        circuit = listener.event("listening")["address"]
        assert circuit == f"{via}/p2p-circuit/p2p/{peer}"
        for host in (bob.host, bob.router):
            address = f"/ip4/{host.ip4}/tcp/4001/p2p/{peer}"
            with alice.host.stronghold_p2p("request", address, '"you"', "--timeout", "0.5") as asker:
                assert asker.line()["error"] == "DialError"
        with alice.host.stronghold_p2p("request", circuit, '"you"') as asker:
            assert asker.line() == "you"

"""Homes behind NAT: what their routers let through, and peers in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from support.namespaces import Host
from support.nat import Nat

from stronghold_p2p import Keypair

from .conftest import MakeInternet

pytestmark = pytest.mark.slow

CALLER: Final = Path(__file__).with_name("programs") / "caller.py"

SERVE: Final = """
import json, socket
server = socket.create_server(("0.0.0.0", 4001))
print(json.dumps("ready"), flush=True)
accepted = []  # and not closed
while True:
    accepted.append(server.accept())
    print(json.dumps(accepted[-1][1]), flush=True)
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


# -- dials from the port of a listener -------------------------------------------------------------------


@contextmanager
def listening(host: Host, *arguments: str) -> Iterator[str]:
    """A peer that serves, and its address."""
    with host.stronghold_p2p("listen", f"/ip4/{host.ip4}/tcp/4001", "--allow-all", *arguments) as listener:
        yield listener.event("listening")["address"]


@contextmanager
def calling(host: Host) -> Iterator[Callable[[str, str], Any]]:
    """A peer that does what it is told, and says what it knows then."""
    with host.python(str(CALLER)) as caller:
        assert caller.line() == "ready"

        def tell(what: str, address: str) -> Any:
            caller.send([what, address])
            return caller.line()

        yield tell


def test_remotes_see_the_port_of_the_listener_and_tell_the_kind_of_nat(make_internet: MakeInternet) -> None:
    with make_internet(3, *Nat) as ((one, other, third), homes), listening(one) as first, listening(other) as second:
        found = []
        for host in (*(home.host for home in homes), third):
            with calling(host) as tell:
                known = [tell("connect", address) for address in (first, second)]
            found.append(([each["observed"].rpartition("/")[2] for each in known], known[-1]["nat"]))
    (kept, kept_kind), (symmetric, symmetric_kind), (public, public_kind) = found
    assert kept == ["4001", "4001"]
    assert len({*symmetric, "4001"}) == 3
    assert "4001" not in public  # no NAT is on the way
    assert [kept_kind, symmetric_kind, public_kind] == ["endpoint-independent", "endpoint-dependent", "none"]


def test_a_remote_that_has_gone_is_dialed_again_at_once_from_the_same_port(
    make_internet: MakeInternet, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    Keypair.generate().save(key)
    with make_internet(1, Nat.ENDPOINT_INDEPENDENT) as ((server,), (home,)), calling(home.host) as tell:
        for _ in range(2):
            with listening(server, "--key", str(key)) as address:
                assert tell("connect", address)["observed"] == f"/ip4/{home.router.ip4}/tcp/4001"


def test_so_is_a_remote_that_we_have_left(make_internet: MakeInternet) -> None:
    """Though our own system remembers the connection for a minute."""
    with make_internet(1, Nat.ENDPOINT_INDEPENDENT) as ((server,), (home,)):
        assert seen_ports(home.host, (server,)) == [4001]
        with listening(server) as address, calling(home.host) as tell:
            assert tell("connect", address)["observed"] == f"/ip4/{home.router.ip4}/tcp/4001"


def test_the_port_is_listened_on_all_the_while_and_by_nobody_else(make_internet: MakeInternet) -> None:
    with make_internet(2, Nat.ENDPOINT_INDEPENDENT) as ((one, other), (home,)), ExitStack() as stack:
        first, second = [stack.enter_context(listening(host)) for host in (one, other)]
        tell = stack.enter_context(calling(home.host))
        for address, then in (first, "/ip4/0.0.0.0/tcp/4001"), (second, f"/ip4/{home.host.ip4}/tcp/4001"):
            assert tell("connect", address)["observed"] == f"/ip4/{home.router.ip4}/tcp/4001"
            assert dial(home.router, home.host.ip4) == "connected"
            with home.host.stronghold_p2p("listen", "/ip4/0.0.0.0/tcp/4001", "--allow-all") as rival:
                assert "address already in use" in rival.line()["message"]
            tell("listen", then)  # anew, while the connections from there live
        assert dial(home.router, home.host.ip4) == "connected"

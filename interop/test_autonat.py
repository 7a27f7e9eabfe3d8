"""AutoNAT v2 with go-libp2p and rust-libp2p, on hosts whose addresses count as public."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.namespaces import INTERFACE, Host, require
from support.nat import internet, missing_for_nat

from .driver import command_line

BOTH = pytest.mark.parametrize("language", ["go", "rust"])


@pytest.fixture
def public() -> Iterator[tuple[Host, ...]]:
    """Hosts on a public network."""
    require(missing_for_nat())
    with internet(4) as made:
        yield made.public


@BOTH
def test_we_ask(public: tuple[Host, ...], language: str) -> None:
    theirs, ours, *_ = public
    second = "11.0.0.99"
    ours.ip(f"address add {second}/24 dev {INTERFACE}")
    nobody = f"/ip4/{ours.ip4}/tcp/9"
    with theirs.process(*command_line(language), "autonat", theirs.ip4) as server:
        address = server.event("listening")["address"]
        listen = "listen", "/ip4/0.0.0.0/tcp/4001", "--announce", nobody, "--allow-all", "--keep", address
        with ours.stronghold_p2p(*listen) as client:
            found = [client.event("reachability") for _ in range(3)]
    states = {one["address"].partition("/p2p/")[0]: one["state"] for one in found}
    # The second one costs data, since they see us at another address.
    assert states == {
        f"/ip4/{ours.ip4}/tcp/4001": "reachable",
        f"/ip4/{second}/tcp/4001": "reachable",
        nobody: "unreachable",
    }


@BOTH
def test_they_ask(public: tuple[Host, ...], language: str) -> None:
    """Three, since go-libp2p believes two, and asks each one once in two minutes."""
    theirs, *servers = public
    with ExitStack() as stack:
        addresses = []
        for host in servers:
            server = stack.enter_context(host.stronghold_p2p("listen", f"/ip4/{host.ip4}/tcp/4001", "--allow-all"))
            addresses.append(server.event("listening")["address"])
        client = stack.enter_context(theirs.process(*command_line(language), "autonat", theirs.ip4, *addresses))
        own = client.event("listening")["address"].partition("/p2p/")[0]
        while (known := client.event("reachability"))["unknown"]:
            pass
        assert (known["reachable"], known["unreachable"]) == ([own], [])

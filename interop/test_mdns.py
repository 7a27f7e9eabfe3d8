"""Peers find each other by mDNS, each on a host of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.namespaces import Host, HostProcess, cable, missing_for_hosts, require

from .driver import command_line


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    """Two hosts on a cable."""
    require(missing_for_hosts())
    with cable() as joined:
        yield joined


def test_theirs_is_found(language: str, pair: tuple[Host, Host]) -> None:
    alice, bob = pair
    with bob.process(*command_line(language), "listen", "--mdns", bob.ip4) as theirs:
        listening = theirs.event("listening")
        with alice.stronghold_p2p("discover", "--seconds", "30") as ours:
            found = discovered(ours, listening["peer"])
        assert listening["address"] in found["addresses"]
        with alice.stronghold_p2p("request", listening["peer"], '{"hello":"there"}') as ours:
            assert ours.line() == {"hello": "there"}


def test_theirs_finds(language: str, pair: tuple[Host, Host]) -> None:
    alice, bob = pair
    with alice.stronghold_p2p("listen", "/ip4/0.0.0.0/tcp/0", "--mdns", "--allow-all") as ours:
        address = address_at(ours, alice)
        place, _, peer = address.rpartition("/p2p/")
        with bob.process(*command_line(language), "listen", "--mdns", bob.ip4) as theirs:
            found = discovered(theirs, peer)
        assert {place, address} & set(found["addresses"])
        assert "rtt_ms" in json.loads(bob.run(*command_line(language), "dial", address, "ping"))


def discovered(process: HostProcess, peer: str) -> Any:
    """The first line that tells of ``peer``."""
    while (line := process.event("discovered"))["peer"] != peer:
        pass
    return line


def address_at(process: HostProcess, host: Host) -> str:
    """The address on ``host``'s interface at which it listens."""
    while host.ip4 not in (address := process.event("listening")["address"]):
        pass
    return str(address)

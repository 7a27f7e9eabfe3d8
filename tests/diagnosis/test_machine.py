from __future__ import annotations

from ipaddress import ip_address

import pytest

from stronghold_p2p import Keypair, Multiaddr, PeerId
from stronghold_p2p.diagnosis.facts import Lookup, Machine, Neighbors
from stronghold_p2p.diagnosis.machine import (
    check_clock,
    check_interfaces,
    check_mdns,
    check_name,
    check_name_servers,
)

RELAY = PeerId.parse("12D3KooWHbzMJW3LdgTFjcv7iXKhMMhNAQAfx7tGhe6U3BHNnBKD")
PEER = PeerId.parse("12D3KooWFvyFjmVNas864oDAkFLMcNrmRwbyKJrJ6sHLEidQFx44")
HOME, ALONE = ("127.0.0.1", "192.168.1.2"), ("127.0.0.1", "::1")
ANNOUNCED = (Multiaddr.parse("/ip4/192.168.1.2/tcp/4001"),)


def machine(*ips: str, clock: bool | None = None, name_servers: tuple[str, ...] | None = ()) -> Machine:
    return Machine(tuple(map(ip_address, ips)), clock, name_servers)


@pytest.mark.parametrize(
    ("ips", "verdict", "says"),
    [
        (("127.0.0.1", "8.8.8.8", "10.0.0.1"), "ok", "the public address 8.8.8.8."),
        (("8.8.8.8", "2a00::1"), "ok", "the public addresses 8.8.8.8 and 2a00::1."),
        (("2a00::1", "10.0.0.1"), "ok", "2a00::1. Only peers with IPv6 can dial that."),
        (HOME, "note", "the private address 192.168.1.2, and no public address. Peers in other networks reach it by a"),
        (("192.168.1.2", "fd00::1"), "note", "the private addresses 192.168.1.2 and fd00::1, and no"),
        (("100.64.0.7", "10.0.0.1"), "note", "the address 100.64.0.7 of a provider or a VPN, and no public address."),
        (("127.0.0.1", "169.254.3.4"), "problem", "only the address 169.254.3.4, which it has given itself"),
        (
            tuple(f"10.0.0.{number}" for number in range(1, 8)),
            "note",
            "addresses 10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4 and 3 more, and",
        ),
        (ALONE, "problem", "This machine is in no network"),
        ((), "problem", "This machine is in no network"),
    ],
)
def test_interfaces(ips: tuple[str, ...], verdict: str, says: str) -> None:
    found = check_interfaces(machine(*ips))
    assert (found.check, found.verdict) == ("interfaces", verdict)
    assert says in found.what
    assert (found.advice is not None) is (verdict == "problem")
    assert sorted(ip for kind in found.data["addresses"].values() for ip in kind) == sorted(ips)


def test_interfaces_that_are_not_told() -> None:
    assert check_interfaces(Machine(None, None, None)).verdict == "unknown"


@pytest.mark.parametrize(
    ("synchronized", "lifetime", "verdict", "says"),
    [
        (True, None, "ok", "keeps the clock synchronized"),
        (True, 3600.0, "ok", "keeps the clock synchronized"),
        (False, 3600.0, "ok", "agrees with those of the relays"),
        (None, 7200.0, "ok", "agrees with those of the relays"),
        (False, None, "note", "does not synchronize the clock"),
        (None, None, "unknown", "does not tell whether"),
        (True, -600.0, "problem", f"ahead of that of the relay {RELAY}: the reservation that it has just given ends 10 minutes ago"),
        (True, 5.0, "problem", "ahead of that of the relay"),
        (None, 200_000.0, "problem", f"behind that of the relay {RELAY}: the reservation that it has just given ends in 2 days by"),
    ],
    ids=str,
)  # fmt: skip
def test_clock(synchronized: bool | None, lifetime: float | None, verdict: str, says: str) -> None:
    found = check_clock(machine(clock=synchronized), {} if lifetime is None else {RELAY: lifetime})
    assert (found.check, found.verdict) == ("clock", verdict)
    assert says in found.what
    assert (found.advice is not None) is (verdict in {"problem", "note"})
    assert found.data["synchronized"] is synchronized


def test_one_relay_of_two_whose_clock_differs() -> None:
    found = check_clock(machine(clock=True), {PEER: 3600.0, RELAY: -3.0})
    assert (found.verdict, found.data["reservations"]) == ("problem", {str(PEER): 3600, str(RELAY): -3})
    assert str(RELAY) in found.what


MANY = tuple(f"/ip4/192.0.2.{number}/tcp/1" for number in range(6))


@pytest.mark.parametrize(
    ("lookup", "verdict", "says"),
    [
        (Lookup("/dns/a.example", 0.1, ("/ip4/192.0.2.1",)), "ok", "in /dns/a.example leads to /ip4/192.0.2.1."),
        (Lookup("/dns/a.example", 0.1, MANY), "ok", f"leads to {', '.join(MANY[:4])} and 2 more."),
        (Lookup("/dns/a.example", 2.5, ("/ip4/192.0.2.1",)), "note", "leads to /ip4/192.0.2.1. That took 2.5 s."),
        (Lookup("/dns/a.example", 4.0, error="there is no name a.example"), "problem", "nowhere: there is no name a.example."),
    ],
    ids=str,
)  # fmt: skip
def test_names(lookup: Lookup, verdict: str, says: str) -> None:
    found = check_name(lookup)
    assert (found.check, found.verdict) == ("dns", verdict)
    assert says in found.what
    assert (found.advice is not None) is (verdict != "ok")


@pytest.mark.parametrize(
    ("servers", "verdict", "says"),
    [
        (("192.0.2.53",), "skipped", "so the name server at 192.0.2.53 was not asked"),
        ((), "note", "No name server is configured"),
        (None, "unknown", "does not tell"),
    ],
)
def test_name_servers(servers: tuple[str, ...] | None, verdict: str, says: str) -> None:
    found = check_name_servers(machine(name_servers=servers))
    assert (found.check, found.verdict) == ("dns", verdict)
    assert says in found.what


@pytest.mark.parametrize(
    ("neighbors", "ips", "verdict", "says"),
    [
        (Neighbors(3, error="address already in use"), HOME, "note", "cannot be found: address already in use."),
        (Neighbors(3, own=ANNOUNCED, others={PEER: ANNOUNCED}), HOME, "ok", f"On the local network answered {PEER}."),
        (Neighbors(3), ALONE, "skipped", "no local network"),
        (Neighbors(3), HOME, "note", "did not come back to it within 3 s"),
        (Neighbors(3, own=(Multiaddr.parse("/ip4/127.0.0.1/tcp/1"),)), HOME, "note", "did not come back"),
        (Neighbors(3, own=ANNOUNCED), HOME, "note", "but no other peer answered within 3 s"),
    ],
    ids=str,
)
def test_mdns(neighbors: Neighbors, ips: tuple[str, ...], verdict: str, says: str) -> None:
    found = check_mdns(neighbors, machine(*ips), needed=False)
    assert (found.check, found.verdict) == ("mdns", verdict)
    assert says in found.what
    if verdict == "note":
        assert found.advice
        assert check_mdns(neighbors, machine(*ips), needed=True).verdict == "problem"


def test_many_neighbors_are_counted() -> None:
    found = check_mdns(
        Neighbors(3, others={Keypair.generate().peer_id: () for _ in range(6)}), machine(*HOME), needed=False
    )
    assert found.what.endswith(" and 2 more.")
    assert len(found.data["peers"]) == 6

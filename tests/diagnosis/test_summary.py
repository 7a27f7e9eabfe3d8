from __future__ import annotations

from ipaddress import IPv4Address, ip_address

import pytest

from stronghold_p2p import (
    AddressOrigin,
    AddressReachability,
    ConnectionInfo,
    ConnectionLost,
    DialError,
    Direction,
    Multiaddr,
    NatKind,
    Path,
    PathLimits,
    PathUpgraded,
    PeerId,
    PortMapped,
    PortMappingFailed,
    Reachability,
    ReservationMade,
)
from stronghold_p2p.diagnosis.facts import Contact, Machine, Outside, Punch, RelayContact, Router, Target
from stronghold_p2p.diagnosis.finding import Finding, duration, listed
from stronghold_p2p.diagnosis.summary import summarize

PEER = PeerId.parse("12D3KooWHbzMJW3LdgTFjcv7iXKhMMhNAQAfx7tGhe6U3BHNnBKD")
RELAY = PeerId.parse("12D3KooWFvyFjmVNas864oDAkFLMcNrmRwbyKJrJ6sHLEidQFx44")
LOOPBACK = Multiaddr.parse("/ip4/127.0.0.1/tcp/4001")
PUBLIC, PRIVATE = Multiaddr.parse("/ip4/8.8.8.8/tcp/4001"), Multiaddr.parse("/ip4/10.0.0.1/tcp/4001")
CIRCUIT = Multiaddr.parse(f"{PUBLIC}/p2p/{RELAY}/p2p-circuit")

NONE = Router(None, None)
HOME = Router(IPv4Address("192.168.1.1"), IPv4Address("192.168.1.2"), port=5001)
MAPS = Router(HOME.address, HOME.local, mapping=PortMapped(PUBLIC, "PCP", 0.0), port=5001)
REFUSES = Router(HOME.address, HOME.local, mapping=PortMappingFailed(PUBLIC, "refused"), port=5001)


def machine(*ips: str) -> Machine:
    return Machine(tuple(map(ip_address, ips)), None, None)


def relay(address: Multiaddr = PUBLIC, *, gives: bool = True) -> RelayContact:
    contact = Contact(Target(RELAY, address), 0.1, Path("tcp", address), address)
    return RelayContact(contact, ReservationMade(RELAY, (), 0.0, None) if gives else None)


@pytest.mark.parametrize(
    ("ips", "router", "relays", "reach", "says", "advises"),
    [
        (("192.168.1.2",), MAPS, [], "directly", "since the router forwards a port. Nobody has tested that.", "listen /ip4/0.0.0.0/tcp/5001 --port-mapping --ask`"),
        (("192.168.1.2",), MAPS, [relay()], "directly", "since the router forwards a port", "--port-mapping"),
        (("8.8.8.8",), NONE, [], "unknown", "directly at 8.8.8.8, unless a firewall stops them", "listen /ip4/0.0.0.0/tcp/4001 --ask`, and let TCP port 4001 through"),
        (("2a00::1", "10.0.0.1"), REFUSES, [], "unknown", "directly at 2a00::1, unless", "listen /ip6/::/tcp/5001 --ask`"),
        (("192.168.1.2",), REFUSES, [relay()], "through a relay only", "through a relay only.", f"listen --via-relay {PUBLIC}/p2p/{RELAY} --ask`"),
        (("192.168.1.2",), REFUSES, [relay(PRIVATE), relay()], "through a relay only", "through a relay only.", f"--via-relay {PUBLIC}/p2p/"),
        (("192.168.1.2",), REFUSES, [relay(PRIVATE)], "through a relay only", "only through a relay that they can reach", f"--via-relay {PRIVATE}/p2p/"),
        (("192.168.1.2",), REFUSES, [relay(gives=False)], "unknown", "nobody was asked to dial you, and no given relay gives", "Run `stronghold-p2p relay`"),
        (("192.168.1.2",), REFUSES, [], "unknown", "is unknown: nobody was asked to dial you.", "Or have the router 192.168.1.1 forward TCP port 5001 to 192.168.1.2"),
        (("127.0.0.1", "::1"), NONE, [], "not at all", "this machine is in no network", "Connect it to a network."),
        (("10.0.0.1",), NONE, [], "unknown", "is unknown: nobody was asked", "To find out, give a relay or a peer at a public address"),
    ],
    ids=lambda value: value if isinstance(value, str) and "12D3" not in value else "",
)  # fmt: skip
def test_how_peers_elsewhere_come_in(
    ips: tuple[str, ...], router: Router, relays: list[RelayContact], reach: str, says: str, advises: str
) -> None:
    diagnosis = summarize([], machine(*ips), router, Outside(), relays=relays, contacts=[])
    assert diagnosis.reach == reach
    assert says in diagnosis.what
    assert advises in str(diagnosis.advice)


def asked_of(origin: AddressOrigin, dialed: bool | None) -> Outside:
    """Somebody has tried to dial an address of ours. None: it is not known yet whether that went well."""
    known = AddressReachability(Reachability.UNKNOWN, origin, (RELAY,) * (dialed is True), (RELAY,) * (dialed is False))
    return Outside(1, None, 1, {PUBLIC.with_peer(PEER): known})


@pytest.mark.parametrize(
    ("ips", "router", "outside", "reach", "says", "advises"),
    [
        (("8.8.8.8",), NONE, asked_of(AddressOrigin.INTERFACE, True), "directly", f"one has dialed {PUBLIC}.", "listen /ip4/0.0.0.0/tcp/4001 --ask`."),
        (("10.0.0.1",), REFUSES, asked_of(AddressOrigin.OBSERVED, True), "directly", f"one has dialed {PUBLIC}.", "listen /ip4/0.0.0.0/tcp/5001 --ask`."),
        (("10.0.0.1",), REFUSES, asked_of(AddressOrigin.ANNOUNCED, True), "directly", f"one has dialed {PUBLIC}.", f"tcp/5001 --announce {PUBLIC} --ask`."),
        (("10.0.0.1",), MAPS, asked_of(AddressOrigin.MAPPED, True), "directly", f"one has dialed {PUBLIC}.", "tcp/5001 --port-mapping --ask`."),
        (("10.0.0.1",), MAPS, asked_of(AddressOrigin.MAPPED, False), "through a relay only", "relay only", "--via-relay"),
        (("10.0.0.1",), MAPS, asked_of(AddressOrigin.OBSERVED, False), "directly", "Nobody has tested that.", "--port-mapping --ask`."),
        (("8.8.8.8",), NONE, asked_of(AddressOrigin.INTERFACE, False), "through a relay only", "relay only", "--via-relay"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_was_tested_counts(
    ips: tuple[str, ...], router: Router, outside: Outside, reach: str, says: str, advises: str
) -> None:
    diagnosis = summarize([], machine(*ips), router, outside, relays=[relay()], contacts=[])
    assert diagnosis.reach == reach
    assert says in diagnosis.what
    assert advises in str(diagnosis.advice)


@pytest.mark.parametrize(
    ("outside", "reach", "says"),
    [
        (Outside(), "unknown", "nobody was asked to dial you"),
        (Outside(1, None, 1), "not at all", "no public address, forwarded port or relay was found."),
        (asked_of(AddressOrigin.OBSERVED, False), "not at all", "cannot reach you at all"),
        (asked_of(AddressOrigin.ANNOUNCED, False), "not at all", "cannot reach you at all"),
        (asked_of(AddressOrigin.ANNOUNCED, None), "unknown", "those that were asked to dial you have not in time"),
        (asked_of(AddressOrigin.OBSERVED, None), "unknown", "those that were asked to dial you have not in time"),
        (Outside(reachability=asked_of(AddressOrigin.ANNOUNCED, None).reachability), "unknown", "nobody was asked"),
    ],
)
def test_what_nobody_has_tested_is_unknown(outside: Outside, reach: str, says: str) -> None:
    diagnosis = summarize([], machine("10.0.0.1"), NONE, outside, relays=[], contacts=[])
    assert diagnosis.reach == reach
    assert says in diagnosis.what
    assert ("To find out" in str(diagnosis.advice)) is (reach == "unknown")


def test_a_relay_on_this_machine_brings_nobody_from_elsewhere() -> None:
    diagnosis = summarize([], machine("10.0.0.1"), REFUSES, Outside(), relays=[relay(LOOPBACK)], contacts=[])
    assert diagnosis.reach == "unknown"
    assert diagnosis.what.endswith("nobody was asked to dial you. Peers on this machine can, through the relay.")
    assert "on a machine with a public address" in str(diagnosis.advice)
    assert f"For peers on this machine, start the peer with `stronghold-p2p listen --via-relay {LOOPBACK}/" in str(
        diagnosis.advice
    )
    both = summarize([], machine("10.0.0.1"), REFUSES, Outside(), relays=[relay(LOOPBACK), relay()], contacts=[])
    assert both.reach == "through a relay only"
    assert f"--via-relay {PUBLIC}/" in str(both.advice)


def test_the_advice_on_a_relay_that_does_not_help_is_told() -> None:
    facts = machine("10.0.0.1"), REFUSES, Outside()
    findings = [
        Finding("relay", "problem", "", "Look at the relay."),
        Finding("peer", "problem", "", "Look at the peer."),
    ]
    relays = [relay(gives=False)]
    told = summarize(findings, *facts, relays=relays, contacts=[])
    assert str(told.advice).startswith("Look at the relay. Or have the router")
    told = summarize(findings, *facts, relays=relays, contacts=[met(PUBLIC)])
    assert told.advice == "Look at the peer. And as to the relay: Look at the relay."
    told = summarize(findings, machine("8.8.8.8"), NONE, Outside(), relays=relays, contacts=[])
    assert str(told.advice).endswith("let TCP port 4001 through. And as to the relay: Look at the relay.")
    told = summarize(findings, *facts, relays=[*relays, relay()], contacts=[])
    assert "Look at the relay" not in str(told.advice)


def test_a_firewall_in_front_of_a_public_address() -> None:
    outside = asked_of(AddressOrigin.INTERFACE, False)
    diagnosis = summarize([], machine("8.8.8.8"), NONE, outside, relays=[], contacts=[])
    assert diagnosis.reach == "not at all"
    assert "a firewall is in front of 8.8.8.8" in diagnosis.what
    assert "Let TCP port 4001 through" in str(diagnosis.advice)


def test_hole_punching_is_said_to_help() -> None:
    for kind, helps in ((NatKind.ENDPOINT_INDEPENDENT, True), (NatKind.ENDPOINT_DEPENDENT, False)):
        outside = Outside(2, kind)
        diagnosis = summarize([], machine("10.0.0.1"), REFUSES, outside, relays=[relay()], contacts=[])
        assert diagnosis.reach == "through a relay only"
        assert ("Hole punching may make the path direct" in diagnosis.what) is helps


def met(address: Multiaddr, by: bool = True, *, closed: bool = False) -> Contact:
    path = Path("tcp", address, RELAY if address.is_relayed else None) if by else None
    return Contact(Target(PEER, address), 0.1, path, error=None if by else DialError(PEER), closed=closed)


@pytest.mark.parametrize(
    ("contacts", "says"),
    [
        ([met(PUBLIC), met(CIRCUIT)], f"You can reach the peer {PEER} directly. Whether peers"),
        ([met(PUBLIC, by=False), met(CIRCUIT)], f"You can reach the peer {PEER} through a relay only. Whether peers"),
        (
            [met(PUBLIC, closed=True), met(CIRCUIT)],
            f"You can reach the peer {PEER} through a relay only: it ends direct connections. ",
        ),
        ([met(PUBLIC, closed=True)], f"You cannot reach the peer {PEER}: it ends direct connections. "),
        ([met(PUBLIC, by=False)], f"You cannot reach the peer {PEER}. Whether peers"),
    ],
    ids=["directly", "through a relay", "ended, but through a relay", "ended", "not at all"],
)
def test_how_the_peer_was_reached(contacts: list[Contact], says: str) -> None:
    diagnosis = summarize([], machine("10.0.0.1"), NONE, Outside(), relays=[], contacts=contacts)
    assert diagnosis.what.startswith(says)


def test_a_relay_whose_limit_is_too_small() -> None:
    path = Path("tcp", CIRCUIT, RELAY, PathLimits(60.0, 4000))
    facts = machine("10.0.0.1"), NONE, Outside()
    for closed, says in (
        (False, "only, whose limit is too small for requests."),
        (True, "limit of the relay is too small."),
    ):
        contact = Contact(Target(PEER, CIRCUIT), 0.1, path, closed=closed, ping=ConnectionLost("gone"))
        assert says in summarize([], *facts, relays=[], contacts=[contact]).what


def test_a_peer_to_which_a_hole_was_punched() -> None:
    direct = ConnectionInfo(PEER, PUBLIC, Direction.OUTBOUND, 0.0, 1, Path("tcp", PUBLIC))
    punched = Punch(PathUpgraded(direct, Path("tcp", CIRCUIT, RELAY)))
    facts = machine("10.0.0.1"), NONE, Outside()
    diagnosis = summarize([], *facts, relays=[], contacts=[met(CIRCUIT)], punched=punched)
    assert diagnosis.what.startswith(f"You can reach the peer {PEER} through a relay, and then directly")


def test_the_advice_on_a_peer_comes_first() -> None:
    findings = [
        Finding("relay", "problem", "", "look at the relay"),
        Finding("peer", "note", "", "look at the network"),
        Finding("requests", "problem", "", "look at the firewall"),
    ]
    facts = machine("10.0.0.1"), NONE, Outside()
    told = summarize(findings, *facts, relays=[], contacts=[met(PUBLIC)])
    assert (told.advice, told.problems, told.findings) == ("look at the firewall", 2, tuple(findings))
    assert "stronghold-p2p relay" in str(summarize(findings[:2], *facts, relays=[], contacts=[met(PUBLIC)]).advice)
    assert "stronghold-p2p relay" in str(summarize(findings, *facts, relays=[], contacts=[]).advice)


def test_words() -> None:
    assert [listed(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert [duration(seconds) for seconds in (0.4, 59.0, 60.0, 150.0, 3600.0, 7300.0, 86_400.0, 2e5)] == [
        "0 s", "59 s", "1 minute", "2 minutes", "1 hour", "2 hours", "1 day", "2 days"
    ]  # fmt: skip

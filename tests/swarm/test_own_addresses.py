"""Which addresses a remote is told, and which that are observed are believed."""

from __future__ import annotations

import pytest
from support.interfaces import on

from stronghold_p2p import Multiaddr, NatKind
from stronghold_p2p.swarm.own_addresses import (
    MAX_OBSERVED,
    MAX_REPORTS,
    MAX_TOLD,
    OBSERVERS,
    REPORT_LIFETIME,
    Observations,
    OwnAddress,
    Scope,
    believable,
    expand,
    is_punchable,
    is_wildcard,
    scope_of,
    select,
)

LOOPBACK, LINK, PRIVATE, PUBLIC = Scope

LAN, CONTAINERS, LO = 2, 3, 1


def parse(text: str) -> Multiaddr:
    return Multiaddr.parse(text if "/tcp" in text or text.startswith("/memory") else f"{text}/tcp/1")


@pytest.mark.parametrize(
    ("address", "scope"),
    [
        ("/ip4/127.0.0.1", LOOPBACK),
        ("/ip4/127.9.9.9", LOOPBACK),
        ("/ip6/::1", LOOPBACK),
        ("/ip6/::ffff:127.0.0.1", LOOPBACK),
        ("/dns4/localhost", LOOPBACK),
        ("/dns/Peer.LOCALHOST.", LOOPBACK),
        ("/ip4/169.254.1.1", LINK),
        ("/ip6/fe80::1", LINK),
        ("/ip4/10.0.0.1", PRIVATE),
        ("/ip4/172.16.0.1", PRIVATE),
        ("/ip4/192.168.0.1", PRIVATE),
        ("/ip4/100.64.0.1", PRIVATE),
        ("/ip4/100.127.255.255", PRIVATE),
        ("/ip4/192.0.2.1", PRIVATE),
        ("/ip4/198.18.0.1", PRIVATE),
        ("/ip6/fc00::1", PRIVATE),
        ("/ip6/fd00::1", PRIVATE),
        ("/ip6/2001:db8::1", PRIVATE),
        ("/ip6/::ffff:10.0.0.1", PRIVATE),
        ("/ip4/224.0.0.1", PRIVATE),
        ("/ip6/ff0e::1", PRIVATE),
        ("/ip6/fec0::1", PRIVATE),
        ("/ip6/::10.0.0.1", PRIVATE),
        ("/ip6/::9.9.9.9", PRIVATE),
        ("/ip6/64:ff9b::10.0.0.1", PRIVATE),
        ("/ip6/64:ff9b:1::9.9.9.9", PRIVATE),
        ("/ip6/2002:a00:1::1", PRIVATE),
        ("/dns/printer", PRIVATE),
        ("/dns6/printer.local", PRIVATE),
        ("/ip4/1.1.1.1", PUBLIC),
        ("/ip4/100.128.0.1", PUBLIC),
        ("/ip6/2606:4700::1111", PUBLIC),
        ("/ip6/::ffff:1.1.1.1", PUBLIC),
        ("/ip6/64:ff9b::9.9.9.9", PUBLIC),
        ("/ip6/2002:909:909::1", PUBLIC),
        ("/dns4/example.com", PUBLIC),
        ("/dnsaddr/example.com.", PUBLIC),
        ("/memory/1", PUBLIC),
    ],
)
def test_scopes(address: str, scope: Scope) -> None:
    assert scope_of(parse(address)) is scope


def test_wildcards() -> None:
    assert is_wildcard(parse("/ip4/0.0.0.0"))
    assert is_wildcard(parse("/ip6/::"))
    for other in "/ip4/127.0.0.1", "/dns4/example.com", "/memory/0":
        assert not is_wildcard(parse(other))


def test_a_wildcard_stands_for_what_is_usable_loopback_last() -> None:
    interfaces = [
        *on(LO, "127.0.0.1", "::1"),
        *on(LAN, "169.254.0.9", "192.168.1.2", "fd00::2"),
        *on(CONTAINERS, "172.17.0.1", usable=False),
    ]
    expanded = expand(Multiaddr.parse("/ip4/0.0.0.0/tcp/9/tls/ws"), interfaces)
    assert [(str(address), interface) for address, interface in expanded] == [
        ("/ip4/192.168.1.2/tcp/9/tls/ws", LAN),
        ("/ip4/169.254.0.9/tcp/9/tls/ws", LAN),
        ("/ip4/127.0.0.1/tcp/9/tls/ws", LO),
    ]
    assert [str(address) for address, _ in expand(Multiaddr.parse("/ip6/::/tcp/9"), interfaces)] == [
        "/ip6/fd00::2/tcp/9",
        "/ip6/::1/tcp/9",
    ]
    assert expand(Multiaddr.parse("/ip6/::/tcp/9"), []) == []


OWN = [
    OwnAddress(parse("/dns4/example.com"), None),
    OwnAddress(parse("/dns4/nas.local"), None),
    OwnAddress(parse("/ip4/172.17.0.1"), CONTAINERS),
    OwnAddress(parse("/ip4/169.254.9.9"), CONTAINERS),
    OwnAddress(parse("/ip4/192.168.1.2"), LAN),
    OwnAddress(parse("/ip6/2606:4700::1"), LAN),
    OwnAddress(parse("/ip4/127.0.0.1"), LO),
]


def told(remote: Scope, interface: int | None, own: list[OwnAddress] = OWN) -> list[str]:
    return [str(address).removesuffix("/tcp/1") for address in select(own, remote, interface)]


def test_a_public_remote_is_told_public_addresses() -> None:
    assert told(PUBLIC, None) == ["/dns4/example.com", "/ip6/2606:4700::1"]
    assert told(PUBLIC, LAN) == ["/ip6/2606:4700::1", "/dns4/example.com"]


def test_a_private_remote_is_told_those_of_its_own_network_first() -> None:
    for remote in PRIVATE, LINK:
        assert told(remote, LAN) == [
            "/ip4/192.168.1.2",
            "/ip6/2606:4700::1",
            "/dns4/example.com",
            "/dns4/nas.local",
            "/ip4/172.17.0.1",
        ]
    assert told(PRIVATE, CONTAINERS)[:2] == ["/ip4/172.17.0.1", "/ip4/169.254.9.9"]


def test_a_remote_on_this_machine_is_told_all_the_nearest_first() -> None:
    assert told(LOOPBACK, LO) == [
        "/ip4/127.0.0.1",
        "/ip4/169.254.9.9",
        "/dns4/nas.local",
        "/ip4/172.17.0.1",
        "/ip4/192.168.1.2",
        "/dns4/example.com",
        "/ip6/2606:4700::1",
    ]


@pytest.mark.parametrize(
    ("remote", "believed"),
    [
        (PUBLIC, [PUBLIC]),
        (PRIVATE, [LINK, PRIVATE, PUBLIC]),
        (LINK, [LINK, PRIVATE, PUBLIC]),
        (LOOPBACK, [LOOPBACK, LINK, PRIVATE, PUBLIC]),
    ],
)
def test_what_a_remote_tells_of_itself_is_believed_within_its_scope(remote: Scope, believed: list[Scope]) -> None:
    told = [one.address for one in OWN]
    expected = [address for address in told if scope_of(address) in believed]
    assert list(believable(told, remote)) == expected
    assert len(expected) == {PUBLIC: 2, LOOPBACK: len(OWN)}.get(remote, len(OWN) - 1)


@pytest.mark.parametrize("remote", [LINK, PRIVATE, PUBLIC])
def test_loopback_is_told_on_this_machine_alone(remote: Scope) -> None:
    for interface in LO, LAN, None:
        assert "/ip4/127.0.0.1" not in told(remote, interface)


def test_no_listener_takes_all_places() -> None:
    plain = [OwnAddress(parse(f"/ip4/10.0.0.{place}"), LAN, place) for place in range(30)]
    websocket = [OwnAddress(parse(f"/ip4/10.0.0.{place}/tcp/1/ws"), LAN, place) for place in range(30)]
    addresses = select([*plain, *websocket], PRIVATE, LAN)
    assert len(addresses) == MAX_TOLD
    assert addresses[:4] == (plain[0].address, websocket[0].address, plain[1].address, websocket[1].address)


def test_an_address_is_told_once() -> None:
    assert select([OWN[0], OWN[0]], PUBLIC, None) == (OWN[0].address,)


# -- what remotes observe ------------------------------------------------------------------------------

LISTENER, ANOTHER = parse("/ip4/0.0.0.0/tcp/1"), parse("/ip4/0.0.0.0/tcp/2")
SEEN, OTHER = parse("/ip4/1.2.3.4/tcp/1"), parse("/ip4/1.2.3.5/tcp/1")
IP = Multiaddr.parse("/ip4/1.2.3.4")


def reported(*networks: str, observed: Multiaddr = SEEN) -> Observations:
    observations = Observations()
    for network in networks:
        observations.dialed_by(network, LISTENER, observed, network)
    return observations


def test_several_networks_must_agree() -> None:
    observations = reported("a", "b", "c")
    for _ in range(10):
        observations.dialed_by("c", LISTENER, SEEN, object())
    observations.dialed_by("d", LISTENER, OTHER, object())
    assert observations.believed(0) == ()
    observations.dialed_by("e", LISTENER, SEEN, object())
    assert observations.believed(0) == (SEEN,)


def test_the_last_word_of_a_network_counts() -> None:
    observations = reported("a", "b", "c", "d")
    assert observations.believed(0) == (SEEN,)
    observations.dialed_by("a", LISTENER, OTHER, object())
    assert observations.believed(0) == ()


def test_each_listener_has_its_own_reports() -> None:
    observations = reported("a", "b", "c", "d")
    for network in "abcd":
        observations.dialed_by(network, ANOTHER, OTHER, object())
    assert set(observations.believed(0)) == {SEEN, OTHER}


def test_those_of_the_most_networks_come_first() -> None:
    observations = Observations()
    for place in range(MAX_OBSERVED + 5):
        for number in range(OBSERVERS + place):
            observations.dialed_by(f"{place} {number}", LISTENER, parse(f"/ip4/1.2.3.{place}"), object())
    believed = observations.believed(0)
    assert len(believed) == MAX_OBSERVED
    assert believed[0] == parse(f"/ip4/1.2.3.{MAX_OBSERVED + 4}")


def test_reports_are_forgotten_a_while_after_their_connections() -> None:
    observations = reported("a", "b", "c", "d")
    assert observations.connection_closed("a", 100)
    assert not observations.connection_closed("a", 900)
    assert observations.believed(100 + REPORT_LIFETIME - 1) == (SEEN,)
    assert observations.believed(100 + REPORT_LIFETIME) == ()
    observations.dialed_by("a", LISTENER, SEEN, "a")
    assert observations.believed(1e9) == (SEEN,)  # all are connected


def test_reports_are_bounded() -> None:
    observations = reported("a", "b", "c", "d")
    for number in range(10 * MAX_REPORTS):
        observed = parse(f"/ip4/9.{number // 256}.{number % 256}.1")
        observations.dialed_by(str(number), LISTENER, observed, object())
    assert observations.believed(0) == ()
    assert len(observations._reports) == MAX_REPORTS
    assert len(observations.candidates(0)) == MAX_OBSERVED


def test_another_network_is_another_start() -> None:
    observations = reported("a", "b", "c", "d")
    observations.clear()
    assert observations.believed(0) == ()
    assert observations.candidates(0) == ()


# -- what those observe that we have dialed ------------------------------------------------------------


def dialed(*candidates: str | None) -> Observations:
    """Each seen by another network, None: from another port than a listener's."""
    observations = Observations()
    for number, text in enumerate(candidates):
        candidate = parse(text) if text is not None else None
        listener = LISTENER if candidate is not None else None
        observations.dialed_from(str(number), listener, IP, number, candidate=candidate)
    return observations


def test_of_where_we_dial_from_the_ip_address_alone_is_believed() -> None:
    ports = ["/ip4/1.2.3.4/tcp/1"] * OBSERVERS
    assert dialed(*ports).believed(0) == (IP,)
    assert dialed(*ports[1:]).believed(0) == ()


def test_a_network_counts_once_for_an_ip_address_whatever_the_port() -> None:
    observations = Observations()
    for listener in (LISTENER, ANOTHER, None):
        for network in "abc":
            observations.dialed_from(network, listener, IP, object(), candidate=SEEN if listener else None)
    assert observations.believed(0) == ()
    observations.dialed_from("d", None, IP, object())
    assert observations.believed(0) == (IP,)


def test_one_network_makes_a_candidate_those_that_we_have_dialed_before_others_the_newest_first() -> None:
    observations = dialed("/ip4/1.2.3.4/tcp/1", None, "/ip4/1.2.3.4/tcp/3")
    observations.dialed_by("a", LISTENER, OTHER, "a")
    assert [str(one) for one in observations.candidates(0)] == [
        "/ip4/1.2.3.4/tcp/3",
        "/ip4/1.2.3.4/tcp/1",
        str(OTHER),
    ]
    observations.dialed_from("0", LISTENER, IP, 0, candidate=SEEN)
    assert observations.candidates(0)[0] == SEEN
    observations.connection_closed(0, 5)
    assert SEEN not in observations.candidates(5 + REPORT_LIFETIME)
    observations.forget(LISTENER)
    assert observations.candidates(0) == ()


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        ([], None),
        ([None, None], None),
        ([1], None),
        ([1, None], None),
        ([1, 1], NatKind.ENDPOINT_INDEPENDENT),
        ([1, 2], NatKind.ENDPOINT_DEPENDENT),
        ([1, 2, 1], NatKind.ENDPOINT_INDEPENDENT),  # one of them lies
        ([1, 2, 3], NatKind.ENDPOINT_DEPENDENT),
    ],
)
def test_the_kind_of_nat(seen: list[int | None], kind: NatKind | None) -> None:
    observations = dialed(*(None if port is None else f"/ip4/1.2.3.4/tcp/{port}" for port in seen))
    assert observations.nat_kind(0) is kind
    observations.dialed_from("own", None, None, object())
    assert observations.nat_kind(0) is NatKind.NONE
    assert observations.believed(0) == ()


def test_the_ports_of_two_listeners_say_nothing_of_the_kind() -> None:
    observations = dialed("/ip4/1.2.3.4/tcp/1")
    observations.dialed_from("b", ANOTHER, IP, object(), candidate=parse("/ip4/1.2.3.4/tcp/2"))
    assert observations.nat_kind(0) is None


def test_those_who_have_dialed_us_say_nothing_of_the_kind() -> None:
    assert reported("a", "b").nat_kind(0) is None


def test_what_is_forgotten_says_nothing_of_the_kind() -> None:
    observations = dialed("/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/2")
    observations.connection_closed(0, 0)
    assert observations.nat_kind(REPORT_LIFETIME) is None


@pytest.mark.parametrize(
    ("address", "punchable"),
    [
        ("/ip4/1.2.3.4/tcp/1", True),
        ("/ip6/2606:4700::1111/tcp/1", True),
        ("/ip4/127.0.0.1/tcp/1", False),
        ("/ip4/192.168.0.1/tcp/1", False),
        ("/ip4/100.64.0.1/tcp/1", False),
        ("/ip6/::ffff:10.0.0.1/tcp/1", False),
        ("/dns4/host.example/tcp/1", False),  # it may lead anywhere
        ("/ip4/1.2.3.4/tcp/1/ws", False),
        ("/ip4/1.2.3.4/udp/1", False),
        ("/ip4/1.2.3.4", False),
        ("/memory/1", False),
    ],
)
def test_what_a_stranger_may_have_us_dial(address: str, punchable: bool) -> None:
    assert is_punchable(Multiaddr.parse(address)) is punchable

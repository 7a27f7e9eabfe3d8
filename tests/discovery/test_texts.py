from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dns import text

from stronghold_p2p import Keypair, Multiaddr
from stronghold_p2p.discovery.texts import (
    MAX_ANNOUNCED,
    MAX_STRINGS,
    MAX_TEXT,
    announced_addresses,
    encode_text,
    sightings,
    strings,
)
from stronghold_p2p.multiaddr import Ip

BOB, CAROL = (Keypair.generate().peer_id for _ in range(2))
NEIGHBOR = ip_address("192.168.1.7")
LINK_LOCAL = ip_address("fe80::7")


def multiaddrs(*addresses: str) -> tuple[Multiaddr, ...]:
    return tuple(map(Multiaddr.parse, addresses))


def heard(*addresses: str, source: Ip = NEIGHBOR, is_local: bool = False) -> list[str]:
    data = text(*(f"dnsaddr={address}" for address in addresses))
    found = sightings([("bob", data, 120)], source, is_local=is_local)
    assert all(sighting.peer == BOB and sighting.ttl == 120 for sighting in found)
    return [str(sighting.address) for sighting in found]


# -- what we announce --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interface", "expected"),
    [
        (["127.0.0.1", "::1"], ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"]),
        (
            ["192.168.1.2", "fd00::2", "fe80::2"],
            [
                "/ip4/192.168.1.2/tcp/1",
                "/ip6/fd00::2/tcp/1",
                "/ip4/192.168.1.2/tcp/2/ws",
                "/ip4/192.168.1.2/tcp/3/tls/ws",
            ],
        ),
        (["10.0.0.1"], []),
    ],
)
def test_an_interface_announces_its_own_addresses_that_all_can_parse(
    interface: Sequence[str], expected: Sequence[str]
) -> None:
    listening = multiaddrs(
        "/ip4/192.168.1.2/tcp/3/tls/ws",
        "/ip4/192.168.1.2/tcp/2/ws",
        "/ip6/::1/tcp/1",
        "/ip6/fd00::2/tcp/1",
        "/ip4/127.0.0.1/tcp/1",
        "/ip4/192.168.1.2/tcp/1",
        "/ip4/192.168.1.2/memory/1",
        "/ip4/192.168.1.2",
        f"/ip4/192.168.1.2/tcp/1/p2p/{CAROL}/p2p-circuit",
        "/dns4/localhost/tcp/1",
    )
    announced = announced_addresses(listening, list(map(ip_address, interface)))
    assert announced == multiaddrs(*expected)


def test_the_text_is_one_record_that_we_can_read() -> None:
    addresses = multiaddrs("/ip4/192.168.1.2/tcp/1", "/ip6/fd00::2/tcp/1")
    data = encode_text(addresses, BOB)
    assert list(strings(data)) == [f"dnsaddr={address}/p2p/{BOB}".encode() for address in addresses]
    assert [sighting.address for sighting in sightings([("bob", data, 120)], NEIGHBOR, is_local=False)] == list(
        addresses
    )


def test_the_text_has_the_first_addresses_and_is_never_long() -> None:
    short = [Multiaddr.parse(f"/ip4/10.0.0.{number}/tcp/1") for number in range(20)]
    assert len(list(strings(encode_text(short, BOB)))) == MAX_ANNOUNCED
    long = [
        Multiaddr.parse(f"/ip6/2001:db8:1111:2222:3333:4444:5555:{number}/tcp/40000/tls/ws") for number in range(20)
    ]
    data = encode_text(long, BOB)
    assert MAX_TEXT - 140 < len(data) <= MAX_TEXT
    too_long = Multiaddr.parse(f"/ip4/10.0.0.1/tcp/1/tls/sni/{'x' * 200}/ws")
    assert encode_text([too_long, *short], BOB) == encode_text(short, BOB)
    assert encode_text([], BOB) == b""


# -- what others announce ----------------------------------------------------------------------------


def test_what_cannot_be_parsed_is_skipped() -> None:
    good = f"/ip4/192.168.1.7/tcp/1/p2p/{BOB}"
    others = [
        "",
        "/",
        "/ip4",
        "/ip4/300.1.1.1/tcp/1",
        "/unheard/of",
        good.removesuffix(f"/p2p/{BOB}"),
        f"/p2p/{BOB}",
        "☃",
    ]
    data = text("", "dnsaddr", "id=1", *(f"dnsaddr={other}" for other in others), f"DNSADDR2={good}")
    found = sightings([("bob", data + b"\xffcut short", 120)], NEIGHBOR, is_local=False)
    assert [str(sighting.address) for sighting in found] == ["/ip4/192.168.1.7/tcp/1"]
    assert sightings([("bob", b"\x09dnsaddr=\xff", 120)], NEIGHBOR, is_local=False) == []


def test_one_instance_is_one_peer() -> None:
    first = f"/ip4/192.168.1.7/tcp/1/p2p/{BOB}"
    assert heard(first, f"/ip4/192.168.1.8/tcp/1/p2p/{CAROL}") == ["/ip4/192.168.1.7/tcp/1"]


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/127.0.0.1/tcp/1",
        "/ip6/::1/tcp/1",
        "/ip6/::ffff:127.0.0.1/tcp/1",
        "/ip6/fe80::7/tcp/1",
        "/ip4/224.0.0.251/tcp/1",
        "/ip6/::/tcp/1",
        "/dns4/example.com/tcp/1",
        "/dnsaddr/example.com",
        f"/ip4/192.168.1.7/tcp/1/p2p/{CAROL}/p2p-circuit",
        "/ip4/10.0.0.1/tcp/1" + 7 * "/ws",
        "/unix/tmp/socket",
    ],
    ids=lambda address: address[:20],
)
def test_what_cannot_be_dialed_from_here_is_skipped(address: str) -> None:
    assert heard(f"{address}/p2p/{BOB}" if "unix" not in address else address) == []


@pytest.mark.parametrize(
    "address", ["/ip4/192.168.1.7/tcp/1", "/ip6/2001:db8::7/udp/1/quic-v1", "/ip4/10.0.0.1/tcp/1/ws"]
)
def test_any_other_address_is_taken(address: str) -> None:
    assert heard(f"{address}/p2p/{BOB}") == [address]


def test_a_loopback_address_of_this_machine_is_taken() -> None:
    assert heard(f"/ip4/127.0.0.1/tcp/1/p2p/{BOB}", is_local=True) == ["/ip4/127.0.0.1/tcp/1"]


def test_a_wildcard_is_the_senders_address() -> None:
    wildcards = f"/ip4/0.0.0.0/tcp/1/p2p/{BOB}", f"/ip6/::/tcp/1/p2p/{BOB}"
    assert heard(*wildcards) == ["/ip4/192.168.1.7/tcp/1"]
    assert heard(*wildcards, source=ip_address("fd00::7")) == ["/ip6/fd00::7/tcp/1"]
    assert heard(*wildcards, source=LINK_LOCAL) == []


def test_no_packet_has_us_parse_many_strings() -> None:
    found = heard(*(f"/ip4/10.0.0.1/tcp/{port + 1}/p2p/{BOB}" for port in range(2 * MAX_STRINGS)))
    assert len(found) == MAX_STRINGS
    junk = text(*["x"] * MAX_STRINGS)
    assert (
        sightings(
            [("a", junk, 1), ("bob", text(f"dnsaddr=/ip4/10.0.0.1/tcp/1/p2p/{BOB}"), 1)], NEIGHBOR, is_local=False
        )
        == []
    )


@given(st.lists(st.binary(max_size=300), max_size=5), st.sampled_from([NEIGHBOR, LINK_LOCAL]), st.booleans())
def test_no_data_raises(data: list[bytes], source: Ip, is_local: bool) -> None:
    assert sightings([("x", each, 1) for each in data], source, is_local=is_local) == []


@given(
    st.lists(
        st.sampled_from(["ip4", "ip6", "0.0.0.0", "::", "10.0.0.1", "tcp", "1", "p2p", str(BOB), "ws"]), max_size=4
    )
)
def test_no_address_raises(parts: list[str]) -> None:
    for sighting in sightings([("x", text("dnsaddr=/" + "/".join(parts)), 1)], LINK_LOCAL, is_local=False):
        assert sighting.address.peer_id is None

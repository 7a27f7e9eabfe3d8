"""What Linux says of links and addresses, and what is none of it."""

from __future__ import annotations

import errno
import socket
import struct
import sys
from ipaddress import ip_address

import ifaddr
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p.transport import interfaces, netlink

needs_netlink = pytest.mark.skipif(sys.platform != "linux", reason="netlink is Linux's")

RUNNING = {7}
IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO, IFA_FLAGS = 1, 2, 6, 8


def message(payload: bytes, kind: int = 20, sequence: int = 1) -> bytes:
    whole = struct.pack("=IHHII", 16 + len(payload), kind, 0, sequence, 0) + payload
    return whole + bytes(-len(whole) % 4)


def attribute(kind: int, value: bytes) -> bytes:
    whole = struct.pack("=HH", 4 + len(value), kind) + value
    return whole + bytes(-len(whole) % 4)


def address(*attributes: bytes, family: int = socket.AF_INET, flags: int = 0, interface: int = 7) -> bytes:
    return struct.pack("=BBBBI", family, 24, flags, 0, interface) + b"".join(attributes)


def packed(text: str) -> bytes:
    return ip_address(text).packed


@needs_netlink
def test_the_addresses_of_this_machine() -> None:
    told = {(ip, prefix) for ip, _, _, prefix in netlink.addresses()}
    listed = {
        (ip_address(one.ip if isinstance(one.ip, str) else one.ip[0]), one.network_prefix)
        for adapter in ifaddr.get_adapters()
        for one in adapter.ips
    }
    assert told == listed


@needs_netlink
def test_an_answer_that_does_not_fit_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "READ_SIZE", 100)
    with pytest.raises(OSError, match="a datagram of more than 100 bytes") as caught:
        netlink.addresses()
    assert caught.value.errno == errno.EBADMSG


def test_one_address() -> None:
    payload = address(attribute(IFA_ADDRESS, packed("192.0.2.1")), attribute(IFA_CACHEINFO, bytes(16)))
    assert netlink.parse_address(payload, RUNNING) == (ip_address("192.0.2.1"), 7, True, 24)
    assert netlink.parse_address(payload, {6}) == (ip_address("192.0.2.1"), 7, False, 24)


def test_a_tunnel_has_the_other_ends_address_beside_its_own() -> None:
    own, other = attribute(IFA_LOCAL, packed("fd00::1")), attribute(IFA_ADDRESS, packed("fd00::2"))
    for attributes in (own, other), (other, own):
        told = netlink.parse_address(address(*attributes, family=socket.AF_INET6), RUNNING)
        assert told == (ip_address("fd00::1"), 7, True, 24)


@pytest.mark.parametrize(
    ("flags", "usable"), [(0x40, False), (0x08, False), (0x20, False), (0x01, True), (0x80, True), (0x300, True)]
)
def test_an_address_that_is_tentative_or_deprecated_is_not_usable(flags: int, usable: bool) -> None:
    ip = attribute(IFA_ADDRESS, packed("fd00::1"))
    in_attribute = address(ip, attribute(IFA_FLAGS, struct.pack("=I", flags)), family=socket.AF_INET6)
    in_header = address(ip, flags=flags & 0xFF, family=socket.AF_INET6)
    for payload in in_attribute, in_header:
        told = netlink.parse_address(payload, RUNNING)
        assert told is not None
        assert told[2] is usable


def test_other_families_are_passed_over() -> None:
    assert netlink.parse_address(address(family=socket.AF_UNIX), RUNNING) is None


def test_a_datagram_is_several_messages() -> None:
    data = message(b"abcde") + message(b"", 3, 2)
    assert list(netlink.parse_messages(data)) == [(20, 1, b"abcde"), (3, 2, b"")]
    assert list(netlink.parse_messages(b"")) == []


@pytest.mark.parametrize(
    "malformed",
    [
        message(b"abcd")[:15],
        message(b"abcd")[:19],
        struct.pack("=IHHII", 15, 20, 0, 1, 0),
        struct.pack("=IHHII", 0, 20, 0, 1, 0),
        struct.pack("=IHHII", 2**32 - 1, 20, 0, 1, 0),
    ],
)
def test_messages_that_are_cut_short(malformed: bytes) -> None:
    with pytest.raises(OSError, match="netlink answers with") as caught:
        list(netlink.parse_messages(malformed))
    assert caught.value.errno == errno.EBADMSG


@pytest.mark.parametrize(
    "malformed",
    [
        b"",
        address()[:7],
        address(),
        address(attribute(IFA_ADDRESS, packed("192.0.2.1"))[:-1]),
        address(attribute(IFA_ADDRESS, packed("192.0.2.1"))[:3]),
        address(attribute(IFA_ADDRESS, packed("fd00::1"))),
        address(struct.pack("=HH", 0, IFA_ADDRESS)),
        address(struct.pack("=HH", 65535, IFA_ADDRESS)),
    ],
)
def test_addresses_that_are_none(malformed: bytes) -> None:
    with pytest.raises(OSError, match="netlink answers with") as caught:
        netlink.parse_address(malformed, RUNNING)
    assert caught.value.errno == errno.EBADMSG


@given(st.binary(max_size=64))
def test_whatever_comes_is_no_other_error(data: bytes) -> None:
    try:
        for _, _, payload in netlink.parse_messages(data):
            netlink.parse_address(payload, RUNNING)
    except OSError:
        pass
    try:
        netlink.parse_address(address(data), RUNNING)
    except OSError:
        pass


def test_where_netlink_is_refused_the_library_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> list[netlink.AddressFacts]:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    def adapters() -> list[ifaddr.Adapter]:
        ips = [ifaddr.IP(ip, 24, "one") for ip in ("192.0.2.1", ("fd00::1", 0, 0), ("fe80::1", 0, 7))]
        return [ifaddr.Adapter("one", "one", ips, index=7)]

    monkeypatch.setattr(netlink, "addresses", refuse)
    monkeypatch.setattr(ifaddr, "get_adapters", adapters)
    assert interfaces.list_addresses() == [(ip_address("192.0.2.1"), 7, True, 24), (ip_address("fd00::1"), 7, True, 24)]


def test_the_networks_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = [(ip_address("192.0.2.1"), 7, True, 24), (ip_address("fd00::1"), 7, False, 64)]
    monkeypatch.setattr(netlink, "addresses", lambda: facts)
    assert list(map(str, interfaces.list_networks())) == ["192.0.2.0/24", "fd00::/64"]
    assert str(interfaces.InterfaceAddress(ip_address("192.0.2.1"), 7).network) == "192.0.2.1/32"


def test_no_networks_where_nothing_tells_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> list[object]:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(netlink, "addresses", refuse)
    monkeypatch.setattr(ifaddr, "get_adapters", refuse)
    assert interfaces.list_networks() == []

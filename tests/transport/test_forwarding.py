"""For whom a trusted proxy forwards a connection."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from stronghold_p2p.errors import WebSocketError
from stronghold_p2p.transport.forwarding import client_of, is_trusted, parse_networks

TRUSTED = parse_networks(["10.0.0.0/8", "192.0.2.1", "2001:db8:1::/48"])


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7:4711"], "203.0.113.7"),
        (["2001:db8::7"], "2001:db8::7"),
        (["[2001:db8::7]:4711"], "2001:db8::7"),
        (["::ffff:203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1", "203.0.113.7 , 10.0.0.2"], "203.0.113.7"),
        (["203.0.113.7,10.0.0.2,192.0.2.1,2001:db8:1::9"], "203.0.113.7"),
        (["nobody's word, 203.0.113.7"], "203.0.113.7"),
        (["10.1.2.3, 10.0.0.2"], "10.1.2.3"),
    ],
)
def test_the_last_that_is_not_trusted(values: list[str], client: str) -> None:
    assert client_of(values, [], TRUSTED) == ip_address(client)


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["for=203.0.113.7"], "203.0.113.7"),
        (["For=203.0.113.7:4711;proto=https;by=10.0.0.2"], "203.0.113.7"),
        (['proto=http; for="[2001:db8::7]:4711"'], "2001:db8::7"),
        (["for=198.51.100.1", "for=203.0.113.7, for=10.0.0.2"], "203.0.113.7"),
        (["for=unknown, for=203.0.113.7"], "203.0.113.7"),
        (['for=203.0.113.7;host="x, for=198.51.100.1;y=z"'], "203.0.113.7"),
        (['for=203.0.113.7;host="\\", for=198.51.100.1"'], "203.0.113.7"),
    ],
)
def test_forwarded(values: list[str], client: str) -> None:
    assert client_of([], values, TRUSTED) == ip_address(client)


def test_both_headers() -> None:
    assert client_of(["203.0.113.7"], ["for=203.0.113.7"], TRUSTED) == ip_address("203.0.113.7")
    with pytest.raises(WebSocketError, match="got two"):
        client_of(["203.0.113.7"], ["for=198.51.100.1"], TRUSTED)
    with pytest.raises(WebSocketError, match="got neither"):
        client_of([], [], TRUSTED)


@pytest.mark.parametrize(
    "node",
    [
        "",
        "unknown",
        "_hidden",
        "203.0.113",
        "203.0.113.7:x",
        "203.0.113.7, ",
        "fe80::1%eth0",
        "[::1",
        "1.2.3.4/8",
        "x" * 9000,
    ],
)
def test_what_is_no_address(node: str) -> None:
    with pytest.raises(WebSocketError, match="expected the client's IP address"):
        client_of([node], [], TRUSTED)


@pytest.mark.parametrize(
    "value", ["for", 'for="203.0.113.7', "for=a b", "=", 'for="a"b', "for=203.0.113.7,,for=10.0.0.2"]
)
def test_what_is_not_forwarded_at_all(value: str) -> None:
    with pytest.raises(WebSocketError, match="Forwarded as in RFC 7239"):
        client_of([], [value], TRUSTED)


@pytest.mark.parametrize(
    "value", ["for=", "for=unknown", "proto=https", "for=203.0.113.7,", "for=203.0.113.7, proto=https"]
)
def test_a_proxy_that_does_not_say_for_whom(value: str) -> None:
    with pytest.raises(WebSocketError, match="expected the client's IP address"):
        client_of([], [value], TRUSTED)


def test_networks() -> None:
    assert is_trusted(ip_address("10.255.0.1"), TRUSTED)
    assert is_trusted(ip_address("192.0.2.1"), TRUSTED)
    assert not is_trusted(ip_address("192.0.2.2"), TRUSTED)
    assert not is_trusted(ip_address("::1"), TRUSTED)
    with pytest.raises(ValueError, match="host bits"):
        parse_networks(["10.0.0.1/8"])

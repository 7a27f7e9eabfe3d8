"""The search for a UPnP router, as the UPnP Device Architecture 1.1 has it."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p.port_mapping.ssdp import KINDS, encode_search, find_location, is_at

GATEWAY = IPv4Address("192.168.1.1")
URL = "http://192.168.1.1:5000/rootDesc.xml"

ANSWER = (
    "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: {kind}\r\nUSN: uuid:1::{kind}\r\nEXT:\r\n"
    "SERVER: x/1 UPnP/1.1\r\nLocation: {url}\r\n\r\n"
)


def answer(url: str = URL, kind: str = KINDS[0]) -> bytes:
    return ANSWER.format(url=url, kind=kind).encode()


def test_a_search() -> None:
    assert encode_search(KINDS[0], "239.255.255.250", 1900) == (
        b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\n'
        b"ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
    )


def test_an_answer() -> None:
    assert find_location(answer(), GATEWAY) == URL
    assert find_location(answer(kind=KINDS[1]), GATEWAY) == URL


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\0",
        answer(kind="urn:schemas-upnp-org:device:MediaServer:1"),
        answer().replace(b"200 OK", b"404 Not Found"),
        answer().replace(b"HTTP/1.1 200 OK", b"NOTIFY * HTTP/1.1"),
        answer().replace(b"Location", b"Place"),
    ],
)
def test_what_is_no_answer(data: bytes) -> None:
    assert find_location(data, GATEWAY) is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://192.168.1.2:5000/",
        "https://192.168.1.1/",
        "file:///etc/passwd",
        "http://192.168.1.1.example.com/",
        "http://192.168.1.1@example.com/",
        "http://me@192.168.1.1/",
        "http://router/",
        "http://[fe80::1]/",
        "http://[192.168.1.1/",
        "http://192.168.1.1:70000/",
        "http://192.168.1.1/\N{LATIN SMALL LETTER E WITH ACUTE}",
        "http://192.168.1.1/a b",
        "http://192.168.1.1/\0",
        "http://192.168.1.1/" + "a" * 500,
    ],
)
def test_other_places_than_the_router(url: str) -> None:
    assert not is_at(url, GATEWAY)
    assert find_location(answer(url), GATEWAY) is None


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    find_location(data, GATEWAY)
    find_location(answer().replace(b"5000", data), GATEWAY)

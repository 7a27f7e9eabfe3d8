from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p.errors import DecodeError, InvalidAddress
from stronghold_p2p.identity import PeerId
from stronghold_p2p.multiaddr import CIRCUIT, Multiaddr, readable

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "multiaddr.json").read_text())

ALICE = PeerId.parse("12D3KooWCryG7Mon9orvQxcS1rYZjotPgpwoJNHHKcLLfE4Hf5mV")
RELAY = PeerId.parse("QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC")


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: vector["text"])
def test_valid_vectors(vector: dict[str, Any]) -> None:
    address = Multiaddr.parse(vector["text"])
    assert address.to_bytes().hex() == vector["bytes_hex"]
    assert str(address) == vector["canonical"]
    assert Multiaddr.from_bytes(bytes.fromhex(vector["bytes_hex"])) == address


@pytest.mark.parametrize("vector", VECTORS["invalid_text"], ids=lambda vector: vector["text"] or "empty")
def test_invalid_text_vectors(vector: dict[str, Any]) -> None:
    with pytest.raises(InvalidAddress) as raised:
        Multiaddr.parse(vector["text"])
    assert raised.value.address == vector["text"]


@pytest.mark.parametrize("vector", VECTORS["invalid_bytes_hex"], ids=lambda vector: vector["bytes_hex"] or "empty")
def test_invalid_bytes_vectors(vector: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        Multiaddr.from_bytes(bytes.fromhex(vector["bytes_hex"]))


@pytest.mark.parametrize("vector", VECTORS["implementations_differ"], ids=lambda vector: vector["text"])
def test_go_is_followed_where_implementations_differ(vector: dict[str, Any]) -> None:
    expected = vector["bytes_hex"]["go"]
    if expected is None:
        with pytest.raises(InvalidAddress):
            Multiaddr.parse(vector["text"])
    else:
        address = Multiaddr.parse(vector["text"])
        assert address.to_bytes().hex() == expected
        assert Multiaddr.parse(str(address)) == address


@pytest.mark.parametrize("name", VECTORS["protocols"])
def test_protocol_codes(name: str) -> None:
    text = {"ip4": "1.2.3.4", "ip6": "::1", "p2p": str(ALICE), "unix": "a"}.get(name, "1")
    protocol = VECTORS["protocols"][name]
    address = Multiaddr.parse(f"/{name}" if protocol["size"] == 0 else f"/{name}/{text}")
    assert address.to_bytes().hex().startswith(protocol["code_uvarint_hex"])


def test_components() -> None:
    assert tuple(Multiaddr.parse("/dns4/example.com/tcp/443/tls/ws")) == (
        ("dns4", "example.com"),
        ("tcp", "443"),
        ("tls", None),
        ("ws", None),
    )
    assert Multiaddr.parse("/ip6/0:0::1/tcp/007").components == (("ip6", "::1"), ("tcp", "7"))
    assert Multiaddr.parse("/unix/tmp/socket/").components == (("unix", "/tmp/socket"),)


def test_an_address_that_others_announce() -> None:
    text = "/ip4/1.2.3.4/udp/9/quic-v1/webtransport/certhash/uEiAkH5a4DPGKUuOBjYw0CgwjvcJCJMD2K_1aluKR_tpevQ"
    assert str(Multiaddr.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "peer_id"),
    [
        ("/ip4/127.0.0.1/tcp/1", None),
        (f"/ip4/127.0.0.1/tcp/1/p2p/{ALICE}", ALICE),
        (f"/p2p/{ALICE}", ALICE),
        (f"/ip4/127.0.0.1/tcp/1/p2p/{RELAY}/p2p-circuit", None),
        (f"/ip4/127.0.0.1/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{ALICE}", ALICE),
    ],
)
def test_the_peer_is_the_one_at_the_end(text: str, peer_id: PeerId | None) -> None:
    address = Multiaddr.parse(text)
    assert address.peer_id == peer_id
    head = text.removesuffix(f"/p2p/{ALICE}")
    assert str(address.with_peer(RELAY)) == f"{head}/p2p/{RELAY}"
    if head:
        assert str(address.without_peer()) == head


@pytest.mark.parametrize(
    ("text", "relay"),
    [
        ("/ip4/127.0.0.1/tcp/1", None),
        (f"/ip4/127.0.0.1/tcp/1/p2p/{RELAY}/p2p-circuit", RELAY),
        (f"/p2p/{RELAY}/p2p-circuit/p2p/{ALICE}", RELAY),
        (f"/p2p/{RELAY}/p2p-circuit/tcp/1", None),
        (f"/ip4/127.0.0.1/tcp/1/p2p-circuit/p2p/{ALICE}", None),
        ("/p2p-circuit", None),
        (f"/p2p-circuit/p2p/{ALICE}", None),
    ],
)
def test_the_relay_of_an_address(text: str, relay: PeerId | None) -> None:
    assert Multiaddr.parse(text).relay == relay


def test_nothing_stands_behind_the_path_of_a_socket() -> None:
    path = Multiaddr.parse("/unix/tmp/socket")
    with pytest.raises(InvalidAddress, match="unix is not the last protocol"):
        path.with_peer(ALICE)
    with pytest.raises(InvalidAddress, match="unix is not the last protocol"):
        path.encapsulate(CIRCUIT)
    assert list(readable([path.to_bytes(), CIRCUIT.to_bytes()])) == [CIRCUIT]


def test_nothing_but_a_peer() -> None:
    with pytest.raises(InvalidAddress, match="a peer id alone"):
        Multiaddr.parse(f"/p2p/{ALICE}").without_peer()


def test_equality_is_that_of_the_bytes() -> None:
    address = Multiaddr.parse("/ip4/127.0.0.1/tcp/1234")
    assert len({address, Multiaddr.parse("/ip4/127.0.0.1/tcp/1234/"), Multiaddr.from_bytes(bytes(address))}) == 1
    assert address != Multiaddr.parse("/ip4/127.0.0.1/tcp/1235")
    assert address != str(address)
    assert pickle.loads(pickle.dumps(address)) == address
    assert repr(address) == "Multiaddr('/ip4/127.0.0.1/tcp/1234')"


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/127.0.0.1/tcp/+1",
        "/ip4/127.0.0.1/tcp/1 ",
        "/ip4/127.0.0.1/tcp/" + "9" * 10_000,
        "/ip4/127.0.0.1/tcp/\u0661",
        "/ip4/127.0.0.01",
        "/ip6/fe80::1%eth0",
        "/dns4//tcp/1",
        "/dns4/a\nb",
        "/dns4/\ud800",
        "/unix/\x1b[2J",
        "/p2p/" + "1" * 10_000,
        "/certhash/",
        "ip4/127.0.0.1",
        "//ip4/127.0.0.1",
    ],
)
def test_malformed_text(text: str) -> None:
    with pytest.raises(InvalidAddress):
        Multiaddr.parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("/ipv4/127.0.0.1/tcp/1", "where ip4, ip6, dns, tcp, ws or p2p could stand"),
        (
            "/p2p/12D3KooWRRyooRcDcrSCjR5cGBYRzUBbENWbvp2JY2atYtq45dh",
            "is not a peer id: cut short, too long, or mistyped",
        ),
    ],
)
def test_what_is_mistyped(text: str, reason: str) -> None:
    with pytest.raises(InvalidAddress, match=reason):
        Multiaddr.parse(text)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x36\x02\xff\xfe", "utf-8"),
        (b"\x36\x03a\x1bb", "not a name"),
        (b"\x36\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + b"a", "cut short"),
    ],
)
def test_malformed_bytes(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        Multiaddr.from_bytes(data)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_address_or_one_error(data: bytes) -> None:
    try:
        address = Multiaddr.from_bytes(data)
    except DecodeError:
        return
    assert address.to_bytes() == data
    assert Multiaddr.parse(str(address)) == address


NAMES = st.sampled_from([*VECTORS["protocols"], "ipfs", "certhash", "x", ""])
VALUES = st.one_of(
    st.integers(-1, 70_000).map(str), st.ip_addresses().map(str), st.text(max_size=8), st.just(str(ALICE))
)


@given(st.lists(st.one_of(NAMES, VALUES), max_size=6).map(lambda parts: "/" + "/".join(parts)))
def test_any_text_is_an_address_or_one_error(text: str) -> None:
    try:
        address = Multiaddr.parse(text)
    except InvalidAddress:
        return
    assert Multiaddr.parse(str(address)) == address
    assert Multiaddr.from_bytes(address.to_bytes()) == address

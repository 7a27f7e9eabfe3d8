from __future__ import annotations

import asyncio
from importlib import metadata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p.encoding import messages, varint
from stronghold_p2p.errors import DecodeError
from stronghold_p2p.identity import Keypair
from stronghold_p2p.multiaddr import Multiaddr
from stronghold_p2p.protocols.identify import message as identify
from stronghold_p2p.protocols.identify.records import Records
from stronghold_p2p.wire.envelope import MAX_ADDRESSES, PeerRecord, seal

Streams = tuple[Any, Any]

KEY = Keypair.generate()
PEER = KEY.peer_id
OTHER = Keypair.generate()
ADDRESS = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001")
OBSERVED = Multiaddr.parse("/ip4/192.0.2.9/tcp/50000")
DNS = Multiaddr.parse("/dns4/example.com/tcp/443/wss")


def framed(*identities: messages.Identify) -> bytes:
    encoded = [identity.SerializeToString() for identity in identities]
    return b"".join(varint.encode(len(identity)) + identity for identity in encoded)


def encode(
    protocols: list[str] | None = None, addresses: list[Multiaddr] | None = None, keypair: Keypair = KEY
) -> bytes:
    listen_addresses = (ADDRESS, DNS) if addresses is None else tuple(addresses)
    return identify.encode(
        keypair.public_key,
        protocols=["/a", "/b"] if protocols is None else protocols,
        listen_addresses=listen_addresses,
        record=Records().record_for(PEER, listen_addresses, keypair),
        observed_address=OBSERVED,
    )


def own_message(data: bytes) -> messages.Identify:
    head = varint.decode(data)
    assert head is not None
    size, start = head
    assert len(data) == start + size
    return messages.Identify.FromString(data[start:])


def test_names() -> None:
    assert identify.PROTOCOL == "/ipfs/id/1.0.0"
    assert identify.PUSH_PROTOCOL == "/ipfs/id/push/1.0.0"
    assert identify.AGENT_VERSION == f"stronghold-p2p-py/{metadata.version('stronghold-p2p')}"


@pytest.mark.parametrize(
    ("agent_version", "own"),
    [
        (identify.AGENT_VERSION, True),
        ("stronghold-p2p-py/99.0.0+local", True),
        ("stronghold-p2p-pyramid/1", False),
        ("go-libp2p/0.51 stronghold-p2p-py/1", False),
        ("", False),
    ],
)
def test_is_own_agent(agent_version: str, own: bool) -> None:
    assert identify.is_own_agent(agent_version) is own


# -- both ends -----------------------------------------------------------------------------------------


async def test_identify(streams: Streams, keys: tuple[Keypair, Keypair]) -> None:
    dialer, listener = streams
    server = asyncio.create_task(identify.serve(listener, encode(keypair=keys[1])))
    identity = await identify.read(dialer)
    await server
    assert identity.protocol_version == identify.PROTOCOL_VERSION
    assert identity.agent_version == identify.AGENT_VERSION
    assert identity.protocols == ("/a", "/b")
    assert identity.listen_addresses == (ADDRESS, DNS)
    assert identity.observed_address == OBSERVED
    assert identity.record is not None
    assert identity.record.peer_id == keys[1].peer_id
    assert identity.record.addresses == (ADDRESS, DNS)


async def test_push(streams: Streams, keys: tuple[Keypair, Keypair]) -> None:
    dialer, listener = streams
    client = asyncio.create_task(identify.serve(dialer, encode(keypair=keys[0])))
    assert (await identify.read(listener)).protocols == ("/a", "/b")
    await client
    assert dialer.calls == ["negotiated", "write", "fin"]


# -- what we send --------------------------------------------------------------------------------------


def test_fields() -> None:
    message = own_message(encode())
    assert message.publicKey == KEY.public_key.to_protobuf()
    assert list(message.listenAddrs) == [bytes(ADDRESS), bytes(DNS)]
    assert list(message.protocols) == ["/a", "/b"]
    assert message.observedAddr == bytes(OBSERVED)
    assert message.protocolVersion == identify.PROTOCOL_VERSION
    assert message.agentVersion == identify.AGENT_VERSION
    assert PeerRecord.open(message.signedPeerRecord).peer_id == PEER


def test_field_numbers() -> None:
    fields = messages.Identify.DESCRIPTOR.fields_by_name
    assert {name: field.number for name, field in fields.items()} == {
        "publicKey": 1,
        "listenAddrs": 2,
        "protocols": 3,
        "observedAddr": 4,
        "protocolVersion": 5,
        "agentVersion": 6,
        "signedPeerRecord": 8,
    }


def test_a_later_record_is_newer() -> None:
    first, second = (PeerRecord.open(own_message(encode()).signedPeerRecord) for _ in range(2))
    assert first.seq < second.seq


def test_without_addresses_there_is_no_record() -> None:
    assert not own_message(encode(addresses=[])).HasField("signedPeerRecord")


def addresses(count: int) -> list[Multiaddr]:
    return [Multiaddr.parse(f"/dns4/host-{number:03}.example.com/tcp/4001") for number in range(count)]


def test_the_record_is_left_out_first() -> None:
    message = own_message(encode(addresses=addresses(100)))
    assert not message.HasField("signedPeerRecord")
    assert len(message.listenAddrs) == 100
    assert list(message.protocols) == ["/a", "/b"]


def test_then_the_last_addresses_are() -> None:
    many = addresses(200)
    message = own_message(encode(addresses=many))
    assert 100 < len(message.listenAddrs) < 200
    assert list(message.listenAddrs) == [bytes(address) for address in many[: len(message.listenAddrs)]]
    assert list(message.protocols) == ["/a", "/b"]
    assert 4000 < message.ByteSize() <= 4096


def test_then_the_last_protocols_are() -> None:
    protocols = [f"/protocol/{number:04}" for number in range(400)]
    message = own_message(encode(protocols))
    assert not message.listenAddrs
    assert list(message.protocols) == protocols[: len(message.protocols)]
    assert 4000 < message.ByteSize() <= 4096


# -- what others send ----------------------------------------------------------------------------------


def test_the_record_in_a_message_of_its_own() -> None:
    message = own_message(encode())
    record = messages.Identify(signedPeerRecord=message.signedPeerRecord)
    message.ClearField("signedPeerRecord")
    assert identify.decode(framed(message, record), PEER).record is not None


def test_lists_of_several_messages_are_one_and_the_last_text_counts() -> None:
    parts = [
        messages.Identify(protocols=["/a"], listenAddrs=[bytes(ADDRESS)], agentVersion="one"),
        messages.Identify(protocols=["/b", "/a"], listenAddrs=[bytes(DNS)], agentVersion="two"),
    ]
    identity = identify.decode(framed(*parts), PEER)
    assert identity.protocols == ("/a", "/b")
    assert identity.listen_addresses == (ADDRESS, DNS)
    assert identity.agent_version == "two"


def test_ten_messages_are_taken() -> None:
    parts = [messages.Identify(protocols=[f"/{number}" + "a" * 900]) for number in range(10)]
    assert len(identify.decode(framed(*parts), PEER).protocols) == 10


def test_a_message_of_8192_bytes_is_taken() -> None:
    message = messages.Identify(protocols=["/a", "-" * 8185])
    assert message.ByteSize() == 8192
    assert identify.decode(framed(message), PEER).protocols == ("/a",)


def test_a_push_without_a_key() -> None:
    assert identify.decode(framed(messages.Identify(protocols=["/a"])), PEER).protocols == ("/a",)


def test_an_empty_message() -> None:
    assert identify.decode(b"\0", PEER) == identify.Identity(PEER, "", "", (), (), None, b"")


def test_unknown_fields_are_ignored() -> None:
    assert identify.decode(b"\x06" + b"\x1a\x02/a" + b"\x48\x01", PEER).protocols == ("/a",)


def test_addresses_of_unknown_protocols_are_left_out() -> None:
    message = messages.Identify(listenAddrs=[b"\xff" * 8, bytes(ADDRESS), b""], observedAddr=b"\xff")
    identity = identify.decode(framed(message), PEER)
    assert identity.listen_addresses == (ADDRESS,)
    assert identity.observed_address is None


def test_addresses_of_other_peers_are_left_out() -> None:
    relayed = Multiaddr.parse(f"{ADDRESS}/p2p/{OTHER.peer_id}/p2p-circuit")
    own = [ADDRESS.with_peer(PEER), relayed, relayed.with_peer(PEER)]
    foreign = [ADDRESS.with_peer(OTHER.peer_id), relayed.with_peer(OTHER.peer_id)]
    message = messages.Identify(listenAddrs=map(bytes, [*own, *foreign]))
    assert identify.decode(framed(message), PEER).listen_addresses == tuple(own)


def record(keypair: Keypair = KEY) -> bytes:
    return PeerRecord(peer_id=keypair.peer_id, seq=1, addresses=(DNS,)).seal(keypair)


def test_addresses_of_the_record_count_if_there_are_no_others() -> None:
    message = messages.Identify(signedPeerRecord=record())
    assert identify.decode(framed(message), PEER).listen_addresses == (DNS,)
    message.listenAddrs.append(bytes(ADDRESS.with_peer(OTHER.peer_id)))
    assert identify.decode(framed(message), PEER).listen_addresses == (DNS,)
    message.listenAddrs.append(bytes(ADDRESS))
    assert identify.decode(framed(message), PEER).listen_addresses == (ADDRESS,)


def test_addresses_without_end_or_without_a_place_are_left_out() -> None:
    endless = Multiaddr.parse("/ip4/127.0.0.1/tcp/1" + "/ws" * 300)
    nowhere = Multiaddr.parse(f"/p2p/{PEER}")
    message = messages.Identify(listenAddrs=map(bytes, [endless, nowhere, ADDRESS]))
    assert identify.decode(framed(message), PEER).listen_addresses == (ADDRESS,)
    long_record = PeerRecord(peer_id=PEER, seq=1, addresses=(endless, DNS)).seal(KEY)
    message = messages.Identify(signedPeerRecord=long_record)
    assert identify.decode(framed(message), PEER).listen_addresses == (DNS,)


rust_record = seal(
    KEY,
    "libp2p-routing-state",
    b"/libp2p/routing-state-record",
    messages.PeerRecord(peer_id=PEER.to_bytes(), seq=1, addresses=[]).SerializeToString(),
)


@pytest.mark.parametrize(
    "envelope",
    [rust_record, record(OTHER), record()[:-1], record()[:-1] + bytes([record()[-1] ^ 1]), b"", b"\xff"],
    ids=["of rust-libp2p", "of another peer", "cut short", "tampered with", "empty", "malformed"],
)
def test_a_record_that_does_not_verify_is_ignored(envelope: bytes) -> None:
    message = messages.Identify(listenAddrs=[bytes(ADDRESS)], signedPeerRecord=envelope, protocols=["/a"])
    identity = identify.decode(framed(message), PEER)
    assert identity.record is None
    assert identity.listen_addresses == (ADDRESS,)
    assert identity.protocols == ("/a",)


# -- bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ended in the middle"),
        (b"\x80", "ended in the middle"),
        (encode()[:-1], "ended in the middle"),
        (encode() + b"\x05", "ended in the middle"),
        (b"\x81\x40" + bytes(8193), "8193 bytes is over the limit"),
        (b"\xff" * 8 + b"\x7f", "over the limit"),
        (b"\x80\x00", "minimal"),
        (b"\xff" * 10, "longer than 9 bytes"),
        (b"\x00" * 11, "more than 10 messages"),
        (b"\x02\x0a\x05", "not a protobuf"),
        (b"\x03\x1a\x01\xff", "not a protobuf"),
        (framed(messages.Identify(publicKey=OTHER.public_key.to_protobuf())), "key of another peer"),
        (framed(messages.Identify(publicKey=b"\x08\x01")), "identity"),
        (framed(messages.Identify(publicKey=b"")), "identity"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # keys are random: no two workers would agree on bytes
)
def test_bad_input(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        identify.decode(data, PEER)


async def test_what_is_too_much_is_not_read_to_its_end(streams: Streams) -> None:
    dialer, listener = streams

    async def flood() -> None:
        while True:
            await listener.write(bytes(65_536))

    remote = asyncio.create_task(flood())
    with pytest.raises(DecodeError, match="more than 10 messages"):
        await identify.read(dialer)
    remote.cancel()
    assert dialer.read_size < 200_000


def test_a_remote_fills_no_more_than_our_limits() -> None:
    parts = [
        messages.Identify(
            protocols=[f"/{part}/{number}" for number in range(500)],
            listenAddrs=[bytes(Multiaddr.parse(f"/ip4/192.0.2.{part}/tcp/{number}")) for number in range(1, 200)],
            agentVersion="a" * 1000,
            protocolVersion="p" * 1000,
        )
        for part in range(10)
    ]
    identity = identify.decode(framed(*parts), PEER)
    assert len(identity.protocols) == identify.MAX_PROTOCOLS
    assert len(identity.listen_addresses) == MAX_ADDRESSES
    assert len(identity.agent_version) == len(identity.protocol_version) == identify.MAX_TEXT


def test_nothing_that_a_terminal_would_obey() -> None:
    message = messages.Identify(
        agentVersion="go\x1b[2J\n", protocolVersion="\a/x", protocols=["/a\n", "/b\x1b", "c", "", "/" * 1024, "/ok"]
    )
    identity = identify.decode(framed(message), PEER)
    assert identity.agent_version == "go[2J"
    assert identity.protocol_version == "/x"
    assert identity.protocols == ("/ok",)


@given(data=st.binary(max_size=300))
def test_any_bytes_decode_or_are_a_decode_error(data: bytes) -> None:
    for encoded in (data, varint.encode(len(data)) + data):
        try:
            identify.decode(encoded, PEER)
        except DecodeError as error:
            assert error.reason  # noqa: PT017 - there need not be one

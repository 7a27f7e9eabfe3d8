"""Messages of the protocols: of remotes, of the local network, of routers and of name servers."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from ipaddress import IPv4Address, ip_address
from types import TracebackType
from typing import Self, TypeVar

from google.protobuf.message import Message
from zeroconf import DNSOutgoing, DNSText  # type: ignore[attr-defined]

from fuzz.target import KEYPAIRS, Target, framed, target
from stronghold_p2p.discovery import packets, texts
from stronghold_p2p.encoding import messages, multibase
from stronghold_p2p.errors import DecodeError, InvalidAddress, RelayRefused, RemoteProtocolError
from stronghold_p2p.events import Direction, Path
from stronghold_p2p.identity import PeerId, PublicKey
from stronghold_p2p.multiaddr import Multiaddr, is_path
from stronghold_p2p.port_mapping import nat_pmp, pcp, ssdp
from stronghold_p2p.protocols import framing
from stronghold_p2p.protocols.approval.answers import ApprovalAnswer, open_answer, verify
from stronghold_p2p.protocols.approval.question import ApprovalQuestion
from stronghold_p2p.protocols.identify import message as identify
from stronghold_p2p.protocols.relay import client
from stronghold_p2p.protocols.relay.message import HopType, Status, StopType, read_limits
from stronghold_p2p.protocols.relay.voucher import Voucher
from stronghold_p2p.requests.codec import make_codec
from stronghold_p2p.transport.dnsaddr import addresses_in
from stronghold_p2p.wire.envelope import PeerRecord, open_envelope, peek_record, seal

__all__ = ["TARGETS"]

US, REMOTE = (keypair.peer_id for keypair in KEYPAIRS)
ADDRESS = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001")
ADDRESSES = tuple(
    map(
        Multiaddr.parse,
        (
            "/ip4/192.0.2.1/tcp/4001",
            "/ip6/2001:db8::1/tcp/443/tls/sni/example.org/ws",
            "/dns4/example.org/tcp/443/wss",
            "/dnsaddr/example.org",
            "/ip6zone/eth0/ip6/fe80::1/udp/1/quic-v1/webtransport",
            f"/ip4/192.0.2.1/tcp/1/p2p/{REMOTE}/p2p-circuit/p2p/{US}",
            "/p2p-circuit",
            "/unix/tmp/a/b",
        ),
    )
)

T = TypeVar("T")


# -- keys, ids, addresses -----------------------------------------------------------------------------


def rsa_der(bits: int, exponent: int = 65537) -> bytes:
    """A public key of RSA, whose modulus is no product of primes; nobody checks that."""

    def der(tag: int, content: bytes) -> bytes:
        size = len(content)
        length = bytes((size,)) if size < 128 else bytes((0x82, *size.to_bytes(2)))
        return bytes((tag,)) + length + content

    def number(value: int) -> bytes:
        return der(2, value.to_bytes(value.bit_length() // 8 + 1))

    algorithm = bytes.fromhex("300d06092a864886f70d0101010500")
    return der(0x30, algorithm + der(3, b"\0" + der(0x30, number((1 << bits) - 1) + number(exponent))))


def key_seeds() -> Iterator[bytes]:
    yield from (keypair.public_key.to_protobuf() for keypair in KEYPAIRS)
    for kind in range(5):
        yield bytes((8, kind, 18, 32)) + bytes(32)
        yield bytes((8, kind, 18, 33)) + b"\x02" + bytes(31) + b"\x01"
    for bits, exponent in ((1024, 3), (2048, 65537), (8192, 65537), (2048, 1 << 2000)):
        yield messages.PublicKey(Type="RSA", Data=rsa_der(bits, exponent)).SerializeToString()


@target("public-key", DecodeError, seeds=key_seeds)
def fuzz_public_key(data: bytes) -> None:
    key = PublicKey.from_protobuf(data)
    assert PublicKey.from_protobuf(key.to_protobuf()) == key
    assert not key.verify(data, data), "nobody has signed it"


def peer_id_seeds() -> Iterator[bytes]:
    for peer in (US, PeerId(b"\x12\x20" + bytes(32))):
        yield str(peer).encode()
        yield peer.to_cid().encode()
        yield b"f" + b"\x01\x72".hex().encode() + peer.to_bytes().hex().encode()
        yield peer.to_bytes()


@target("peer-id", InvalidAddress, DecodeError, seeds=peer_id_seeds, max_size=1024)
def fuzz_peer_id(data: bytes) -> None:
    peer = PeerId.parse(data.decode("latin-1")) if data[:1].isalnum() else PeerId.from_bytes(data)
    assert PeerId.parse(str(peer)) == PeerId.parse(peer.to_cid()) == peer


def multibase_seeds() -> Iterator[bytes]:
    yield from (b"f00ff", b"baebag", b"k2lcpzo5", b"z2j", b"uAQID", b"z" + b"1" * 256)


@target("multibase", ValueError, seeds=multibase_seeds, max_size=1024)
def fuzz_multibase(data: bytes) -> None:
    multibase.decode(data.decode("latin-1"))


@target("multiaddr", DecodeError, seeds=lambda: (bytes(address) for address in ADDRESSES))
def fuzz_multiaddr(data: bytes) -> None:
    address = Multiaddr.from_bytes(data)
    assert address.to_bytes() == data
    assert Multiaddr.parse(str(address)).components == address.components
    assert address.relay is None or address.is_relayed
    assert is_path(address) or address.with_peer(US).peer_id == US


@target("multiaddr-text", InvalidAddress, seeds=lambda: (str(address).encode() for address in ADDRESSES))
def fuzz_multiaddr_text(data: bytes) -> None:
    address = Multiaddr.parse(data.decode("utf-8", "surrogateescape"))
    assert Multiaddr.from_bytes(address.to_bytes()) == Multiaddr.parse(str(address)) == address


# -- signed ------------------------------------------------------------------------------------------


def envelope_seeds() -> Iterator[bytes]:
    record = PeerRecord(peer_id=REMOTE, seq=7, addresses=ADDRESSES).seal(KEYPAIRS[1])
    yield record
    yield record[:-1] + bytes((record[-1] ^ 1,))
    yield seal(KEYPAIRS[1], "libp2p-routing-state", b"/libp2p/routing-state-record", b"x")
    yield Voucher(REMOTE, US, 1).seal(KEYPAIRS[1])
    for peer in (REMOTE, US):
        yield b"\0" + messages.PeerRecord(peer_id=bytes(peer), seq=1).SerializeToString()


def signed_by(data: bytes) -> PeerId:
    return PublicKey.from_protobuf(messages.Envelope.FromString(data).public_key).peer_id


@target("envelope", DecodeError, seeds=envelope_seeds)
def fuzz_envelope(data: bytes) -> None:
    if data[:1] == b"\0":  # the payload, signed as it should be
        data = seal(KEYPAIRS[1], "libp2p-peer-record", b"\x03\x01", data[1:])
    try:
        open_envelope(data, "libp2p-relay-rsvp", b"\x03\x02")
        assert Voucher.open(data).relay == signed_by(data)
    except DecodeError:
        pass
    record = PeerRecord.open(data)
    assert record.peer_id == signed_by(data)
    assert peek_record(data) == (record.peer_id, record.seq)


@target(
    "voucher", DecodeError, seeds=lambda: [messages.Voucher(relay=bytes(REMOTE), peer=bytes(US)).SerializeToString()]
)
def fuzz_voucher(data: bytes) -> None:
    """What somebody has signed as a voucher."""
    voucher = Voucher.open(seal(KEYPAIRS[1], "libp2p-relay-rsvp", b"\x03\x02", data))
    assert voucher.relay == REMOTE, "nobody signs for another relay"


# -- messages on a stream -----------------------------------------------------------------------------


class Instant:
    """A stream on which all has come that will, and a connection that has no other."""

    protocol = "/fuzz"
    path = Path("tcp")
    peer = REMOTE

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.written = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    async def open_stream(self, protocol: str) -> Self:
        return self

    async def negotiated(self) -> None: ...

    async def write(self, data: bytes) -> None:
        self.written += len(data)

    async def read(self) -> bytes:
        taken, self.data = self.data[:1000], self.data[1000:]
        return taken

    async def readexactly(self, size: int) -> bytes:
        assert size <= framing.MAX_SIZE * 4, "nothing is waited for that would be refused"
        if len(self.data) < size:
            raise RemoteProtocolError(self.protocol, "the stream ended")
        taken, self.data = self.data[:size], self.data[size:]
        return taken


def result(coroutine: Coroutine[object, object, T]) -> T:
    """Of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    coroutine.close()
    raise AssertionError("it waits although all has come")


def told(*, addresses: tuple[Multiaddr, ...] = ADDRESSES, record: bytes | None = None) -> bytes:
    return identify.encode(
        KEYPAIRS[1].public_key,
        protocols=(identify.PROTOCOL, "/a", "/b"),
        listen_addresses=addresses,
        record=record,
        observed_address=ADDRESS,
    )


def identify_seeds() -> Iterator[bytes]:
    record = PeerRecord(peer_id=REMOTE, seq=7, addresses=ADDRESSES).seal(KEYPAIRS[1])
    yield told()
    yield told(addresses=(), record=record)
    yield told() + framed(messages.Identify(signedPeerRecord=record).SerializeToString())
    yield told() * 11
    yield framed(*(messages.Identify(protocols=["/" + "x" * n]).SerializeToString() for n in range(10)))
    yield framed(b"\x1a\0" * 100, b"")


@target("identify", RemoteProtocolError, seeds=identify_seeds, max_size=16_384)
def fuzz_identify(data: bytes) -> None:
    identity = result(identify.read(Instant(data)))  # type: ignore[arg-type]
    assert identity.peer_id == REMOTE
    assert len(identity.protocols) <= identify.MAX_PROTOCOLS
    assert (identity.agent_version + identity.protocol_version + "".join(identity.protocols)).isprintable()
    assert all(len(bytes(address)) <= identify.MAX_ADDRESS_SIZE for address in identity.listen_addresses)
    assert all(address.peer_id in {None, REMOTE} for address in identity.listen_addresses)
    _ = identity.record


def reading(name: str, message_type: type[Message], *seeds: Message) -> Target:
    """Of one kind of message, and nothing that follows from it."""

    @target(name, RemoteProtocolError, seeds=lambda: [framed(seed.SerializeToString()) for seed in seeds])
    def run(data: bytes) -> None:
        message = result(framing.read(Instant(data), message_type))  # type: ignore[arg-type]
        if isinstance(message, messages.HopMessage | messages.StopMessage):
            read_limits(message)
            PeerId.from_bytes(message.peer.id)

    return run


def reservation_seeds() -> Iterator[bytes]:
    for voucher in (None, Voucher(REMOTE, US, 1).seal(KEYPAIRS[1]), Voucher(US, US, 1).seal(KEYPAIRS[0])):
        reservation = messages.CircuitReservation(expire=1, addrs=map(bytes, ADDRESSES), voucher=voucher)
        for status in (Status.OK, Status.RESERVATION_REFUSED):
            answer = messages.HopMessage(type=HopType.STATUS, status=status, reservation=reservation)
            yield framed(answer.SerializeToString())
    yield framed(messages.HopMessage(type=HopType.RESERVE).SerializeToString())


@target("relay-reservation", RemoteProtocolError, RelayRefused, seeds=reservation_seeds)
def fuzz_reservation(data: bytes) -> None:
    """What a relay answers to whom asks it for a reservation."""
    reservation = result(client.reserve(Instant(data), US))  # type: ignore[arg-type]
    assert reservation.relay == REMOTE
    assert len(reservation.addresses) <= client.MAX_ADDRESSES
    assert all(address.peer_id == REMOTE for address in reservation.addresses)


# -- approvals ----------------------------------------------------------------------------------------


QUESTION = ApprovalQuestion(
    nonce=bytes(16),
    kind="request",
    peer=US,
    name="bob",
    address=ADDRESS,
    direction=Direction.INBOUND,
    type="Transfer",
    view="{}",
    seconds=10.0,
    waiting=1,
    need=2,
    agreed=1,
)


@target("approval-question", DecodeError, seeds=lambda: [QUESTION.encode()])
def fuzz_question(data: bytes) -> None:
    question = ApprovalQuestion.decode(data)
    assert len(question.view) <= 2000
    assert len(question.name or "") <= 100
    ApprovalQuestion.decode(question.encode())


def answer_seeds() -> Iterator[bytes]:
    for scope, seconds, reason in (("once", None, None), ("type", 60.0, None), (None, None, "no")):
        answer = QUESTION.answer(b"sent", asker=US, scope=scope, seconds=seconds, reason=reason, time=1.0)  # type: ignore[arg-type]
        yield payload_of(answer)


def payload_of(answer: ApprovalAnswer) -> bytes:
    return messages.Envelope.FromString(answer.seal(KEYPAIRS[1])).payload


@target("approval-answer", DecodeError, seeds=answer_seeds)
def fuzz_answer(data: bytes) -> None:
    """What an approver may sign."""
    signed, answer = open_answer(seal(KEYPAIRS[1], "stronghold-p2p-approval", b"/stronghold-p2p/approval-answer", data))
    assert signed.approver == REMOTE
    assert verify(signed) == answer


# -- requests -----------------------------------------------------------------------------------------

CODECS = {
    "json": make_codec("json", dict[str, list[int | str | None]], max_size=1 << 20, max_values=1000),
    "json-any": make_codec("json", object, max_size=1 << 20, max_values=1000),
    "msgpack": make_codec("msgpack", dict[str, list[int | str | None]], max_size=1 << 20, max_values=1000),
    "msgpack-any": make_codec("msgpack", object, max_size=1 << 20, max_values=1000),
}


def codec_seeds(name: str) -> Iterator[bytes]:
    for value in ({}, {"a": [1, "x", None]}, {"type": [0] * 50}):
        yield CODECS[name].encode(value)
    yield (b"[" if name.startswith("json") else b"\x91") * 4000
    yield (b"[" + b"0," * 1500 + b"0]") if name.startswith("json") else b"\xdd\xff\xff\xff\xff"


def decoding(name: str) -> Target:
    """Of the requests of a type."""
    codec = CODECS[name]

    @target(f"codec-{name}", DecodeError, seeds=lambda: codec_seeds(name), max_size=16_384)
    def run(data: bytes) -> None:
        codec.weight(data)
        codec.type_name(codec.decode(data))

    return run


# -- the local network, routers, name servers ---------------------------------------------------------


def mdns_seeds() -> Iterator[bytes]:
    announced = packets.announcement("abc", ADDRESSES[:2], REMOTE)
    assert announced is not None
    yield announced.answer
    yield packets.goodbye(announced)
    yield packets.types()
    yield packets.encode_query([(f"abc.{packets.SERVICE}", 100)])
    many = DNSOutgoing(packets.RESPONSE)
    for n in range(20):
        many.add_answer_at_time(DNSText(f"{n}.{packets.SERVICE}", packets.TXT, packets.IN, 1, announced.text), 0)
    yield from many.packets()
    pointer = b"\x04_p2p\xc0\x0c"  # a name that leads to itself
    yield bytes.fromhex("000084000000000100000000") + pointer + b"\0\x10\0\1\0\0\0\1\0\0"


@target("mdns", seeds=mdns_seeds, max_size=9000)
def fuzz_mdns(data: bytes) -> None:
    packets.concerns_us(data)
    said = packets.read(data)
    if isinstance(said, packets.Answer):
        for source in ("192.0.2.7", "fe80::1"):
            found = texts.sightings(said.texts, ip_address(source), is_local=False)
            assert len(found) <= texts.MAX_STRINGS


def dnsaddr_seeds() -> Iterator[bytes]:
    for address in ADDRESSES:
        yield f"dnsaddr={address}".encode()
    yield f"dnsaddr={ADDRESS}/p2p/{REMOTE}\ndnsaddr=/dnsaddr/example.org\nv=spf1".encode()


@target("dnsaddr", OSError, seeds=dnsaddr_seeds)
def fuzz_dnsaddr(data: bytes) -> None:
    for suffix in ((), (("tcp", "4001"),)):
        for address in addresses_in(data.split(b"\n"), suffix, REMOTE):
            assert address.peer_id is None


def router_seeds() -> Iterator[bytes]:
    mapped = bytes(10) + b"\xff\xff" + IPv4Address("192.0.2.1").packed
    yield bytes((2, 129, 0, 0)) + bytes(20) + bytes(12) + b"\x06\0\0\0\0\x50\0\x50" + mapped
    yield bytes((2, 128, 0, 0)) + bytes(20)
    yield bytes((0, 128, 0, 0)) + bytes(4) + b"\xc0\0\2\1"
    yield bytes((0, 130, 0, 0)) + bytes(4) + b"\0\x50\0\x50\0\0\1\0"
    yield (
        b"HTTP/1.1 200 OK\r\nST: " + ssdp.KINDS[0].encode() + b"\r\nLOCATION: http://192.0.2.1:5000/desc.xml\r\n\r\n"
    )


@target("router", DecodeError, seeds=router_seeds, max_size=1500)
def fuzz_router(data: bytes) -> None:
    """PCP, NAT-PMP and SSDP."""
    gateway = IPv4Address("192.0.2.1")
    location = ssdp.find_location(data, gateway)
    assert location is None or location.lower().startswith("http://192.0.2.1")
    (nat_pmp.decode_response if data[:1] == b"\0" else pcp.decode_response)(data)


TARGETS = (
    fuzz_public_key,
    fuzz_peer_id,
    fuzz_multibase,
    fuzz_multiaddr,
    fuzz_multiaddr_text,
    fuzz_envelope,
    fuzz_voucher,
    fuzz_identify,
    reading(
        "relay-hop",
        messages.HopMessage,
        messages.HopMessage(type=HopType.CONNECT, peer=messages.CircuitPeer(id=bytes(US), addrs=[bytes(ADDRESS)])),
        messages.HopMessage(type=HopType.STATUS, limit=messages.CircuitLimit(duration=1, data=2)),
    ),
    reading(
        "relay-stop",
        messages.StopMessage,
        messages.StopMessage(type=StopType.CONNECT, peer=messages.CircuitPeer(id=bytes(US))),
    ),
    fuzz_reservation,
    reading("hole-punching", messages.HolePunch, messages.HolePunch(type=100, ObsAddrs=[bytes(ADDRESS)])),
    reading(
        "autonat",
        messages.AutonatMessage,
        messages.AutonatMessage(dialRequest={"addrs": [bytes(ADDRESS)], "nonce": 7}),
        messages.AutonatMessage(dialDataResponse={"data": bytes(100)}),
    ),
    fuzz_question,
    fuzz_answer,
    *map(decoding, CODECS),
    fuzz_mdns,
    fuzz_dnsaddr,
    fuzz_router,
)

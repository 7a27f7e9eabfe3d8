"""Multiaddresses: the layers of a peer's address, such as ``/ip4/127.0.0.1/tcp/4001/p2p/12D3Koo...``.

The specification is multiformats/multiaddr. Where implementations differ, this one follows go-multiaddr: an address is
never empty, a value has no slash, ``unix`` takes the rest of the address as its path, ``memory`` is a 64-bit number, and a
peer id is stored as its multihash. Protocols outside of the table at the end make an address malformed.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
from collections.abc import Callable, Iterable, Iterator
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final, NamedTuple, TypeAlias

from .encoding import multibase, varint
from .errors import DecodeError, InvalidAddress
from .identity import PeerId

__all__ = ["CIRCUIT", "Component", "Ip", "Multiaddr", "host_of", "ip_of", "is_path", "readable", "with_head"]

Ip: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

Component: TypeAlias = tuple[str, str | None]
"""The name of a protocol and the text of its value; None for protocols without a value."""


class Multiaddr:
    """A multiaddress (multiformats/multiaddr). Immutable, hashable, compared by bytes, iterable over its components."""

    __slots__ = ("_bytes", "_text", "components", "peer_id")

    def __init__(self, encoded: bytes) -> None:
        """
        Raises:
            ValueError: malformed. Prefer :meth:`parse` and :meth:`from_bytes`.
        """
        components: list[Component] = []
        text = ""
        for protocol, value in _split(encoded):
            shown = protocol.decode(value) if value else None
            components.append((protocol.name, shown))
            if shown is None:
                text += f"/{protocol.name}"
            else:
                text += f"/{protocol.name}{shown}" if protocol is _UNIX else f"/{protocol.name}/{shown}"
        self.components: Final = tuple(components)
        self.peer_id: Final = PeerId(value) if protocol is _P2P else None
        """The peer id in the last component; a peer id before it is a relay."""
        self._bytes: Final = encoded
        self._text: Final = text

    @classmethod
    def parse(cls, text: str) -> Multiaddr:
        """Parses text. Accepts ``/ipfs/`` for ``/p2p/``, and trailing slashes.

        Raises:
            InvalidAddress: malformed.
        """
        return _parse(text)

    @classmethod
    def of(cls, address: object) -> Multiaddr:
        """Converts an address or its text to an address.

        Raises:
            InvalidAddress: not the text of an address.
            TypeError: another type.
        """
        if isinstance(address, str):
            return cls.parse(address)
        if not isinstance(address, Multiaddr):
            raise TypeError(f"expected a Multiaddr or its text, got {address!r}")
        return address

    @classmethod
    def from_bytes(cls, data: bytes) -> Multiaddr:
        """Decodes the binary form, as sent by remotes.

        Raises:
            DecodeError: malformed.
        """
        try:
            return cls(bytes(data))
        except ValueError as error:
            raise DecodeError("multiaddr", str(error)) from error

    @classmethod
    def of_tcp(cls, host: str, port: int) -> Multiaddr:
        """The address of a TCP socket, from a numeric IP address and a port. Fast, since every connection needs it."""
        ip = _IP6_CODE + inet_pton(AF_INET6, host) if ":" in host else _IP4_CODE + inet_pton(AF_INET, host)
        return cls(ip + _TCP_CODE + port.to_bytes(2))

    def to_bytes(self) -> bytes:
        """The binary form."""
        return self._bytes

    def __bytes__(self) -> bytes:
        return self._bytes

    def encapsulate(self, other: Multiaddr) -> Multiaddr:
        """The address with ``other`` appended.

        Raises:
            InvalidAddress: the address is the path of a socket, behind which nothing can stand.
        """
        return self._with(self._bytes + other._bytes)

    def endswith(self, suffix: Multiaddr) -> bool:
        """Whether the address ends in the components of ``suffix``."""
        return self.components[-len(suffix.components) :] == suffix.components

    def decapsulate(self, suffix: Multiaddr) -> Multiaddr:
        """The address without ``suffix``.

        Raises:
            ValueError: the address does not end in ``suffix``, or is nothing else.
        """
        if not self.endswith(suffix):
            raise ValueError(f"{self} does not end in {suffix}")
        return Multiaddr(self._bytes[: -len(suffix._bytes)])

    @property
    def is_relayed(self) -> bool:
        """Whether the address leads through a relay: it has ``/p2p-circuit``."""
        return ("p2p-circuit", None) in self.components

    @property
    def relay(self) -> PeerId | None:
        """The relay that forwards to who is at this address, ``.../p2p/<relay>/p2p-circuit``, perhaps with a peer id behind;
        None if it is no such address."""
        circuit = self if self.peer_id is None or not self.is_relayed else self.without_peer()
        is_behind = circuit.endswith(CIRCUIT) and circuit != CIRCUIT  # which may stand alone, and then names no relay
        return circuit.decapsulate(CIRCUIT).peer_id if is_behind else None

    def with_peer(self, peer_id: PeerId) -> Multiaddr:
        """The address with ``/p2p/<peer_id>`` at the end, in place of another one.

        Raises:
            InvalidAddress: as for :meth:`encapsulate`.
        """
        return self._with(self._bytes_without_peer() + _peer_component(peer_id))

    def without_peer(self) -> Multiaddr:
        """The address without ``/p2p/<peer_id>`` at the end, if any.

        Raises:
            InvalidAddress: the address has no other component.
        """
        if self.peer_id is None:
            return self
        encoded = self._bytes_without_peer()
        if not encoded:
            raise InvalidAddress(self, "a peer id alone, without an address")
        return Multiaddr(encoded)

    def __iter__(self) -> Iterator[Component]:
        return iter(self.components)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Multiaddr({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Multiaddr) and self._bytes == other._bytes

    def __hash__(self) -> int:
        return hash(self._bytes)

    def __reduce__(self) -> tuple[type[Multiaddr], tuple[bytes]]:
        return Multiaddr, (self._bytes,)

    def _with(self, encoded: bytes) -> Multiaddr:
        """What is made of the address by appending."""
        try:
            return Multiaddr(encoded)
        except ValueError as error:
            raise InvalidAddress(self, str(error)) from error

    def _bytes_without_peer(self) -> bytes:
        return self._bytes.removesuffix(_peer_component(self.peer_id)) if self.peer_id else self._bytes


def host_of(address: Multiaddr) -> Ip | None:
    """The IP address that ``address`` begins with. An IPv4 address is one in IPv6 form, too, as IPv6 sockets show it."""
    return ip_of(*address.components[0])


@functools.lru_cache(maxsize=1024)  # every connection asks for its two, several times
def ip_of(name: str, value: str | None) -> Ip | None:
    """The same of a component."""
    if name not in {"ip4", "ip6"} or value is None:
        return None
    ip = ipaddress.ip_address(value)
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


def is_path(address: Multiaddr) -> bool:
    """Whether it is the path of a socket, behind which nothing can stand."""
    return address.components[-1][0] == _UNIX.name


def with_head(address: Multiaddr, head: Multiaddr) -> Multiaddr:
    """``address`` with ``head`` in the place of what it begins with, which has the same protocols."""
    return Multiaddr(head.to_bytes() + address.to_bytes()[len(head.to_bytes()) :])


def readable(encoded: Iterable[bytes]) -> Iterator[Multiaddr]:
    """The addresses that a remote has told, but for those of protocols that are unknown here, and paths of sockets: these lead
    nowhere from here, and no peer id can stand behind them."""
    for address in encoded:
        with contextlib.suppress(DecodeError):
            decoded = Multiaddr.from_bytes(address)
            if not is_path(decoded):
                yield decoded


@functools.lru_cache(maxsize=1024)  # requests are sent to the same addresses again and again
def _parse(text: str) -> Multiaddr:
    try:
        return Multiaddr(_encode(text))
    except ValueError as error:
        raise InvalidAddress(text, str(error)) from error


def _encode(text: str) -> bytes:
    empty, *rest = text.rstrip("/").split("/")
    if empty:
        raise ValueError("does not begin with /, as in /ip4/127.0.0.1/tcp/4001")
    parts = iter(rest)
    encoded = bytearray()
    for name in parts:
        protocol = _BY_NAME.get(name)
        if protocol is None:
            raise ValueError(f"unknown protocol {name!r}, where ip4, ip6, dns, tcp, ws or p2p could stand")
        encoded += varint.encode(protocol.code)
        if protocol.size == 0:
            continue
        value = next(parts, "")
        if protocol is _UNIX:
            value = "/" + "/".join((value, *parts))
        value_bytes = protocol.encode(value)
        if protocol.size is None:
            encoded += varint.encode(len(value_bytes))
        encoded += value_bytes
    return bytes(encoded)


def _split(encoded: bytes) -> Iterator[tuple[_Protocol, bytes]]:
    if not encoded:
        raise ValueError("empty")
    offset = 0
    while offset < len(encoded):
        if (code := encoded[offset]) < 0x80:  # those of IP and TCP, which every connection has, without two calls each
            offset += 1
        else:
            code, offset = _read_varint(encoded, offset)
        protocol = _BY_CODE.get(code)
        if protocol is None:
            raise ValueError(f"unknown protocol code {code}")
        size = protocol.size
        if size is None:
            size, offset = _read_varint(encoded, offset)
        value = encoded[offset : offset + size]
        offset += size
        if len(value) < size or (not value and protocol.size != 0):
            raise ValueError(f"{protocol.name} without a value, or cut short")
        if protocol is _UNIX and offset < len(encoded):
            raise ValueError("unix is not the last protocol")
        yield protocol, value


def _read_varint(encoded: bytes, offset: int) -> tuple[int, int]:
    try:
        decoded = varint.decode(encoded, offset)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    if decoded is None:
        raise ValueError("a varint is cut short")
    return decoded


def _peer_component(peer_id: PeerId) -> bytes:
    multihash = peer_id.to_bytes()
    return varint.encode(_P2P.code) + varint.encode(len(multihash)) + multihash


# -- values: from text to bytes and back; each raises ValueError --------------------------------------


def _ip4_to_bytes(text: str) -> bytes:
    return ipaddress.IPv4Address(text).packed


def _ip4_to_text(value: bytes) -> str:
    return "{}.{}.{}.{}".format(*value)


def _ip6_to_bytes(text: str) -> bytes:
    if "%" in text:  # an interface stands in a component of its own, ip6zone
        raise ValueError(f"{text!r} does not appear to be an IPv6 address")
    return ipaddress.IPv6Address(text).packed


def _ip6_to_text(value: bytes) -> str:
    address = ipaddress.IPv6Address(value)
    mapped = address.ipv4_mapped
    return str(address) if mapped is None else f"::ffff:{mapped}"  # Python before 3.13 writes ::ffff:7f00:1


def _number_to_bytes(size: int) -> Callable[[str], bytes]:
    def to_bytes(text: str) -> bytes:
        number = int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else -1
        if not 0 <= number < 1 << 8 * size:
            raise ValueError(f"{text!r} is not a number of {8 * size} bits")
        return number.to_bytes(size)

    return to_bytes


def _number_to_text(value: bytes) -> str:
    return str(int.from_bytes(value))


def _name_to_text(value: bytes) -> str:
    text = value.decode()
    if "/" in text or not text.isprintable():  # a remote's addresses are shown on terminals and in logs
        raise ValueError(f"{text!r} is not a name")
    return text


def _path_to_text(value: bytes) -> str:
    text = value.decode()
    if len(text) < 2 or text[0] != "/" or text[-1] == "/" or not text.isprintable():
        raise ValueError(f"{text!r} is not the path of a socket")
    return text


def _peer_id_to_bytes(text: str) -> bytes:
    try:
        return PeerId.parse(text).to_bytes()
    except InvalidAddress as error:
        raise ValueError(f"{text!r} is {error.reason}") from error


def _peer_id_to_text(value: bytes) -> str:
    return str(PeerId(value))


# -- the protocols (multiformats/multiaddr protocols.csv) that today's peers announce -----------------


class _Protocol(NamedTuple):
    code: int
    name: str
    size: int | None = 0
    """Bytes of the value; None if its length stands before it."""
    encode: Callable[[str], bytes] = str.encode
    decode: Callable[[bytes], str] = _name_to_text


_UNIX = _Protocol(400, "unix", None, str.encode, _path_to_text)
_P2P = _Protocol(421, "p2p", None, _peer_id_to_bytes, _peer_id_to_text)

_PROTOCOLS = (
    _Protocol(4, "ip4", 4, _ip4_to_bytes, _ip4_to_text),
    _Protocol(6, "tcp", 2, _number_to_bytes(2), _number_to_text),
    _Protocol(41, "ip6", 16, _ip6_to_bytes, _ip6_to_text),
    _Protocol(42, "ip6zone", None),
    _Protocol(53, "dns", None),
    _Protocol(54, "dns4", None),
    _Protocol(55, "dns6", None),
    _Protocol(56, "dnsaddr", None),
    _Protocol(273, "udp", 2, _number_to_bytes(2), _number_to_text),
    _Protocol(280, "webrtc-direct"),
    _Protocol(281, "webrtc"),
    _Protocol(290, "p2p-circuit"),
    _UNIX,
    _P2P,
    _Protocol(443, "https"),
    _Protocol(448, "tls"),
    _Protocol(449, "sni", None),
    _Protocol(460, "quic"),
    _Protocol(461, "quic-v1"),
    _Protocol(465, "webtransport"),
    _Protocol(466, "certhash", None, multibase.decode, multibase.encode_base64url),
    _Protocol(477, "ws"),
    _Protocol(478, "wss"),
    _Protocol(480, "http"),
    _Protocol(777, "memory", 8, _number_to_bytes(8), _number_to_text),
)
_BY_CODE = {protocol.code: protocol for protocol in _PROTOCOLS}
_BY_NAME = {protocol.name: protocol for protocol in _PROTOCOLS} | {"ipfs": _P2P}
_IP4_CODE, _TCP_CODE, _IP6_CODE = (varint.encode(_BY_NAME[name].code) for name in ("ip4", "tcp", "ip6"))

CIRCUIT: Final = Multiaddr.parse("/p2p-circuit")
"""What follows a relay's address in that of a circuit."""

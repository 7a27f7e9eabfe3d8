"""The messages of PCP, the Port Control Protocol (RFC 6887, sections 7, 11 and 14). Pure."""

from __future__ import annotations

import struct
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple, TypeAlias

from ..errors import DecodeError

__all__ = [
    "MAX_MESSAGE",
    "NONCE_SIZE",
    "VERSION",
    "AnnounceResponse",
    "MapResponse",
    "Response",
    "ResultCode",
    "VersionResponse",
    "decode_response",
    "encode_announce_request",
    "encode_map_request",
]

VERSION: Final = 2

MAX_MESSAGE: Final = 1100
"""Bytes (section 7)."""

NONCE_SIZE: Final = 12
"""Bytes (section 11.1)."""

ANNOUNCE: Final = 0
MAP: Final = 1
RESPONSE: Final = 128
TCP: Final = 6

REQUEST_HEADER: Final = struct.Struct(">BBxxI16s")
RESPONSE_HEADER: Final = struct.Struct(">BBxBII12x")
MAPPING: Final = struct.Struct(f">{NONCE_SIZE}sBxxxHH16s")


class ResultCode(IntEnum):
    """Section 7.4."""

    SUCCESS = 0
    UNSUPP_VERSION = 1
    NOT_AUTHORIZED = 2
    MALFORMED_REQUEST = 3
    UNSUPP_OPCODE = 4
    UNSUPP_OPTION = 5
    MALFORMED_OPTION = 6
    NETWORK_FAILURE = 7
    NO_RESOURCES = 8
    UNSUPP_PROTOCOL = 9
    USER_EX_QUOTA = 10
    CANNOT_PROVIDE_EXTERNAL = 11
    ADDRESS_MISMATCH = 12
    EXCESSIVE_REMOTE_PEERS = 13


class AnnounceResponse(NamedTuple):
    """The router is there (section 14.1)."""

    epoch: int
    """Seconds since the router began with its table of mappings."""


class MapResponse(NamedTuple):
    """The answer to a request for a mapping of a TCP port (section 11.1): granted, or refused by its ``result``."""

    epoch: int
    result: int
    """A :class:`ResultCode`, or a number that is none."""
    nonce: bytes
    internal_port: int
    external_port: int
    external_address: IPv4Address | None
    """None: an IPv6 address."""
    lifetime: int
    """Seconds; 0: the mapping is deleted. Of a refusal: how long it will hold."""


class VersionResponse(NamedTuple):
    """The version is not supported (section 9)."""

    result: int = ResultCode.UNSUPP_VERSION


Response: TypeAlias = AnnounceResponse | MapResponse | VersionResponse


def encode_announce_request(client: IPv4Address) -> bytes:
    """Asks whether the router is there, and since when. ``client`` is the address that we send from."""
    return REQUEST_HEADER.pack(VERSION, ANNOUNCE, 0, _mapped(client))


def encode_map_request(
    client: IPv4Address,
    nonce: bytes,
    internal_port: int,
    external_port: int,
    external_address: IPv4Address,
    lifetime: int,
) -> bytes:
    """Asks that a TCP port be mapped for ``lifetime`` seconds, to the external port and address if they are free: 0 and
    0.0.0.0 say that any will do. A lifetime of 0 deletes the mapping, whose ``nonce`` it must be."""
    return REQUEST_HEADER.pack(VERSION, MAP, lifetime, _mapped(client)) + MAPPING.pack(
        nonce, TCP, internal_port, external_port, _mapped(external_address)
    )


def decode_response(data: bytes) -> Response:
    """
    Raises:
        DecodeError: not a response to one of the requests above.
    """
    if not RESPONSE_HEADER.size <= len(data) <= MAX_MESSAGE or len(data) % 4:
        raise DecodeError("PCP", f"{len(data)} bytes")
    version, opcode, result, lifetime, epoch = RESPONSE_HEADER.unpack_from(data)
    if not opcode & RESPONSE:
        raise DecodeError("PCP", "not a response")
    if result == ResultCode.UNSUPP_VERSION:
        return VersionResponse()
    if version != VERSION:
        raise DecodeError("PCP", f"version {version}")
    if opcode == RESPONSE + ANNOUNCE:
        return AnnounceResponse(epoch)
    if opcode != RESPONSE + MAP:
        raise DecodeError("PCP", f"opcode {opcode}")
    if len(data) < RESPONSE_HEADER.size + MAPPING.size:
        raise DecodeError("PCP", f"a mapping of {len(data) - RESPONSE_HEADER.size} bytes")
    nonce, protocol, internal_port, external_port, address = MAPPING.unpack_from(data, RESPONSE_HEADER.size)
    if protocol != TCP:
        raise DecodeError("PCP", f"a mapping of protocol {protocol}")
    external = IPv6Address(address).ipv4_mapped
    return MapResponse(epoch, result, nonce, internal_port, external_port, external, lifetime)


def _mapped(address: IPv4Address) -> bytes:
    """As an IPv4-mapped IPv6 address (section 5)."""
    return bytes(10) + b"\xff\xff" + address.packed

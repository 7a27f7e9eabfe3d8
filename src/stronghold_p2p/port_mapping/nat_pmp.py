"""The messages of NAT-PMP, the NAT Port Mapping Protocol (RFC 6886, section 3). Pure."""

from __future__ import annotations

import struct
from enum import IntEnum
from ipaddress import IPv4Address
from typing import Final, NamedTuple, TypeAlias

from ..errors import DecodeError

__all__ = [
    "ADDRESS",
    "MAP_TCP",
    "VERSION",
    "AddressResponse",
    "ErrorResponse",
    "MapResponse",
    "Response",
    "ResultCode",
    "decode_response",
    "encode_address_request",
    "encode_map_request",
]

VERSION: Final = 0

ADDRESS: Final = 0
MAP_TCP: Final = 2
RESPONSE: Final = 128
"""Added to the opcode of the request."""

MAP_REQUEST: Final = struct.Struct(">BBxxHHI")
HEADER: Final = struct.Struct(">BBHI")
MAP: Final = struct.Struct(">HHI")


class ResultCode(IntEnum):
    """Section 3.5."""

    SUCCESS = 0
    UNSUPPORTED_VERSION = 1
    NOT_AUTHORIZED = 2
    NETWORK_FAILURE = 3
    OUT_OF_RESOURCES = 4
    UNSUPPORTED_OPCODE = 5


class AddressResponse(NamedTuple):
    """The external address of the router (section 3.2)."""

    epoch: int
    """Seconds since the router began with its table of mappings."""
    address: IPv4Address


class MapResponse(NamedTuple):
    """A TCP port is mapped, or no more (section 3.3)."""

    epoch: int
    internal_port: int
    external_port: int
    lifetime: int
    """Seconds; 0: the mapping is deleted."""


class ErrorResponse(NamedTuple):
    """The router refuses."""

    epoch: int
    opcode: int
    """Of the request; 0 if the version is not supported."""
    result: int
    """A :class:`ResultCode`, or a number that is none."""


Response: TypeAlias = AddressResponse | MapResponse | ErrorResponse


def encode_address_request() -> bytes:
    """Asks for the external address."""
    return bytes((VERSION, ADDRESS))


def encode_map_request(internal_port: int, external_port: int, lifetime: int) -> bytes:
    """Asks that a TCP port be mapped for ``lifetime`` seconds, to ``external_port`` if it is free; both 0: no more."""
    return MAP_REQUEST.pack(VERSION, MAP_TCP, internal_port, external_port, lifetime)


def decode_response(data: bytes) -> Response:
    """
    Raises:
        DecodeError: not a response of this version to one of the requests above.
    """
    if len(data) < HEADER.size:
        raise DecodeError("NAT-PMP", f"{len(data)} bytes")
    version, opcode, result, epoch = HEADER.unpack_from(data)
    body = data[HEADER.size :]
    if version != VERSION:
        raise DecodeError("NAT-PMP", f"version {version}")
    if result == ResultCode.UNSUPPORTED_VERSION:
        return ErrorResponse(epoch, 0, result)  # some answer without RESPONSE, as section 3.5 draws it
    if opcode not in {RESPONSE + ADDRESS, RESPONSE + MAP_TCP}:
        raise DecodeError("NAT-PMP", f"opcode {opcode}")
    if result != ResultCode.SUCCESS:
        return ErrorResponse(epoch, opcode - RESPONSE, result)
    if opcode == RESPONSE + ADDRESS:
        if len(body) != 4:
            raise DecodeError("NAT-PMP", f"an address of {len(body)} bytes")
        return AddressResponse(epoch, IPv4Address(body))
    if len(body) != MAP.size:
        raise DecodeError("NAT-PMP", f"a mapping of {len(body)} bytes")
    return MapResponse(epoch, *MAP.unpack(body))

"""Linux's addresses and links, over netlink (RFC 3549; netlink(7), rtnetlink(7))."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias

__all__ = ["AddressFacts", "addresses", "monitor", "parse_address", "parse_messages"]

AddressFacts: TypeAlias = tuple[IPv4Address | IPv6Address, int, bool, int]
"""An address, the number of its interface, whether it is usable, and the length of its network's prefix."""

READ_SIZE: Final = 64 * 1024
"""Bytes of one read; Linux puts at most 32 KiB into a datagram."""

# linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h, linux/if.h
HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence number, port id
ATTRIBUTE: Final = struct.Struct("=HH")  # length, type
LINK: Final = struct.Struct("=BxHiII")  # family, type, index, flags, changed flags
ADDRESS: Final = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
RTM_NEWLINK: Final = 16
RTM_GETLINK: Final = 18
RTM_NEWADDR: Final = 20
RTM_GETADDR: Final = 22
NLM_F_REQUEST_DUMP: Final = 0x301
IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
IFA_FLAGS: Final = 8
IFF_UP_AND_RUNNING: Final = 0x41
IFA_F_UNUSABLE: Final = 0x08 | 0x20 | 0x40  # dadfailed, deprecated, tentative
GROUPS: Final = 0x1 | 0x10 | 0x100  # links, IPv4 addresses, IPv6 addresses


def monitor() -> socket.socket:
    """A socket that becomes readable when links or addresses change.

    Raises:
        OSError: this system has none, or refuses it.
    """
    return _open(GROUPS)


def addresses() -> list[AddressFacts]:
    """All addresses of all interfaces. The system answers at once.

    They are two answers, each perhaps in parts, between which things may change: open a :func:`monitor` before.

    Raises:
        OSError: this system has no netlink, refuses it, or answers what is none.
    """
    with _open() as netlink:
        running = set()
        for payload in _dump(netlink, RTM_GETLINK, RTM_NEWLINK):
            _, _, index, flags, _ = _unpack(LINK, payload)
            if flags & IFF_UP_AND_RUNNING == IFF_UP_AND_RUNNING:
                running.add(index)
        parsed = [parse_address(payload, running) for payload in _dump(netlink, RTM_GETADDR, RTM_NEWADDR)]
    return [address for address in parsed if address is not None]


def parse_messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The types, sequence numbers and payloads of the messages of one datagram.

    Raises:
        OSError: malformed.
    """
    rest = memoryview(data)
    while rest:
        length, kind, _, sequence, _ = _unpack(HEADER, rest)
        if not HEADER.size <= length <= len(rest):
            raise _malformed(f"a message of {length} bytes")
        yield kind, sequence, bytes(rest[HEADER.size : length])
        rest = rest[_aligned(length) :]


def parse_address(payload: bytes, running: set[int]) -> AddressFacts | None:
    """What an RTM_NEWADDR message says; None for a family other than IP. ``running`` are the interfaces that run.

    Raises:
        OSError: malformed.
    """
    family, prefix, flags, _, index = _unpack(ADDRESS, payload)
    if family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    attributes: dict[int, bytes] = {}
    rest = payload[ADDRESS.size :]
    while rest:
        length, kind = _unpack(ATTRIBUTE, rest)
        if not ATTRIBUTE.size <= length <= len(rest):
            raise _malformed(f"an attribute of {length} bytes")
        attributes[kind] = rest[ATTRIBUTE.size : length]
        rest = rest[_aligned(length) :]
    packed = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS, b"")  # of a tunnel the second is the other end's
    if len(packed) != (4 if family == socket.AF_INET else 16):
        raise _malformed(f"an address of {len(packed)} bytes")
    flags = int.from_bytes(attributes.get(IFA_FLAGS, b""), sys.byteorder) or flags
    return ip_address(packed), index, index in running and not flags & IFA_F_UNUSABLE, prefix


def _open(groups: int = 0) -> socket.socket:
    if sys.platform != "linux":
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    try:
        made.bind((0, groups))
    except BaseException:
        made.close()
        raise
    return made


def _dump(netlink: socket.socket, request: int, answer: int) -> Iterator[bytes]:
    """The payloads of all messages of the type ``answer`` with which the system answers ``request``, for all families."""
    netlink.send(HEADER.pack(HEADER.size + 4, request, NLM_F_REQUEST_DUMP, request, 0) + bytes(4))
    while True:
        data, _, flags, _ = netlink.recvmsg(READ_SIZE)
        if flags & socket.MSG_TRUNC:
            raise _malformed(f"a datagram of more than {READ_SIZE} bytes")
        for kind, sequence, payload in parse_messages(data):
            if sequence != request:
                continue
            if kind in {NLMSG_DONE, NLMSG_ERROR}:
                code = -int.from_bytes(payload[:4], sys.byteorder, signed=True)
                if code or kind == NLMSG_ERROR:
                    raise OSError(code, os.strerror(code))
                return
            if kind == answer:
                yield payload


def _unpack(form: struct.Struct, data: bytes | memoryview) -> tuple[int, ...]:
    if len(data) < form.size:
        raise _malformed(f"{len(data)} bytes in place of {form.size}")
    return form.unpack_from(data)


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _malformed(what: str) -> OSError:
    return OSError(errno.EBADMSG, f"netlink answers with {what}")

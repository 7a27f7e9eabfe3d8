"""Exports of an address book: JSON, with a version. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta
from msgspec.structs import astuple

from ..errors import AddressBookError, InvalidAddress
from ..identity import PeerId
from ..multiaddr import Multiaddr
from .entry import AddressSource, NamedAddress

__all__ = ["Export", "decode", "encode"]

VERSION: Final = 1

MAX_COMMAS: Final = 16
"""For one address, in an export: it has eight fields, and up to four networks. What a decoder makes is told by the commas, so that an
export with too many is refused before."""

MAX_FAILURES: Final = 2**31
"""Nobody dials as often."""


class Export(NamedTuple):
    """What an export holds."""

    addresses: list[NamedAddress]
    records: list[bytes]
    """Signed peer records, which are not verified."""
    unknown: int
    """Addresses that were left out, since this program cannot parse them."""


_Text = Annotated[str, Meta(max_length=4096)]
_Time = Annotated[float, Meta(ge=0)]


class _Address(msgspec.Struct, omit_defaults=True):
    peer: _Text
    address: _Text
    source: AddressSource
    expires: _Time | None = None
    told_by: Annotated[tuple[_Text, ...], Meta(max_length=4)] = ()
    last_success: _Time | None = None
    last_failure: _Time | None = None
    failures: Annotated[int, Meta(ge=0, le=MAX_FAILURES)] = 0


class _Head(msgspec.Struct):
    version: int


class _Book(msgspec.Struct):
    version: int
    addresses: list[_Address]
    records: list[_Text] = []


def encode(addresses: Iterable[NamedAddress], records: Iterable[bytes]) -> bytes:
    """The reverse of :func:`decode`."""
    return msgspec.json.encode(
        _Book(
            VERSION,
            [_Address(str(each.peer), str(each.address), *each[2:]) for each in addresses],
            [base64.b64encode(record).decode() for record in records],
        )
    )


def decode(data: bytes, limit: int) -> Export:
    """Reads an export with at most ``limit`` addresses, and as many records.

    Addresses that cannot be parsed are left out: a later program has written them, with protocols that it knows.

    Raises:
        AddressBookError: it is not JSON, cut short, of a later version, has values of other types or too many of them, or
            an address names another peer.
    """
    try:
        version = msgspec.json.decode(data, type=_Head).version
        if version != VERSION:
            raise AddressBookError(
                f"expected version {VERSION}, got {version}: export it with this version of the library"
            )
        _check_count(data.count(b",") // MAX_COMMAS, limit)
        book = msgspec.json.decode(data, type=_Book)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise AddressBookError(f"expected an export in JSON: {error}") from error
    _check_count(max(len(book.addresses), len(book.records)), limit)
    peers: dict[str, PeerId] = {}
    addresses = [_named(each, peers) for each in book.addresses]
    known = [each for each in addresses if each is not None]
    return Export(known, [_record(text) for text in book.records], len(addresses) - len(known))


def _check_count(count: int, limit: int) -> None:
    if count > limit:
        raise AddressBookError(
            f"expected at most {limit:,} addresses, as many as Config.max_given_addresses and max_told_addresses allow, got"
            f" {count:,} or more"
        )


def _named(given: _Address, peers: dict[str, PeerId]) -> NamedAddress | None:
    try:
        peer = peers[given.peer] if given.peer in peers else peers.setdefault(given.peer, PeerId.parse(given.peer))
    except InvalidAddress as error:
        raise AddressBookError(f"expected a peer id: {error}") from error
    try:
        address = Multiaddr.parse(given.address)
    except InvalidAddress:
        return None
    if address.peer_id is not None:
        if address.peer_id != peer or len(address.components) == 1:
            raise AddressBookError(f"expected an address of {peer}, got {address}")
        address = address.without_peer()
    return NamedAddress(peer, address, *astuple(given)[2:])


def _record(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise AddressBookError(f"expected a record in base64: {error}") from error

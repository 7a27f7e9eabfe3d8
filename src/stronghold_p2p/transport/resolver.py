"""Names of hosts in addresses, and the addresses that they stand for."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from ..identity import PeerId
from ..multiaddr import Multiaddr
from .dnsaddr import TxtRecords, addresses_in
from .lookups import Holder, Lookups

__all__ = ["NAME_FAMILIES", "Resolved", "Resolver", "SystemResolver", "interleave", "is_name", "names_host"]

NAME_FAMILIES: Final = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}

MAX_ADDRESSES: Final = 8
"""Addresses taken of one host: as many as are dialed at once. A large service has six; a name with hundreds would have us
knock at the doors of others."""

MAX_NAME: Final = 253
"""Characters of a name (RFC 1035, section 2.3.4)."""

NO_ADDRESS: Final = {socket.EAI_ADDRFAMILY, socket.EAI_NODATA}
"""Errors for a name that is there, but has no address of the family."""

_T = TypeVar("_T")


class Resolved(NamedTuple):
    """What a name stands for."""

    addresses: Sequence[Multiaddr]
    """One or more, in the order of trying. Those of ``/dnsaddr`` may begin with a name, too."""
    ttl: float | None = None
    """Seconds that they are valid for; None: unknown, since the system does not tell."""


class Resolver(Protocol):
    """Looks up names."""

    async def resolve(self, address: Multiaddr, peer: PeerId, *, told: bool) -> Resolved:
        """What to dial ``peer`` at for ``address``, which begins with a name. ``told``: by a remote, not by our own code.

        Raises:
            OSError: the name is unknown or malformed, or has no such address.
        """


class SystemResolver:
    """Resolves ``/dns`` (both families), ``/dns4`` and ``/dns6`` as the system does, and ``/dnsaddr`` by ``txt_records``,
    one level of names at a time."""

    def __init__(self, txt_records: TxtRecords | None = None) -> None:
        self._txt_records = txt_records or TxtRecords()
        self._lookups = Lookups()

    async def resolve(self, address: Multiaddr, peer: PeerId, *, told: bool) -> Resolved:
        kind, value = address.components[0]
        assert value is not None
        host = ascii_host(value)
        look_up = self._look_up_records if kind == "dnsaddr" else self._look_up_host
        return await self._lookups.run(Holder(peer, told), partial(look_up, host, address, peer))

    def _look_up_records(self, host: str, address: Multiaddr, peer: PeerId) -> Resolved:
        records, ttl = self._txt_records.look_up(host)
        return Resolved(addresses_in(records, address.components[1:], peer), ttl)

    def _look_up_host(self, host: str, address: Multiaddr, peer: PeerId) -> Resolved:
        kind, value = address.components[0]
        rest = str(address).removeprefix(f"/{kind}/{value}")
        found: dict[str, list[Multiaddr]] = {"ip6": [], "ip4": []}
        for ip in _ips_of(host, kind):
            family = "ip6" if ":" in ip else "ip4"
            found[family].append(Multiaddr.parse(f"/{family}/{ip}{rest}"))
        return Resolved(interleave(found["ip6"], found["ip4"])[:MAX_ADDRESSES])


def _ips_of(host: str, kind: str) -> list[str]:
    no_address = f"the name has no {'IP' if kind == 'dns' else f'IPv{kind[-1]}'} address"
    try:
        found: list[Any] = socket.getaddrinfo(host, None, family=NAME_FAMILIES[kind], type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in NO_ADDRESS:
            raise OSError(no_address) from error
        raise OSError(f"the name cannot be resolved: {(error.strerror or 'it is unknown').lower()}") from error
    # An address with a scope means nothing without its interface, which a multiaddr names apart.
    ips = [str(where[0]) for *_, where in found if len(where) < 4 or not where[3]]
    if not ips:
        raise OSError(no_address)
    return list(dict.fromkeys(ips))


def ascii_host(host: str) -> str:
    """A name as DNS writes it.

    Raises:
        OSError: it is not one.
    """
    try:
        name = host.encode("idna").decode() if len(host) <= MAX_NAME + 1 else ""  # it has as many characters, or more
    except UnicodeError:
        name = ""
    if not name or len(name.removesuffix(".")) > MAX_NAME:
        raise OSError(f"not a host name: at most {MAX_NAME} characters, in labels of 1 to 63, separated by dots")
    return name


def is_name(address: Multiaddr) -> bool:
    """Whether ``address`` begins with a name, and has to be resolved before it is dialed. That of a relay is resolved when
    the relay itself is dialed."""
    return not address.is_relayed and (names_host(address) or address.components[0][0] == "dnsaddr")


def names_host(address: Multiaddr) -> bool:
    """Whether ``address`` begins with the name of a host."""
    return address.components[0][0] in NAME_FAMILIES


def interleave(first: Sequence[_T], second: Sequence[_T]) -> list[_T]:
    """One of each by turns, then what is left of the longer one."""
    return [one for pair in zip_longest(first, second) for one in pair if one is not None]

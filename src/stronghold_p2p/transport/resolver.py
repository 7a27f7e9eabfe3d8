"""Names of hosts in addresses, and the IP addresses that they stand for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Final, Protocol, TypeVar

from ..multiaddr import Multiaddr

__all__ = ["NAME_FAMILIES", "Resolver", "SystemResolver", "interleave", "names_host"]

NAME_FAMILIES: Final = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}

MAX_ADDRESSES: Final = 8
"""Addresses taken of one name: as many as are dialed at once. A large service has six; a name with hundreds would have us
knock at the doors of others."""

MAX_LOOKUPS: Final = 4
"""Names looked up at once; others wait. Each takes a thread until the system gives up, for twenty seconds or more, and a
remote may have told the name: asyncio has five threads or more for all that blocks, uvloop four for names alone."""

_T = TypeVar("_T")


class Resolver(Protocol):
    """Looks up names."""

    async def resolve(self, address: Multiaddr) -> Sequence[Multiaddr]:
        """What to dial for ``address``, which begins with the name of a host: one or more addresses by IP, in the order
        of trying.

        Raises:
            OSError: the name is unknown or malformed, or has no such address.
        """


class SystemResolver:
    """Asks the system, in threads: ``/dns`` for both families, ``/dns4`` and ``/dns6`` for one."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(MAX_LOOKUPS)

    async def resolve(self, address: Multiaddr) -> Sequence[Multiaddr]:
        kind, host = address.components[0]
        assert host is not None
        rest = str(address).removeprefix(f"/{kind}/{host}")
        found: dict[str, list[Multiaddr]] = {"ip6": [], "ip4": []}
        for ip in await self._look_up(host, NAME_FAMILIES[kind]):
            family = "ip6" if ":" in ip else "ip4"
            found[family].append(Multiaddr.parse(f"/{family}/{ip}{rest}"))
        return interleave(found["ip6"], found["ip4"])[:MAX_ADDRESSES]

    async def _look_up(self, host: str, family: int) -> list[str]:
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        lookup = asyncio.ensure_future(loop.getaddrinfo(host, None, family=family, type=socket.SOCK_STREAM))
        lookup.add_done_callback(self._looked_up)
        await asyncio.wait((lookup,))  # cancels nothing
        try:
            found = lookup.result()
        except UnicodeError as error:
            raise OSError("not a host name: at most 253 characters, in labels of 1 to 63") from error
        except socket.gaierror as error:
            raise OSError(f"the name cannot be resolved: {(error.strerror or 'it is unknown').lower()}") from error
        # An address with a scope means nothing without its interface, which a multiaddr names apart.
        ips = [str(where[0]) for *_, where in found if len(where) < 4 or not where[3]]
        if not ips:
            raise OSError("the name has no such address")
        return list(dict.fromkeys(ips))

    def _looked_up(self, lookup: asyncio.Future[Any]) -> None:
        """Its thread has ended, which nothing can stop. Perhaps nobody waits any more, nor hears of an error."""
        self._places.release()
        if not lookup.cancelled():
            lookup.exception()


def names_host(address: Multiaddr) -> bool:
    """Whether ``address`` begins with a name, and has to be resolved before it is dialed."""
    return address.components[0][0] in NAME_FAMILIES


def interleave(first: Sequence[_T], second: Sequence[_T]) -> list[_T]:
    """One of each by turns, then what is left of the longer one."""
    return [one for pair in zip_longest(first, second) for one in pair if one is not None]

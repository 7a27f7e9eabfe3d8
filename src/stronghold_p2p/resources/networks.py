"""The networks that an address belongs to: who has one address has all of them, or can have them."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network

from ..multiaddr import Multiaddr, ip_of

__all__ = ["Networks", "networks_of"]

Networks = tuple[str, ...]
"""From the largest to the smallest: the path to a holder's share."""

IPV6_PREFIXES = (48, 56)
"""A site gets a /48, a household a /56 (RFC 6177, section 2): whoever has one has all of its addresses."""


def networks_of(address: Multiaddr | None) -> Networks:
    """The networks that contain ``address``: an IPv4 address is its own, an IPv6 address is in a /48 and in a /56.

    An address that begins with anything else, and None, stand for themselves. A relayed one belongs to its relay's network.
    """
    if address is None:
        return ("none",)
    return _networks_of_host(*address.components[0])


@lru_cache(maxsize=1024)  # whoever connects is asked for several times, from one port after another
def _networks_of_host(name: str, value: str | None) -> Networks:
    ip = ip_of(name, value)
    if ip is None:
        return (f"/{name}/{value}",)
    if isinstance(ip, IPv6Address):
        return tuple(str(IPv6Network((int(ip), prefix), strict=False)) for prefix in IPV6_PREFIXES)
    return (str(IPv4Network(ip)),)

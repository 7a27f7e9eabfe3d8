"""For whom a reverse proxy forwards a connection: ``X-Forwarded-For``, and ``Forwarded`` (RFC 7239)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

from ..errors import WebSocketError

__all__ = ["Network", "client_of", "is_trusted", "parse_networks"]

IpAddress: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

PARAMETER: Final = re.compile(r'\s*([\w-]+)=("(?:[^"\\]|\\.)*"|[^",;\s]*)\s*(,|;|$)', re.ASCII)
"""One of ``Forwarded``, with what separates it from the next one. Text in quotes, such as a host, may be the client's."""

NODE: Final = re.compile(r"\[([^]%]+)\](?::\d+)?|([^:%]+)(?::\d+)?|([^%]+)")
"""An IP address, perhaps with a port: an IPv6 address is in brackets then."""


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """
    Raises:
        ValueError: neither a network, such as ``10.0.0.0/8``, nor an address.
    """
    return tuple(ip_network(text) for text in texts)


def is_trusted(ip: IpAddress, trusted: Iterable[Network]) -> bool:
    return any(ip in network for network in trusted)


def client_of(forwarded_for: Sequence[str], forwarded: Sequence[str], trusted: Sequence[Network]) -> IpAddress:
    """The last address that is not of a trusted proxy: each proxy adds the one that it was connected from, and what stands
    before that may be anybody's word. If all are trusted, the first.

    ``forwarded_for`` and ``forwarded`` are the values of both headers. A proxy that sets one of them may pass on a client's
    own of the other: if both are there, they must say the same.

    Raises:
        WebSocketError: they do not, there is none, or it is malformed.
    """
    chains = [node.strip() for value in forwarded_for for node in value.split(",")], _forwarded(", ".join(forwarded))
    found = {_last_untrusted(nodes, trusted) for nodes in chains if nodes}
    if not found:
        raise WebSocketError("expected X-Forwarded-For or Forwarded from a trusted proxy, got neither")
    if len(found) > 1:
        raise WebSocketError("expected the same address in X-Forwarded-For and Forwarded, got two")
    return found.pop()


def _forwarded(text: str) -> list[str]:
    """The nodes for whom it was forwarded, one for each proxy."""
    nodes = [""] if text else []
    position = 0
    while position < len(text):
        match = PARAMETER.match(text, position)
        if match is None:
            raise WebSocketError(f"expected Forwarded as in RFC 7239 from a trusted proxy, got {text[:64]!r}")
        name, value, end = match.groups()
        if name.lower() == "for":
            nodes[-1] = value.strip('"')
        if end == ",":
            nodes.append("")
        position = match.end()
    return nodes


def _last_untrusted(nodes: Sequence[str], trusted: Sequence[Network]) -> IpAddress:
    for node in reversed(nodes):
        ip = _parse(node)
        if not is_trusted(ip, trusted):
            break
    return ip


def _parse(node: str) -> IpAddress:
    match = NODE.fullmatch(node)
    try:
        ip = ip_address(next(filter(None, match.groups())) if match is not None else "")
    except ValueError:
        raise WebSocketError(f"expected the client's IP address from a trusted proxy, got {node[:64]!r}") from None
    return (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip

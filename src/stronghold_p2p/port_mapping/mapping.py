"""What the protocols of port mapping have in common."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Final, NamedTuple, Protocol

__all__ = ["LIFETIME", "PortMapping", "PortProtocol"]

LIFETIME: Final = 7200
"""Seconds that we ask for: as RFC 6886, section 3.3, recommends. That long a port stays open if we are killed."""


class PortMapping(NamedTuple):
    """A TCP port of a router that leads to one of ours."""

    external: IPv4Address
    """The router's address on its other side, as it says."""
    external_port: int
    lifetime: int
    """Seconds."""


class PortProtocol(Protocol):
    """One way to ask a router for mappings. One question is asked at a time."""

    name: str
    lost: bool
    """The router may have forgotten its mappings: found by any answer, and reset by whoever maps them again."""

    async def map(self, port: int, former: PortMapping | None) -> PortMapping:
        """Maps our ``port``, or renews the ``former`` mapping of it, for :data:`LIFETIME` or what the router grants.

        Raises:
            PortMappingError: the router refuses, or does not answer.
        """

    async def unmap(self, port: int) -> None:
        """Deletes the mapping of our ``port``, if there may be one. Raises nothing: it runs out by itself."""

    async def check(self) -> None:
        """Looks whether mappings are :attr:`lost`.

        Raises:
            PortMappingError: the router does not answer.
        """

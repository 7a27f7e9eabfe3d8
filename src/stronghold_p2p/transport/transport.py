"""A transport: makes byte pipes, by dialing and by listening. The swarm has a list of them and names none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from ..multiaddr import Multiaddr
from .pipe import BytePipe, PipeReceiver

__all__ = ["Connected", "Transport", "TransportListener"]

Connected: TypeAlias = Callable[[BytePipe], PipeReceiver]
"""Called with each new pipe before its first byte comes; returns what receives for it."""


class TransportListener(Protocol):
    """One address that is listened on."""

    @property
    def address(self) -> Multiaddr:
        """As bound, without a peer id: port 0 is resolved, a wildcard is not."""

    @property
    def dialable(self) -> tuple[Multiaddr, ...]:
        """Where others can dial it, a wildcard expanded to the addresses that the interfaces have now, loopback last.
        Empty if no interface has one. Raises ListenError if the interfaces cannot be listed."""

    def close(self) -> None:
        """Stops listening. The pipes that it has made stay."""


class Transport(Protocol):
    """Dials and listens on the addresses of one kind. Addresses are without a peer id."""

    @property
    def name(self) -> str:
        """As in :attr:`Path.transport`, such as ``"tcp"``."""

    def supports(self, address: Multiaddr) -> bool:
        """Whether ``address`` is of this kind."""

    async def dial(self, address: Multiaddr, connected: Connected) -> None:
        """Connects to ``address``, whose name has been resolved; returns when ``connected`` has been called.

        Raises:
            OSError: refused, or unreachable.
        """

    async def listen(self, address: Multiaddr, connected: Connected) -> TransportListener:
        """Listens on ``address``; cancelled, it leaves nothing open.

        Raises:
            ListenError: in use, not an address of this machine, or not permitted.
        """

    async def close(self) -> None:
        """Ends what the transport itself holds. Its listeners and pipes are closed by whoever has them."""

"""Port mapping as a part of a peer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from ..events import PortMapped, PortMappingFailed
from ..identity import PeerId
from ..protocols.service import Service, ServiceHost
from .gateway import Gateway, find_gateway
from .mapper import PortMapper
from .mapping import PortProtocol
from .router_protocols import NatPmp, Pcp
from .upnp import Upnp

__all__ = ["PortMappingService"]

Find = Callable[[], Awaitable[Gateway]]

Protocols = Callable[[Gateway, bytes], Sequence[PortProtocol]]
"""Ways to ask a router, the best first; the bytes are a secret of ours, for PCP."""


def _protocols(gateway: Gateway, secret: bytes) -> Sequence[PortProtocol]:
    return Pcp(gateway, secret), NatPmp(gateway), Upnp(gateway)


class PortMappingService(Service):
    """Maps the ports of a peer's listeners, and has public remotes told the external addresses."""

    def __init__(
        self,
        emit: Callable[[PortMapped | PortMappingFailed], None],
        *,
        find: Find = find_gateway,
        protocols: Protocols = _protocols,
    ) -> None:
        self._emit = emit
        self._find = find
        self._protocols = protocols
        self._mapper: PortMapper | None = None

    def attach(self, host: ServiceHost) -> None:
        super().attach(host)
        # The same after a restart, with most kinds of keys.
        secret = host.keypair.sign(b"stronghold-p2p port mapping")
        self._mapper = PortMapper(
            host.keypair.peer_id,
            protocols=lambda gateway: self._protocols(gateway, secret),
            find=self._find,
            changed=host.map_listeners,
            emit=self._emit,
        )
        self._mapper.start()

    def offer_changed(self, peer: PeerId | None) -> None:
        if peer is None and self._mapper is not None:
            self._mapper.listening(self.host.bound_addresses)

    def network_changed(self) -> None:
        if self._mapper is not None:
            self._mapper.network_changed()

    async def close(self) -> None:
        """Deletes the mappings; takes at most two seconds."""
        if self._mapper is not None:
            await self._mapper.close()

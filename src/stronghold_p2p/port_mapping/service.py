"""Port mapping as a part of a peer, and as a look at a router."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence

from ..events import PortMapped, PortMappingFailed
from ..identity import Keypair, PeerId
from ..multiaddr import Multiaddr
from ..protocols.service import Service, ServiceHost
from .gateway import Gateway, find_gateway
from .mapper import PortMapper, PortReport
from .mapping import PortProtocol
from .router_protocols import NatPmp, Pcp
from .upnp import Upnp

__all__ = ["PortMappingService", "probe"]

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

    def report(self) -> tuple[PortReport, ...]:
        """What has become of each port that should be mapped."""
        return self._mapper.report() if self._mapper is not None else ()

    async def close(self) -> None:
        """Deletes the mappings; takes at most two seconds."""
        if self._mapper is not None:
            await self._mapper.close()


async def probe(port: int, *, find: Find = find_gateway, protocols: Protocols = _protocols) -> PortReport:
    """Maps a TCP port for a moment, to see whether and how the router does that. Takes up to half a minute."""
    secret = secrets.token_bytes(32)
    mapper = PortMapper(
        Keypair.generate().peer_id,
        protocols=lambda gateway: protocols(gateway, secret),
        find=find,
        changed=lambda mapped: None,
        emit=lambda event: None,
    )
    mapper.listening([Multiaddr.of_tcp("0.0.0.0", port)])
    try:
        await mapper.run_once()
        (report,) = mapper.report()
    finally:
        await mapper.close()
    return report

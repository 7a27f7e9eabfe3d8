"""WebSocket over TCP, dialed and listened on (libp2p/specs websockets/README.md).

Every write is one binary message; where messages begin and end means nothing, and no extension is agreed to, whatever
is offered. The HTTP handshake is a part of the pipe: the swarm counts a connection, limits its time and checks its
network from the first byte on.
"""

from __future__ import annotations

from typing import Final

from ..config import Config
from ..events import Path
from ..multiaddr import Multiaddr
from .pipe import BytePipe, PipeReceiver
from .tcp import TcpTransport
from .transport import Connected, TransportListener

__all__ = ["WebSocketTransport"]

WS: Final = Multiaddr.parse("/ws")


class WebSocketTransport:
    """Dials and listens on ``/ip4|ip6|dns|dns4|dns6/.../tcp/.../ws``."""

    name: Final = "ws"

    def __init__(self, config: Config) -> None:
        self._tcp = TcpTransport(config)

    def supports(self, address: Multiaddr) -> bool:
        return len(address.components) == 3 and address.endswith(WS) and self._tcp.supports(address.decapsulate(WS))

    async def dial(self, address: Multiaddr, connected: Connected) -> None:
        from .websocket_pipe import client_pipe

        (kind, host), (_, port), _ = address.components
        authority = f"[{host}]:{port}" if kind == "ip6" else f"{host}:{port}"
        path = Path(self.name, address)

        def tcp_connected(lower: BytePipe) -> PipeReceiver:
            return client_pipe(lower, authority, path, connected)

        await self._tcp.dial(address.decapsulate(WS), tcp_connected)

    async def listen(self, address: Multiaddr, connected: Connected) -> TransportListener:
        from .websocket_pipe import server_pipe

        path = Path(self.name)

        def tcp_connected(lower: BytePipe) -> PipeReceiver:
            return server_pipe(lower, path, connected)

        return _Listener(await self._tcp.listen(address.decapsulate(WS), tcp_connected))

    async def close(self) -> None:
        await self._tcp.close()


class _Listener:
    """A TCP listener whose addresses end in ``/ws``."""

    def __init__(self, tcp: TransportListener) -> None:
        self._tcp = tcp
        self.address = tcp.address.encapsulate(WS)

    @property
    def dialable(self) -> tuple[Multiaddr, ...]:
        return tuple(address.encapsulate(WS) for address in self._tcp.dialable)

    def close(self) -> None:
        self._tcp.close()

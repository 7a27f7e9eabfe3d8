"""A network in memory, as a transport: swarms without sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from stronghold_p2p import ListenError, Multiaddr, Path
from stronghold_p2p.transport.pipe import BytePipe, PipeReceiver
from stronghold_p2p.transport.transport import (
    DIAL_PLAINLY,
    LISTEN_PLAINLY,
    Connected,
    DialOptions,
    ListenOptions,
    nothing_to_close,
)

from .memory import memory_pipes

__all__ = ["MemoryListener", "MemoryTransport"]


@dataclass(eq=False)
class MemoryListener:
    """One address of a :class:`MemoryTransport`."""

    transport: MemoryTransport
    address: Multiaddr
    connected: Connected
    exhausted: Callable[[], None] = nothing_to_close

    def sees(self, remotes: Iterable[Multiaddr]) -> None:
        """From now on, connections come from these addresses, one after another."""
        connected, remaining = self.connected, iter(remotes)

        def from_there(pipe: BytePipe) -> PipeReceiver:
            pipe.remote_address = next(remaining)  # type: ignore[misc]
            return connected(pipe)

        self.connected = from_there

    def close(self) -> None:
        del self.transport.listening[self.address]


class MemoryTransport:
    """Dials and listens on ``/memory/<number>``, for the numbers it is given; several swarms share one. ``path`` is that
    of its connections, on which what is sent takes ``lag`` turns of the loop more than it must."""

    def __init__(self, numbers: range, path: Path, *, lag: int = 0) -> None:
        self.name = path.transport
        self.listening: dict[Multiaddr, MemoryListener] = {}
        self._numbers = numbers
        self._path = path
        self._lag = lag

    def supports(self, address: Multiaddr) -> bool:
        names, values = zip(*address, strict=True)
        return names == ("memory",) and int(values[0]) in self._numbers

    async def dial(self, address: Multiaddr, connected: Connected, options: DialOptions = DIAL_PLAINLY) -> None:
        listener = self.listening.get(address)
        if listener is None:
            raise ConnectionRefusedError("connection refused")
        paths = replace(self._path, dialed=address), self._path
        memory_pipes(connected, listener.connected, paths=paths, lag=self._lag)

    async def listen(
        self, address: Multiaddr, connected: Connected, options: ListenOptions = LISTEN_PLAINLY
    ) -> MemoryListener:
        if address in self.listening:
            raise ListenError(address, "in use")
        listener = self.listening[address] = MemoryListener(self, address, connected, options.exhausted)
        return listener

    async def close(self) -> None: ...

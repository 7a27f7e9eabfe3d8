"""Interfaces that a test makes up and changes."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any

from stronghold_p2p import StrongholdP2p
from stronghold_p2p.transport.interfaces import InterfaceAddress, InterfaceWatch

__all__ = ["FakeInterfaces", "on"]


def on(interface: int, *addresses: str, usable: bool = True) -> list[InterfaceAddress]:
    """The addresses of one interface."""
    return [InterfaceAddress(ip_address(address), interface, usable) for address in addresses]


class FakeInterfaces:
    """What an :class:`InterfaceWatch` sees of a machine."""

    def __init__(self, *addresses: InterfaceAddress) -> None:
        self.addresses = list(addresses)
        self.error: OSError | None = None
        """Why the addresses cannot be listed."""
        self.looks = 0
        self.told = True
        """Whether the system tells of changes."""
        self.monitors: list[_Monitor] = []

    def watch(self) -> InterfaceWatch:
        return InterfaceWatch(lister=self._list, monitor=self._monitor)

    def of(self, peer: StrongholdP2p[Any, Any]) -> None:
        """Becomes what ``peer`` sees, which has watched nothing yet."""
        assert peer._parts.swarm is not None
        watch = peer._parts.swarm._interfaces
        watch._list, watch._open_monitor = self._list, self._monitor

    def change(self, *addresses: InterfaceAddress) -> None:
        self.addresses = list(addresses)
        self.tell()

    def tell(self) -> None:
        """Something may have changed."""
        for monitor in self.monitors:
            if monitor.fileno() >= 0:
                monitor.system.send(b"x")

    def close(self) -> None:
        for monitor in self.monitors:
            monitor.system.close()

    def _list(self) -> list[InterfaceAddress]:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return list(self.addresses)

    def _monitor(self) -> socket.socket:
        if not self.told:
            raise OSError("no change is told")
        self.monitors.append(_Monitor())
        return self.monitors[-1]


class _Monitor(socket.socket):
    """Becomes readable when ``system`` sends; ``failure`` is what the next read raises."""

    def __init__(self) -> None:
        self.system, ours = socket.socketpair(type=socket.SOCK_DGRAM)
        self.failure: OSError | None = None
        super().__init__(fileno=ours.detach())
        self.setblocking(False)

    def recv(self, *arguments: int) -> bytes:
        received = super().recv(*arguments)
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        return received

"""Multicast on the loopback interface alone, on a port of one's own: each test is a network for itself."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stronghold_p2p.discovery import links, packets
from stronghold_p2p.discovery.packets import Query
from stronghold_p2p.transport import interfaces

__all__ = ["Neighbor", "neighbor", "only_loopback"]


def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """mDNS of peers made from now on is heard by nobody else."""
    loopback = [address for address in interfaces.list_addresses() if address.ip.is_loopback]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(links, "PORT", free.getsockname()[1])
    monkeypatch.setattr(interfaces, "list_addresses", lambda: loopback)


class Neighbor:
    """Sends what it likes, and has all that is sent."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened

    def send(self, data: bytes) -> None:
        self._socket.sendto(data, (links.GROUPS[4], links.PORT))

    def received(self) -> list[bytes]:
        """What has come since the last call."""
        received = []
        while True:
            try:
                received.append(self._socket.recv(65536))
            except BlockingIOError:
                return received

    def questions(self) -> list[Query]:
        """The questions among it."""
        read = map(packets.read, self.received())
        return [message for message in read if isinstance(message, Query)]


@contextmanager
def neighbor(source: str = "") -> Iterator[Neighbor]:
    """``source``: the address that it sends from."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.bind((source, links.PORT))
        loopback = interfaces.list_addresses()[0].interface
        member = struct.pack("=4s4si", socket.inet_aton(links.GROUPS[4]), b"\x7f\0\0\1", loopback)
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, member)
        yield Neighbor(opened)

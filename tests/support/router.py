"""A small router: PCP (RFC 6887) and NAT-PMP (RFC 6886) on loopback, written from their text alone."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from ipaddress import IPv4Address

from stronghold_p2p.port_mapping.gateway import Gateway

__all__ = ["LOCAL", "Router"]

LOCAL = IPv4Address("127.0.0.1")


class Router(asyncio.DatagramProtocol):
    """Maps ports. What a test changes of it holds from the next datagram on."""

    def __init__(self) -> None:
        self.speaks = {0, 2}
        """Versions: 0 is NAT-PMP, 2 is PCP."""
        self.external = IPv4Address("1.2.3.4")
        self.result = 0
        """The result code of every answer."""
        self.silent = False
        self.lifetime: int | None = None
        """What is granted; None: what is asked for."""
        self.taken: set[int] = set()
        """External ports that others have: the next one is given."""
        self.before: list[bytes] = []
        """Sent before each answer."""
        self.alter: Callable[[bytes], bytes] = lambda answer: answer
        self.requests: list[bytes] = []
        self.peers: list[tuple[str, int]] = []
        """Where each request came from."""
        self.mappings: dict[int, tuple[int, int, bytes]] = {}
        """External port, lifetime and nonce, by internal port."""
        self._began = asyncio.get_running_loop().time()
        self._transport: asyncio.DatagramTransport

    @classmethod
    async def open(cls, host: str = str(LOCAL), port: int = 0) -> Router:
        _, router = await asyncio.get_running_loop().create_datagram_endpoint(cls, (host, port))
        return router

    @property
    def gateway(self) -> Gateway:
        return Gateway(LOCAL, LOCAL, self._transport.get_extra_info("sockname")[1])

    def restart(self) -> None:
        """Forgets everything."""
        self.mappings.clear()
        self._began = asyncio.get_running_loop().time()

    def close(self) -> None:
        self._transport.close()

    # -- details ---------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        return int(asyncio.get_running_loop().time() - self._began)

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.requests.append(data)
        self.peers.append(address)
        if self.silent:
            return
        answer = self._answer(data, IPv4Address(address[0]))
        for datagram in (*self.before, self.alter(answer)):
            self._transport.sendto(datagram, address)

    def _answer(self, data: bytes, sender: IPv4Address) -> bytes:
        if data[0] not in self.speaks:
            if 0 in self.speaks:
                return struct.pack(">BBHI", 0, 0, 1, self.epoch)
            return struct.pack(">BBBBII12x", 2, 128 + data[1], 0, 1, 0, self.epoch)
        return self._answer_pcp(data, sender) if data[0] == 2 else self._answer_nat_pmp(data)

    def _answer_nat_pmp(self, data: bytes) -> bytes:
        head = struct.pack(">BBHI", 0, 128 + data[1], self.result, self.epoch)
        if data[1] == 0:
            return head + self.external.packed
        _, opcode, internal, external, lifetime = struct.unpack(">BBxxHHI", data)
        assert opcode == 2
        external, lifetime = self.map(internal, external, lifetime, b"")
        return head + struct.pack(">HHI", internal, external, lifetime)

    def _answer_pcp(self, data: bytes, sender: IPv4Address) -> bytes:
        _, opcode, lifetime, client = struct.unpack_from(">BBxxI16s", data)
        assert client == bytes(10) + b"\xff\xff" + sender.packed
        if opcode == 0:
            assert len(data) == 24
            return struct.pack(">BBBBII12x", 2, 128, 0, self.result, 0, self.epoch)
        nonce, protocol, internal, external, _ = struct.unpack_from(">12sBxxxHH16s", data, 24)
        assert (opcode, protocol, len(data)) == (1, 6, 60)
        result = self.result
        if internal in self.mappings and self.mappings[internal][2] != nonce:
            result = 2
        elif not result:
            external, lifetime = self.map(internal, external, lifetime, nonce)
        head = struct.pack(">BBBBII12x", 2, 129, 0, result, lifetime, self.epoch)
        place = bytes(10) + b"\xff\xff" + self.external.packed
        return head + struct.pack(">12sBxxxHH16s", nonce, protocol, internal, external, place)

    def map(self, internal: int, external: int, lifetime: int, nonce: bytes) -> tuple[int, int]:
        if self.result:
            return external, lifetime
        if lifetime == 0:
            self.mappings.pop(internal, None)
            return 0, 0
        lifetime = lifetime if self.lifetime is None else self.lifetime
        while external in self.taken:
            external += 1
        self.mappings[internal] = external, lifetime, nonce
        return external, lifetime

"""A name server on loopback, which answers as a test tells it to."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

__all__ = ["Answer", "NameServer", "name_server", "txt"]

Answer: TypeAlias = Callable[[dns.message.Message], bytes | None]
"""From a question to the bytes of its answer; None: there is none."""

MAX_UDP = 1232


class NameServer:
    """Names without an answer are unknown."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        """By name, with a dot at the end."""
        self.asked: list[tuple[str, str]] = []
        """Names, and by what they came: "udp" or "tcp"."""
        self.port = 0

    def add(self, host: str, *records: str, ttl: int = 300) -> None:
        """Has ``host`` lead to the addresses ``records``."""
        self.answers[f"_dnsaddr.{host}."] = txt(*(f"dnsaddr={record}" for record in records), ttl=ttl)

    def answer(self, data: bytes, by: str) -> bytes | None:
        question = dns.message.from_wire(data)
        name = question.question[0].name.to_text()
        assert question.question[0].rdtype is dns.rdatatype.TXT
        self.asked.append((name, by))
        if name not in self.answers:
            response = dns.message.make_response(question)
            response.set_rcode(dns.rcode.NXDOMAIN)
            return response.to_wire()
        answer = self.answers[name](question)
        if answer is None or by == "tcp" or len(answer) <= MAX_UDP:
            return answer
        response = dns.message.make_response(question)
        response.flags |= dns.flags.TC
        return response.to_wire()


def txt(*records: str | bytes, ttl: int = 300) -> Callable[[dns.message.Message], bytes]:
    """Records of type TXT, in strings of 255 bytes."""

    def answer(question: dns.message.Message) -> bytes:
        response = dns.message.make_response(question)
        # By hand: dnspython would take seconds for thousands, and sorts out what is twice.
        header = bytearray(response.to_wire())[: 12 + len(question.question[0].name.to_wire() or b"") + 4]
        header[6:12] = struct.pack("!HHH", len(records), 0, 0)
        return bytes(header) + b"".join(map(record, records))

    def record(value: str | bytes) -> bytes:
        data = value.encode() if isinstance(value, str) else value
        strings = [data[start : start + 255] for start in range(0, len(data), 255)] or [b""]
        rdata = b"".join(bytes([len(string)]) + string for string in strings)
        return struct.pack("!HHHIH", 0xC00C, 16, 1, ttl, len(rdata)) + rdata

    return answer


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._server.answer(data, "udp")
        if answer is not None:
            self._transport.sendto(answer, addr)


@asynccontextmanager
async def name_server() -> AsyncIterator[NameServer]:
    """Serves UDP and TCP on one port of 127.0.0.1."""
    loop = asyncio.get_running_loop()
    server = NameServer()
    connections: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        size = int.from_bytes(await reader.readexactly(2))
        answer = server.answer(await reader.readexactly(size), "tcp")
        if answer is not None:
            writer.write(len(answer).to_bytes(2) + answer)
        await reader.read()
        writer.close()
        connections.discard(writer)

    while True:
        by_tcp = await asyncio.start_server(serve, "127.0.0.1", 0)
        server.port = by_tcp.sockets[0].getsockname()[1]
        try:
            by_udp, _ = await loop.create_datagram_endpoint(
                lambda: _Datagrams(server), local_addr=("127.0.0.1", server.port)
            )
            break
        except OSError:
            by_tcp.close()  # the port is taken for UDP
    try:
        yield server
    finally:
        by_udp.close()
        by_tcp.close()
        for writer in connections:
            writer.transport.abort()
        await asyncio.sleep(0)

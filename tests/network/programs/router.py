"""A program: a router that maps TCP ports, and forwards nothing else. Prints the mapped ports when they change.

router.py INNER HOST OUTER: its address towards a host, that host, and its address towards everybody else.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from ipaddress import IPv4Address
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))

from support.router import Router


class Forwarder(Router):
    """Passes on what comes to a mapped port."""

    host: str

    def __init__(self) -> None:
        super().__init__()
        self.servers: dict[int, asyncio.Task[None]] = {}
        """By internal port."""

    def map(self, internal: int, external: int, lifetime: int, nonce: bytes) -> tuple[int, int]:
        granted = super().map(internal, external, lifetime, nonce)
        if (internal in self.mappings) == (internal in self.servers):
            return granted  # asked again
        if internal not in self.mappings:
            self.servers.pop(internal).cancel()
        else:
            listening = socket.create_server((str(self.external), granted[0]))  # before the answer says so
            self.servers[internal] = asyncio.get_running_loop().create_task(self.serve(listening, internal))
        print(json.dumps({"event": "mapped", "ports": sorted(self.mappings)}), flush=True)
        return granted

    async def serve(self, listening: socket.socket, port: int) -> None:
        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner_reader, inner_writer = await asyncio.open_connection(self.host, port)
            await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

        async with await asyncio.start_server(forward, sock=listening) as server:
            await server.serve_forever()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def main(inner: str, host: str, outer: str) -> None:
    router = await Forwarder.open(inner, 5351)
    assert isinstance(router, Forwarder)
    router.host, router.external = host, IPv4Address(outer)
    print('"ready"', flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)

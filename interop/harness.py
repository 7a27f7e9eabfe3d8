#!/usr/bin/env python3
"""libp2p's transport test: a listener and a dialer find each other by way of redis, and the dialer measures a handshake
and a ping.

Runs as a program of libp2p/test-plans (transport-interop/README.md there), and of its successor libp2p/unified-testing
(docs/write-a-transport-test-app.md there), whose names are in capitals. It needs nothing but this library.

| test-plans | unified-testing | |
|---|---|---|
| is_dialer | IS_DIALER | "true" or "false" |
| transport | TRANSPORT | "tcp" or "ws" |
| security | SECURE_CHANNEL | "noise" |
| muxer | MUXER | "yamux" |
| ip | LISTENER_IP | to listen at (0.0.0.0) |
| redis_addr | REDIS_ADDR | host:port (redis:6379) |
| test_timeout_seconds | TEST_TIMEOUT_SECS | how long to wait for the other (180) |
| | TEST_KEY | the beginning of the key in redis |
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from stronghold_p2p import StrongholdP2p

__all__ = ["Test"]

SUFFIX = {"tcp": "", "ws": "/ws"}
"""What follows the port in an address, by transport."""

REDIS_PAUSE = 0.1
"""Seconds between tries to reach redis, which may start after us."""


@dataclass(frozen=True, kw_only=True)
class Test:
    """What the environment asks for."""

    is_dialer: bool
    transport: str
    ip: str
    redis: str
    timeout: int
    key: str
    """In redis: a list of the listener's address."""
    unified: bool
    """By unified-testing, not test-plans."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Test:
        """Exits when the test asks for what we do not have."""
        unified = "TEST_KEY" in environment

        def get(name: str, unified_name: str, default: str) -> str:
            return environment.get(unified_name if unified else name, default)

        wanted = (
            get("transport", "TRANSPORT", ""),
            get("security", "SECURE_CHANNEL", ""),
            get("muxer", "MUXER", ""),
        )
        if wanted[0] not in SUFFIX or wanted[1:] != ("noise", "yamux"):
            sys.exit(f"expected tcp or ws, with noise and yamux; asked for {' '.join(map(repr, wanted))}")
        return cls(
            is_dialer=get("is_dialer", "IS_DIALER", "") == "true",
            transport=wanted[0],
            ip=get("ip", "LISTENER_IP", "0.0.0.0"),
            redis=get("redis_addr", "REDIS_ADDR", "redis:6379"),
            timeout=int(get("test_timeout_seconds", "TEST_TIMEOUT_SECS", "180")),
            key=f"{environment['TEST_KEY']}_listener_multiaddr" if unified else "listenerAddr",
            unified=unified,
        )

    async def publish(self, address: object) -> None:
        """Tells the dialer where we listen."""
        await redis(self.redis, "RPUSH", self.key, str(address))

    async def listener(self) -> str:
        """The address of the listener, once it has one."""
        popped = await redis(self.redis, "BLPOP", self.key, str(self.timeout))
        if not popped:
            sys.exit(f"no listener in {self.timeout} s")
        assert isinstance(popped, list)
        _, address = popped
        return str(address)

    def report(self, handshake_and_ping: float, ping: float) -> None:
        """Prints the dialer's result; the arguments are in seconds."""
        both, ping = round(handshake_and_ping * 1000, 3), round(ping * 1000, 3)
        if self.unified:
            print(f"latency:\n  handshake_plus_one_rtt: {both}\n  ping_rtt: {ping}\n  unit: ms")
        else:
            print(json.dumps({"handshakePlusOneRTTMillis": both, "pingRTTMilllis": ping}))  # three l, as all spell it


async def main() -> None:
    test = Test.of(os.environ)
    async with asyncio.timeout(test.timeout), StrongholdP2p() as peer:
        if test.is_dialer:
            address = await test.listener()
            start = time.perf_counter()
            ping = await peer.ping(address)
            test.report(time.perf_counter() - start, ping)
        else:
            # For a wildcard it returns the address of an interface that is not loopback.
            await test.publish(await peer.listen(f"/ip4/{test.ip}/tcp/0{SUFFIX[test.transport]}"))
            await asyncio.Event().wait()  # until the harness ends us; it is a failure to live longer


async def redis(address: str, *command: str) -> object:
    """Sends one command, and returns the reply: a text, or a list of them (empty for none)."""
    host, _, port = address.rpartition(":")
    while True:
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
            break
        except OSError:
            await asyncio.sleep(REDIS_PAUSE)
    writer.write(
        f"*{len(command)}\r\n".encode() + b"".join(b"$%d\r\n%b\r\n" % (len(c), c) for c in map(str.encode, command))
    )
    reply = await _reply(reader)
    writer.close()
    return reply


async def _reply(reader: asyncio.StreamReader) -> object:
    line = (await reader.readline()).decode().strip()
    match line[:1]:
        case "*":
            return [await _reply(reader) for _ in range(int(line[1:]))]
        case "$":
            return (await reader.readexactly(int(line[1:]) + len("\r\n")))[:-2].decode()
        case "+" | ":":
            return line[1:]
    raise ConnectionError(f"redis replied {line!r}")


if __name__ == "__main__":
    asyncio.run(main())

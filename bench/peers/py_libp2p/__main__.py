"""The py-libp2p side of the benchmark, on trio. See bench/README.md for its command line."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from importlib.metadata import version
from typing import Any

import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.utils import decode_uvarint_from_stream, encode_varint_prefixed
from multiaddr import Multiaddr

PROTOCOLS = {"json": TProtocol("/stronghold-p2p/1.0.0"), "raw": TProtocol("/stronghold-p2p/raw/1.0.0")}
WARM_UP = 0.2


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve")
    commands.add_parser("version")
    measured = commands.add_parser("measure")
    measured.add_argument("address", type=Multiaddr)
    measured.add_argument("--size", type=int, default=64)
    measured.add_argument("--concurrency", type=int, default=32)
    measured.add_argument("--seconds", type=float, default=2.0)
    measured.add_argument("--format", choices=("json", "raw"), default="json")
    connected = commands.add_parser("connect")
    connected.add_argument("address", type=Multiaddr)
    connected.add_argument("--count", type=int, default=20)
    options = parser.parse_args()
    if options.command == "version":
        emit({"py-libp2p": version("libp2p"), "trio": version("trio")})
    else:
        trio.run({"serve": serve, "measure": measure, "connect": connect}[options.command], options)
    sys.stdout.flush()
    os._exit(0)  # it may leave threads that do not end


def emit(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


async def serve(options: argparse.Namespace) -> None:
    host = new_host()

    async def answer_json(stream: INetStream) -> None:
        body = json.dumps(json.loads(await read_message(stream)))
        await stream.write(encode_varint_prefixed(body.encode()))
        await stream.close()

    async def answer_raw(stream: INetStream) -> None:
        await stream.write(encode_varint_prefixed(await read_message(stream)))
        await stream.close()

    host.set_stream_handler(PROTOCOLS["json"], answer_json)
    host.set_stream_handler(PROTOCOLS["raw"], answer_raw)
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        emit({"address": str(host.get_addrs()[0])})
        await trio.to_thread.run_sync(sys.stdin.read)
        sys.stdout.flush()
        os._exit(0)


async def read_message(stream: INetStream) -> bytes:
    missing = await decode_uvarint_from_stream(stream)
    chunks = []
    while missing:
        chunk = await stream.read(missing)
        if not chunk:
            raise ValueError("a message is cut short")
        chunks.append(chunk)
        missing -= len(chunk)
    return b"".join(chunks)


class Dialer:
    """Sends requests to one peer; the first one connects."""

    def __init__(self, host: IHost, address: Multiaddr, form: str) -> None:
        self._host = host
        self._info = info_from_p2p_addr(address)
        self._form = form
        self._connected = False

    async def request(self, body: Any) -> None:
        if not self._connected:
            await self._host.connect(self._info)
            self._connected = True
        stream = await self._host.new_stream(self._info.peer_id, [PROTOCOLS[self._form]])
        await stream.write(encode_varint_prefixed(json.dumps(body).encode() if self._form == "json" else body))
        response = await read_message(stream)
        await stream.close()
        if len(json.loads(response) if self._form == "json" else response) != len(body):
            raise ValueError("the response is not the request's body")


async def measure(options: argparse.Namespace) -> None:
    body: Any = bytes(options.size) if options.format == "raw" else "x" * (options.size - 2)
    host = new_host()
    async with host.run([]):
        dialer = Dialer(host, options.address, options.format)
        start = time.perf_counter()
        await dialer.request(body)
        connected = time.perf_counter() - start
        await load(dialer, body, options.concurrency, options.seconds * WARM_UP)
        emit({"measuring": True})
        latencies, elapsed = await load(dialer, body, options.concurrency, options.seconds)
        latencies.sort()
        rate = len(latencies) / elapsed
        emit(
            {
                "requests_per_second": round(rate),
                "p50_us": percentile(latencies, 0.50),
                "p99_us": percentile(latencies, 0.99),
                "mb_per_second": 2 * options.size * rate / 1e6,
                "connect_ms": connected * 1e3,
            }
        )
        os._exit(0)


async def load(dialer: Dialer, body: Any, concurrency: int, seconds: float) -> tuple[list[float], float]:
    """Keeps ``concurrency`` requests in flight; returns the time that each took and that all took, in seconds."""
    clock = time.perf_counter
    latencies: list[float] = []
    start = clock()
    end = start + seconds

    async def send() -> None:
        now = start
        while now < end:
            sent = clock()
            await dialer.request(body)
            now = clock()
            latencies.append(now - sent)

    async with trio.open_nursery() as nursery:
        for _ in range(concurrency):
            nursery.start_soon(send)
    return latencies, clock() - start


async def connect(options: argparse.Namespace) -> None:
    times = []
    for _ in range(options.count):
        host = new_host()
        async with host.run([]):
            dialer = Dialer(host, options.address, "json")
            start = time.perf_counter()
            await dialer.request("x" * 62)
            times.append((time.perf_counter() - start) * 1e3)
    emit({"first_ms": times[0], "connect_ms_median": statistics.median(times), "connect_ms": times})


def percentile(ordered: list[float], share: float) -> int:
    """In microseconds, by the nearest rank."""
    return round(ordered[math.ceil(share * len(ordered)) - 1] * 1e6)


if __name__ == "__main__":
    main()

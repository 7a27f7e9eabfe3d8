"""What the Python peers of the benchmark share: the command line, the load, and the figures. See bench/README.md."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import resource
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import uvloop

WARM_UP = 0.2
"""Of the time that is measured."""
DIALS_AT_ONCE = 32

Request = Callable[[Any], Awaitable[Any]]
"""Sends a body, a text for "json" and bytes for "raw", and returns its answer's."""
Checked = Callable[[Any], Awaitable[None]]
"""Sends a body, and checks that its answer is as long."""
Serve = Callable[[], AbstractAsyncContextManager[str]]
"""Serves for as long as the context lasts; gives the address."""
Dial = Callable[[str, str], AbstractAsyncContextManager[Request]]
"""Makes whatever dials, for one address and one format, "json" or "raw"; the first request is what connects."""


def answer(body: bytes, form: str) -> bytes:
    """What a handler makes of a request's body: the same, through the codec."""
    return msgspec.json.encode(msgspec.json.decode(body)) if form == "json" else body


def coded(exchange: Callable[[bytes], Awaitable[bytes]], form: str) -> Request:
    """The request of a system that takes encoded bodies."""
    if form == "raw":
        return exchange

    async def request(body: str) -> Any:
        return msgspec.json.decode(await exchange(msgspec.json.encode(body)))

    return request


def main(
    serve: Serve,
    dial: Dial,
    versions: dict[str, str],
    *,
    relay: Serve | None = None,
    serve_via: Callable[[str], AbstractAsyncContextManager[str]] | None = None,
    serve_perf: Serve | None = None,
    measure_perf: Callable[..., Awaitable[dict[str, float]]] | None = None,
    serve_many: Serve | None = None,
    dial_many: Dial | None = None,
) -> None:
    """Runs the command line. ``serve_via`` serves through the relay at an address; each ``dial_many`` is another peer."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    served = commands.add_parser("serve")
    if serve_via is not None:
        served.add_argument("--via-relay")
    if relay is not None:
        commands.add_parser("relay")
    commands.add_parser("version")
    measured = commands.add_parser("measure")
    measured.add_argument("address")
    measured.add_argument("--size", type=int, default=64)
    measured.add_argument("--concurrency", type=int, default=32)
    measured.add_argument("--seconds", type=float, default=2.0)
    measured.add_argument("--format", choices=("json", "raw"), default="json")
    connected = commands.add_parser("connect")
    connected.add_argument("address")
    connected.add_argument("--count", type=int, default=20)
    if dial_many is not None:
        commands.add_parser("many-serve")
        many = commands.add_parser("many")
        many.add_argument("address")
        many.add_argument("--peers", type=int, default=1000)
        many.add_argument("--each", type=int, default=1)
        many.add_argument("--seconds", type=float, default=2.0)
    if serve_perf is not None:
        commands.add_parser("perf-serve")
        perf = commands.add_parser("perf")
        perf.add_argument("address")
        perf.add_argument("--upload", type=int, default=0)
        perf.add_argument("--download", type=int, default=0)
    arguments = vars(parser.parse_args())
    command = arguments.pop("command")
    if command == "version":
        emit(versions)
        return
    work: Coroutine[Any, Any, None]
    if command == "serve" and serve_via is not None and (address := arguments["via_relay"]) is not None:
        work = serve_until_eof(partial(serve_via, address))
    elif command == "serve":
        work = serve_until_eof(serve)
    elif command == "relay" and relay is not None:
        work = serve_until_eof(relay)
    elif command == "perf-serve" and serve_perf is not None:
        work = serve_until_eof(serve_perf)
    elif command == "perf" and measure_perf is not None:
        work = print_perf(measure_perf(**arguments))
    elif command == "many-serve":
        work = serve_until_eof(serve_many or serve)
    elif command == "many" and dial_many is not None:
        work = measure_many(dial_many, **arguments)
    elif command == "measure":
        work = measure(dial, form=arguments.pop("format"), **arguments)
    else:
        work = connect(dial, **arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


def emit(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


async def serve_until_eof(serve: Serve) -> None:
    async with serve() as address:
        emit({"address": address})
        await asyncio.to_thread(sys.stdin.read)


async def print_perf(measured: Awaitable[dict[str, float]]) -> None:
    figures = await measured
    emit({**figures, "max_rss_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss})


async def measure(dial: Dial, address: str, size: int, concurrency: int, seconds: float, form: str) -> None:
    body: Any = bytes(size) if form == "raw" else "x" * (size - 2)
    async with connection(dial, address, form) as request:
        start = time.perf_counter()
        await request(body)
        connected = time.perf_counter() - start
        figures = await measure_load([request], body, size, concurrency, seconds)
    emit({**figures, "connect_ms": connected * 1e3})


async def measure_many(dial: Dial, address: str, peers: int, each: int, seconds: float) -> None:
    """So many peers, all connected before the load begins, and so many requests of 64 bytes in flight from each."""
    body = "x" * 62
    async with AsyncExitStack() as stack:
        requests = [await stack.enter_async_context(connection(dial, address, "json")) for _ in range(peers)]
        waiting = iter(requests)

        async def connect_in_turn() -> None:
            for request in waiting:
                await request(body)

        start = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(DIALS_AT_ONCE):
                tasks.create_task(connect_in_turn())
        connected = time.perf_counter() - start
        gc.collect()
        gc.freeze()  # else what is measured is the collection of so many peers in one process
        figures = await measure_load(requests, body, 64, each, seconds)
    emit({**figures, "connect_all_ms": connected * 1e3})


async def measure_load(
    requests: Sequence[Checked], body: Any, size: int, in_flight: int, seconds: float
) -> dict[str, float]:
    await load(requests, body, in_flight, seconds * WARM_UP)
    emit({"measuring": True})
    latencies, elapsed = await load(requests, body, in_flight, seconds)
    latencies.sort()
    rate = len(latencies) / elapsed
    return {
        "requests_per_second": round(rate),
        "p50_us": percentile(latencies, 0.50),
        "p99_us": percentile(latencies, 0.99),
        "mb_per_second": 2 * size * rate / 1e6,
    }


async def connect(dial: Dial, address: str, count: int) -> None:
    times = []
    for _ in range(count):
        async with connection(dial, address, "json") as request:
            start = time.perf_counter()
            await request("x" * 62)
            times.append((time.perf_counter() - start) * 1e3)
    emit({"first_ms": times[0], "connect_ms_median": statistics.median(times), "connect_ms": times})


@asynccontextmanager
async def connection(dial: Dial, address: str, form: str) -> AsyncIterator[Checked]:
    """A function that sends a body and checks its answer; its first call connects."""
    async with dial(address, form) as send:

        async def request(body: Any) -> None:
            if len(await send(body)) != len(body):
                raise ValueError("the response is not the request's body")

        yield request


async def load(requests: Sequence[Checked], body: Any, in_flight: int, seconds: float) -> tuple[list[float], float]:
    """Keeps ``in_flight`` of each of the requests in flight; returns the time that each took and that all took, in
    seconds."""
    clock = time.perf_counter
    latencies: list[float] = []
    start = clock()
    end = start + seconds

    async def send(request: Checked) -> None:
        now = start
        while now < end:
            sent = clock()
            await request(body)
            now = clock()
            latencies.append(now - sent)

    async with asyncio.TaskGroup() as tasks:
        for request in requests:
            for _ in range(in_flight):
                tasks.create_task(send(request))
    return latencies, clock() - start


def percentile(ordered: list[float], share: float) -> int:
    """In microseconds, by the nearest rank."""
    return round(ordered[math.ceil(share * len(ordered)) - 1] * 1e6)

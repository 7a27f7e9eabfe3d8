"""``bench``: the speed of requests, to a process of its own or to another peer."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Coroutine
from typing import Annotated, Any

import msgspec
import typer

from ..config import Config
from ..ending import together
from ..peer import StrongholdP2p
from ..requests.codec import CodecName
from . import output
from .asking import PolicyFile, StateFile, asking
from .command import Codec, KeyFile, PassphraseFile, UsageError, load_key, time_option
from .loop import LOOP
from .process import listening
from .story import running

__all__ = ["bench"]

WARM_UP = 0.2
"""Of the time that is measured: connections, windows and caches are as in steady use before it starts."""


def bench(
    *,
    size: Annotated[int, typer.Option(min=2, metavar="N", help="Bytes of each request and response, encoded.")] = 64,
    concurrency: Annotated[int, typer.Option(min=1, metavar="N", help="Requests in flight at once.")] = 32,
    seconds: Annotated[float, time_option("Seconds to measure for.")] = 5.0,
    codec: Codec = "json",
    target: Annotated[
        str | None,
        typer.Option(
            metavar="ADDR",
            help="Measure this peer, by its address, id or name; it must echo requests (default: start one).",
        ),
    ] = None,
    policy: PolicyFile = None,
    state: StateFile = None,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
) -> Coroutine[Any, Any, None]:
    """Measure the speed of requests.

    Prints requests per second, latency, and MB/s (10^6 bytes, requests and responses together).
    """
    limit: int = getattr(Config(), f"max_{codec}_message")
    if size > limit:
        raise UsageError(f"--size is at most {limit}, the limit of a message as {codec}, not {size}")
    keypair = load_key(key, passphrase_file)
    if target is not None:
        peer, (target,) = asking([target], keypair, codec=codec, policy=policy, state=state)
    elif policy is not None or state is not None:
        raise UsageError("--policy and --state are for the peer of --target: name it, too")
    else:
        peer = StrongholdP2p(keypair=keypair, codec=codec)
    return _bench(peer, size, concurrency, seconds, codec, target)


async def _bench(
    peer: StrongholdP2p[Any, Any], size: int, concurrency: int, seconds: float, codec: CodecName, target: str | None
) -> None:
    body, size = _body(size, codec)
    echoing = listening("--allow-all", "--handler", "echo", "--codec", codec)
    async with echoing if target is None else contextlib.nullcontext(target) as address, running(peer):
        start = time.perf_counter()
        await peer.connect(address)
        connected = time.perf_counter() - start
        await _send(peer, address, body, concurrency, seconds * WARM_UP)
        latencies, elapsed = await _send(peer, address, body, concurrency, seconds)
    latencies.sort()
    rate = len(latencies) / elapsed
    figures = {
        "requests_per_second": round(rate),
        "p50_us": _percentile(latencies, 0.50),
        "p99_us": _percentile(latencies, 0.99),
        "mb_per_second": round(2 * size * rate / 1e6, 3),
        "size": size,
        "concurrency": concurrency,
        "codec": codec,
        "connect_ms": round(connected * 1e3, 3),
        "loop": LOOP,
    }
    output.result(figures, _text(figures))


async def _send(
    peer: StrongholdP2p[Any, Any], address: str, body: Any, concurrency: int, seconds: float
) -> tuple[list[float], float]:
    """Keep ``concurrency`` requests in flight; return the time that each took and that all took, in seconds."""
    clock = time.perf_counter
    latencies: list[float] = []
    start = clock()
    end = start + seconds

    async def send() -> None:
        now = start
        while now < end:
            sent = clock()
            await peer.send_request(address, body)
            now = clock()
            latencies.append(now - sent)

    async with together() as tasks:
        for _ in range(concurrency):
            tasks.create_task(send())
    return latencies, clock() - start


def _body(size: int, codec: CodecName) -> tuple[Any, int]:
    """A text, or bytes for raw, that takes ``size`` bytes when encoded; and the size that it takes.

    They differ by one where MessagePack has no text of that size.
    """
    if codec == "raw":
        return bytes(size), size
    encode = msgspec.json.encode if codec == "json" else msgspec.msgpack.encode
    overhead = len(encode("x" * size)) - size
    body = "x" * (size - overhead)
    return body, len(encode(body))


def _percentile(ordered: list[float], share: float) -> int:
    """In microseconds, by the nearest rank."""
    return round(ordered[math.ceil(share * len(ordered)) - 1] * 1e6)


def _text(figures: dict[str, Any]) -> str:
    return (
        f"{figures['size']:,} bytes as {figures['codec']}, {figures['concurrency']} in flight, on {figures['loop']}\n"
        f"requests   {figures['requests_per_second']:>12,} /s\n"
        f"latency    {figures['p50_us']:>12,} us (p50)\n"
        f"           {figures['p99_us']:>12,} us (p99)\n"
        f"bandwidth  {figures['mb_per_second']:>12,} MB/s, both directions together\n"
        f"connected  {figures['connect_ms']:>12,} ms"
    )

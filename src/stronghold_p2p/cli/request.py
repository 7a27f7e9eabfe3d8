"""``request`` and ``ping``: ask another peer."""

from __future__ import annotations

import statistics
import sys
from typing import Annotated, Any

import msgspec
import typer

from ..peer import StrongholdP2p
from ..requests.codec import CodecName
from . import output
from .command import PATIENCE, Address, Codec, KeyFile, PassphraseFile, UsageError, load_key, time_option
from .story import running, told

__all__ = ["ping", "request"]


async def request(
    address: Address,
    body: Annotated[str, typer.Argument(metavar="JSON", help="The request; - reads it from stdin.")],
    *,
    timeout: Annotated[
        float,
        time_option("Seconds from the dial to the response; the other side may ask a person."),
    ] = PATIENCE,
    codec: Codec = "json",
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Send one request and print the response.

    Both are JSON. With --codec raw they are bytes, sent and printed as they are.
    """
    value = _decode(sys.stdin.buffer.read() if body == "-" else body.encode(), codec)
    async with running(StrongholdP2p(keypair=load_key(key, passphrase_file), codec=codec)) as peer:
        with told(f"request to {address}"):
            response = await peer.send_request(address, value, timeout=timeout)
        if isinstance(response, bytes) and not output.is_json():
            sys.stdout.buffer.write(response)
            sys.stdout.buffer.flush()
        else:
            output.result(response)


async def ping(
    address: Address,
    *,
    count: Annotated[int, typer.Option(min=1, metavar="N", help="How many pings, one after the other.")] = 5,
    timeout: Annotated[float, time_option("Seconds for the connection, and for each ping.")] = 10.0,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Measure round-trip times to a peer."""
    times = []
    async with running(StrongholdP2p(keypair=load_key(key, passphrase_file))) as peer:
        await peer.connect(address, timeout=timeout)
        for _ in range(count):
            with told(f"ping to {address}"):
                rtt = round(await peer.ping(address, timeout=timeout) * 1000, 3)
            times.append(rtt)
            output.result({"rtt_ms": rtt}, f"{rtt} ms")
    least, mean, most = min(times), round(statistics.fmean(times), 3), max(times)
    output.result(
        {"count": count, "min_ms": least, "mean_ms": mean, "max_ms": most},
        f"{count} round trips: {least} ms at least, {mean} ms on average, {most} ms at most",
    )


def _decode(body: bytes, codec: CodecName) -> Any:
    if codec == "raw":
        return body
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise UsageError(f"the request is not JSON: {error}") from error

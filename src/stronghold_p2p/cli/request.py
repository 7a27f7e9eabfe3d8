"""``request`` and ``ping``: ask another peer."""

from __future__ import annotations

import os
import select
import statistics
import sys
from collections.abc import Coroutine
from typing import Annotated, Any, Final

import msgspec
import typer

from ..config import Config
from ..errors import EncodeError
from ..peer import StrongholdP2p
from ..requests.codec import CodecName
from . import output, paths
from .asking import PolicyFile, Relays, StateFile, Target, asking
from .command import PATIENCE, Codec, KeyFile, PassphraseFile, UsageError, load_key, time_option
from .story import running, told

__all__ = ["ping", "request"]

CHUNK: Final = 65_536
"""Bytes at a time: what a pipe holds."""

MAX_TEXT: Final = 16 * 1024 * 1024
"""Bytes of a request as JSON on stdin. The message has a limit of its own, but no blanks, and no escapes for plain letters."""


def request(
    address: Target,
    body: Annotated[str, typer.Argument(metavar="JSON", help="The request; - reads it from stdin.")],
    *,
    timeout: Annotated[
        float,
        time_option("Seconds from the dial to the response; a person may have to approve the request."),
    ] = PATIENCE,
    codec: Codec = "json",
    policy: PolicyFile = None,
    state: StateFile = None,
    relay: Relays = None,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
) -> Coroutine[Any, Any, None]:
    """Send one request and print the response.

    Both are JSON. With --codec raw they are bytes, sent and printed unchanged.
    """
    value = _decode(_read_stdin(codec) if body == "-" else _to_bytes(body, codec), codec)
    peer, (to,) = asking(
        [address], load_key(key, passphrase_file), codec=codec, policy=policy, state=state, relays=relay or ()
    )
    return _request(peer, to, value, timeout)


async def _request(peer: StrongholdP2p[Any, Any], to: str, value: Any, timeout: float) -> None:
    async with running(peer):
        with told(f"request to {to}"):
            response = await peer.send_request(to, value, timeout=timeout)
        if isinstance(response, bytes) and not output.is_json():
            output.data(response)
        else:
            output.result(response)


def ping(
    address: Target,
    *,
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Number of pings, one after the other.")] = 5,
    timeout: Annotated[float, time_option("Seconds for the connection, and for each ping.")] = 10.0,
    policy: PolicyFile = None,
    state: StateFile = None,
    relay: Relays = None,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
) -> Coroutine[Any, Any, None]:
    """Measure round-trip times to a peer."""
    peer, (to,) = asking([address], load_key(key, passphrase_file), policy=policy, state=state, relays=relay or ())
    return _ping(peer, to, count, timeout)


async def _ping(peer: StrongholdP2p[Any, Any], to: str, count: int, timeout: float) -> None:
    times = []
    async with running(peer):
        other = await peer.connect(to, timeout=timeout)
        for _ in range(count):
            with told(f"ping to {to}"):
                rtt = round(await peer.ping(to, timeout=timeout) * 1000, 3)
            times.append(rtt)
            output.result({"rtt_ms": rtt}, f"{rtt} ms")
        path = next((one.path for one in peer.connections if one.peer == other), None)  # the best one
    way = "" if path is None or path.relay is None else f" {paths.in_words(path.relay, path.limits)}"
    least, mean, most = min(times), round(statistics.fmean(times), 3), max(times)
    output.result(
        {
            "count": count,
            "min_ms": least,
            "mean_ms": mean,
            "max_ms": most,
            "path": None if path is None else paths.record(path),
        },
        f"{count} round trip{'s' * (count > 1)}{way}: {least} ms at least, {mean} ms on average, {most} ms at most",
    )


def _read_stdin(codec: CodecName) -> bytes:
    limit = Config().max_raw_message if codec == "raw" else MAX_TEXT
    stdin = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)  # read by read, a signal is heard between two
    read = bytearray()
    try:
        while (piece := stdin.read(CHUNK)) != b"":
            if piece is None:  # somebody who shares it has made it non-blocking
                select.select([stdin], [], [])
                continue
            read += piece
            if len(read) > limit:
                raise EncodeError(f"the request is over the limit of {limit} bytes")
    except OSError as error:
        raise UsageError(f"stdin cannot be read: {error.strerror or error}") from error
    return bytes(read)


def _to_bytes(argument: str, codec: CodecName) -> bytes:
    """The bytes that the shell has passed; of JSON, those in UTF-8."""
    return os.fsencode(argument) if codec == "raw" else argument.encode(errors="surrogateescape")


def _decode(body: bytes, codec: CodecName) -> Any:
    if codec == "raw":
        return body
    if not body.strip():
        raise UsageError("expected the request as JSON, got nothing")
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise UsageError(f"the request is not JSON: {error}") from error

"""Ping: round trips of 32 random bytes (libp2p/specs ping/ping.md)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Final

from ..errors import NoResponse, RemoteProtocolError
from ..transport.stream import Stream

__all__ = ["PROTOCOL", "ping", "pings", "serve"]

PROTOCOL: Final = "/ipfs/ping/1.0.0"

SIZE: Final = 32
"""Bytes of a ping."""

IDLE_TIMEOUT: Final = 10.0
"""Seconds without a ping after which a server closes the stream, as go-libp2p does: an idle remote holds nothing."""


async def ping(stream: Stream) -> float:
    """Seconds of one round trip on ``stream``, on which others may have gone before.

    Raises:
        NoResponse: the remote has closed the stream, as go-libp2p does with one that was idle for 10 s, or open for
            30 s: try on a new one.
        RemoteProtocolError: what came back is not what was sent.
    """
    # Not lazily: negotiation is no part of the round trip, and the Rust crate breaks on bytes that it takes for a line.
    await stream.negotiated()
    payload = os.urandom(SIZE)
    start = time.perf_counter()
    await stream.write(payload)
    echo = await _read_payload(stream)
    elapsed = time.perf_counter() - start
    if not echo:
        raise NoResponse(stream.peer)
    if echo != payload:
        raise RemoteProtocolError(PROTOCOL, "the echo differs from what was sent")
    return elapsed


async def pings(stream: Stream) -> AsyncIterator[float]:
    """One :func:`ping` for each step of the iteration, at the pace of whoever iterates."""
    while True:
        yield await ping(stream)


async def serve(stream: Stream) -> None:
    """Echoes pings until the remote closes the stream, or is idle for too long.

    Raises:
        RemoteProtocolError: the remote closed it in the middle of a ping.
    """
    while True:
        try:
            async with asyncio.timeout(IDLE_TIMEOUT):
                payload = await _read_payload(stream)
        except TimeoutError:
            return
        if not payload:
            return
        await stream.write(payload)


async def _read_payload(stream: Stream) -> bytes:
    """One whole payload; ``b""`` if the stream ends before it begins."""
    payload = await stream.read(SIZE)
    if payload and len(payload) < SIZE:
        payload += await stream.readexactly(SIZE - len(payload))
    return payload

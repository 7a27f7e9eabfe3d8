"""Ping: round trips of 32 random bytes (libp2p/specs ping/ping.md)."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Final
from weakref import WeakValueDictionary

from ..errors import NoResponse, RemoteProtocolError, RequestTimeout
from ..identity import PeerId
from ..transport.connection import Connection
from ..transport.stream import Stream
from ..transport.substream import Substream
from .echo import Echo
from .service import Service

__all__ = ["PROTOCOL", "PingService", "ping"]

PROTOCOL: Final = "/ipfs/ping/1.0.0"

SIZE: Final = 32
"""Bytes of a ping."""

IDLE_TIMEOUT: Final = 10.0
"""Seconds from the echo of one ping to that of the next. Then the server closes the stream, as in go-libp2p, so that an idle
remote holds no resources."""


class PingService(Service):
    """Answers pings of remotes, and sends our own."""

    def __init__(self) -> None:
        self.protocols = {PROTOCOL: self._serve}
        self._turns: WeakValueDictionary[PeerId, asyncio.Lock] = WeakValueDictionary()

    async def ping(self, connection: Connection, *, timeout: float, deadline: float) -> float:
        """The round-trip time in seconds, by ``deadline`` (the loop's time), which is ``timeout`` after the call.

        Raises:
            ProtocolNotSupported, StreamReset, NoResponse, RemoteProtocolError, ConnectionLost: the peer does not answer as it
                should.
            RequestTimeout: it does not answer in time.
        """
        turn = self._turns.setdefault(connection.peer, asyncio.Lock())  # rust-libp2p serves one ping stream at a time
        try:
            async with asyncio.timeout_at(deadline), turn, await connection.open_stream(PROTOCOL) as stream:
                return await ping(stream)
        except TimeoutError:
            raise RequestTimeout(timeout, "ping") from None

    def _serve(self, connection: Connection, substream: Substream) -> None:
        # rust-libp2p holds one open for as long as it is connected, js-libp2p pings every 10 s: that is no use of the
        # connection.
        connection.ignore_for_keep_alive(substream)
        Echo(substream, SIZE, IDLE_TIMEOUT)


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


async def _read_payload(stream: Stream) -> bytes:
    """One whole payload; ``b""`` if the stream ends before it begins."""
    payload = await stream.read(SIZE)
    if payload and len(payload) < SIZE:
        payload += await stream.readexactly(SIZE - len(payload))
    return payload

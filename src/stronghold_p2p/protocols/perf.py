"""Perf: throughput, measured by the libp2p project's own benchmark protocol (libp2p/specs perf/perf.md).

The client says how much it wants, uploads, and closes its side; only then does the server send. It serves whoever asks
for as much as they ask, so it must not be offered by default ("Security Considerations").
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from ..errors import RemoteProtocolError
from ..transport.output import FULL_FRAME_BODY
from ..transport.stream import Stream

__all__ = ["PROTOCOL", "Result", "measure", "serve"]

PROTOCOL: Final = "/perf/1.0.0"

_CHUNK: Final = bytes(FULL_FRAME_BODY)
"""What is sent, again and again: the content does not matter, and making it must not be what is measured."""

_READ_SIZE: Final = 1024 * 1024
"""Bytes that are read at once, into the same memory again."""


@dataclass(frozen=True, slots=True)
class Result:
    """How long each half of a measurement took, in seconds."""

    upload_seconds: float
    """From the first byte to the end of our side. What the remote has not read yet counts as the download's time."""
    download_seconds: float


async def measure(
    stream: Stream,
    upload_bytes: int,
    download_bytes: int,
    report: Callable[[int, int], None] = lambda uploaded, downloaded: None,
) -> Result:
    """Uploads, then downloads, each at most 2^64 - 1 bytes. Memory does not grow with them.

    ``report`` is called again and again, with the bytes uploaded and downloaded so far.

    Raises:
        RemoteProtocolError: the remote sent less than, or more than, ``download_bytes``.
    """
    await stream.negotiated()
    start = time.perf_counter()
    await stream.write(download_bytes.to_bytes(8))
    sent = 0
    async for size in _send(stream, upload_bytes):
        sent += size
        report(sent, 0)
    await stream.close_write()
    uploaded = time.perf_counter()
    received = 0
    async for size in _receive(stream):
        received += size
        if received > download_bytes:
            break
        report(upload_bytes, received)
    if received != download_bytes:
        raise RemoteProtocolError(PROTOCOL, f"{received} bytes were sent instead of {download_bytes}")
    return Result(uploaded - start, time.perf_counter() - uploaded)


async def serve(stream: Stream) -> None:
    """Reads what the remote uploads to its end, then sends as many bytes as it asked for.

    Raises:
        RemoteProtocolError: the stream ended before the remote had said how many it wants.
    """
    size = int.from_bytes(await stream.readexactly(8))
    async for _ in _receive(stream):
        pass
    async for _ in _send(stream, size):
        pass


async def _receive(stream: Stream) -> AsyncIterator[int]:
    """Reads to the end; gives the size of each piece."""
    buffer = bytearray(_READ_SIZE)
    while size := await stream.readinto(buffer):
        yield size


async def _send(stream: Stream, size: int) -> AsyncIterator[int]:
    """Sends ``size`` bytes; gives the size of each chunk when it is sent."""
    while size > 0:
        chunk = _CHUNK if size >= len(_CHUNK) else _CHUNK[:size]
        await stream.write(chunk)
        size -= len(chunk)
        yield len(chunk)

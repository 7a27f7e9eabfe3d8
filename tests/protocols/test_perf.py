from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from support.waiting import settled

from stronghold_p2p.errors import RemoteProtocolError, StreamReset
from stronghold_p2p.protocols import perf

Streams = tuple[Any, Any]


def test_protocol_id() -> None:
    assert perf.PROTOCOL == "/perf/1.0.0"


async def serve(listener: Any) -> None:
    async with listener:
        await perf.serve(listener)


@pytest.mark.parametrize(
    ("upload", "download"), [(0, 0), (1, 0), (0, 1), (3, 700_001), (700_001, 3), (262_144, 524_288)]
)
async def test_measure(open_streams: Callable[[], Streams], upload: int, download: int) -> None:
    dialer, listener = open_streams()
    reports: list[tuple[int, int]] = []
    server = asyncio.create_task(serve(listener))
    result = await perf.measure(dialer, upload, download, lambda sent, received: reports.append((sent, received)))
    await server
    assert dialer.written[:8] == download.to_bytes(8, "big")
    assert len(dialer.written) == 8 + upload
    assert len(listener.written) == download
    assert reports == sorted(reports)
    assert len(set(reports)) == len(reports)  # each tells of progress
    assert [(0, 0), *reports][-1] == (upload, download)
    assert result.upload_seconds > 0
    assert result.download_seconds > 0


async def test_byte_by_byte(streams: Streams) -> None:
    dialer, listener = streams
    server = asyncio.create_task(serve(listener))
    await perf.measure(dialer, 100, 200)
    await server
    assert len(listener.written) == 200


async def test_the_protocol_lines_go_alone_and_fin_after_the_upload(open_streams: Callable[[], Streams]) -> None:
    dialer, listener = open_streams()
    server = asyncio.create_task(serve(listener))
    await perf.measure(dialer, 10, 10)
    await server
    assert dialer.calls == ["negotiated", "write", "write", "fin"]


async def test_the_server_sends_nothing_before_the_upload_has_ended(open_streams: Callable[[], Streams]) -> None:
    dialer, listener = open_streams()
    server = asyncio.create_task(serve(listener))
    await dialer.write((5).to_bytes(8, "big") + bytes(1000))
    await settled()
    assert listener.read_size == 1008
    assert not listener.written
    await dialer.close_write()
    await server
    assert len(listener.written) == 5


@pytest.mark.parametrize("sent", [0, 9, 11, 100_000])
async def test_the_remote_sends_another_number_of_bytes(open_streams: Callable[[], Streams], sent: int) -> None:
    dialer, listener = open_streams()

    async def miscount() -> None:
        await listener.write(bytes(sent))
        await listener.close_write()

    server = asyncio.create_task(miscount())
    with pytest.raises(RemoteProtocolError, match="instead of 10"):
        await perf.measure(dialer, 0, 10)
    server.cancel()


async def test_the_count_is_cut_short(streams: Streams) -> None:
    dialer, listener = streams
    await dialer.write(bytes(7))
    await dialer.close_write()
    with pytest.raises(RemoteProtocolError):
        await perf.serve(listener)


async def test_a_remote_that_wants_all_there_is(open_streams: Callable[[], Streams]) -> None:
    dialer, listener = open_streams()
    server = asyncio.create_task(serve(listener))
    await dialer.write(b"\xff" * 8)
    await dialer.close_write()
    tracemalloc.start()
    received = 0
    while received < 8 * 1024 * 1024:
        received += len(await dialer.read())
        del listener.written[:]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    dialer.reset()
    with pytest.raises(StreamReset):
        await server
    assert peak < 2 * 1024 * 1024  # of which one is what the upload was read into

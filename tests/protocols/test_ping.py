from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stronghold_p2p.errors import NoResponse, RemoteProtocolError, StreamReset
from stronghold_p2p.protocols import ping

Streams = tuple[Any, Any]


def test_protocol_id() -> None:
    assert ping.PROTOCOL == "/ipfs/ping/1.0.0"


async def test_round_trips_on_one_stream(streams: Streams) -> None:
    dialer, listener = streams
    server = asyncio.create_task(ping.serve(listener))
    async with dialer:
        times = [await ping.ping(dialer) for _ in range(3)]
    await server
    assert all(0 < seconds < 10 for seconds in times)
    assert listener.written == dialer.written
    payloads = {bytes(dialer.written[start : start + 32]) for start in (0, 32, 64)}
    assert len(dialer.written) == 96
    assert len(payloads) == 3


async def test_negotiation_is_no_part_of_the_time(streams: Streams) -> None:
    dialer, listener = streams
    async with asyncio.TaskGroup() as group:
        server = group.create_task(ping.serve(listener))
        await ping.ping(dialer)
        server.cancel()
    assert dialer.calls == ["negotiated", "write"]


async def test_wrong_echo(streams: Streams) -> None:
    dialer, listener = streams
    await listener.write(bytes(32))
    with pytest.raises(RemoteProtocolError, match="echo differs"):
        await ping.ping(dialer)


async def test_echo_cut_short(streams: Streams) -> None:
    dialer, listener = streams
    await listener.write(bytes(31))
    await listener.close_write()
    with pytest.raises(RemoteProtocolError, match="ended"):
        await ping.ping(dialer)


async def test_the_remote_has_closed_an_idle_stream(streams: Streams) -> None:
    dialer, listener = streams
    await listener.close_write()
    with pytest.raises(NoResponse) as caught:
        await ping.ping(dialer)
    assert caught.value.peer == dialer.peer


async def test_reset(streams: Streams) -> None:
    dialer, listener = streams
    listener.reset()
    with pytest.raises(StreamReset):
        await ping.ping(dialer)


async def test_the_server_echoes_whole_payloads_only(streams: Streams) -> None:
    dialer, listener = streams
    await dialer.write(bytes(range(40)))
    await dialer.close_write()
    with pytest.raises(RemoteProtocolError):
        await ping.serve(listener)
    assert listener.written == bytes(range(32))


async def test_the_server_ends_an_idle_stream_in_order(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    dialer, listener = streams
    monkeypatch.setattr(ping, "IDLE_TIMEOUT", 0)
    async with listener:
        await ping.serve(listener)
    assert await dialer.read() == b""


async def test_the_server_ends_a_stream_that_stops_within_a_payload(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialer, listener = streams
    monkeypatch.setattr(ping, "IDLE_TIMEOUT", 0.001)
    await dialer.write(bytes(31))
    await ping.serve(listener)
    assert not listener.written


async def test_the_server_ends_a_stream_whose_remote_does_not_read(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialer, listener = streams
    monkeypatch.setattr(ping, "IDLE_TIMEOUT", 0.01)
    pinging = asyncio.create_task(dialer.write(bytes(1_000_000)))
    await ping.serve(listener)
    assert listener.written
    pinging.cancel()
    await asyncio.wait([pinging])

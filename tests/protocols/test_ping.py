from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import MakePeer

from stronghold_p2p import Config, Stream, StrongholdError
from stronghold_p2p.errors import NoResponse, RemoteProtocolError, StreamReset
from stronghold_p2p.protocols import ping

Streams = tuple[Any, Any]


def test_protocol_id() -> None:
    assert ping.PROTOCOL == "/ipfs/ping/1.0.0"


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


# -- between two peers ---------------------------------------------------------------------------------


@pytest.fixture
async def stream(make_peer: MakePeer) -> Stream:
    alice, bob = await make_peer(), await make_peer()
    return await alice.open_stream(await bob.listen(), ping.PROTOCOL)


async def test_round_trips_on_one_stream(stream: Stream) -> None:
    async with stream:
        for _ in range(3):
            assert 0 < await ping.ping(stream) < 10
        await stream.close_write()
        assert await stream.read() == b""


async def test_negotiation_is_no_part_of_the_time(streams: Streams) -> None:
    dialer, listener = streams
    await listener.close_write()
    with pytest.raises(NoResponse):
        await ping.ping(dialer)
    assert dialer.calls == ["negotiated", "write"]


async def test_the_server_echoes_whole_payloads_only(stream: Stream) -> None:
    await stream.write(bytes(range(20)))
    await stream.write(bytes(range(20, 40)))
    assert await stream.readexactly(32) == bytes(range(32))
    await stream.write(bytes(range(40, 64)))
    assert await stream.readexactly(32) == bytes(range(32, 64))
    await stream.write(b"a part")
    await stream.close_write()
    with pytest.raises(StreamReset):
        await stream.read()


@pytest.mark.parametrize("sent", [b"", bytes(31)], ids=["nothing", "a part"])
async def test_the_server_ends_an_idle_stream_in_order(
    make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(ping, "IDLE_TIMEOUT", 0.01)
    alice, bob = await make_peer(), await make_peer()
    async with await alice.open_stream(await bob.listen(), ping.PROTOCOL) as stream:
        await stream.negotiated()
        if sent:
            await stream.write(sent)
        assert await stream.read() == b""


async def test_what_a_remote_does_not_read_is_bounded_and_ends(
    make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = await make_peer(), await make_peer(config=Config(request_timeout=0.05))
    monkeypatch.setattr(ping, "IDLE_TIMEOUT", 0.05)
    stream = await alice.open_stream(await bob.listen(), ping.PROTOCOL)
    pinging = asyncio.create_task(stream.write(bytes(2_000_000)))
    with pytest.raises(StrongholdError):
        await pinging
    stream.reset()

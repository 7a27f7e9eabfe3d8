"""Whatever waits may be cancelled, at any moment: nothing is left of it, and nobody else is disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from conftest import MakePeer
from support.connections import ECHO, connected
from support.remote import JSON, Remote, lines
from support.waiting import turns, until
from support.yamux import data

from stronghold_p2p import Config, FirewallRules, Request, Stream, StrongholdP2p
from stronghold_p2p.wire.yamux import Flag

Peer = StrongholdP2p[Any, Any]
MOMENTS = range(0, 30, 2)
"""After how many turns of the event loop."""


async def cancelled_after(moment: int, act: Awaitable[Any]) -> None:
    task = asyncio.ensure_future(act)
    await turns(moment)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def echo_later(request: Request[Any]) -> Any:
    await asyncio.sleep(0)
    return request.body


async def start(make_peer: MakePeer, **config: Any) -> tuple[Peer, Peer, Any]:
    alice = await make_peer(config=Config(**config))
    bob = await make_peer(firewall=FirewallRules.allow_all(), config=Config(**config))
    bob.on_request(echo_later)
    return alice, bob, await bob.listen()


ACTS: dict[str, Callable[[Peer, Any], Awaitable[Any]]] = {
    "connect": lambda peer, address: peer.connect(address),
    "send_request": lambda peer, address: peer.send_request(address, "x"),
    "send_request, large": lambda peer, address: peer.send_request(address, "x" * 900_000),
    "ping": lambda peer, address: peer.ping(address),
    "open_stream": lambda peer, address: peer.open_stream(address, "/unknown/1.0.0"),
    "disconnect": lambda peer, address: peer.disconnect(address.peer_id),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", [name for name in ACTS if name != "open_stream"])
@pytest.mark.parametrize("before", ["connected", "not connected"])
async def test_nothing_is_left(make_peer: MakePeer, name: str, before: str, moment: int) -> None:
    alice, bob, address = await start(make_peer)
    if before == "connected":
        assert await alice.send_request(address, 1) == 1
    await cancelled_after(moment, ACTS[name](alice, address))
    assert await alice.send_request(address, "y") == "y"
    for peer in alice, bob:
        await until(lambda peer=peer: not sum(info.streams for info in peer.connections))  # type: ignore[misc]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_others_on_the_connection_are_not_disturbed(make_peer: MakePeer, moment: int) -> None:
    alice, _, address = await start(make_peer, max_outbound_streams_per_connection=20)
    staying = [asyncio.create_task(alice.send_request(address, number)) for number in range(100)]
    leaving = [asyncio.create_task(alice.send_request(address, number)) for number in range(100)]
    await turns(moment)
    for task in leaving:
        task.cancel()
    assert await asyncio.gather(*staying) == list(range(100))
    await asyncio.gather(*leaving, return_exceptions=True)


@pytest.mark.parametrize("moment", range(12))
async def test_waiting_for_a_stream(moment: int) -> None:
    async with connected(Config(max_outbound_streams_to_others=2)) as pair:
        held = [await pair.alice.open_stream(ECHO) for _ in range(2)]
        waiting = [asyncio.create_task(pair.alice.open_stream(ECHO)) for _ in range(6)]
        await turns(2)
        for stream in held:
            stream.reset()
        await turns(moment)
        opened = [task.result() for task in waiting[::2] if task.done() and not task.cancelled()]
        for task in waiting[::2]:
            task.cancel()
        await asyncio.gather(*waiting[::2], return_exceptions=True)
        for stream in opened:
            stream.reset()
        for task in waiting[1::2]:
            (await task).reset()
        assert pair.alice._reserved_streams == 0
        assert pair.alice.info.streams == 0


@pytest.mark.parametrize("moment", range(0, 12, 3))
async def test_a_reader_and_a_writer(moment: int) -> None:
    async with connected() as pair:
        outbound, inbound = await pair.streams()
        await cancelled_after(moment, outbound.read())
        await cancelled_after(moment, outbound.write(bytes(400_000)))
        await inbound.write(b"still there")
        assert await outbound.read() == b"still there"


async def test_a_handler_of_streams() -> None:
    """Its connection ends: it is cancelled, once, and may take its time."""
    async with connected() as pair:
        _, inbound = await pair.streams()
        ended = asyncio.Event()

        async def serve(stream: Stream) -> None:
            try:
                await stream.read()
            finally:
                await asyncio.sleep(0)
                ended.set()

        task = pair.bob.spawn(serve(inbound))
        await turns()
        pair.alice.abort()
        await pair.bob.closed
        assert task.done()
        assert ended.is_set()
        assert task.cancelled() or task.exception() is None


async def test_a_request_that_is_reset_before_its_handler_has_begun(make_peer: MakePeer) -> None:
    """In one flight with the request comes the reset: no coroutine is left that was never awaited."""
    _, _, address = await start(make_peer)
    remote = await Remote.dial(address)
    remote.send(data(1, lines(JSON) + b"\x011", Flag.SYN), data(1, flags=Flag.RST))
    assert await remote.request(3, b"3") == b"\x013"
    await remote.close()


# asyncio itself drops a connection that it has accepted when the server closes before its transport is made.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("moment", MOMENTS)
async def test_closing_at_any_moment(make_peer: MakePeer, moment: int) -> None:
    alice, bob, address = await start(make_peer, close_timeout=0.05)
    asking = [asyncio.create_task(alice.send_request(address, ["x" * 20_000, number])) for number in range(20)]
    await turns(moment)
    await asyncio.gather(*((alice.close(), bob.close()) if moment % 4 else (bob.close(), alice.close())))
    for outcome in await asyncio.gather(*asking, return_exceptions=True):
        assert not isinstance(outcome, asyncio.CancelledError)

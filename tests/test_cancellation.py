"""Whatever waits may be cancelled, at any moment: nothing is left of it, and nobody else is disturbed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from conftest import PATIENCE, MakePeer
from support.connections import ECHO, connected
from support.remote import JSON, Remote, lines
from support.waiting import settled, turns, until
from support.yamux import data

from stronghold_p2p import (
    ClosedError,
    Config,
    ConnectionLost,
    DialError,
    FirewallRules,
    Multiaddr,
    ProtocolNotSupported,
    Request,
    Stream,
    StrongholdP2p,
)
from stronghold_p2p.wire.yamux import Flag

Peer = StrongholdP2p[Any, Any]
MOMENTS = range(0, 30, 2)
"""After how many turns of the loop."""


async def cancelled_after(moment: int, act: Coroutine[Any, Any, Any]) -> bool:
    """Cancels ``act``, which must not fail, after so many turns of the loop; whether it had ended by itself."""
    task = asyncio.create_task(act)
    await turns(moment)
    ended = not task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        error.add_note(f"cancelled after {moment} turns")
        raise error
    return ended


async def echo_later(request: Request[Any]) -> Any:
    await asyncio.sleep(0)
    return request.body


async def echo(stream: Stream) -> None:
    while data := await stream.read():
        await stream.write(data)


async def start(make_peer: MakePeer, **config: Any) -> tuple[Peer, Peer, Multiaddr]:
    alice = await make_peer(config=Config(**config))
    bob = await make_peer(firewall=FirewallRules.allow_all(), config=Config(**config))
    bob.on_request(echo_later)
    return alice, bob, await bob.listen()


@asynccontextmanager
async def peers() -> AsyncIterator[tuple[Peer, Peer, Multiaddr]]:
    """Alice drops what does not end within a moment: the rest of a response that she no longer waits for."""
    bob = Peer(firewall=FirewallRules.allow_all())
    bob.on_request(echo_later)
    bob.handle_stream(ECHO, echo)
    async with Peer(config=Config(request_timeout=0.02)) as alice, bob:
        yield alice, bob, await bob.listen()


async def use_stream(peer: Peer, address: Multiaddr) -> None:
    async with await peer.open_stream(address, ECHO, timeout=PATIENCE) as stream:
        await stream.write(b"x")
        assert await stream.read() == b"x"


ACTS: dict[str, Callable[[Peer, Multiaddr], Coroutine[Any, Any, Any]]] = {
    "connect": lambda peer, address: peer.connect(address),
    "send_request": lambda peer, address: peer.send_request(address, "x", timeout=PATIENCE),
    "send_request, large": lambda peer, address: peer.send_request(address, "x" * 900_000, timeout=PATIENCE),
    "ping": lambda peer, address: peer.ping(address, timeout=PATIENCE),
    "open_stream": use_stream,
    "disconnect": lambda peer, address: peer.disconnect(str(address.peer_id)),
}


@pytest.mark.parametrize("name", ACTS)
@pytest.mark.parametrize("before", ["connected", "not connected"])
async def test_nothing_is_left(name: str, before: str) -> None:
    """At every moment, from the first to the one at which it has ended by itself."""
    for moment in itertools.count():
        async with peers() as (alice, bob, address):
            if before == "connected":
                assert await alice.send_request(address, 1, timeout=PATIENCE) == 1
            ended = await cancelled_after(moment, ACTS[name](alice, address))
            assert await alice.send_request(address, "y", timeout=PATIENCE) == "y"
            for peer in alice, bob:
                await until(lambda peer=peer: not sum(info.streams for info in peer.connections))  # type: ignore[misc]
        if ended:
            break


@pytest.mark.parametrize("moment", MOMENTS)
async def test_others_on_the_connection_are_not_disturbed(make_peer: MakePeer, moment: int) -> None:
    alice, _, address = await start(make_peer, max_outbound_streams_per_connection=20)
    staying = [asyncio.create_task(alice.send_request(address, number)) for number in range(100)]
    leaving = [asyncio.create_task(alice.send_request(address, number)) for number in range(100)]
    await turns(moment)
    for task in leaving:
        task.cancel()
    assert await asyncio.gather(*staying) == list(range(100))
    await asyncio.wait(leaving)
    assert all(task.cancelled() or task.result() == number for number, task in enumerate(leaving))


@pytest.mark.parametrize("moment", range(12))
async def test_waiting_for_a_stream(moment: int) -> None:
    async with connected(Config(max_outbound_streams_to_others=2)) as pair:
        held = [await pair.alice.open_stream(ECHO) for _ in range(2)]
        waiting = [asyncio.create_task(pair.alice.open_stream(ECHO)) for _ in range(6)]
        await settled()
        for stream in held:
            stream.reset()
        await turns(moment)
        opened = [task.result() for task in waiting[::2] if task.done()]
        for task in waiting[::2]:
            task.cancel()
        await asyncio.gather(*waiting[::2], return_exceptions=True)
        for stream in opened:
            stream.reset()
        for task in waiting[1::2]:
            (await task).reset()
        assert pair.alice.info.streams == 0
        again = [pair.alice.open_substream_now(ECHO) for _ in range(3)]  # nobody's place is kept
        assert [stream is not None for stream in again] == [True, True, False]


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
        await settled()
        pair.alice.abort()
        await pair.bob.closed
        assert task.cancelled()
        assert ended.is_set()


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
    for number, outcome in enumerate(await asyncio.gather(*asking, return_exceptions=True)):
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, ConnectionLost | ClosedError | DialError | ProtocolNotSupported)
        else:
            assert outcome == ["x" * 20_000, number]

"""A relay in a process of its own that is killed in the middle of requests, and comes back."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from conftest import MakePeer
from support.waiting import begun, next_event, until

from stronghold_p2p import (
    ConnectionLost,
    FirewallRules,
    Keypair,
    Multiaddr,
    Request,
    ReservationLost,
    ReservationMade,
)

pytestmark = pytest.mark.slow

RELAY: Final = """
import asyncio, sys
from stronghold_p2p import Keypair, RelayServer, StrongholdP2p

async def main(key, address):
    async with StrongholdP2p(keypair=Keypair.load(key), relay=RelayServer()) as relay:
        print(await relay.listen(address), flush=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""

BACK_WITHIN: Final = 10.0
"""Seconds from the start of the relay to a new reservation."""


@asynccontextmanager
async def relaying(key: Path, address: str) -> AsyncIterator[tuple[Process, Multiaddr]]:
    """A relay, which is killed at the end, and its address."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", RELAY, str(key), address, stdout=PIPE)
    try:
        assert process.stdout is not None
        yield process, Multiaddr.parse((await process.stdout.readline()).decode().strip())
    finally:
        await kill(process)


async def kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


async def test_the_relay_is_killed_in_the_middle_of_requests(make_peer: MakePeer, tmp_path: Path) -> None:
    """Each ends once, with its response or with an error that says that the relay went; then the listener is back, without
    being told."""
    key = tmp_path / "relay.pem"
    Keypair.generate().save(key)
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    asked: Counter[str] = Counter()
    cancelled: list[str] = []

    async def answer(request: Request[Any]) -> Any:
        asked[request.body] += 1
        if request.body.startswith("slow"):
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                cancelled.append(request.body)
        return request.body

    bob.on_request(answer)
    events = bob.events()
    async with relaying(key, "/ip4/127.0.0.1/tcp/0") as (process, address):
        circuit = await bob.listen_via_relay(address)
        bodies = [f"{speed} {number}" for number in range(20) for speed in ("quick", "slow")]
        calls = {body: await begun(alice.send_request(circuit, body)) for body in bodies}
        await until(lambda: len(asked) == len(bodies) and all(calls[body].done() for body in bodies[::2]))
        await kill(process)
        await asyncio.wait(calls.values())
        for body, call in calls.items():
            error = call.exception()
            if body.startswith("quick"):
                assert call.result() == body
            else:
                assert isinstance(error, ConnectionLost)
                assert f"the connection to the relay {address.peer_id} ended" in str(error)
        await until(lambda: len(cancelled) == 20)
        lost = await next_event(events, ReservationLost)
        assert lost.relay == address.peer_id
        assert [listener.addresses for listener in bob.listeners] == [()]
    async with relaying(key, str(address.without_peer())) as (_, back), asyncio.timeout(BACK_WITHIN):
        assert back == address
        made = await next_event(events, ReservationMade)
        assert made.addresses == (circuit,)
        assert await alice.send_request(circuit, "quick again") == "quick again"
    assert set(asked.values()) == {1}


async def test_a_relay_is_killed_in_the_middle_of_a_large_request(make_peer: MakePeer, tmp_path: Path) -> None:
    """Nobody gets a part of it."""
    key = tmp_path / "relay.pem"
    Keypair.generate().save(key)
    alice, bob = await make_peer(), await make_peer(firewall=FirewallRules.allow_all())
    asked: list[int] = []
    bob.on_request(lambda request: asked.append(len(request.body)))
    async with relaying(key, "/ip4/127.0.0.1/tcp/0") as (process, address):
        circuit = await bob.listen_via_relay(address)
        call = await begun(alice.send_request(circuit, "x" * 1_000_000))
        await until(lambda: any(one.peer == alice.peer_id and one.streams for one in bob.connections))
        await kill(process)
        await asyncio.wait([call])
        assert isinstance(call.exception(), ConnectionLost)
    assert asked == []

"""Waiting for what is about to happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from stronghold_p2p import Multiaddr, PeerIdentified, StrongholdP2p

from .loop import Loop

__all__ = ["begun", "introduced", "next_event", "settled", "turns", "until"]

Event = TypeVar("Event")
Result = TypeVar("Result")


async def until(condition: Callable[[], object]) -> None:
    """Returns once ``condition`` holds; a test that waits in vain is ended by ``nothing_is_left``."""
    await _loop().until(condition)


async def settled() -> None:
    """Returns once everything has happened that needs neither time nor another thread or process: what has not
    happened by now does not happen by itself."""
    await _loop().idle()


async def begun(call: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
    """A task that runs ``call``, and has come to its first wait."""
    task = asyncio.create_task(call)
    await turns(1)
    return task


async def turns(count: int) -> None:
    """Exactly so many turns of the loop: a moment at which a test interferes. It is no way to wait for anything."""
    for _ in range(count):
        await asyncio.sleep(0)


async def introduced(peer: StrongholdP2p[Any, Any], address: Multiaddr) -> None:
    """Returns once ``peer`` is connected to who listens on ``address``, and knows who that is."""
    events = peer.events()
    await peer.connect(address)
    await next_event(events, PeerIdentified)


async def next_event(events: AsyncIterator[Any], kind: type[Event]) -> Event:
    """The next event of a kind; those of others before it are passed over."""
    async for event in events:
        if isinstance(event, kind):
            return event
    raise AssertionError("the events have ended")


def _loop() -> Loop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    return loop

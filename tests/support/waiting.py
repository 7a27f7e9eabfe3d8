"""Waiting for what is about to happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from stronghold_p2p import Multiaddr, PeerIdentified, StrongholdP2p

from .loop import Loop

__all__ = ["introduced", "next_event", "settled", "turns", "until"]

Event = TypeVar("Event")


async def until(condition: Callable[[], object]) -> None:
    """Returns once ``condition`` holds; a test that waits in vain is ended by ``nothing_is_left``."""
    await _loop().until(condition)


async def settled() -> None:
    """Returns once everything has happened that needs neither time nor another thread or process: what has not
    happened by now does not happen by itself."""
    await _loop().idle()


async def turns(count: int | None = None) -> None:
    """Exactly so many turns of the loop: the moments at which a test interferes. Who waits for something uses others."""
    if count is None:
        return await settled()
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

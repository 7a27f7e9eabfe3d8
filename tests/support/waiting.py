"""Waiting for what is about to happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

__all__ = ["next_event", "turns", "until"]

Event = TypeVar("Event")


async def until(condition: Callable[[], object]) -> None:
    """Lets things happen until ``condition`` holds; a test that waits in vain is ended by ``nothing_is_left``."""
    while not condition():  # noqa: ASYNC110 - conditions are of all kinds, and nothing in the library tells of them
        await asyncio.sleep(0)


async def turns(count: int = 10) -> None:
    """Lets everything happen that needs no time."""
    for _ in range(count):
        await asyncio.sleep(0)


async def next_event(events: AsyncIterator[Any], kind: type[Event]) -> Event:
    """The next event of a kind; those of others before it are passed over."""
    async for event in events:
        if isinstance(event, kind):
            return event
    raise AssertionError("the events have ended")

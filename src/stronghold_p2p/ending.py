"""Ending what has several parts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

__all__ = ["end_all"]


async def end_all(*steps: Callable[[], Awaitable[object] | None]) -> None:
    """Takes all steps, plain and async, one after the other, whatever becomes of those before: a step that raises, or
    is cancelled, must not keep the next one's thread or socket. What was raised is raised in the end.

    A function of its own because mypyc, which may compile those who call it, breaks ``async with`` if the exit raises.
    """
    async with AsyncExitStack() as ending:
        for step in reversed(steps):
            ending.push_async_callback(_take, step)


async def _take(step: Callable[[], Awaitable[object] | None]) -> None:
    ended = step()
    if ended is not None:
        await ended

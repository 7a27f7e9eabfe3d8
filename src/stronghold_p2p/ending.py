"""What has several parts: ending it, also when it has only half begun, and its tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

__all__ = ["begin", "end_all", "together"]

logger = logging.getLogger("stronghold_p2p")

T = TypeVar("T")


async def begin(start: Callable[[], Awaitable[T]], undo: Callable[[], Awaitable[object]]) -> T:
    """What ``start`` returns; if it raises, or is cancelled, that is raised after ``undo``.

    Here, since callers may be compiled: mypyc takes an error for one still being handled after an ``await`` in its handler.
    """
    try:
        return await start()
    except BaseException:
        await undo()
        raise


async def end_all(*steps: Callable[[], Awaitable[object] | None]) -> None:
    """Takes all steps, plain and async, one after the other, whatever becomes of those before: one that raises, or is
    cancelled, must not keep the next one's thread or socket. What was raised first is raised in the end.

    Not an ``AsyncExitStack``: whoever calls this may be compiled, and mypyc breaks ``async with`` if the exit raises.
    """
    raised: BaseException | None = None
    for step in steps:
        try:
            ended = step()
            if ended is not None:
                await ended
        except BaseException as error:
            if raised is None:
                raised = error
            else:
                logger.exception("another step of the shutdown failed")
    if raised is not None:
        try:
            raise raised
        finally:
            raised = None  # whose traceback holds this very frame


@asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """Tasks that end together. What one of them raises first is raised itself, not in a group."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None

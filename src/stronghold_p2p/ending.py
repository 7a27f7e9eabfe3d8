"""Ending what has several parts."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

__all__ = ["end_all"]

logger = logging.getLogger("stronghold_p2p")


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

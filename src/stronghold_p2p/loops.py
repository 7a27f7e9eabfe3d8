"""Event loop checks: the owner of an object, deadlines and their early end, and errors that must not be contained."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from typing import NoReturn

__all__ = ["Owner", "check_loop", "deadline_in", "expire", "is_contained", "loop_time", "refuse_loop"]


class Owner:
    """The event loop of a peer, on which all its objects must be used."""

    __slots__ = ("loop",)

    def __init__(self) -> None:
        self.loop: AbstractEventLoop | None = None
        """None before the peer starts, and when it is closed."""

    def check(self) -> None:
        """As :func:`check_loop`."""
        check_loop(self.loop)


def check_loop(loop: AbstractEventLoop | None) -> None:
    """Checks that ``loop`` is the running one, or None: objects are not thread-safe, and waiting for a future of another
    loop never ends.

    Raises:
        RuntimeError: another loop, or none, is running.
    """
    if loop is not None and loop is not asyncio._get_running_loop():
        refuse_loop()


def refuse_loop() -> NoReturn:
    """Raises the error for a call from elsewhere."""
    raise RuntimeError(
        "the peer runs on another event loop: use it there (from another thread: asyncio.run_coroutine_threadsafe)"
    )


def is_contained(error: BaseException, loop: AbstractEventLoop) -> bool:
    """Whether what a user's coroutine has raised in a task on ``loop`` ends what it was called for, and nothing else. Not
    Ctrl-C, which ends the program; nor the task's own cancellation, other than that of what it has awaited; nor
    GeneratorExit where Python clears away what is left of a loop that has gone."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task(loop)
        return task is None or not task.cancelling()
    if isinstance(error, GeneratorExit):
        return loop is asyncio._get_running_loop()
    return not isinstance(error, KeyboardInterrupt)


def loop_time() -> float:
    """The time by the clock of the loop that runs here, in seconds."""
    return asyncio.get_running_loop().time()


def deadline_in(seconds: float) -> float:
    """When ``seconds`` have passed, by that clock."""
    return loop_time() + seconds


def expire(timeout: asyncio.Timeout) -> None:
    """Has the time be up now, if it is not yet."""
    if not timeout.expired():
        timeout.reschedule(0.0)

"""The event loop: whose an object is, and its time."""

from __future__ import annotations

from asyncio import AbstractEventLoop, _get_running_loop, get_running_loop
from typing import NoReturn

__all__ = ["Owner", "check_loop", "deadline_in", "refuse_loop"]


class Owner:
    """The event loop that a peer runs on: all that belongs to the peer is used there, and nowhere else."""

    __slots__ = ("loop",)

    def __init__(self) -> None:
        self.loop: AbstractEventLoop | None = None
        """None before the peer starts, and when it is closed."""

    def check(self) -> None:
        """As :func:`check_loop`."""
        check_loop(self.loop)


def check_loop(loop: AbstractEventLoop | None) -> None:
    """Raises RuntimeError unless ``loop`` is the one that runs here, or is None: nothing is locked against other threads,
    and what waits for another loop's future waits for ever."""
    if loop is not None and loop is not _get_running_loop():
        refuse_loop()


def refuse_loop() -> NoReturn:
    """Raises the error for a call from elsewhere."""
    raise RuntimeError(
        "the peer runs on another event loop: call it there, from another thread by asyncio.run_coroutine_threadsafe"
    )


def deadline_in(seconds: float) -> float:
    """When ``seconds`` have passed, by the clock of the loop that runs here."""
    return get_running_loop().time() + seconds

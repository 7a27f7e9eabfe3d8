"""The event loop of the tests: it tells when a condition has come to hold, and when nothing is left to do."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Final

__all__ = ["Loop"]

LOOK_AGAIN: Final = 0.02
"""Seconds after which a condition is looked at again though nothing has happened: what another thread does, or another
process in a file, is not always told to the loop."""


class Loop(asyncio.SelectorEventLoop):
    """As any other, but that it looks for what tests wait for whenever it would sleep."""

    def __init__(self) -> None:
        self._turns = _Turns()
        super().__init__(self._turns)

    async def until(self, condition: Callable[[], object]) -> None:
        """Returns once ``condition`` holds, which is looked at after each turn of the loop."""
        while not condition():
            waiter = self.create_future()
            self._turns.conditions[waiter] = condition
            try:
                await waiter
            finally:
                del self._turns.conditions[waiter]

    async def idle(self) -> None:
        """Returns once the loop can only sleep, until a timer is due or something comes from outside this thread."""
        waiter = self.create_future()
        self._turns.idle.append(waiter)
        await waiter


class _Turns(selectors.DefaultSelector):
    """What the loop calls between two turns, to sleep until something comes."""

    def __init__(self) -> None:
        super().__init__()
        self.conditions: dict[asyncio.Future[None], Callable[[], object]] = {}
        self.idle: list[asyncio.Future[None]] = []

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._wake([waiter for waiter, condition in self.conditions.items() if _is_met(condition)]):
            timeout = 0
        if timeout == 0:
            return super().select(0)
        if self.idle:
            events = super().select(0)
            if not events:
                waiting, self.idle = self.idle, []
                self._wake(waiting)
            return events
        if self.conditions:
            timeout = LOOK_AGAIN if timeout is None else min(timeout, LOOK_AGAIN)
        return super().select(timeout)

    @staticmethod
    def _wake(waiters: list[asyncio.Future[None]]) -> bool:
        """Whether one was asleep."""
        asleep = [waiter for waiter in waiters if not waiter.done()]
        for waiter in asleep:
            waiter.set_result(None)
        return bool(asleep)


def _is_met(condition: Callable[[], object]) -> bool:
    """Also if it raises: it will once more, where the test waits."""
    try:
        return bool(condition())
    except Exception:  # noqa: BLE001 - see above
        return True

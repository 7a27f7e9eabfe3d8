"""Time that passes only when a test says so."""

from __future__ import annotations

import asyncio
from typing import Final

__all__ = ["Clock"]

TURNS: Final = 6
"""Turns of the loop in which everything that needs no time has happened."""


class Clock:
    """Stands in for the clock of an event loop: ``loop.time = clock``."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    async def advance(self, seconds: float, *, step: float = 0.25) -> None:
        """Lets ``seconds`` pass, in steps, so that what is due happens in order and has its consequences in time."""
        end = self.now + seconds
        await self.settle()
        while self.now < end:
            self.now = min(self.now + step, end)
            await self.settle()

    @staticmethod
    async def settle() -> None:
        """Lets everything happen that needs no time."""
        for _ in range(TURNS):
            await asyncio.sleep(0)

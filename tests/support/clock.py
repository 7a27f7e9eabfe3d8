"""Time that passes only when a test says so."""

from __future__ import annotations

from .waiting import settled

__all__ = ["Clock"]


class Clock:
    """Stands in for the clock of an event loop: ``loop.time = clock``."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    async def advance(self, seconds: float, *, step: float = 0.25) -> None:
        """Lets ``seconds`` pass, in steps, so that what is due happens in order and has its consequences in time."""
        end = self.now + seconds
        await settled()
        while self.now < end:
            self.now = min(self.now + step, end)
            await settled()

    @staticmethod
    async def settle() -> None:
        """Lets everything happen that needs no time."""
        await settled()

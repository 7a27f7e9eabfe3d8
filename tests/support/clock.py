"""Time that passes only when a test says so."""

from __future__ import annotations

from datetime import UTC, datetime

from stronghold_p2p.firewall.ends import Clocks

from .waiting import settled

__all__ = ["Clock", "TwoClocks"]


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


class TwoClocks:
    """One that is set and one that is not, for the ends of rules."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000.0
        self.monotonic = 50.0

    @property
    def clocks(self) -> Clocks:
        return Clocks(lambda: self.wall, lambda: self.monotonic)

    def go(self, seconds: float) -> None:
        """Lets time pass."""
        self.wall += seconds
        self.monotonic += seconds

    def after(self, seconds: float) -> datetime:
        """The date so many seconds from now, by the clock on the wall."""
        return datetime.fromtimestamp(self.wall + seconds, UTC)

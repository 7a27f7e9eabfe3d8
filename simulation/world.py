"""The time and the chance of a simulated world, in place of the process's own: nothing else decides what happens in it."""

from __future__ import annotations

import heapq
import itertools
import os
import random
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final, Protocol

__all__ = ["EPOCH", "World", "here", "world"]

EPOCH: Final = 1_800_000_000.0
"""The date on which every world begins, in seconds since 1970."""

START: Final = 1000.0
"""What its monotonic clocks show then."""


class HasClock(Protocol):
    """A machine, as far as its clock on the wall goes."""

    @property
    def skew(self) -> float:
        """Seconds by which it is ahead of all others."""


here: Final[ContextVar[HasClock | None]] = ContextVar("here", default=None)
"""The machine that runs what runs now; None: what directs the world."""


class World:
    """Its time passes only in :meth:`pass_until`, when nothing has anything left to do, and by what computing costs."""

    def __init__(self) -> None:
        self.now = START
        """Seconds, by the monotonic clock of every machine."""
        self.cost = 0.0
        """Seconds at most that pass while a program looks how long its own work has taken."""
        self.chance = random.Random(0)
        """What decides about the network, and about the machines."""
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def begin(self, seed: int) -> None:
        """Makes all that follows depend on ``seed`` alone."""
        self.chance.seed(f"world {seed}")
        self._library = random.Random(f"library {seed}")
        random.seed(f"random {seed}")
        self.cost = self.chance.choice((0.0, 1e-6, 1e-4, 1e-3, 3e-3))

    def replace_clocks(self) -> None:
        """To be called once in a process, before the library is imported: it holds on to clocks."""
        time.monotonic = lambda: self.now
        time.perf_counter = self._work
        time.time = self._date
        time.time_ns = lambda: int(self._date() * 1e9)
        os.urandom = lambda size: self._library.randbytes(size)
        random._urandom = os.urandom  # type: ignore[attr-defined]  # what secrets and SystemRandom read

    def after(self, seconds: float, happens: Callable[[], None]) -> None:
        """Has something happen then, outside of all machines."""
        heapq.heappush(self._due, (self.now + seconds, next(self._numbers), happens))

    def pass_until(self, end: float) -> bool:
        """Has the next thing happen that is due, if it is by ``end``; else it is ``end``. False: nothing will ever happen."""
        if self._due and self._due[0][0] <= end:
            at, _, happens = heapq.heappop(self._due)
            self.now = max(self.now, at)
            happens()
            return True
        if end == float("inf"):
            return False
        self.now = max(self.now, end)
        return True

    @property
    def next_at(self) -> float:
        """When the next thing happens."""
        return self._due[0][0] if self._due else float("inf")

    def _work(self) -> float:
        if self.cost:
            self.now += self.chance.random() * self.cost
        return self.now

    def _date(self) -> float:
        machine = here.get()
        return EPOCH + self.now - START + (machine.skew if machine is not None else 0.0)


world: Final = World()
"""The one of this process."""

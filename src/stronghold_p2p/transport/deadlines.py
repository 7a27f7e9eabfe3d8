"""One timer for all deadlines of a peer."""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush
from math import ceil
from typing import Final, Protocol

__all__ = ["Deadlines", "Expirable"]

TICK: Final = 0.01
"""Seconds. A deadline strikes on the first tick after it, never early: so a thousand requests share one timer."""

STRIKES_AT_ONCE: Final = 128
"""Deadlines that strike in one turn of the loop: remotes can have many thousands strike on one tick, and each may reset a
stream."""


class Expirable(Protocol):
    """What can have a deadline; hashable by identity."""

    def expire(self) -> None:
        """The deadline has passed."""


class Deadlines:
    """A timer wheel: what expires at each tick to come, and one event-loop timer for the next of them.

    Most deadlines never strike. Adding and removing one is two dictionary operations, where a timer of its own would cost a heap
    operation each and keep what was cancelled alive. On one tick the last that was added strikes first: the order of a set would
    depend on where things lie in memory.
    """

    __slots__ = ("_armed_tick", "_loop", "_order", "_struck_tick", "_ticks", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ticks: dict[int, dict[Expirable, None]] = {}
        self._order: list[int] = []
        """The keys of _ticks, as a heap."""
        self._timer: asyncio.TimerHandle | None = None
        self._armed_tick = 0
        self._struck_tick = 0

    def add(self, when: float, item: Expirable) -> int:
        """Has ``item.expire()`` called once at ``when`` (the loop's time). Returns the tick, which :meth:`remove` takes."""
        tick = ceil(when / TICK)
        if tick <= self._struck_tick:
            # Has passed already: the tick under way is not added to, so that no item keeps it from ending.
            tick = self._struck_tick + 1
        items = self._ticks.get(tick)
        if items is None:
            self._ticks[tick] = {item: None}
            heappush(self._order, tick)
            if self._timer is None or tick < self._armed_tick:
                self._arm(tick)
        else:
            items[item] = None
        return tick

    def remove(self, tick: int, item: Expirable) -> None:
        """Forgets a deadline that :meth:`add` set; does nothing if it has struck."""
        items = self._ticks.get(tick)
        if items is not None:
            items.pop(item, None)  # what is empty stays until its tick: the next deadline likely falls on it

    def close(self) -> None:
        """Forgets every deadline."""
        self._ticks.clear()
        self._order.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_tick = tick
        self._timer = self._loop.call_at(tick * TICK, self._strike)

    def _strike(self) -> None:
        # Loops may call a timer up to their clock's resolution early: what is due is what the timer was armed for.
        self._struck_tick = max(self._armed_tick, int(self._loop.time() / TICK))
        self._timer = None
        try:
            # One at a time: what expires may remove, or close, what would be next.
            left = STRIKES_AT_ONCE
            while left and self._order and self._order[0] <= self._struck_tick:
                items = self._ticks[self._order[0]]
                if items:
                    left -= 1
                    items.popitem()[0].expire()
                else:
                    del self._ticks[heappop(self._order)]
        finally:
            if self._order:
                self._arm(self._order[0])

"""How much a remote may have on its way to us, and in our memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

from .frame import INITIAL_WINDOW

__all__ = ["ReceiveBudget", "ReceiveWindow"]

GROWTH_ROUND_TRIPS: Final = 4
"""Half a window used up in fewer round trips than this means that the sender waits for windows (as in go-yamux)."""


class ReceiveBudget(ABC):
    """The bytes that a remote may have waiting for the application: those received and not yet handed over, and what
    windows have grown by."""

    __slots__ = ("exhausted", "overrun")

    exhausted: bool
    """The share is used up: no window is given back, and no stream opened. An attribute, as each frame asks for it."""
    overrun: bool
    """Initial windows, which cannot be withheld, have taken it to twice the share: who sends now is reset."""

    @abstractmethod
    def is_exhausted(self) -> bool:
        """Looks again, and sets the two above: others may have given something back."""

    @property
    @abstractmethod
    def room_to_grow(self) -> int:
        """What windows may grow by now."""

    @abstractmethod
    def take(self, size: int) -> None:
        """So many bytes more are held."""

    @abstractmethod
    def give(self, size: int) -> None:
        """So many bytes are held no longer."""


class ReceiveWindow:
    """One stream's receive window.

    ``receivable + consumed + held by the application == window_size`` at any time.
    """

    __slots__ = ("_updated_at", "consumed", "receivable", "window_size")

    def __init__(self, now: float) -> None:
        self.receivable = INITIAL_WINDOW
        """What the remote may still send."""
        self.consumed = 0
        """What the application has taken since the last update."""
        self.window_size = INITIAL_WINDOW
        self._updated_at = now

    def next_window_update(self, now: float, rtt: float | None, max_size: int, budget: ReceiveBudget) -> int:
        """The bytes to give back now: 0 until half of the window is used, so that updates stay rare.

        The window doubles while round trips limit the sender, as far as ``max_size`` and the budget allow; it never
        shrinks, since Yamux has no way to take window back.
        """
        if self.consumed < self.window_size >> 1:
            return 0
        delta = self.consumed
        self.receivable += delta
        self.consumed = 0
        if rtt is not None and now - self._updated_at < GROWTH_ROUND_TRIPS * rtt:
            delta += self.grow_window(self.window_size, max_size, budget)
        self._updated_at = now
        return delta

    def grow_window(self, wanted: int, max_size: int, budget: ReceiveBudget) -> int:
        """Lets the remote send ``wanted`` bytes more, as far as ``max_size`` and the budget allow; returns how many."""
        growth = min(wanted, max_size - self.window_size, budget.room_to_grow)
        if growth <= 0:
            return 0
        budget.take(growth)
        self.window_size += growth
        self.receivable += growth
        return growth

    def close_window(self, budget: ReceiveBudget) -> None:
        """Returns to the budget what the window has grown by."""
        budget.give(self.window_size - INITIAL_WINDOW)
        self.window_size = INITIAL_WINDOW

"""How often each holder may have something in a time. Pure: the time is an argument."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

__all__ = ["Rate"]

MINUTE: Final = 60.0

TOLERANCE: Final = 1e-6
"""Seconds by which sums of such times may be wrong."""

MAX_REMEMBERED: Final = 16_384
"""Holders. Beyond that the one that has had nothing for longest has its whole number again early."""


class Rate:
    """A token bucket for each holder: it has ``number``, at least 1, at once, and gets as many back in ``seconds``. Times are
    in seconds, on any clock."""

    def __init__(self, number: float, seconds: float = MINUTE) -> None:
        self._seconds: Final = seconds
        self._each: Final = seconds / number
        self._full_at: dict[Hashable, float] = {}
        """When each has got back all that it has taken, in the order in which they have taken it."""

    def __len__(self) -> int:
        return len(self._full_at)

    def has(self, holder: Hashable, now: float) -> bool:
        """Whether ``holder`` may have one more."""
        return self._full_at.get(holder, now) - now <= self._seconds - self._each + TOLERANCE

    def used(self, holder: Hashable, now: float) -> float:
        """What ``holder`` has taken and not got back."""
        return max(self._full_at.get(holder, now) - now, 0.0) / self._each

    def take(self, holder: Hashable, now: float) -> None:
        """``holder`` has one more."""
        full_at = max(self._full_at.pop(holder, now), now) + self._each
        while self._full_at and self._full_at[oldest := next(iter(self._full_at))] <= now:
            del self._full_at[oldest]
        if len(self._full_at) >= MAX_REMEMBERED:
            del self._full_at[next(iter(self._full_at))]
        self._full_at[holder] = full_at

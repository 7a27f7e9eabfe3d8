"""The ends of rules: dates, and whether they have come."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from math import inf
from typing import Generic, NamedTuple, TypeVar

__all__ = ["Clocks", "Ends"]

User = TypeVar("User")


class Clocks(NamedTuple):
    """The two that ends go by."""

    wall: Callable[[], float] = time.time
    """Seconds since 1970. It may be set at any time."""
    monotonic: Callable[[], float] = time.monotonic
    """Seconds since whenever. It may stand still while the machine sleeps."""


@dataclass(slots=True)
class _End(Generic[User]):
    latest: float
    """When it will have come, by the monotonic clock, whatever the other one says."""
    users: set[User] = field(default_factory=set)
    waiting: set[User] = field(default_factory=set)
    """Those that :meth:`Ends.due` has not named since."""


class Ends(Generic[User]):
    """The dates, in seconds since 1970, at which something ends, and who uses them.

    A date has come when the wall clock says so, or when the time has passed that was left when it was first named: a clock
    that is set back prolongs nothing. What has come stays so for as long as it is used.
    """

    def __init__(self, clocks: Clocks) -> None:
        self._wall, self._monotonic = clocks
        self._ends: dict[float, _End[User]] = {}
        self._used: dict[User, Collection[float]] = {}
        self._soonest = self._soonest_latest = inf
        """None that is waited for comes earlier, by either clock."""

    def set(self, user: User, dates: Collection[float]) -> None:
        """Names the dates that ``user`` uses from now on; none: it uses no more."""
        before = self._used.pop(user, ())
        if dates:
            self._used[user] = dates
        for date in dates:
            end = self._ends.get(date)
            if end is None:
                end = self._ends[date] = _End(self._monotonic() + date - self._wall())
            end.users.add(user)
            end.waiting.add(user)
            self._soonest = min(self._soonest, date)
            self._soonest_latest = min(self._soonest_latest, end.latest)
        for date in before:
            if date not in dates:
                end = self._ends[date]
                end.users.discard(user)
                end.waiting.discard(user)
                if not end.users:
                    del self._ends[date]
        if not self._ends:
            self._soonest = self._soonest_latest = inf

    def has_come(self, date: float) -> bool:
        """Whether a date has come."""
        end = self._ends.get(date)
        if self._wall() < date and (end is None or self._monotonic() < end.latest):
            return False
        if end is not None and end.latest != -inf:
            end.latest = self._soonest_latest = -inf
        return True

    def due(self) -> dict[User, float]:
        """Who uses a date that has come, and the last such date; each is named once, unless it is set again."""
        due: dict[User, float] = {}
        now, monotonic = self._wall(), self._monotonic()
        if now < self._soonest and monotonic < self._soonest_latest:
            return due
        soonest = soonest_latest = inf
        for date, end in self._ends.items():  # a millisecond for 10,000
            if not end.waiting:
                continue
            if date <= now or end.latest <= monotonic:
                end.latest = -inf
                due.update((user, max(date, due.get(user, date))) for user in end.waiting)
                end.waiting.clear()
            else:
                soonest = min(soonest, date)
                soonest_latest = min(soonest_latest, end.latest)
        self._soonest, self._soonest_latest = soonest, soonest_latest
        return due

    @property
    def seconds_left(self) -> float | None:
        """Until the next date at the earliest, if no clock is set; None: nobody waits for any."""
        left = min(self._soonest - self._wall(), self._soonest_latest - self._monotonic())
        return None if left == inf else max(0.0, left)

    def in_seconds(self, seconds: float) -> float:
        """The date so many seconds from now, or just after it: one that is used may come earlier, if a clock was set back."""
        date = round(self._wall() + seconds, 6)
        while date in self._ends:
            date = round(date + 1e-6, 6)  # what a datetime can tell apart
        return date

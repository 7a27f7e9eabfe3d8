"""The event loop's time, shared by those who send: no remote keeps the others from being heard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from .shares import Path, Shares

__all__ = ["Turns", "clock"]

clock: Final = time.perf_counter
"""uvloop's own clock stands still during a turn."""

SLOW: Final = 0.0005
"""Seconds for a request to begin, up to its handler's first wait, that are the handler's: several times as long as all else takes."""


class Turns:
    """Input is worked on in the callback that brought it, until that has taken ``limit`` seconds; the turn is then over for
    input, and what comes waits. In each following turn those that wait are worked on for as long, one piece for each
    network and connection in turn.

    Responses that wait have a half of that time for themselves: their work is done, and is lost when the requester has waited
    too long. Behind the input, more of it would be begun with each of them that is late.

    Once handlers take the time, requests wait to begin, also for as long as a turn, while what comes is read: else nobody would
    hear that requesters have given up, and they would be answered too late. Once some are given up, the newest of their holder
    begin first, since its oldest is the next.

    The time is not set back every turn, which would cost each of them a callback, but when it is used up for the first time
    in a turn: that one is over if the same happens again. So it may last twice as long.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: float) -> None:
        self.limit: Final = limit
        self.used = 0.0
        """Seconds of this turn, or of several."""
        self.counted = 0.0
        """Seconds in all."""
        self.over = False
        """What comes now waits."""
        self.crowded = False
        """Requests that have come whole wait to begin."""
        self._loop = loop
        self._waiting: Shares[Callable[[], None]] = Shares()
        self._ending: Shares[Callable[[], None]] = Shares()
        self._beginning: Shares[Callable[[], None]] = Shares()
        self._slow = False
        """A request was slow to begin."""
        self._scheduled = False

    def run(self, work: Callable[..., None], *arguments: Any) -> None:
        """Calls ``work`` now, and counts the time that it takes. What it runs in its turn is not counted twice."""
        began, counted = clock(), self.counted
        work(*arguments)
        self.count(began, counted)

    def begin(self, work: Callable[[], None]) -> None:
        """As :meth:`run`, for a request."""
        began, counted = clock(), self.counted
        work()
        self.count(began, counted)
        if self.counted - counted > SLOW:
            self._slow = True

    def count(self, began: float, counted: float) -> None:
        """Counts the time since ``began``, but for what was counted meanwhile: ``counted`` is what :attr:`counted` was then."""
        seconds = clock() - began - (self.counted - counted)
        self.counted += seconds
        self.used += seconds
        if self.used <= self.limit:
            return
        if self._scheduled:
            self.over = self.crowded = True
        else:
            self.used = 0.0
            self._schedule()

    def wait(self, path: Path, work: Callable[[], None]) -> None:
        """Has ``work`` called once, when it is the turn of the holder ``path``. It takes some milliseconds at most, and waits
        again if something is left to do. Work that waits already keeps its place."""
        if work not in self._waiting:
            self._waiting.add(path, work)
        self._schedule()

    def wait_to_end(self, path: Path, work: Callable[[], None]) -> None:
        """The same for what ends something: it does not wait behind what begins more."""
        self._ending.add(path, work)
        self._schedule()

    def wait_to_begin(self, path: Path, work: Callable[[], None]) -> None:
        """The same for a request, while it is :attr:`crowded`."""
        self._beginning.add(path, work)
        self._schedule()

    def forget(self, work: Callable[[], None]) -> None:
        """``work`` is not to be called any more."""
        if not self._waiting.discard(work):
            self._beginning.discard(work)

    def give_up(self, path: Path, work: Callable[[], None]) -> None:
        """The request that ``work`` begins, or has begun, is not waited for any more."""
        self._beginning.discard(work)
        self._beginning.hurry(path)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._scheduled = self.over = False
        self.crowded = self._slow or bool(self._beginning)
        self._slow = False
        self.used = 0.0
        began = clock()
        try:
            # Until the next turn: who has waited goes before what comes.
            self.over = self._work(self._ending, began + self.limit / 2) | self._work(self._waiting, began + self.limit)
            self._begin()
        finally:
            if self._waiting or self._ending or self._beginning:
                self.over = True
            self.crowded = self.over
            if self.over:
                self._schedule()

    def _work(self, waiting: Shares[Callable[[], None]], until: float) -> bool:
        """One piece at least; whether the time is up."""
        while waiting:
            waiting.next()()
            if clock() > until:
                return True
        return False

    def _begin(self) -> None:
        """One request at least, if one waits."""
        began = now = clock()
        while self._beginning and now - began <= self.limit:
            before = now
            self._beginning.next()()
            now = clock()
            if now - before > SLOW:
                self._slow = True

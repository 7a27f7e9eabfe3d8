"""What pipes over other pipes have in common: when they decode what has come, and how much may come that has no data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ..resources.networks import networks_of
from ..resources.turns import Turns, clock
from .pipe import BytePipe

__all__ = ["Allowance", "Intake"]

EMPTY_AT_ONCE: Final = 64
EMPTY_PER_SECOND: Final = 10.0


class Allowance:
    """Of what has no data in it: pings, pongs, empty frames, new keys. Each costs a remote a few bytes, and us as much as one
    with data. Browsers, proxies and the implementations of libp2p send one every few seconds, if any, and a dozen in the
    handshake of TLS."""

    __slots__ = ("_clock", "_filled_at", "_left")

    def __init__(self, clock: Callable[[], float] = clock) -> None:
        self._clock = clock
        self._left = float(EMPTY_AT_ONCE)
        self._filled_at = clock()

    def take(self) -> bool:
        """One has come. Whether that is allowed."""
        now = self._clock()
        left = self._left + (now - self._filled_at) * EMPTY_PER_SECOND
        self._left = min(left, float(EMPTY_AT_ONCE)) - 1
        self._filled_at = now
        return self._left >= 0


class Intake:
    """Has a pipe work on what comes from the one below: in the callback that brings it, piece by piece. When the receiver
    pauses, the turn is over, or that has taken as long as a turn, the pipe below is paused, and what is left waits.

    ``work`` works on one piece, or on less of it if the receiver pauses, and returns whether something may be left.
    ``tell_end`` passes on the end of the pipe below.
    """

    __slots__ = ("_end", "_left", "_lower", "_stopped", "_tell_end", "_turns", "_work", "_working", "paused")

    def __init__(
        self,
        lower: BytePipe,
        turns: Turns,
        work: Callable[[], bool],
        tell_end: Callable[[Exception | None], None],
    ) -> None:
        self.paused = False
        """By the receiver."""
        self._lower = lower
        self._turns = turns
        self._work = work
        self._tell_end = tell_end
        self._working = False
        self._left = False
        """Something waits."""
        self._stopped = False
        """The pipe below is paused."""
        self._end: tuple[Exception | None] | None = None
        """The pipe below has ended with that error, while something waited."""

    def pause(self) -> None:
        if not self.paused:
            self.paused = True
            self._turns.forget(self.go_on)
            self._stop()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            if self._left:
                self._wait()
            elif not self._working:  # else it is about to see
                self._start()

    def go_on(self) -> None:
        """Works on what has come."""
        turns = self._turns
        self._left = False
        self._working = True
        began = clock()
        try:
            while self._work():
                if self.paused or turns.over or clock() - began > turns.limit:
                    self._left = True
                    break
        finally:
            self._working = False
        if self._left:
            self._stop()
            if not self.paused:
                self._wait()
        elif self._end is not None:
            self._tell_end(*self._end)
        elif not self.paused:
            self._start()

    def end(self, error: Exception | None) -> None:
        """The pipe below has ended: that is passed on after what came before."""
        if self._left:
            self._end = (error,)
        else:
            self._tell_end(error)

    def drop(self) -> None:
        """The pipe ends by our own will: what waits is not heard."""
        if self._left:
            self._left = False
            self._turns.forget(self.go_on)
            if self._end is not None:
                asyncio.get_running_loop().call_soon(self._tell_end, *self._end)

    def _wait(self) -> None:
        self._turns.wait((*networks_of(self._lower.remote_address), self), self.go_on)

    def _stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._lower.pause_reading()

    def _start(self) -> None:
        if self._stopped:
            self._stopped = False
            self._lower.resume_reading()

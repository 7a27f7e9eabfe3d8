"""The traffic of each peer, with the timers that let in what waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from ..identity import PeerId
from .traffic import Traffic, TrafficLimits

__all__ = ["PacedTraffic"]

T = TypeVar("T")


class PacedTraffic(Traffic[T], Generic[T]):
    """What is over the limits waits until a timer finds that they allow it; ``admit`` gets it then."""

    def __init__(self, limits: TrafficLimits, admit: Callable[[T], None]) -> None:
        super().__init__(limits)
        self._admit: Final = admit
        self._paced: dict[PeerId, asyncio.TimerHandle] = {}
        """Peers with a timer for what waits."""

    def limit(self, limits: TrafficLimits) -> None:
        """Sets the limits of each peer."""
        self.close()
        for peer in self.set_limits(limits):
            self.admit_next_soon(peer)

    def admit_next_soon(self, peer: PeerId, delay: float = 0.0) -> None:
        """Lets in what the limits allow, after ``delay`` seconds. Call it when something of ``peer`` has come to wait, or has
        left."""
        if peer not in self._paced and self.waits(peer):
            self._paced[peer] = asyncio.get_running_loop().call_later(delay, self._admit_next, peer)

    def close(self) -> None:
        """Cancels every timer."""
        for timer in self._paced.values():
            timer.cancel()
        self._paced.clear()

    def _admit_next(self, peer: PeerId) -> None:
        """Lets in what the peer's traffic allows by now, of whichever connection."""
        now = asyncio.get_running_loop().time()
        delay: float | None = None
        while delay is None:
            following = self.next(peer, now)
            if following is None:
                break
            if isinstance(following, float):
                delay = following
            else:
                self._admit(following)
        self._paced.pop(peer, None)
        if delay is not None:
            self.admit_next_soon(peer, delay)

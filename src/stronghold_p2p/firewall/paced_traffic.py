"""The traffic of each peer, with the timers that let in what waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from ..identity import PeerId
from .traffic import Traffic

__all__ = ["PacedTraffic"]

T = TypeVar("T")


class PacedTraffic(Traffic[T], Generic[T]):
    """What is over the limits waits until a timer finds that they allow it; ``admit`` gets it then."""

    def __init__(self, max_in_flight: int, per_second: float | None, admit: Callable[[T], None]) -> None:
        super().__init__(max_in_flight, per_second)
        self._admit: Final = admit
        self._paced: dict[PeerId, asyncio.TimerHandle] = {}
        """Peers with a timer for what waits."""

    def limit(self, in_flight: int, per_second: float | None) -> None:
        """Sets the limits of each peer: in flight, and per second; None: no limit."""
        self.max_in_flight = in_flight
        self.per_second = per_second
        for peer in self.close():
            self.admit_next_soon(peer)

    def admit_next_soon(self, peer: PeerId, delay: float = 0.0) -> None:
        """Lets in what the limits allow, after ``delay`` seconds. Call it when something of ``peer`` has come to wait, or has
        left."""
        if peer not in self._paced and self.waits(peer):
            self._paced[peer] = asyncio.get_running_loop().call_later(delay, self._admit_next, peer)

    def close(self) -> list[PeerId]:
        """Cancels every timer; returns the peers that had one."""
        paced, self._paced = self._paced, {}
        for timer in paced.values():
            timer.cancel()
        return list(paced)

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

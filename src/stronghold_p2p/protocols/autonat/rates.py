"""How many requests a minute, by network and by peer. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

from ...identity import PeerId

__all__ = ["Rates"]

WINDOW: Final = 60.0
"""Seconds that a request counts."""


class Rates:
    """Admits at most ``in_all`` requests a minute, so many of one network, and so many of one peer. Times are in seconds, on
    any clock."""

    def __init__(self, *, in_all: int, by_network: int, by_peer: int) -> None:
        self._in_all = in_all
        self._by_network = by_network
        self._by_peer = by_peer
        self._admitted: deque[tuple[float, str, PeerId]] = deque()
        """Those of the last minute, the oldest first: no more than may be in all, whoever asks."""

    def admit(self, network: str, peer: PeerId, now: float) -> bool:
        """Whether a request of ``peer`` is served now; if so, it counts."""
        while self._admitted and self._admitted[0][0] <= now - WINDOW:
            self._admitted.popleft()
        if (
            len(self._admitted) >= self._in_all
            or sum(one == network for _, one, _ in self._admitted) >= self._by_network
            or sum(one == peer for _, _, one in self._admitted) >= self._by_peer
        ):
            return False
        self._admitted.append((now, network, peer))
        return True

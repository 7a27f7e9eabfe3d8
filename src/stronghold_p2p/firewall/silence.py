"""Who may cause no questions for a while: peers and networks."""

from __future__ import annotations

from typing import Final

from ..identity import PeerId
from ..resources.networks import Networks
from ..resources.shares import Shares
from .room import Holder

__all__ = ["Silence"]

MAX_REMEMBERED: Final = 16_384
"""Beyond that the oldest of the network with the most may cause a question early, within the other limits."""


class Silence:
    """Lasts ``seconds`` for each, from the last time on."""

    def __init__(self, seconds: float) -> None:
        self._seconds: Final = seconds
        self._until: dict[PeerId | str, float] = {}
        """When each may speak again, in this order."""
        self._shares: Shares[PeerId | str] = Shares()
        """The same by network, so that one with many peers does not have the others' forgotten."""

    def begin(self, who: PeerId | str, networks: Networks, now: float) -> None:
        """Silences a peer from ``networks``, or the last of these itself."""
        self._forget(who)
        self._until[who] = now + self._seconds
        self._shares.add(networks, who)
        while self._until[oldest := next(iter(self._until))] <= now:
            self._forget(oldest)
        if len(self._until) > MAX_REMEMBERED:
            self._forget(next(self._shares.largest()))

    def includes(self, holder: Holder, now: float) -> bool:
        """Whether the peer is silenced, or one of its networks."""
        whole: list[PeerId | str] = [holder.peer, *holder.networks]
        return any(self._until.get(who, 0.0) > now for who in whole)

    def _forget(self, who: PeerId | str) -> None:
        self._until.pop(who, None)
        self._shares.discard(who)

"""Who may cause no questions for a while: peers, or their requests of a type, and networks."""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple, TypeAlias

from ..identity import PeerId
from ..resources.networks import Networks
from ..resources.shares import Shares
from .room import Holder

__all__ = ["Silence", "Topic"]

MAX_REMEMBERED: Final = 16_384
"""Beyond that the oldest of the network with the most may cause a question early, within the other limits."""

MAX_TOPICS: Final = 4
"""Types of one peer that are silenced one by one. Untyped requests can have any type: beyond this, the peer is silenced."""


class Topic(NamedTuple):
    """Requests of one type from, or to, one peer."""

    peer: PeerId
    type: str | None


Who: TypeAlias = PeerId | Topic | str
"""A peer, what it asks, or a network."""


class Silence:
    """Lasts ``seconds`` for each, from the last time on; None: there is none."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds: Final = seconds
        self._until: dict[Who, float] = {}
        """When each may speak again, in this order."""
        self._shares: Shares[Who] = Shares()
        """The same by network, so that one with many peers does not have the others' forgotten."""
        self._topics: Counter[PeerId] = Counter()
        """The number of those by peer."""

    def begin(self, who: Who, networks: Networks, now: float) -> None:
        """Silences a peer or a topic from ``networks``, or the last of these itself."""
        if self._seconds is None:
            return
        self._forget(who)
        while self._until and self._until[oldest := next(iter(self._until))] <= now:
            self._forget(oldest)
        if isinstance(who, Topic):
            if self._topics[who.peer] >= MAX_TOPICS:
                self.begin(who.peer, networks, now)
                return
            self._topics[who.peer] += 1
        self._until[who] = now + self._seconds
        self._shares.add(networks, who)
        if len(self._until) > MAX_REMEMBERED:
            self._forget(next(self._shares.largest()))

    def includes(self, who: PeerId | Topic, holder: Holder, now: float) -> bool:
        """Whether ``who`` is silenced, the peer itself, or one of its networks."""
        whole: list[Who] = [who, holder.peer, *holder.networks]
        return any(self._until.get(one, 0.0) > now for one in whole)

    def _forget(self, who: Who) -> None:
        if self._until.pop(who, None) is not None and isinstance(who, Topic):
            self._topics[who.peer] -= 1
            if not self._topics[who.peer]:
                del self._topics[who.peer]
        self._shares.discard(who)

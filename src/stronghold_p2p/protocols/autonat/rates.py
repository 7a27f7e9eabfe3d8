"""How many requests a minute, in all, by network and by peer. Pure."""

from __future__ import annotations

from collections.abc import Hashable

from ...identity import PeerId
from ...resources.rates import Rate

__all__ = ["Rates"]


class Rates:
    """Admits at most ``in_all`` requests a minute, so many of one network, and so many of one peer. A network may have as much
    as all leave free, so that some remotes with many networks do not take all ("dynamic thresholds", Choudhury and Hahne
    1998). Times are in seconds, on any clock. No more holders are remembered than are admitted, whoever asks."""

    def __init__(self, *, in_all: int, by_network: int, by_peer: int) -> None:
        self._in_all = in_all
        self._all = Rate(in_all)
        self._networks = Rate(by_network)
        self._peers = Rate(by_peer)

    def admit(self, network: str, peer: PeerId, now: float) -> bool:
        """Whether a request of ``peer`` is served now; if so, it counts."""
        holders: tuple[tuple[Rate, Hashable], ...] = (self._all, "all"), (self._networks, network), (self._peers, peer)
        if not all(rate.has(holder, now) for rate, holder in holders):
            return False
        if self._networks.used(network, now) >= self._in_all - self._all.used("all", now):
            return False
        for rate, holder in holders:
            rate.take(holder, now)
        return True

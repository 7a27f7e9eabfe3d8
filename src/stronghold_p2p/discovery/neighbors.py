"""The peers on the local network, as far as they have announced themselves. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final, NamedTuple, TypeAlias

from ..identity import PeerId
from ..multiaddr import Multiaddr
from ..resources.networks import Networks
from ..resources.shares import Shares
from .texts import Sighting

__all__ = ["Change", "Neighbors"]

MAX_ADDRESSES: Final = 24
"""Addresses of one peer: a host on two networks announces a dozen on each."""
MAX_TTL: Final = 4500
"""Seconds, the longest TTL of RFC 6762, section 10: a peer that has left in silence is not remembered for ever."""

_Addresses: TypeAlias = dict[Multiaddr, float]
"""Each with the time at which it expires; those heard of last stand first."""


class Change(NamedTuple):
    """A peer was heard of again, has changed, or is gone."""

    peer: PeerId
    addresses: tuple[Multiaddr, ...]
    """Empty: it is gone."""
    expires: float
    """When the last of them does."""
    differs: bool
    """They are not those from before."""


class Neighbors:
    """At most ``limit`` peers. Anybody on the network can announce any number, so the sender of most gives way;
    ``displaced`` hears whose peer did."""

    def __init__(self, own: PeerId, limit: int, displaced: Callable[[Networks], None]) -> None:
        self._own = own
        self._limit = limit
        self._displaced = displaced
        self._peers: dict[PeerId, _Addresses] = {}
        self._senders: dict[PeerId, Networks] = {}
        """Who told of each peer first."""
        self._shares: Shares[PeerId] = Shares()
        self.next_expiry = float("inf")
        """When the next address expires, or one did that was renewed."""

    def __contains__(self, peer: object) -> bool:
        return peer in self._peers

    def addresses(self, peer: PeerId) -> tuple[Multiaddr, ...]:
        """Those heard of last first."""
        return tuple(self._peers.get(peer, ()))

    def heard(self, sightings: Iterable[Sighting], sender: Networks, now: float) -> list[Change]:
        """What ``sender``, given by its networks and its address, has told."""
        told: dict[PeerId, _Addresses] = {}
        for peer, address, ttl in sightings:
            if peer != self._own:
                told.setdefault(peer, {})[address] = now + min(ttl, MAX_TTL)
        changes: list[Change] = []
        for peer, addresses in told.items():
            known = self._peers.get(peer)
            if known is None:
                if max(addresses.values()) <= now:
                    continue  # a goodbye of somebody unknown
                if len(self._peers) >= self._limit:
                    changes.append(self._displace(now))
                self._senders[peer] = sender
                self._shares.add(sender, peer)
            else:
                addresses.update((one, expires) for one, expires in known.items() if one not in addresses)
            changes.append(self._set(peer, addresses, now))
        return changes

    def expire(self, now: float) -> list[Change]:
        """Forgets what has expired by ``now``."""
        expired = [peer for peer, addresses in self._peers.items() if min(addresses.values()) <= now]
        changes = [self._set(peer, self._peers[peer], now) for peer in expired]
        self.next_expiry = min((min(addresses.values()) for addresses in self._peers.values()), default=float("inf"))
        return changes

    def _set(self, peer: PeerId, addresses: _Addresses, now: float) -> Change:
        before = self._peers.pop(peer, {})
        valid = dict(islice((one for one in addresses.items() if one[1] > now), MAX_ADDRESSES))
        if valid:
            self._peers[peer] = valid
            self.next_expiry = min(self.next_expiry, *valid.values())
        else:
            del self._senders[peer]
            self._shares.discard(peer)
        return Change(peer, tuple(valid), max(valid.values(), default=now), valid.keys() != before.keys())

    def _displace(self, now: float) -> Change:
        """Forgets the oldest peer of whoever told of most."""
        peer = next(self._shares.largest())
        self._displaced(self._senders[peer])
        return self._set(peer, {}, now)

"""Places for circuits at a relay: when there is none, the largest holder gives way."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...identity import PeerId
from ...resources.networks import Networks
from ...resources.shares import Path, Shares
from .limits import RelayServer

__all__ = ["Place", "Places"]


class Place:
    """Of one circuit, from when it is asked for until it has ended."""

    __slots__ = ("_end", "lost", "networks", "source", "target")

    def __init__(self, source: PeerId, target: PeerId) -> None:
        self.source = source
        self.target = target
        self.networks: Networks = ()
        """Those of the source."""
        self.lost = False
        """Another circuit has it now, or none is allowed any more."""
        self._end: Callable[[], object] | None = None

    def held_by(self, end: Callable[[], object] | None) -> None:
        """``end`` is called when the place is lost, at once if it is already."""
        self._end = end
        self._give_up()

    def lose(self) -> None:
        self.lost = True
        self._give_up()

    def _give_up(self) -> None:
        if self.lost and self._end is not None:
            self._end()


class Places:
    """Who has the circuits: all of them, and by peer those at either end of which it is.

    A remote can be any number of peers that ask for circuits to each other, or to one target, and then nobody else would
    find a place. So a circuit counts for whoever asked for it, by network and peer, and when a limit is reached, the largest
    holder's newest circuit ends for the new one. Who has the most already is refused.
    """

    def __init__(self, server: RelayServer, limit_reached: Callable[[str, Networks], None]) -> None:
        """``limit_reached`` takes the field of ``server`` by which a place was lost, and the networks of who had it."""
        self._server = server
        self._limit_reached = limit_reached
        self._all: Shares[Place] = Shares()
        self._by_peer: dict[PeerId, Shares[Place]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, place: object) -> bool:
        return place in self._all

    def __iter__(self) -> Iterator[Place]:
        return iter(self._all)

    def take(self, networks: Networks, place: Place, most: int) -> str:
        """Takes a place, perhaps another one's; or returns the field of the limit that leaves none. ``networks`` are those of
        the source; ``most`` circuits are what the target takes."""
        place.networks = networks
        path: Path = (*networks, place.source)
        per_peer = self._server.max_circuits_per_peer
        source, target = (self._by_peer.setdefault(peer, Shares()) for peer in (place.source, place.target))
        limited = (
            ("max_circuits", self._all, self._server.max_circuits),
            ("max_circuits_per_peer", source, per_peer),
            ("max_circuits_per_peer", target, min(per_peer, most)),
        )
        for _, shares, _ in limited:
            shares.add(path, place)
        losing = {shares.newest_of_largest(): field for field, shares, limit in limited if len(shares) > limit}
        if place in losing:
            self.free(place)
            return losing[place]
        for other, field in losing.items():
            self.free(other)
            other.lose()
            self._limit_reached(field, other.networks)
        return ""

    def free(self, place: Place) -> None:
        """It has ended; that may be said twice."""
        self._all.discard(place)
        for peer in place.source, place.target:
            shares = self._by_peer.get(peer)
            if shares is not None and shares.discard(place) and not shares:
                del self._by_peer[peer]

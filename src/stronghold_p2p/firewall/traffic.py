"""Limits of one peer's requests or streams: in flight, per second, and while it does not read. Pure: the time is an argument."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Generic, NamedTuple, Self, TypeVar

from ..config import Config
from ..frozen import FrozenDict
from ..identity import PeerId
from ..reset_codes import Reason
from .quotas import NO_LIMIT, Excess, Limit

__all__ = ["Traffic", "TrafficLimits"]

MIN_SWEEP: Final = 256
"""Peers below which nothing is swept."""

T = TypeVar("T")


class TrafficLimits(NamedTuple):
    """How much of one peer there may be."""

    in_flight: int
    """At once."""
    per_second: float | None
    """Beginning in a second; None: any number."""
    peers: Mapping[PeerId, Limit] = FrozenDict({})
    """Limits of single peers, each in the place of its one above."""

    @classmethod
    def of(cls, config: Config, default: Limit = NO_LIMIT, peers: Mapping[PeerId, Limit] = FrozenDict({})) -> Self:
        """Those of this process: the ``default``, or what ``config`` says where that says nothing; and of single peers."""
        limits = Limit(
            in_flight=default.in_flight or config.max_requests_in_flight_per_peer,
            per_second=default.per_second or config.max_requests_per_second_per_peer,
        ).divided(config.processes)
        assert limits.in_flight is not None
        return cls(
            limits.in_flight,
            limits.per_second,
            {peer: its.divided(config.processes) for peer, its in peers.items()},
        )


class _Share:
    """One peer's share: its limits, what it has in flight, and its token bucket."""

    __slots__ = ("blocked", "capacity", "filled_at", "in_flight", "max_in_flight", "per_second", "tokens", "waiting")

    def __init__(self, limits: TrafficLimits, own: Limit, now: float) -> None:
        self.blocked = False
        self.in_flight = 0
        self.filled_at = now
        self.waiting: dict[Any, None] = {}
        self.limit(limits, own)
        self.tokens = self.capacity

    def limit(self, limits: TrafficLimits, own: Limit) -> None:
        """Sets its limits: those in ``own``, and in the place of each that is missing there, the one for all."""
        self.max_in_flight = own.in_flight or limits.in_flight
        self.per_second = own.per_second or limits.per_second
        self.capacity = max(1.0, self.per_second or 1.0)


class Traffic(Generic[T]):
    """Admits requests, or streams, in order, within two limits per peer; what is over them waits.

    The bucket of a peer holds the requests of one second, so that many may come at once after a pause.
    """

    def __init__(self, limits: TrafficLimits) -> None:
        self._limits = limits
        self._own = dict(limits.peers)
        """Limits of single peers: a plain dict, as each request looks there."""
        self._shares: dict[PeerId, _Share] = {}
        self._sweep_at = MIN_SWEEP

    def __len__(self) -> int:
        return len(self._shares)

    def set_limits(self, limits: TrafficLimits) -> list[PeerId]:
        """Replaces the limits. Returns the peers of which something waits: call :meth:`next` for each."""
        self._limits = limits
        self._own = dict(limits.peers)
        for peer, share in self._shares.items():
            share.limit(limits, self._own.get(peer, NO_LIMIT))
        return [peer for peer, share in self._shares.items() if share.waiting]

    def enter(self, peer: PeerId, request: T, now: float) -> bool:
        """Whether ``request`` may proceed at once; otherwise it waits until :meth:`next` returns it."""
        share = self._shares.get(peer)
        if share is None:
            if len(self._shares) >= self._sweep_at:
                self._sweep(now)
            share = self._shares[peer] = _Share(self._limits, self._own.get(peer, NO_LIMIT), now)
        if share.waiting or not self._take(share, now):
            share.waiting[request] = None
            return False
        return True

    def leave(self, peer: PeerId, request: T) -> bool:
        """``request``, which was let in or waits, has ended. Call once for each; then, if it returns True, :meth:`next`:
        another one waits."""
        share = self._shares[peer]
        if request in share.waiting:
            del share.waiting[request]
        else:
            share.in_flight -= 1
        if share.waiting:
            return True
        if share.per_second is None and not share.in_flight:
            del self._shares[peer]
        return False

    def block(self, peer: PeerId) -> None:
        """No request of ``peer``, which has one in flight, proceeds until :meth:`unblock`."""
        self._shares[peer].blocked = True

    def unblock(self, peer: PeerId) -> None:
        self._shares[peer].blocked = False

    def waits(self, peer: PeerId) -> bool:
        """Whether a request of ``peer`` waits."""
        share = self._shares.get(peer)
        return share is not None and bool(share.waiting)

    def next(self, peer: PeerId, now: float) -> T | float | None:
        """The next request of ``peer`` that may go on; or the seconds until one may, if the rate holds it; or None."""
        share = self._shares.get(peer)
        if share is None or not share.waiting:
            return None
        if not self._take(share, now):
            if share.blocked or share.in_flight >= share.max_in_flight:
                return None
            assert share.per_second is not None
            return (1.0 - share.tokens) / share.per_second
        request: T = next(iter(share.waiting))
        del share.waiting[request]
        return request

    def excess(self, peer: PeerId) -> Excess:
        """What holds up the requests of ``peer``, one of which has waited for too long, here or where it was let in."""
        share = self._shares[peer]
        places_left = share.in_flight < share.max_in_flight and not share.blocked
        if share.per_second is not None and share.waiting and places_left:
            return Excess(Reason.RATE, len(share.waiting) / share.per_second)
        return Excess(Reason.BUSY, None)

    def _take(self, share: _Share, now: float) -> bool:
        if share.in_flight >= share.max_in_flight or share.blocked:
            return False
        if share.per_second is not None:
            self._fill(share, now)
            if share.tokens < 1.0:
                return False
            share.tokens -= 1.0
        share.in_flight += 1
        return True

    def _fill(self, share: _Share, now: float) -> None:
        assert share.per_second is not None
        share.tokens = min(share.capacity, share.tokens + (now - share.filled_at) * share.per_second)
        share.filled_at = now

    def _sweep(self, now: float) -> None:
        """Forgets peers with a full bucket whenever the number of peers has doubled, since a remote can create any
        number of peers."""
        for peer, share in list(self._shares.items()):
            if share.in_flight or share.waiting:
                continue
            if share.per_second is not None:
                self._fill(share, now)
                if share.tokens < share.capacity:
                    continue
            del self._shares[peer]
        self._sweep_at = max(MIN_SWEEP, 2 * len(self._shares))

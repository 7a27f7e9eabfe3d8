"""Limits of what is asked of us by type, and of its size. Pure: the time is an argument."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from ..identity import PeerId
from ..limit_fields import check_limits, limit
from ..reset_codes import Reason
from ..resources.rates import Rate

__all__ = ["NO_LIMIT", "Excess", "Limit", "Place", "Quotas"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What one peer may have of inbound requests or streams. None: no limit of that kind.

    Raises:
        ValueError: a limit is not a positive number of its type.
    """

    per_second: float | None = limit(None, "How many begin in a second; may be below 1.")
    in_flight: int | None = limit(None, "How many are decided or handled at once.")
    max_bytes: int | None = limit(None, "The size of each request in bytes, as it is encoded.")

    def __post_init__(self) -> None:
        check_limits(self)

    def divided(self, processes: int) -> Limit:
        """What each of so many processes grants, which hold it together; at least one at once."""
        if processes == 1:
            return self
        return replace(
            self,
            per_second=None if self.per_second is None else self.per_second / processes,
            in_flight=None if self.in_flight is None else max(self.in_flight // processes, 1),
        )


NO_LIMIT: Final = Limit()


class Excess(NamedTuple):
    """Why something is over a limit, for who may know."""

    reason: Reason
    retry_after: float | None
    """Seconds after which another one may be within it, at the latest; None: that is not known."""


TOO_LARGE: Final = Excess(Reason.REJECTED, None)
TOO_MANY: Final = Excess(Reason.BUSY, None)


class Place:
    """What a request or stream takes of its peer's quota, until :meth:`leave`."""

    __slots__ = ("_peer", "_quota")

    def __init__(self, quota: _Quota, peer: PeerId) -> None:
        self._quota = quota
        self._peer = peer

    def leave(self) -> None:
        """It has ended. To be called once."""
        self._quota.leave(self._peer)


class Quotas:
    """Lets in what is within the limits of its type, each peer for itself; what is over them is rejected."""

    def __init__(self) -> None:
        self.active = False
        """Whether there are any limits."""
        self._types: dict[str, _Quota] = {}
        self._peers: Mapping[PeerId, Limit] = {}

    def set_limits(self, types: Mapping[str, Limit], peers: Mapping[PeerId, Limit]) -> None:
        """Replaces the limits: all those of types; of single peers, only the sizes are looked at. What was in flight under the
        same limit of its type still counts."""
        before = self._types
        self._types = {
            name: before[name] if name in before and before[name].limit == its else _Quota(its)
            for name, its in types.items()
        }
        self._peers = peers
        self.active = bool(types or peers)

    def enter(self, peer: PeerId, type_name: str | None, size: int, now: float) -> Place | None:
        """The place of a request of ``size`` bytes; None: it is over a limit. Of a stream the size is 0."""
        if self.excess(peer, type_name, size, now) is not None:
            return None
        quota = self._find(type_name)
        quota.take(peer, now)
        return Place(quota, peer)

    def excess(self, peer: PeerId, type_name: str | None, size: int, now: float) -> Excess | None:
        """Why such a request is over a limit; None if it is not."""
        max_bytes = self._peers.get(peer, NO_LIMIT).max_bytes
        if max_bytes is not None and size > max_bytes:
            return TOO_LARGE
        return self._find(type_name).excess(peer, size, now)

    def _find(self, type_name: str | None) -> _Quota:
        return UNLIMITED if type_name is None else self._types.get(type_name, UNLIMITED)


class _Quota:
    """The limit of one type, and what of it each peer has taken."""

    __slots__ = ("_in_flight", "_rate", "limit")

    def __init__(self, its: Limit) -> None:
        self.limit: Final = its
        self._rate: Rate | None = None
        if (per_second := its.per_second) is not None:
            self._rate = Rate(per_second, 1.0) if per_second >= 1 else Rate(1, 1 / per_second)
        self._in_flight: dict[PeerId, int] = {}

    def excess(self, peer: PeerId, size: int, now: float) -> Excess | None:
        its = self.limit
        if its.max_bytes is not None and size > its.max_bytes:
            return TOO_LARGE
        if its.in_flight is not None and self._in_flight.get(peer, 0) >= its.in_flight:
            return TOO_MANY
        if its.per_second is not None and self._rate is not None and not self._rate.has(peer, now):
            return Excess(Reason.RATE, 1 / its.per_second)
        return None

    def take(self, peer: PeerId, now: float) -> None:
        """One is let in, which is over no limit."""
        if self._rate is not None:
            self._rate.take(peer, now)
        if self.limit.in_flight is not None:
            self._in_flight[peer] = self._in_flight.get(peer, 0) + 1

    def leave(self, peer: PeerId) -> None:
        if self.limit.in_flight is not None:
            self._in_flight[peer] -= 1
            if not self._in_flight[peer]:
                del self._in_flight[peer]


UNLIMITED: Final = _Quota(NO_LIMIT)

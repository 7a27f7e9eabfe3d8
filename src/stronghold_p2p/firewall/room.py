"""Room for what waits for answers: when there is none, the largest holder gives way."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from ..config import Config
from ..events import Direction
from ..identity import PeerId
from ..multiaddr import Multiaddr
from ..resources.networks import Networks, networks_of
from ..resources.refusals import Refusals
from ..resources.shares import Path, Shares
from .rules import Subject

__all__ = ["OURS", "Held", "Holder", "Room"]

OURS: Final = "ours"
"""In place of a network, for our own requests: they do not give way to those of remotes."""


class Holder(NamedTuple):
    """Whose share something counts to."""

    networks: Networks
    peer: PeerId

    @classmethod
    def of(cls, subject: Subject, address: Multiaddr | None) -> Holder:
        """Of a request from or to the peer at ``address``."""
        return cls((OURS,) if subject.direction is Direction.OUTBOUND else networks_of(address), subject.peer)

    @property
    def path(self) -> Path:
        return (*self.networks, self.peer)


class Held(Hashable, Protocol):
    """A question, or a request that waits for its answer."""

    @property
    def holder(self) -> Holder: ...


H = TypeVar("H", bound=Held)


class Room(Generic[H]):
    """Room for what remotes make wait, within two limits of Config: ``limit`` in all, ``limit_per_peer`` for each peer.

    A peer beyond its own limit is refused. Beyond the other one the newest item of the largest holder gives way, first by
    network and then by peer, so that a remote with any number of identities or requests keeps nobody else out.
    """

    def __init__(self, limit: str, config: Config, refusals: Refusals, give_way: Callable[[H], object]) -> None:
        """``give_way`` ends an item, which has left the room already."""
        self._name: Final = limit
        self._name_per_peer: Final = f"{limit}_per_peer"
        self._limit: Final[int] = getattr(config, self._name)
        self._limit_per_peer: Final[int] = getattr(config, self._name_per_peer)
        self._refusals = refusals
        self._give_way = give_way
        self._items: Shares[H] = Shares()
        self._by_peer: Shares[H] = Shares()

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    @property
    def used(self) -> int:
        """The sum of the sizes."""
        return self._items.used

    def add(self, item: H, size: int = 1) -> None:
        """Then call :meth:`refuses`, and :meth:`make`."""
        self._items.add(item.holder.path, item, size)
        self._by_peer.add((item.holder.peer,), item, size)

    def discard(self, item: H) -> None:
        self._items.discard(item)
        self._by_peer.discard(item)

    def refuses(self, item: H) -> bool:
        """Whether ``item``, which was added last, is itself what must go. Nobody has given way to it yet."""
        if self._by_peer.used_by((item.holder.peer,)) > self._limit_per_peer:
            self._refusals.add(self._name_per_peer, item.holder.networks)
        elif self._excess() is item:
            self._refusals.add(self._name, item.holder.networks)
        else:
            return False
        self.discard(item)
        return True

    def make(self, item: H) -> bool:
        """Has others give way to ``item``, which was added last. False if they were not enough, and it is gone itself."""
        while (excess := self._excess()) is not None:
            self._refusals.add(self._name, excess.holder.networks)
            self.discard(excess)
            if excess is item:
                return False
            self._give_way(excess)
        return True

    def _excess(self) -> H | None:
        return self._items.newest_of_largest(spared=OURS) if self._items.used > self._limit else None

"""What many hold of one resource, by network and by peer: who is next, and who has the most."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

__all__ = ["Path", "Shares"]

Path = tuple[Hashable, ...]
"""A holder by its networks, from the largest to the smallest, and then perhaps its peer id."""

T = TypeVar("T", bound=Hashable)

NEWEST_FIRST: Final = 4
"""Items that go first for each that is given up: asked for twice what it can serve, a peer then answers nine in ten of what it
could. Whose items are never given up, however many wait, has them served in their order."""

MAX_NEWEST_FIRST: Final = 16
"""At most, however many were given up: soon after that has ended, the order is that of their coming again."""


class _Share(Generic[T]):
    """What one holder has: items, and the shares of those within it. Those that were served last stand last."""

    __slots__ = ("items", "key", "newest_first", "parent", "used", "within")

    def __init__(self, parent: _Share[T] | None, key: Hashable) -> None:
        self.parent = parent
        self.key = key
        self.used = 0
        self.newest_first = 0
        """So many of the next to be served are its newest."""
        self.items: dict[T, int] = {}
        self.within: dict[Hashable, _Share[T]] = {}


class Shares(Generic[T]):
    """Items, each with a size and a holder.

    A remote can be any number of peers, and one network any number of remotes. So both questions are answered from the top
    down: among the networks first, then among those within the one that was chosen.
    """

    def __init__(self) -> None:
        self._root: _Share[T] = _Share(None, None)
        self._holders: dict[T, _Share[T]] = {}

    def __len__(self) -> int:
        return len(self._holders)

    def __contains__(self, item: object) -> bool:
        return item in self._holders

    def __iter__(self) -> Iterator[T]:
        return iter(self._holders)

    @property
    def used(self) -> int:
        """The sum of all sizes."""
        return self._root.used

    def used_by(self, path: Path) -> int:
        """The sum of the sizes of what the holder has."""
        share = self._root
        for key in path:
            if key not in share.within:
                return 0
            share = share.within[key]
        return share.used

    def free(self, path: Path, limit: int) -> int:
        """What the holder may have more of ``limit``: each may have as much as those above it leave free, so that a newcomer
        always finds room ("dynamic thresholds", Choudhury and Hahne 1998)."""
        share = self._root
        free = limit - share.used
        for key in path:
            if key not in share.within:
                break
            share = share.within[key]
            free -= share.used
        return free

    def add(self, path: Path, item: T, size: int = 1) -> None:
        """``item`` is not among them yet; ``size`` is at least 1."""
        assert size > 0
        share = self._root
        for key in path:
            within = share.within.get(key)
            if within is None:
                within = share.within[key] = _Share(share, key)
            share = within
        share.items[item] = size
        self._holders[item] = share
        _change(share, size)

    def discard(self, item: T) -> bool:
        """Whether ``item`` was among them."""
        share = self._holders.pop(item, None)
        if share is None:
            return False
        _change(share, -share.items.pop(item))
        return True

    def hurry(self, path: Path) -> None:
        """Something of the holder was given up before it was done: its oldest item is the next, so some of its newest go first."""
        share = self._root
        for key in path:
            if key not in share.within:
                return
            share = share.within[key]
        share.newest_first = min(share.newest_first + NEWEST_FIRST, MAX_NEWEST_FIRST)

    def next(self) -> T:
        """Removes and returns the next one: every holder has its turn, and its oldest item is served first, unless others of it
        were given up. There is one."""
        share = self._root
        while share.within:
            key, chosen = next(iter(share.within.items()))
            del share.within[key]  # it goes on at the end, if anything is left of it
            share.within[key] = chosen
            share = chosen
        if share.newest_first:
            share.newest_first -= 1
            item = next(reversed(share.items))
        else:
            item = next(iter(share.items))
        self.discard(item)
        return item

    def largest(self) -> Iterator[T]:
        """The items of the largest holder, the oldest first: that is who gives way. There is one."""
        share = self._root
        while share.within:
            share = max(share.within.values(), key=_used)
        return iter(share.items)

    def newest_of_largest(self, spared: Hashable = None) -> T:
        """The newest item of the largest holder, and among equals of who came last: a newcomer takes nothing from those
        who have no more than it has. Nothing of the network ``spared``, unless there is nothing else. There is one."""
        share = self._root
        within = [each for key, each in share.within.items() if key != spared] or list(share.within.values())
        while within:
            share = max(reversed(within), key=_used)
            within = list(share.within.values())
        return next(reversed(share.items))


def _used(share: _Share[T]) -> int:
    return share.used


def _change(share: _Share[T] | None, size: int) -> None:
    while share is not None:
        share.used += size
        parent = share.parent
        if not share.used and parent is not None:
            del parent.within[share.key]
        share = parent

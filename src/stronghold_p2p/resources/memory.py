"""Memory for what remotes send, shared by network and by peer."""

from __future__ import annotations

from typing import Final, Protocol

from ..identity import PeerId
from ..wire.yamux import ReceiveBudget
from .networks import Networks

__all__ = ["Crediting", "Memory", "MemoryShare"]


class Crediting(Protocol):
    """A stream whose remote waits for window."""

    def credit_withheld(self) -> None:
        """Gives the remote the window that was withheld from it."""


class _Holder:
    """What one network, or all of them, holds."""

    __slots__ = ("key", "members", "parent", "used")

    def __init__(self, key: Networks, parent: _Holder | None) -> None:
        self.key: Final = key
        self.parent: Final = parent
        self.used = 0
        self.members = 0
        """Connections of the network."""


class Memory:
    """Bytes received and not yet handed over, and what receive windows have grown by: at most ``limit`` of them.

    Whatever is left is there for those who have less: a network may hold as many bytes as are free, a smaller network in
    it as many as it leaves free of that, and a peer as many as those leave free ("dynamic thresholds", Choudhury and Hahne
    1998). One peer alone thus gets a third of all or a quarter, and a newcomer always finds room.
    """

    def __init__(self, limit: int) -> None:
        self.limit: Final = limit
        self._all = _Holder((), None)
        self._holders: dict[Networks, _Holder] = {}
        self._shares: dict[tuple[Networks, PeerId], MemoryShare] = {}

    @property
    def used(self) -> int:
        return self._all.used

    def open(self, networks: Networks, peer: PeerId) -> MemoryShare:
        """What the connections of ``peer`` from one network have together; call :meth:`close` for each of them."""
        holder = self._all
        for end in range(1, len(networks) + 1):
            key = networks[:end]
            holder = self._holders.setdefault(key, _Holder(key, holder))
            holder.members += 1
        share = self._shares.get((networks, peer))
        if share is None:
            share = self._shares[networks, peer] = MemoryShare(peer, self.limit, holder)
        share.members += 1
        return share

    def close(self, share: MemoryShare) -> None:
        """One of its connections has ended, with all that it held."""
        share.members -= 1
        if not share.members:
            del self._shares[share.holder.key, share.peer]
        holder = share.holder
        while holder.parent is not None:
            holder.members -= 1
            if not holder.members:
                del self._holders[holder.key]
            holder = holder.parent


class MemoryShare(ReceiveBudget):
    """One peer's share.

    Yamux grants each stream its first 256 KiB unasked, so what passes the share gets no window back and no new stream;
    what passes twice the share, of the peer or of its network, is reset. While it is passed, one stream goes on, so that
    messages which came in part do not wait for each other.
    """

    __slots__ = (
        "_all",
        "_factor",
        "_free",
        "_limit",
        "_network",
        "_withheld",
        "holder",
        "lead",
        "members",
        "peer",
        "used",
    )

    def __init__(self, peer: PeerId, limit: int, holder: _Holder) -> None:
        self.peer: Final = peer
        self.holder: Final = holder
        """The smallest of its networks."""
        self.members = 0
        """Connections that share it."""
        self.exhausted = False
        self.overrun = False
        self.used = 0
        self._factor = 1.0
        self.lead: Crediting | None = None
        """The stream that goes on."""
        self._limit = self._free = limit
        self._network = self._all = holder
        while self._all.parent is not None:
            self._network, self._all = self._all, self._all.parent
        self._withheld: dict[Crediting, None] = {}

    @property
    def factor(self) -> float:
        """The part of what is free that this peer may hold."""
        return self._factor

    @factor.setter
    def factor(self, factor: float) -> None:
        self._factor = factor
        self._let_go_on()

    @property
    def allowed(self) -> int:
        """The bytes that the peer may hold now."""
        self.is_exhausted()
        return int(self._free * self._factor)

    @property
    def room_to_grow(self) -> int:
        """What windows may grow by now, out of one half of the share.

        What a window has grown by comes back when its stream ends: were all of it spent on that, no stream would get
        window back and none would end. A remote that delays its pongs makes its windows grow as it likes.
        """
        # What is allowed shrinks as it is used, by each of the holders above: a step of an eighth never leads past the half.
        return (self.allowed - 4 * self.used) // 8

    def take(self, size: int) -> None:
        self.used += size
        holder: _Holder | None = self.holder
        while holder is not None:
            holder.used += size
            holder = holder.parent
        self.is_exhausted()

    def is_exhausted(self) -> bool:
        used, free = self.used, self._limit
        holder: _Holder | None = self.holder
        while holder is not None:
            free -= holder.used
            holder = holder.parent
        self._free = free
        self.exhausted = used >= free * self._factor and used > 0
        self.overrun = used > 0 and (
            used >= (free + self._limit) * self._factor or self._network.used >= 2 * (self._limit - self._all.used)
        )
        return self.exhausted

    def give(self, size: int) -> None:
        self.take(-size)
        if self._withheld:
            self._let_go_on()

    def may_credit(self, stream: Crediting) -> bool:
        """Whether ``stream`` may give window back although the share is exhausted; else :meth:`Crediting.credit_withheld`
        is called as soon as it may."""
        if not self.is_exhausted():
            return True
        if self.lead is None and not self.overrun:
            self.lead = stream
        if self.lead is stream:
            return True
        self._withheld[stream] = None
        return False

    def leave(self, stream: Crediting) -> None:
        """``stream`` holds nothing any more, or has ended: it waits no longer, and another one may go on."""
        self._withheld.pop(stream, None)
        if self.lead is stream:
            self.lead = None
            self._let_go_on()

    def _let_go_on(self) -> None:
        """All that wait, if there is room; else one of them, if none goes on."""
        while self._withheld and not self.is_exhausted():
            self._next().credit_withheld()
        if self._withheld and self.lead is None and not self.overrun:
            self.lead = following = self._next()
            following.credit_withheld()

    def _next(self) -> Crediting:
        stream = next(iter(self._withheld))
        del self._withheld[stream]
        return stream

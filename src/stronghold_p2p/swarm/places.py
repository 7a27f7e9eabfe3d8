"""The places for connections, and for upgrades of those that remotes begin: the largest holder gives way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from ..config import Config
from ..errors import LimitExceeded
from ..identity import PeerId
from ..resources.networks import networks_of
from ..resources.refusals import Refusals
from ..resources.shares import Shares
from ..transport.connection import Connection
from ..transport.pipe import BytePipe
from ..transport.upgrade import PipeUpgrade
from ..wire.yamux import GoAwayCode

__all__ = ["Places"]

DESCRIPTORS: Final = "resource.RLIMIT_NOFILE"
"""How :class:`LimitReached` names the limit of the process (``ulimit -n``)."""


class Places:
    """Who has them, within the limits of ``config``; ``refusals`` counts who gave way.

    A connection is ours, or one that a remote has brought about, which gives way before ours do.
    """

    def __init__(self, config: Config, refusals: Refusals) -> None:
        self._config = config
        self._refusals = refusals
        self._ours: set[Connection] = set()
        self._theirs: Shares[Connection] = Shares()
        self._promised: dict[BytePipe, PeerId] = {}
        """Places of ours for dials that have reached their peers: one a peer, however many of its addresses have answered."""
        self._pending: Shares[PipeUpgrade] = Shares()

    # -- connections -----------------------------------------------------------------------------

    def make_room(self, pipe: BytePipe, peer: PeerId, of_peer: Sequence[Connection], *, ours: bool) -> None:
        """For one connection more with ``peer``, over ``pipe``; ``of_peer`` are those with it that the same side has dialed.

        Raises:
            LimitExceeded: nothing of the peer's, or of those who have dialed us, can give way.
        """
        self.withdraw(pipe)
        for limit, candidates in self._reached(peer, of_peer, ours=ours):
            self._evict(limit, candidates)

    def promise_room(self, pipe: BytePipe, peer: PeerId, of_peer: Sequence[Connection], *, ours: bool) -> None:
        """As :meth:`make_room`, for a dial that may fail yet: nobody gives way before it has succeeded. Until that, or
        :meth:`withdraw`, no dial of another peer is promised the same place.

        Raises: as for :meth:`make_room`.
        """
        for limit, candidates in self._reached(peer, of_peer, ours=ours):
            if not any(candidates):
                raise LimitExceeded(limit)
            break  # who gives way there leaves room within the other limits, too
        if ours:
            self._promised[pipe] = peer

    def withdraw(self, pipe: BytePipe) -> None:
        """The dial over ``pipe`` has failed, or has its place."""
        self._promised.pop(pipe, None)

    def _reached(
        self, peer: PeerId, of_peer: Sequence[Connection], *, ours: bool
    ) -> Iterator[tuple[str, Iterable[Connection]]]:
        """The limits that one connection more would exceed, each with those of which one can give way."""
        limits = self._config
        own = [connection for connection in of_peer if not connection.closing]
        if len(own) >= limits.max_connections_per_peer:
            yield "max_connections_per_peer", [connection for connection in own if not connection.at_work]
        if ours:
            taken = len(self._ours) + len({*self._promised.values()} - {peer})
            if taken >= limits.max_outbound_connections:
                yield "max_outbound_connections", ()
            if taken >= limits.max_connections:
                yield "max_connections", ()
        elif len(self._theirs) >= limits.max_inbound_connections:
            yield "max_inbound_connections", self._theirs.largest()
        if len(self._theirs) + len(self._ours) >= limits.max_connections:
            yield "max_connections", self._theirs.largest()

    def add(self, connection: Connection, *, ours: bool) -> None:
        if ours:
            self._ours.add(connection)
        else:
            self._theirs.add(networks_of(connection.remote_address), connection)

    def discard(self, connection: Connection) -> None:
        self._theirs.discard(connection)
        self._ours.discard(connection)

    def is_ours(self, connection: Connection) -> bool:
        return connection in self._ours

    def _evict(self, limit: str, candidates: Iterable[Connection]) -> None:
        """Closes the first that is not at work, else the last.

        Raises:
            LimitExceeded: there is none.
        """
        chosen = None
        for chosen in candidates:
            if not chosen.at_work:
                break
        if chosen is None:
            raise LimitExceeded(limit)
        self._refusals.add(limit, networks_of(chosen.remote_address))
        self.discard(chosen)  # its place is free at once, however long it takes to end
        if chosen.output.congested:
            chosen.abort()  # it would not read why
        else:
            chosen.close(GoAwayCode.RESOURCE_LIMIT)

    # -- upgrades --------------------------------------------------------------------------------

    def add_pending(self, upgrade: PipeUpgrade) -> None:
        """A remote has begun one."""
        if len(self._pending) >= self._config.max_pending_inbound_connections:
            self._evict_pending("max_pending_inbound_connections")
        self._pending.add(networks_of(upgrade.pipe.remote_address), upgrade)

    def discard_pending(self, upgrade: PipeUpgrade) -> None:
        self._pending.discard(upgrade)

    def move_pending(self, upgrade: PipeUpgrade) -> None:
        """The remote is of another network than it seemed to be."""
        if self._pending.discard(upgrade):
            self._pending.add(networks_of(upgrade.pipe.remote_address), upgrade)

    def _evict_pending(self, limit: str) -> None:
        """Gives up the oldest upgrade of the largest holder, if there is any."""
        for upgrade in self._pending.largest():
            self._refusals.add(limit, networks_of(upgrade.pipe.remote_address))
            self._pending.discard(upgrade)
            upgrade.finished.cancel()
            break

    # -- descriptors -----------------------------------------------------------------------------

    def descriptors_exhausted(self) -> None:
        """The process can open no socket more."""
        if self._pending:
            self._evict_pending(DESCRIPTORS)
        elif self._theirs:
            self._evict(DESCRIPTORS, self._theirs.largest())

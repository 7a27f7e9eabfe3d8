"""The places for connections, and for upgrades of those that remotes begin: the largest holder gives way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..config import Config
from ..errors import LimitExceeded
from ..resources.networks import networks_of
from ..resources.refusals import Refusals
from ..resources.shares import Shares
from ..transport.connection import Connection
from ..transport.upgrade import PipeUpgrade
from ..wire.yamux import GoAwayCode

__all__ = ["Places"]


class Places:
    """Who has them, within the limits of ``config``; ``refusals`` counts who gave way.

    A connection is ours, or one that a remote has brought about, which gives way before ours do.
    """

    def __init__(self, config: Config, refusals: Refusals) -> None:
        self._config = config
        self._refusals = refusals
        self._ours: set[Connection] = set()
        self._theirs: Shares[Connection] = Shares()
        self._pending: Shares[PipeUpgrade] = Shares()

    # -- connections -----------------------------------------------------------------------------

    def make_room(self, of_peer: Sequence[Connection], *, ours: bool) -> None:
        """For one connection more with a peer, of which ``of_peer`` were dialed by the same side.

        Raises:
            LimitExceeded: nothing of the peer's, or of those who have dialed us, can give way.
        """
        limits = self._config
        own = [connection for connection in of_peer if not connection.closing]
        if len(own) >= limits.max_connections_per_peer:
            self._evict("max_connections_per_peer", [connection for connection in own if not connection.at_work])
        if ours and len(self._ours) >= limits.max_outbound_connections:
            raise LimitExceeded("max_outbound_connections")
        if not ours and len(self._theirs) >= limits.max_inbound_connections:
            self._evict("max_inbound_connections", self._theirs.largest())
        if len(self._theirs) + len(self._ours) >= limits.max_connections:
            self._evict("max_connections", self._theirs.largest())

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
            self._evict_pending()
        self._pending.add(networks_of(upgrade.pipe.remote_address), upgrade)

    def discard_pending(self, upgrade: PipeUpgrade) -> None:
        self._pending.discard(upgrade)

    def move_pending(self, upgrade: PipeUpgrade) -> None:
        """The remote is of another network than it seemed to be."""
        if self._pending.discard(upgrade):
            self._pending.add(networks_of(upgrade.pipe.remote_address), upgrade)

    def _evict_pending(self) -> None:
        """Gives up the oldest upgrade of the largest holder, if there is any."""
        for upgrade in self._pending.largest():
            self._refusals.add("max_pending_inbound_connections", networks_of(upgrade.pipe.remote_address))
            self._pending.discard(upgrade)
            upgrade.finished.cancel()
            break

    # -- descriptors -----------------------------------------------------------------------------

    def descriptors_exhausted(self) -> None:
        """The process can open no socket more."""
        if self._pending:
            self._evict_pending()
        elif self._theirs:
            self._evict("max_inbound_connections", self._theirs.largest())

"""Which of our addresses can be dialed from outside: asks the servers among our remotes, again and again."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Final

from ...errors import StrongholdError
from ...events import AddressOrigin, AddressReachability, Direction, Reachability, ReachabilityChanged
from ...frozen import FrozenDict
from ...identity import PeerId
from ...loops import deadline_in, loop_time
from ...multiaddr import Multiaddr
from ...resources.networks import networks_of
from ...transport.connection import Connection
from ..identify import Identity
from ..service import Service
from .client import AutonatClient
from .message import DIAL_REQUEST
from .results import CLEAR, Outcome, Results

__all__ = ["ReachabilityService"]

logger = logging.getLogger("stronghold_p2p")

DELAY: Final = 1.0
"""Seconds until a new address, or a new server, is looked at, as in go-libp2p: others come with it."""

PAUSE: Final = 120.0
"""Seconds for which a server is not asked that does not dial now: most have a limit for each minute."""

MAX_SERVERS: Final = 64
"""Servers that are kept in mind, but for those that we have dialed: a few are enough."""

MAX_ADDRESSES: Final = 16
"""Addresses that are asked about, as many as a remote is told."""


class ReachabilityService(Service):
    """Has servers dial our public addresses by ``client``, one at a time, and keeps what they find out.

    Only direct remotes at an address that ``is_public`` are asked, and none about an address of its own network: it may share
    our router. About one that remotes have observed, only those are asked that we have dialed. ``emit`` takes the changes;
    ``delay`` is in seconds; ``clock`` gives seconds since the epoch.
    """

    def __init__(
        self,
        client: AutonatClient,
        *,
        is_public: Callable[[Multiaddr], bool],
        emit: Callable[[ReachabilityChanged], None],
        delay: float = DELAY,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._is_public = is_public
        self._emit = emit
        self._delay = delay
        self._clock = clock
        self._addresses: dict[Multiaddr, _Address] = {}
        """Our public ones."""
        self._servers: dict[Connection, float] = {}
        """Each with the time before which it is not asked."""
        self._asking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.reachability: Mapping[Multiaddr, AddressReachability] = FrozenDict({})
        """What is known of each of our public addresses, with our peer id."""

    def close(self) -> None:
        """Asks no more."""
        self._closed = True
        self._stop_timer()
        if self._asking is not None:
            self._asking.cancel()  # or else closing would wait for it

    # -- as a service ----------------------------------------------------------------------------

    def identified(self, connection: Connection, identity: Identity) -> None:
        if not connection.serves(DIAL_REQUEST):
            self._servers.pop(connection, None)
        elif self._is_outside(connection) and (len(self._servers) < MAX_SERVERS or _is_chosen(connection)):
            self._servers.setdefault(connection, 0.0)
        self._look_soon()  # it may also have told where it sees us

    def closed(self, connection: Connection) -> None:
        if self._servers.pop(connection, None) is not None:
            self._judge()

    def offer_changed(self, peer: PeerId | None) -> None:
        if peer is None:
            self._judge()
            self._look_soon()

    def network_changed(self) -> None:
        """What was found out may have been about another network."""
        self._addresses.clear()
        self._judge()
        self._look_soon()

    def _is_outside(self, connection: Connection) -> bool:
        return connection.path.relay is None and self._is_public(connection.remote_address)

    # -- asking ----------------------------------------------------------------------------------

    def _look_soon(self) -> None:
        """Asks what is to be asked, in a moment."""
        if self._servers and not self._closed and self._asking is None:
            self._look_at(deadline_in(self._delay))

    def _look_at(self, when: float) -> None:
        if self._timer is None or when < self._timer.when():
            self._stop_timer()
            self._timer = asyncio.get_running_loop().call_at(when, self._look)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Asks about one address, or waits until there is something to ask."""
        self._stop_timer()
        if self._closed or self._asking is not None:
            return
        self._take_in_addresses()
        now = loop_time()
        due, address, connection = min(self._questions(now), key=lambda one: one[0], default=(0.0, None, None))
        if address is None or connection is None:
            return
        if due > now:
            self._look_at(due)
            return
        # Of an address that others have observed we have their word alone: a stranger would have us pay for any number.
        pay = self._addresses[address].origin is not AddressOrigin.OBSERVED
        self._asking = connection.spawn(self._ask(connection, address, pay=pay))
        self._asking.add_done_callback(self._asked)

    def _questions(self, now: float) -> Iterator[tuple[float, Multiaddr, Connection]]:
        """What is to be asked when, whom about which address. Among equals the first are about the address of which the least
        is known, to servers that we have chosen."""
        servers = sorted(self._servers, key=lambda one: (not _is_chosen(one), random.random()))
        for address, known in sorted(self._addresses.items(), key=lambda item: len(item[1].results)):
            for connection in servers:
                if known.may_be_asked_of(connection):
                    due = max(known.results.due(_network_of(connection), now), self._servers[connection])
                    yield due, address, connection

    async def _ask(self, connection: Connection, address: Multiaddr, *, pay: bool) -> None:
        try:
            outcome = await self._client.ask(connection, address, pay=pay)
        except (StrongholdError, TimeoutError) as error:
            logger.debug("%r was asked to dial %s: %s", connection, address, error)
            outcome = Outcome.BUSY
        now = loop_time()
        if outcome is Outcome.BUSY and connection in self._servers:
            self._servers[connection] = now + PAUSE
        known = self._addresses.get(address)
        if known is not None:  # else it is ours no more
            network, chosen = _network_of(connection), _is_chosen(connection)
            known.results.add(network, connection.peer, outcome, chosen=chosen, now=now)
            self._judge()

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking = None
        if not self._closed:
            self._look()

    # -- what is known ---------------------------------------------------------------------------

    def _take_in_addresses(self) -> None:
        """Those that are ours now. One that no remote reports any more, but that was dialed, is asked about further."""
        before, found = self._addresses, self.host.own_addresses.direct
        origins = {address: origin for address, origin in found.items() if self._is_public(address)}
        for address, known in before.items():
            if known.state is Reachability.REACHABLE:
                origins.setdefault(address, known.origin)
        self._addresses = {}
        for address, origin in islice(origins.items(), MAX_ADDRESSES):
            known = self._addresses[address] = before.get(address) or _Address(address, origin)
            known.origin = origin

    def _judge(self) -> None:
        """Tells what has changed, to remotes, too."""
        if self._closed:
            return
        self._take_in_addresses()
        now = loop_time()
        for known in self._addresses.values():
            known.results.forget_old(now)
            known.state = known.results.state({_network_of(one) for one in self._servers if known.may_be_asked_of(one)})
        before = self.reachability
        self.reachability = FrozenDict(
            {
                address.with_peer(self.host.keypair.peer_id): known.describe(self._clock() - now)
                for address, known in self._addresses.items()
            }
        )
        # On one server's word no address is kept back: it may be unable to dial at all.
        hopeless = {one for one, known in self._addresses.items() if len(known.results.not_reached) >= CLEAR}
        self.host.own_addresses.set_reachable(
            self._in_state(Reachability.REACHABLE), self._in_state(Reachability.UNREACHABLE) & hopeless
        )
        for address, reachability in self.reachability.items():
            state = before[address].state if address in before else Reachability.UNKNOWN
            if reachability.state is not state:
                self._emit(ReachabilityChanged(address, reachability, state))

    def _in_state(self, state: Reachability) -> frozenset[Multiaddr]:
        return frozenset(address for address, known in self._addresses.items() if known.state is state)


class _Address:
    """One of our public addresses, and what is known of it."""

    def __init__(self, address: Multiaddr, origin: AddressOrigin) -> None:
        self.origin = origin
        self._network = networks_of(address)[0]
        self.results = Results()
        self.state = Reachability.UNKNOWN

    def may_be_asked_of(self, server: Connection) -> bool:
        """Not of one that may share our router. Where others have observed us, nobody sees which address a dial has come by:
        a stranger might tell of a third party's, dial us at ours, and so have us tell everybody."""
        return _network_of(server) != self._network and (
            self.origin is not AddressOrigin.OBSERVED or _is_chosen(server)
        )

    def describe(self, epoch: float) -> AddressReachability:
        """``epoch``: the time of the loop's zero, in seconds since the epoch."""
        reached, not_reached = self.results.reached, self.results.not_reached
        heard = [one.heard_at + epoch for one in (*reached, *not_reached)]
        return AddressReachability(
            self.state,
            self.origin,
            tuple(one.server for one in reached),
            tuple(one.server for one in not_reached),
            max(heard, default=None),
        )


def _network_of(connection: Connection) -> str:
    return networks_of(connection.remote_address)[0]


def _is_chosen(connection: Connection) -> bool:
    """Whether we have dialed the remote, so that no stranger put it there."""
    return connection.direction is Direction.OUTBOUND

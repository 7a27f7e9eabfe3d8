"""Circuits of a peer: the relay that it is, those through which it listens, and those through which it dials."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

from .addresses.book import AddressBook
from .addresses.relays import DialingRelays
from .config import Config
from .errors import InvalidAddress
from .events import Event
from .identity import PeerId
from .loops import deadline_in
from .multiaddr import Multiaddr
from .protocols.relay.client import CircuitTarget, CircuitTransport
from .protocols.relay.limits import RelayServer
from .protocols.relay.reservations import Believable, Reservations
from .protocols.service import Service
from .resources.networks import Networks
from .transport.connection import Connection

if TYPE_CHECKING:
    from .firewall.admission import Admission
    from .protocols.relay.server import RelayService

__all__ = ["Relaying"]

Connect: TypeAlias = Callable[[PeerId, tuple[Multiaddr, ...], float, bool], Awaitable[Connection]]
"""Connects to a peer at these addresses by a deadline (the loop's time); True: and at those that are found."""


class Relaying:
    """Makes the parts. ``server``: what is given as a relay; None: nothing; ``policy``: to whom. ``addresses_changed`` gets all
    our addresses at relays when they are others."""

    def __init__(
        self,
        own: PeerId,
        config: Config,
        server: RelayServer | None,
        *,
        policy: Admission,
        limit_reached: Callable[[str, Networks], None],
        addresses: AddressBook,
        connect: Connect,
        believable: Believable,
        emit: Callable[[Event], None],
        addresses_changed: Callable[[tuple[Multiaddr, ...]], None],
    ) -> None:
        self._own = own
        self._config = config
        self._connect = connect
        self._addresses = addresses
        self.dialing = DialingRelays(self._direct_addresses)
        self.reservations = Reservations(
            own,
            connect=self._connect_to_relay,
            believable=believable,
            emit=emit,
            changed=lambda: addresses_changed(self.reservations.addresses),
            timeout=config.request_timeout,
        )
        self.used = UsedRelays()
        self.server = None if server is None else _make_server(server, policy, limit_reached)
        self.services: tuple[Service, ...] = (
            self.used,
            self.reservations,
            CircuitTarget(self.reservations.is_relay, config.max_send_buffer),
            *(() if self.server is None else (self.server,)),
        )

    def transport(self) -> CircuitTransport:
        """What dials circuits."""
        return CircuitTransport(self._connect_to_relay, self._config.max_send_buffer)

    def policy_changed(self) -> None:
        """What the policy says of our relay may be something else."""
        if self.server is not None:
            self.server.policy_changed()

    async def listen(self, relay: PeerId, address: Multiaddr | None) -> Multiaddr:
        """As :meth:`Reservations.listen`. ``address`` is known from then on."""
        ours = await self.reservations.listen(relay, address)
        self._add_address(relay, address)
        return ours

    def add_dialing_relay(self, relay: PeerId, address: Multiaddr | None) -> None:
        """Tries ``relay``, at ``address`` or those that are known, for every peer."""
        self._add_address(relay, address)
        self.dialing.add(relay)

    def use_specific_relay(self, peer: PeerId, relay: PeerId, address: Multiaddr | None, *, exclusive: bool) -> None:
        """Tries ``relay``, at ``address`` or those that are known, first for ``peer``."""
        self._add_address(relay, address)
        self.dialing.use_specific(peer, relay, exclusive=exclusive)

    def _add_address(self, relay: PeerId, address: Multiaddr | None) -> None:
        if address is not None:
            self._addresses.add(address, relay)

    async def _connect_to_relay(self, relay: PeerId, address: Multiaddr | None) -> Connection:
        if relay == self._own:
            raise InvalidAddress(f"/p2p/{relay}/p2p-circuit", "we are the relay ourselves")
        deadline = deadline_in(self._config.connection_timeout)
        # Not through another relay, which relays refuse; and two that lead to each other would wait for each other.
        addresses = self._direct_addresses(relay) if address is None else (address,)
        return await self.used.connect(relay, self._connect(relay, addresses, deadline, address is None))

    def _direct_addresses(self, relay: PeerId) -> tuple[Multiaddr, ...]:
        return tuple(address for address in self._addresses.get(relay) if not address.is_relayed)


def _make_server(
    server: RelayServer, policy: Admission, limit_reached: Callable[[str, Networks], None]
) -> RelayService:
    from .protocols.relay.server import RelayService  # few are one

    return RelayService(server, policy, limit_reached)


class UsedRelays(Service):
    """The relays that forward for us now, or are about to."""

    def __init__(self) -> None:
        self._connecting: list[PeerId] = []
        self._connections: set[Connection] = set()

    def __contains__(self, peer: object) -> bool:
        return peer in self._connecting or any(one.peer == peer for one in self._connections)

    async def connect(self, relay: PeerId, connecting: Awaitable[Connection]) -> Connection:
        """Awaits a connection to ``relay``, which is one of them from now on, until that closes."""
        self._connecting.append(relay)
        try:
            connection = await connecting
        finally:
            self._connecting.remove(relay)
        # One by a relay is of no use: relays refuse circuits over circuits. So its peer forwards nothing, and may not come directly.
        if not connection.closing and connection.path.relay is None:
            self._connections.add(connection)
        return connection

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)

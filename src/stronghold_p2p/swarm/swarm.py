"""The swarm: connections by peer. Dials, listens, keeps the limits, and runs the services."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ..addresses.book import AddressBook
from ..addresses.entry import AddressSource
from ..config import Config
from ..ending import end_all
from ..errors import ClosedError, ConnectionLost, DialError, NotPermitted, StrongholdError
from ..events import (
    ConnectionClosed,
    ConnectionEstablished,
    Direction,
    Event,
    InboundConnectionFailed,
    Listener,
    Path,
    PeerIdentified,
)
from ..firewall.admission import Admission
from ..identity import Keypair, PeerId
from ..multiaddr import Multiaddr, host_of
from ..protocols import identify
from ..protocols.service import Service, StreamHandler
from ..resources.descriptors import fit_to_descriptors
from ..resources.memory import Memory
from ..resources.networks import networks_of
from ..resources.refusals import Refusals
from ..resources.turns import Turns
from ..transport.connection import Connection
from ..transport.deadlines import Deadlines
from ..transport.interfaces import InterfaceAddress, InterfaceWatch, list_networks
from ..transport.pipe import BytePipe, NullReceiver, PipeReceiver
from ..transport.resolver import Resolver
from ..transport.substream import Substream
from ..transport.transport import LISTEN_PLAINLY, DirectDial, ListenOptions, Transport
from ..transport.upgrade import PipeUpgrade
from ..wire.noise import NoiseIdentity
from ..wire.upgrade import MUXERS, Upgrade
from ..wire.yamux import GoAwayCode
from .dialer import Dialer, Find
from .ephemeral import EphemeralKeys
from .listeners import Listeners
from .own_addresses import Scope, believable, scope_of
from .places import Places

__all__ = ["Swarm"]

IDENTIFYING: Final = frozenset((identify.PROTOCOL, identify.PUSH_PROTOCOL))
IDENTIFYING_FRAMES: Final = 32
"""What a stream of these costs a remote, in frames without a payload: our answer allows it half as many again. A few are
enough for a connection."""


class Swarm:
    """All connections of one peer.

    ``transports`` make the pipes, the first that supports an address, which ``resolver`` has resolved; ``interfaces`` are
    watched while a listener or a connection depends on them; ``addresses`` takes what a peer tells of its addresses, and how
    dials went; ``services`` run on every connection; ``admission`` says with whom there may be connections, ``turns`` whose
    input is worked on when, that of the pipes included, and ``permits`` whether a peer may open a protocol now; ``emit``
    takes events; ``find`` looks for peers that are dialed by their id alone. Nothing here knows of requests.
    """

    def __init__(
        self,
        keypair: Keypair,
        config: Config,
        *,
        transports: Sequence[Transport],
        resolver: Resolver,
        interfaces: InterfaceWatch,
        addresses: AddressBook,
        services: Sequence[Service],
        admission: Admission,
        turns: Turns,
        permits: Callable[[PeerId, str], bool],
        approves: Callable[[PeerId], bool],
        refusals: Refusals,
        refused: Callable[[Connection, str], None],
        emit: Callable[[Event], None],
        find: Find | None = None,
    ) -> None:
        self.keypair = keypair
        self.peer_id = keypair.peer_id
        self.config = config = fit_to_descriptors(config)
        self.deadlines = Deadlines(asyncio.get_running_loop())
        self.turns = turns
        self.memory = Memory(config.max_receive_buffer)
        self._permits = permits
        self._approves = approves
        self._refused = refused
        self._emit = emit
        self._addresses = addresses
        self._noise_identity = NoiseIdentity(keypair, X25519PrivateKey.generate(), MUXERS)
        self._ephemeral_keys = EphemeralKeys()
        self._transports = tuple(transports)
        self._services = tuple(services)
        self._handlers: dict[str, StreamHandler] = {}
        self._until_the_end = frozenset(one for each in services if each.until_the_end for one in each.protocols)
        self._connections: dict[PeerId, list[Connection]] = {}
        """The best path first, and among equals the oldest."""
        self._places = Places(config, refusals)
        self._upgrading: dict[BytePipe, tuple[PipeUpgrade, int]] = {}
        """The inbound ones, each with its deadline."""
        self._listeners = Listeners(
            self.peer_id,
            self._transports,
            interfaces,
            connected=self.accept,
            exhausted=self._places.descriptors_exhausted,
            emit=emit,
            changed=self.offer_changed,
        )
        self._dialer = Dialer(
            config,
            transports=self._transports,
            resolver=resolver,
            admission=admission,
            addresses=addresses,
            is_own=self._listeners.is_own,
            networks=list_networks,
            upgrade=self._upgrade_outbound,
            find=find,
        )
        self.own_addresses = self._listeners
        self.transport_for = self._dialer.transport_for
        self._interfaces = interfaces
        self._interfaces.changed = self._interfaces_changed
        self._admission = admission
        self.closing = False
        self._ended: set[Connection] = set()
        for service in self._services:
            service.attach(self)
            for protocol, handler in service.protocols.items():
                self.handle(protocol, handler)

    # -- protocols -------------------------------------------------------------------------------

    def handle(self, protocol: str, handler: StreamHandler) -> None:
        """Serves ``protocol``.

        Raises:
            RuntimeError: the protocol already has a handler.
        """
        if protocol in self._handlers:
            raise RuntimeError(f"{protocol} already has a handler")
        self._handlers[protocol] = handler

    def offers(self, peer: PeerId, protocol: str) -> bool:
        """Whether ``peer`` may open ``protocol`` now."""
        offered = protocol in self._handlers and (not self.closing or protocol in self._until_the_end)
        return offered and self._permits(peer, protocol)

    def offered(self, peer: PeerId) -> tuple[str, ...]:
        """The protocols that ``peer`` may open now."""
        return tuple(protocol for protocol in self._handlers if self.offers(peer, protocol))

    def offer_changed(self, peer: PeerId | None = None) -> None:
        """What ``peer``, or every peer, may open has changed."""
        for connection in self.connections if peer is None else self._connections.get(peer, ()):
            self._set_share(connection)
        for service in self._services:
            service.offer_changed(peer)

    def stream_refused(self, connection: Connection, protocol: str) -> None:
        if not self.closing:
            self._refused(connection, protocol)

    def stream_opened(self, connection: Connection, stream: Substream) -> None:
        if stream.protocol in IDENTIFYING:
            connection.charge(IDENTIFYING_FRAMES)
            if connection.closing:
                return  # that was one too many
        self._handlers[stream.protocol](connection, stream)

    def identified(self, connection: Connection, identity: identify.Identity) -> None:
        """The remote has told what it is."""
        connection.remote_identified(identity.protocols, own_kind=identify.is_own_agent(identity.agent_version))
        scope = Scope.PUBLIC if connection.path.relay is not None else scope_of(connection.remote_address)
        self._addresses.tell(
            connection.peer,
            AddressSource.IDENTIFY,
            believable(identity.listen_addresses, scope),
            by=connection.remote_address,
        )
        self._addresses.hold_record(connection.peer, identity.signed_record)
        if identity.observed_address is not None:
            self._listeners.observe(connection, identity.observed_address)
        for service in self._services:
            service.identified(connection, identity)
        self._emit(
            PeerIdentified(
                connection.peer,
                identity.agent_version,
                identity.protocols,
                identity.listen_addresses,
                identity.observed_address,
            )
        )

    # -- connections -----------------------------------------------------------------------------

    @property
    def connections(self) -> tuple[Connection, ...]:
        """All established ones."""
        return tuple(connection for connections in self._connections.values() for connection in connections)

    @property
    def connected_peers(self) -> tuple[PeerId, ...]:
        """All peers with an established connection."""
        return tuple(self._connections)

    def connection(self, peer: PeerId) -> Connection | None:
        """The one that new streams to ``peer`` use: of those that can take them, the best path."""
        for connection in self._connections.get(peer, ()):
            if connection.usable:
                return connection
        return None

    async def connect(
        self, peer: PeerId, addresses: tuple[Multiaddr, ...], deadline: float, *, find: bool = False
    ) -> Connection:
        """A connection to ``peer`` by ``deadline`` (the loop's time): the one there is, or the outcome of one dial to the
        addresses of all callers, and with ``find`` to those that are found. A relayed one does not keep from dialing a direct
        address without ``find``, but is better than none.

        Raises:
            ClosedError: we are closing.
            NotPermitted: the peer is banned, or a policy refuses it.
            DialError: no address is known, or none led to the peer.
        """
        self._check_admission(peer)
        connection = self.connection(peer)
        if connection is not None and (
            connection.path.relay is None or find or all(address.is_relayed for address in addresses)
        ):
            return connection
        try:
            return await self._dialer.dial(peer, addresses, find=find).outcome(deadline)
        except DialError:
            connection = self.connection(peer)  # a relayed one, or made in the very turn in which the time was up
            if connection is None:
                raise
            return connection

    async def connect_directly(
        self, peer: PeerId, addresses: tuple[Multiaddr, ...], deadline: float, how: DirectDial
    ) -> Connection:
        self._check_admission(peer)
        return await self._dialer.dial(peer, addresses, direct=how).outcome(deadline)

    def found(self, peer: PeerId, addresses: Iterable[Multiaddr]) -> None:
        self._dialer.found(peer, addresses)
        for connection in self._connections.get(peer, ()):
            connection.check()  # it may have moved

    async def disconnect(self, peer: PeerId, *, refused: bool = False) -> None:
        """Closes every connection to ``peer``; returns when they have ended. ``refused``: it hears that there may be none."""
        connections = self._connections.get(peer, [])
        for connection in connections:
            connection.close(GoAwayCode.GATED if refused else GoAwayCode.NORMAL)
        await _all_closed(connections)

    def admission_changed(self) -> None:
        """Closes the connections that there may not be any more."""
        for connection in self.connections:
            if self._admission.refusal_of_peer(connection.peer) or self._admission.refusal_of_address(
                connection.remote_address, connection.peer
            ):
                connection.close(GoAwayCode.GATED)

    def connection_closed(self, connection: Connection, error: Exception | None) -> None:
        connections = self._connections[connection.peer]
        connections.remove(connection)
        if not connections:
            del self._connections[connection.peer]
        self._places.discard(connection)
        self.memory.close(connection.budget)
        self._ended.add(connection)
        connection.closed.add_done_callback(lambda _: self._ended.discard(connection))
        self._interfaces.release(connection)
        self._listeners.connection_closed(connection)
        if connection.is_gated and connection.path.dialed is not None:
            self._addresses.failed(connection.peer, connection.path.dialed)  # another one may lead to a relay
        for service in self._services:
            service.closed(connection)
        self._emit(ConnectionClosed(connection.info, error))

    # -- listening -------------------------------------------------------------------------------

    @property
    def listeners(self) -> tuple[Listener, ...]:
        return self._listeners.listeners

    async def listen(
        self,
        address: Multiaddr,
        announce: tuple[Multiaddr, ...] = (),
        options: ListenOptions = LISTEN_PLAINLY,
    ) -> Listener:
        """Listens on ``address``, and tells remotes of those to ``announce``, too.

        Raises:
            ListenError: cannot listen on it.
            ClosedError: this peer is closing.
        """
        return await self._listeners.listen(address, announce, options)

    def stop_listening(self, address: Multiaddr | None = None) -> None:
        """Stops listening on ``address``, without our peer id, or on all. Connections stay."""
        self._listeners.stop(address)

    # -- the network -----------------------------------------------------------------------------

    def told_to(self, connection: Connection) -> tuple[Multiaddr, ...]:
        told = self._listeners.told_to(connection)
        mode = self._admission.relay_mode(connection.peer)
        return told if mode == "allow" else tuple(one for one in told if one.is_relayed is (mode == "only"))

    def watch_network(self, who: object) -> None:
        self._interfaces.need(who)

    def unwatch_network(self, who: object) -> None:
        self._interfaces.release(who)

    def _interfaces_changed(self, before: tuple[InterfaceAddress, ...]) -> None:
        gone = {one.ip for one in before} - {one.ip for one in self._interfaces.addresses}
        for connection in self.connections:
            ip = host_of(connection.local_address) if connection.local_address is not None else None
            if ip in gone:
                connection.abort(ConnectionLost(f"the local address {ip} is gone"))
        self._addresses.network_changed()
        if gone:
            self._dialer.network_left()
            self._listeners.network_left()
        self._listeners.update()
        for service in self._services:
            service.network_changed()

    # -- closing ---------------------------------------------------------------------------------

    async def close(self) -> None:
        """Ends everything: running requests may end within ``close_timeout``, then what is left is reset."""
        self.closing = True
        await end_all(
            self._drain,
            self._abort,
            self._dialer.ended,
            *(transport.close for transport in self._transports),
            self._ephemeral_keys.close,
            self._interfaces.close,
            self.deadlines.close,
        )

    async def _drain(self) -> None:
        """Takes nothing new; returns when what runs has ended, or ``close_timeout`` has passed."""
        self._listeners.close()
        for upgrade, _ in list(self._upgrading.values()):
            upgrade.finished.cancel()
        self._dialer.close()
        connections = self.connections
        for connection in connections:
            connection.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.config.close_timeout):
                await _all_closed(connections)

    async def _abort(self) -> None:
        """Ends every connection now, and returns when their handlers have ended, too."""
        for connection in self.connections:
            connection.abort()
        await _all_closed((*self.connections, *self._ended))

    # -- upgrading -------------------------------------------------------------------------------

    def _check_admission(self, peer: PeerId, address: Multiaddr | None = None) -> None:
        if self.closing:
            raise ClosedError
        refusal = self._admission.refusal_of_peer(peer)
        if refusal is None and address is not None:
            refusal = self._admission.refusal_of_address(address, peer)
        if refusal is not None:
            raise NotPermitted(peer, refusal)

    def _upgrade_outbound(
        self, pipe: BytePipe, peer: PeerId, dialed: Multiaddr, *, direct: DirectDial | None = None
    ) -> PipeUpgrade:
        path = pipe.path if pipe.path.dialed == dialed else replace(pipe.path, dialed=dialed)
        return self._upgrade(
            pipe,
            path,
            Direction.OUTBOUND,
            initiator=direct is not DirectDial.RESPONDER,
            wanted=direct is None or not direct.is_for_remote,
            expected_peer=peer,
        )

    def _upgrade(
        self,
        pipe: BytePipe,
        path: Path | None,
        direction: Direction,
        *,
        initiator: bool,
        wanted: bool,
        expected_peer: PeerId | None,
    ) -> PipeUpgrade:
        """``initiator``: the role in the handshake. A hole punch may have us respond on a pipe that we dialed. ``wanted``: we
        have chosen the peer."""
        promise = partial(self._make_room, self._places.promise_room, pipe, direction, wanted)
        upgrade = PipeUpgrade(
            pipe,
            self._noise_identity,
            self._ephemeral_keys.take(),
            initiator=initiator,
            expected_peer=expected_peer,
            establish=partial(self._establish, path, direction, initiator=initiator, wanted=wanted),
            admit=promise if initiator else None,
        )
        if initiator:
            upgrade.finished.add_done_callback(lambda _: self._places.withdraw(pipe))
        return upgrade

    def accept(self, pipe: BytePipe) -> PipeReceiver:
        """Begins the upgrade of ``pipe``, or looks anew at one whose address has changed."""
        known, _ = self._upgrading.get(pipe, (None, 0))
        error = self._inbound_refusal(pipe)
        if error is not None:
            pipe.abort()
            if known is None:
                self._emit(InboundConnectionFailed(pipe.remote_address, error))
            elif not known.finished.done():
                known.finished.set_exception(error)
            return NullReceiver()
        if known is not None:
            self._places.move_pending(known)
            return known
        upgrade = self._upgrade(pipe, None, Direction.INBOUND, initiator=False, wanted=False, expected_peer=None)
        deadline = asyncio.get_running_loop().time() + self.config.connection_timeout
        self._places.add_pending(upgrade)
        self._upgrading[pipe] = upgrade, self.deadlines.add(deadline, upgrade)
        upgrade.finished.add_done_callback(partial(self._inbound_finished, upgrade))
        return upgrade

    def _inbound_refusal(self, pipe: BytePipe) -> StrongholdError | None:
        """Why ``pipe`` is not even upgraded."""
        refusal = self._admission.refusal_of_address(pipe.remote_address)
        if refusal is not None:
            return NotPermitted(None, refusal)
        if self.closing:
            return ClosedError("we are closing")
        return None

    def _inbound_finished(self, upgrade: PipeUpgrade, finished: asyncio.Future[Connection]) -> None:
        self._places.discard_pending(upgrade)
        _, tick = self._upgrading.pop(upgrade.pipe)
        self.deadlines.remove(tick, upgrade)
        error = None if finished.cancelled() else finished.exception()
        if isinstance(error, Exception):
            self._emit(InboundConnectionFailed(upgrade.pipe.remote_address, error))

    def _establish(
        self,
        path: Path | None,
        direction: Direction,
        pipe: BytePipe,
        upgrade: Upgrade,
        *,
        initiator: bool,
        wanted: bool,
    ) -> Connection:
        """Takes an upgraded connection; by None, its path is what the pipe knows now.

        Raises:
            NotPermitted: the peer is refused.
            LimitExceeded: a limit of connections is reached.
        """
        peer = upgrade.remote_peer
        path = path or pipe.path
        if (guest := self._guest(path, direction, pipe, upgrade)) is not None:
            return guest
        known = self.connection(peer)
        is_direct = known is not None and known.path.relay is None
        ours = self._make_room(self._places.make_room, pipe, direction, wanted, peer)
        budget = self.memory.open(networks_of(pipe.remote_address), peer)
        connection = Connection(self, pipe, upgrade, initiator=initiator, direction=direction, path=path, budget=budget)
        connections = self._connections.setdefault(peer, [])
        connections.append(connection)
        connections.sort(key=_preference)
        self._places.add(connection, ours=ours)
        self._set_share(connection)
        self._watch(connection)
        self._emit(ConnectionEstablished(connection.info))
        for service in self._services:
            service.connected(connection)
        # Not beside a connection that we dialed: that is about to end its dial. If either side gave up its own in favour
        # of the other's, none would be left. And a dial may find a better path than a relayed one. A dial whose last message
        # has left makes its connection before anything else is read, so never both sides give up.
        if direction is Direction.INBOUND and not is_direct and path.relay is None:
            self._dialer.peer_connected(connection)
        return connection

    def _make_room(
        self, make_room: Callable[..., None], pipe: BytePipe, direction: Direction, wanted: bool, peer: PeerId
    ) -> bool:
        """For one connection more with ``peer``, by a method of :class:`Places`; returns whether that is ours, not one that the
        remote has brought about.

        Raises: as for :meth:`_establish`.
        """
        self._check_admission(peer, pipe.remote_address)  # which may have changed since the pipe was made
        of_peer = self._connections.get(peer, ())
        # Who has come by a relay has us dial it, and is not to fill the places of those whom we have chosen.
        chosen = any(map(self._places.is_ours, of_peer))
        ours = direction is Direction.OUTBOUND and (wanted or chosen)
        # Dials that cross make one each way: if each end let the one that it had first give way, both would be gone.
        make_room(pipe, peer, [each for each in of_peer if each.direction is direction], ours=ours)
        return ours

    def _guest(self, path: Path, direction: Direction, pipe: BytePipe, upgrade: Upgrade) -> Connection | None:
        """The connection that a service makes with a peer which admission refuses."""
        if direction is not Direction.INBOUND or path.relay is not None:
            return None
        if not self._admission.refusal_of_peer(upgrade.remote_peer):
            return None
        made = (service.refused(pipe, upgrade) for service in self._services)
        return next((connection for connection in made if connection is not None), None)

    def _watch(self, connection: Connection) -> None:
        """Its end is noticed at once when the address that it comes from is gone."""
        if connection.local_address is not None and scope_of(connection.local_address) is not Scope.LOOPBACK:
            with suppress(OSError):
                self._interfaces.need(connection)

    def _set_share(self, connection: Connection) -> None:
        """Whom we have dialed, or a rule allows, may hold a whole share of the memory."""
        if self._places.is_ours(connection) or self._approves(connection.peer):
            connection.budget.factor = 1.0
        elif not connection.budget.used:
            connection.budget.factor = self.config.unapproved_share


def _preference(connection: Connection) -> tuple[bool, bool]:
    """For sorting: direct before relayed, unlimited before limited."""
    return connection.path.relay is not None, connection.path.limits is not None


async def _all_closed(connections: Iterable[Connection]) -> None:
    closed = [connection.closed for connection in connections]
    if closed:
        await asyncio.wait(closed)

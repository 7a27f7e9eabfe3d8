"""The swarm: connections by peer. Dials, listens, keeps the limits, and identifies whoever is connected."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import Final, TypeAlias

import ifaddr
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ..config import Config
from ..errors import ClosedError, DialError, LimitExceeded, ListenError, NotPermitted, RequestTimeout, StrongholdError
from ..events import (
    ConnectionClosed,
    ConnectionEstablished,
    Direction,
    Event,
    InboundConnectionFailed,
    Listener,
    ListenerClosed,
    NewListener,
    PeerIdentified,
)
from ..firewall.admission import Admission
from ..identity import Keypair, PeerId
from ..multiaddr import Multiaddr
from ..protocols import identify, ping
from ..transport.connection import Connection
from ..transport.deadlines import Deadlines
from ..transport.pipe import BytePipe, NullReceiver, PipeReceiver
from ..transport.stream import Stream
from ..transport.substream import Substream
from ..transport.tcp import TcpTransport
from ..transport.upgrade import PipeUpgrade
from ..wire import multistream
from ..wire.noise import NoiseIdentity
from ..wire.upgrade import MUXERS, Upgrade
from ..wire.yamux import ReceiveBudget
from .dialer import Dialer

__all__ = ["StreamHandler", "Swarm", "check_protocol_id"]

logger = logging.getLogger("stronghold_p2p")

StreamHandler = Callable[[Substream], None]
"""Takes an inbound stream in the very callback in which its protocol was agreed; must not raise."""

Service = Callable[[Connection, Stream], Awaitable[None]]
"""Serves an inbound stream by a task: it is closed when this returns, and reset when it raises."""

IDENTIFY_DELAY: Final = 0.01
"""Seconds that a new connection has for its first request, before we ask who the remote is: the answer takes the remote
some of the time of a handshake, and us a signature to check."""

_Offer: TypeAlias = tuple[list[str], tuple[Multiaddr, ...]]
"""The protocols that a peer may open, and where we listen."""


class Swarm:
    """All connections of one peer.

    ``admission`` says with whom there may be connections, ``permits`` whether a peer may open a protocol now; ``emit``
    takes events; ``learn`` takes what a peer told of its addresses. Nothing here knows of requests.
    """

    def __init__(
        self,
        keypair: Keypair,
        config: Config,
        *,
        admission: Admission,
        permits: Callable[[PeerId, str], bool],
        refused: Callable[[PeerId, str], None],
        emit: Callable[[Event], None],
        learn: Callable[[PeerId, Iterable[Multiaddr]], None],
    ) -> None:
        self.keypair = keypair
        self.peer_id = keypair.peer_id
        self.config = config
        self.deadlines = Deadlines(asyncio.get_running_loop())
        self.budget = ReceiveBudget(config.max_receive_buffer)
        self._permits = permits
        self._refused = refused
        self._emit = emit
        self._learn = learn
        self._noise_identity = NoiseIdentity(keypair, X25519PrivateKey.generate(), MUXERS)
        self._ephemeral: X25519PrivateKey | None = X25519PrivateKey.generate()
        """For the next handshake alone, made while nobody waits for it."""
        self._tcp = TcpTransport(config)
        self._handlers: dict[str, StreamHandler] = {}
        self._services: dict[str, Service] = {}
        self._connections: dict[PeerId, list[Connection]] = {}
        self._counts = {Direction.INBOUND: 0, Direction.OUTBOUND: 0}
        self._pending_inbound: dict[PipeUpgrade, int] = {}
        self._dialer = Dialer(self._tcp, config, admission, self._upgrade)
        self._listeners: dict[Listener, asyncio.Server] = {}
        self._listen_addresses: tuple[Multiaddr, ...] = ()
        self._record: bytes | None = None
        """Those addresses as we have signed them, for all who identify us; None until one does."""
        self._admission = admission
        self._closing = False
        self._ended: set[Connection] = set()
        self._receiving_push: set[Connection] = set()
        self._services[identify.PROTOCOL] = self._serve_identify
        self._services[identify.PUSH_PROTOCOL] = self._receive_push
        self.handle_coroutine(ping.PROTOCOL, ping.serve)

    # -- protocols -------------------------------------------------------------------------------

    def handle(self, protocol: str, handler: StreamHandler) -> None:
        """Serves ``protocol``. Raises RuntimeError if it is served already."""
        self._check_unserved(protocol)
        self._handlers[protocol] = handler

    def handle_coroutine(self, protocol: str, handler: Callable[[Stream], Awaitable[None]]) -> None:
        """Serves ``protocol`` by a task for each stream, which is closed when it returns and reset when it raises."""
        self._check_unserved(protocol)
        self._services[protocol] = lambda connection, stream: handler(stream)

    def offers(self, peer: PeerId, protocol: str) -> bool:
        """Whether ``peer`` may open ``protocol`` now."""
        served = protocol in self._handlers or protocol in self._services
        return served and not self._closing and self._permits(peer, protocol)

    def stream_refused(self, peer: PeerId, protocol: str) -> None:
        if not self._closing:
            self._refused(peer, protocol)

    def stream_opened(self, connection: Connection, stream: Substream) -> None:
        handler = self._handlers.get(stream.protocol)
        if handler is not None:
            handler(stream)
            return
        if stream.protocol == ping.PROTOCOL:
            # rust-libp2p holds one open for as long as it is connected, js-libp2p pings every 10 s: that is no use of
            # the connection.
            connection.ignore_for_keep_alive(stream)
        if connection.may_run_handler():
            connection.spawn(_serve(connection, Stream(stream), self._services[stream.protocol]))
        else:
            stream.reset()

    def push_identify(self, peer: PeerId | None = None) -> None:
        """Tells ``peer``, or all, anew what we offer; only whoever has heard it before and takes pushes."""
        peers = list(self._connections) if peer is None else [peer]
        for connection in filter(None, map(self.connection, peers)):
            if connection.serves(identify.PUSH_PROTOCOL):
                connection.spawn(self._push(connection))

    def _check_unserved(self, protocol: str) -> None:
        if protocol in self._handlers or protocol in self._services:
            raise RuntimeError(f"{protocol} is served already")

    # -- connections -----------------------------------------------------------------------------

    @property
    def connections(self) -> tuple[Connection, ...]:
        """All established ones."""
        return tuple(connection for connections in self._connections.values() for connection in connections)

    def connection(self, peer: PeerId) -> Connection | None:
        """The one that new streams to ``peer`` use: the oldest that can take them."""
        for connection in self._connections.get(peer, ()):
            if connection.usable:
                return connection
        return None

    async def connect(self, peer: PeerId, addresses: tuple[Multiaddr, ...], deadline: float) -> Connection:
        """A connection to ``peer`` by ``deadline`` (the loop's time): the one there is, or the outcome of one dial,
        however many callers ask for it.

        Raises:
            ClosedError: we are closing.
            NotPermitted: the peer is banned, or a policy refuses it.
            DialError: no address is known, or none led to the peer.
        """
        tried: set[Multiaddr] = set()
        while True:
            if self._closing:
                raise ClosedError
            self._check_admission(peer)
            connection = self.connection(peer)
            if connection is not None:
                return connection
            dial = self._dialer.dial(peer, addresses)
            tried.update(dial.addresses)
            try:
                return await dial.outcome(deadline)
            except DialError:
                # The peer may have dialed us meanwhile; or the dial was another caller's, to other addresses.
                late = asyncio.get_running_loop().time() >= deadline
                if (late or tried.issuperset(addresses)) and self.connection(peer) is None:
                    raise

    async def disconnect(self, peer: PeerId) -> None:
        """Closes every connection to ``peer``; returns when they have ended."""
        connections = self._connections.get(peer, [])
        for connection in connections:
            connection.close()
        await _all_closed(connections)

    def admission_changed(self) -> None:
        """Closes the connections that there may not be any more."""
        for connection in self.connections:
            if self._admission.refusal_of_peer(connection.peer) or self._admission.refusal_of_address(
                connection.remote_address
            ):
                connection.close()

    def connection_closed(self, connection: Connection, error: Exception | None) -> None:
        connections = self._connections[connection.peer]
        connections.remove(connection)
        if not connections:
            del self._connections[connection.peer]
        self._counts[connection.direction] -= 1
        self._ended.add(connection)
        connection.closed.add_done_callback(lambda _: self._ended.discard(connection))
        self._emit(ConnectionClosed(connection.info, error))

    # -- listening -------------------------------------------------------------------------------

    @property
    def listeners(self) -> tuple[Listener, ...]:
        return tuple(self._listeners)

    async def listen(self, address: Multiaddr) -> Listener:
        """Raises ListenError, and ClosedError if we are closing."""
        if not self._tcp.supports(address):
            raise ListenError(address, "only /ip4, /ip6, /dns, /dns4 or /dns6 with /tcp is supported")
        server, bound = await self._tcp.listen(address, self._upgrade_inbound)
        if self._closing:
            server.close()
            raise ClosedError
        listener = Listener(
            bound.with_peer(self.peer_id),
            tuple(address.with_peer(self.peer_id) for address in interface_addresses(bound)),
        )
        self._listeners[listener] = server
        self._listeners_changed()
        self._emit(NewListener(listener))
        self.push_identify()
        return listener

    def stop_listening(self, address: Multiaddr | None = None) -> None:
        """Stops listening on ``address``, without our peer id, or on all. Connections stay."""
        for listener, server in list(self._listeners.items()):
            known = (listener.address, *listener.addresses)
            if address is None or address in (one.without_peer() for one in known):
                server.close()
                del self._listeners[listener]
                self._listeners_changed()
                self._emit(ListenerClosed(listener))

    # -- closing ---------------------------------------------------------------------------------

    async def close(self) -> None:
        """Ends everything: running requests may end within ``close_timeout``, then what is left is reset."""
        self._closing = True
        self.stop_listening()
        for upgrade in list(self._pending_inbound):
            upgrade.finished.cancel()
        self._dialer.cancel()
        connections = self.connections
        for connection in connections:
            connection.drain()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.config.close_timeout):
                    await _all_closed(connections)
        finally:
            for connection in self.connections:
                connection.abort()
        await _all_closed((*self.connections, *self._ended))
        await self._dialer.ended()
        self.deadlines.close()

    # -- upgrading -------------------------------------------------------------------------------

    def _check_admission(self, peer: PeerId) -> None:
        refusal = self._admission.refusal_of_peer(peer)
        if refusal is not None:
            raise NotPermitted(peer, refusal)

    def _upgrade(self, pipe: BytePipe, expected_peer: PeerId | None) -> PipeUpgrade:
        initiator = expected_peer is not None
        ephemeral, self._ephemeral = self._ephemeral or X25519PrivateKey.generate(), None
        return PipeUpgrade(
            pipe,
            self._noise_identity,
            ephemeral,
            initiator=initiator,
            expected_peer=expected_peer,
            establish=partial(self._establish, initiator=initiator),
        )

    def _upgrade_inbound(self, pipe: BytePipe) -> PipeReceiver:
        refusal = self._admission.refusal_of_address(pipe.remote_address)
        if refusal is not None:
            pipe.abort()
            self._emit(InboundConnectionFailed(pipe.remote_address, NotPermitted(None, refusal)))
            return NullReceiver()
        if self._closing or len(self._pending_inbound) >= self.config.max_pending_inbound_connections:
            pipe.abort()
            self._emit(InboundConnectionFailed(pipe.remote_address, LimitExceeded("max_pending_inbound_connections")))
            return NullReceiver()
        upgrade = self._upgrade(pipe, None)
        deadline = asyncio.get_running_loop().time() + self.config.connection_timeout
        self._pending_inbound[upgrade] = self.deadlines.add(deadline, upgrade)
        upgrade.finished.add_done_callback(partial(self._inbound_finished, upgrade))
        return upgrade

    def _inbound_finished(self, upgrade: PipeUpgrade, finished: asyncio.Future[Connection]) -> None:
        self.deadlines.remove(self._pending_inbound.pop(upgrade), upgrade)
        error = None if finished.cancelled() else finished.exception()
        if isinstance(error, Exception):
            self._emit(InboundConnectionFailed(upgrade.pipe.remote_address, error))

    def _establish(self, pipe: BytePipe, upgrade: Upgrade, *, initiator: bool) -> Connection:
        """Takes an upgraded connection. Raises NotPermitted for a peer that is refused, LimitExceeded over a limit."""
        peer = upgrade.remote_peer
        direction = Direction.OUTBOUND if initiator else Direction.INBOUND
        if self._closing:
            raise ClosedError
        self._check_admission(peer)
        refusal = self._admission.refusal_of_address(pipe.remote_address)  # may have changed since the pipe was made
        if refusal is not None:
            raise NotPermitted(peer, refusal)
        count = self._counts[direction]
        if initiator and count >= self.config.max_outbound_connections:
            raise LimitExceeded("max_outbound_connections")
        if not initiator and count >= self.config.max_inbound_connections:
            raise LimitExceeded("max_inbound_connections")
        if sum(self._counts.values()) >= self.config.max_connections:
            raise LimitExceeded("max_connections")
        if len(self._connections.get(peer, ())) >= self.config.max_connections_per_peer:
            raise LimitExceeded("max_connections_per_peer")
        connection = Connection(self, pipe, upgrade, initiator=initiator)
        self._connections.setdefault(peer, []).append(connection)
        self._counts[direction] = count + 1
        self._emit(ConnectionEstablished(connection.info))
        connection.loop.call_later(IDENTIFY_DELAY, self._begin_identify, connection, self._offer(peer))
        return connection

    # -- ping ------------------------------------------------------------------------------------

    # -- identify --------------------------------------------------------------------------------

    def _begin_identify(self, connection: Connection, offer: _Offer) -> None:
        if self._ephemeral is None:
            self._ephemeral = X25519PrivateKey.generate()
        if connection.usable:
            connection.spawn(self._identify(connection, offer))

    async def _identify(self, connection: Connection, offer: _Offer) -> None:
        """``offer`` is what the remote was offered first: it may have asked for it at any time since."""
        try:
            async with asyncio.timeout(self.config.request_timeout):
                async with await connection.open_stream(identify.PROTOCOL) as stream:
                    identity = await identify.read(stream)
        except (StrongholdError, TimeoutError) as error:
            logger.debug("%r was not identified: %s", connection, error)
        else:
            self._identified(connection, identity)
            if offer != self._offer(connection.peer):
                # It changed before we could know that the remote takes pushes, and the remote may have heard the old.
                self.push_identify(connection.peer)

    async def _receive_push(self, connection: Connection, stream: Stream) -> None:
        if connection in self._receiving_push:
            stream.reset()  # one at a time: each costs parsing, and a remote has hundreds of streams
            return
        self._receiving_push.add(connection)
        try:
            await self._read_push(connection, stream)
        finally:
            self._receiving_push.discard(connection)

    async def _read_push(self, connection: Connection, stream: Stream) -> None:
        try:
            async with asyncio.timeout(self.config.request_timeout):
                identity = await identify.read(stream)
        except TimeoutError:
            raise RequestTimeout(self.config.request_timeout, "identify push") from None
        self._identified(connection, identity)

    def _identified(self, connection: Connection, identity: identify.Identity) -> None:
        connection.remote_identified(identity.protocols, own_kind=identify.is_own_agent(identity.agent_version))
        self._learn(connection.peer, identity.listen_addresses)
        self._emit(
            PeerIdentified(
                connection.peer,
                identity.agent_version,
                identity.protocols,
                identity.listen_addresses,
                identity.observed_address,
            )
        )

    async def _serve_identify(self, connection: Connection, stream: Stream) -> None:
        await identify.serve(stream, self._identify_message(connection))

    async def _push(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(self.config.request_timeout):
                async with await connection.open_stream(identify.PUSH_PROTOCOL) as stream:
                    await identify.serve(stream, self._identify_message(connection))
        except (StrongholdError, TimeoutError) as error:
            logger.debug("push to %r failed: %s", connection, error)

    def _identify_message(self, connection: Connection) -> bytes:
        protocols, addresses = self._offer(connection.peer)
        if self._record is None:
            self._record = identify.sign_record(self.keypair, addresses)
        return identify.encode(
            self.keypair.public_key,
            protocols=protocols,
            listen_addresses=addresses,
            record=self._record,
            observed_address=connection.info.address,
        )

    def _offer(self, peer: PeerId) -> _Offer:
        """What ``peer`` is told: the protocols that it may open, and where we listen."""
        protocols = (*self._services, *self._handlers)
        return [protocol for protocol in protocols if self.offers(peer, protocol)], self._listen_addresses

    def _listeners_changed(self) -> None:
        self._listen_addresses = tuple(
            address.without_peer() for listener in self._listeners for address in listener.addresses
        )
        self._record = None


async def _serve(connection: Connection, stream: Stream, service: Service) -> None:
    try:
        async with stream:
            await service(connection, stream)
    except (StrongholdError, TimeoutError) as error:
        logger.debug("%r ended: %s", stream, error)
    except Exception:
        logger.exception("the handler of %r failed", stream)


def check_protocol_id(protocol: str) -> None:
    """Raises ValueError if ``protocol`` is no protocol id, RuntimeError if it is one that every peer serves."""
    if not protocol.startswith("/") or len(protocol.encode()) >= multistream.MAX_LINE or "\n" in protocol:
        raise ValueError(
            f"{protocol!r} is no protocol id: it begins with a slash, and is one line of at most 1,023 bytes"
        )
    if protocol in {identify.PROTOCOL, identify.PUSH_PROTOCOL, ping.PROTOCOL}:
        raise RuntimeError(f"{protocol} is served already")


async def _all_closed(connections: Iterable[Connection]) -> None:
    closed = [connection.closed for connection in connections]
    if closed:
        await asyncio.wait(closed)


def interface_addresses(address: Multiaddr) -> tuple[Multiaddr, ...]:
    """Where others can dial a TCP address that we listen on: itself, or for a wildcard every interface's, loopback last."""
    (kind, host), (_, port) = address.components
    if host not in {"0.0.0.0", "::"}:
        return (address,)
    hosts = [
        str(ip.ip if ip.is_IPv4 else ip.ip[0])
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
        if ip.is_IPv4 == (kind == "ip4") and (ip.is_IPv4 or not ip.ip[2])  # a scoped address means nothing elsewhere
    ]
    hosts.sort(key=lambda host: ip_address(host).is_loopback)
    return tuple(Multiaddr.parse(f"/{kind}/{host}/tcp/{port}") for host in hosts)

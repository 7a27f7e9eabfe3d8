"""StrongholdP2p: a peer, the object that a user holds."""

from __future__ import annotations

import asyncio
import os
from asyncio import _get_running_loop
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from types import TracebackType, UnionType
from typing import Any, Generic, Literal, Self

from .addresses.book import AddressBook
from .addresses.target import own_address, parse_target, split_target
from .arguments import check_types, seconds
from .config import Config
from .ending import end_all
from .errors import ClosedError, InvalidAddress, NotPermitted, RequestTimeout
from .event_hub import EventHub
from .events import ConnectionInfo, Direction, Event, Listener
from .firewall.admission import Admission
from .firewall.answerers import FirewallRequestQueue
from .firewall.approvals import Approvals
from .firewall.gate import Gate
from .firewall.policy import Policy
from .firewall.questions import FirewallRequest
from .firewall.rules import Firewall, FirewallRules, Rule
from .firewall_sources import FirewallSources
from .generics import Req, Res
from .identity import Keypair, PeerId
from .loops import Owner, deadline_in, refuse_loop
from .multiaddr import Multiaddr
from .protocols.identify import IdentifyService
from .protocols.ping import PingService
from .protocols.service import Service, check_protocol_id
from .requests import Request, Requester, Responder, make_protocols
from .requests.codec import PROTOCOLS, CodecName
from .swarm.swarm import Swarm
from .transport.connection import Connection
from .transport.resolver import SystemResolver
from .transport.stream import Stream
from .transport.tcp import TcpTransport
from .transport.transport import CertificateFiles
from .transport.websocket import WebSocketTransport

__all__ = ["StrongholdP2p"]


class StrongholdP2p(Generic[Req, Res]):
    """A peer: it sends requests to other peers and answers theirs, encrypted end to end, behind a firewall.

    Runs on the event loop that is running; use it with ``async with``, or :meth:`start` and :meth:`close`. Handlers,
    rules, bans and addresses may be set before; what needs the network raises :class:`ClosedError` outside of them.
    From the start to the close all of it, and what it hands out, belongs to that loop: elsewhere it raises RuntimeError.

    Wherever a peer is expected, a :class:`PeerId` or its text does; wherever an address, a :class:`Multiaddr` or its
    text. Times are seconds, sizes bytes.
    """

    def __init__(
        self,
        *,
        keypair: Keypair | None = None,
        firewall: FirewallRules | None = None,
        config: Config | None = None,
        request_type: type[Req] | UnionType | None = None,
        response_type: type[Res] | UnionType | None = None,
        codec: CodecName = "json",
        firewall_view: Callable[[Req], Any] | None = None,
        policy: Policy | str | os.PathLike[str] | None = None,
        state: str | os.PathLike[str] | None = None,
        authorities: str | os.PathLike[str] | None = None,
    ) -> None:
        """
        Args:
            keypair: who we are; None makes a new Ed25519 identity.
            firewall: the rules to start with; None lets our own requests out, and asks about each peer that requests.
            config: limits and time limits; None takes the defaults.
            request_type: what requests are: anything that msgspec decodes, such as a Struct or a union of Structs;
                None for any JSON value.
            response_type: the same for responses.
            codec: how both are encoded: ``"json"``, ``"msgpack"`` or ``"raw"`` (bytes); one a peer, each has its own
                protocol id.
            firewall_view: what rules and questions see of a request, so that a person or a log never sees its content;
                None shows the request itself to rules and handlers, and its type alone to terminals and logs. If it
                raises, the request is rejected.
            policy: a policy, whose word goes before all rules set in code or by answers; or a policy file, which is
                read at the start, and again whenever it changes.
            state: a file that remembers over restarts what answers of the firewall and bans have decided.
            authorities: a file of PEM: certificates by which servers of ``/tls/ws`` are verified, beside the system's.

        Raises:
            TypeError: an argument is of another type; no codec can be made for a request's or response's; a rule of
                ``firewall`` or ``policy`` is by a type that no request has.
            ValueError: there is no such codec.
        """
        check_types(keypair=(keypair, Keypair), firewall=(firewall, FirewallRules), config=(config, Config))
        if codec not in PROTOCOLS:
            raise ValueError(f"unknown codec {codec!r}: known are {', '.join(PROTOCOLS)}")
        self._keypair = keypair or Keypair.generate()
        self._config = config or Config()
        self._events = EventHub()
        self._firewall = Firewall(firewall or FirewallRules())
        self._approvals = Approvals(self._firewall, self._config, self._events.emit)
        self._firewall.changed = self._firewall_changed
        self._swarm: Swarm | None = None
        self._authorities = authorities
        self._starting = False
        self._owner = Owner()
        self._closing: asyncio.Future[None] | None = None
        """Done when the first call of :meth:`close` has ended."""
        self._admission = Admission()
        self._ping = PingService()
        self._services: tuple[Service, ...] = (IdentifyService(), self._ping)
        self._stream_handlers: dict[str, Callable[[Stream], Awaitable[None]]] = {}
        protocols = make_protocols(codec, request_type, response_type, self._config)
        self._firewall.limit_types(protocols[-1].requests.type_names)
        self._gate = Gate(self._firewall, self._approvals, firewall_view, self._events)
        self._requester: Requester[Req, Res] = Requester(protocols, self._gate)
        self._responder: Responder[Req, Res] = Responder(protocols, self._gate, self._config, self._events.emit)
        self._sources = FirewallSources(
            policy,
            state,
            firewall=self._firewall,
            admission=self._admission,
            responder=self._responder,
            config=self._config,
            events=self._events,
            admission_changed=self._admission_changed,
        )
        self._approvals.keep_rule = self._sources.keep_rule
        self.addresses = AddressBook(owner=self._owner)
        """Where other peers can be dialed."""

    def __repr__(self) -> str:
        return f"<StrongholdP2p {self.peer_id}>"

    @property
    def peer_id(self) -> PeerId:
        """Who we are."""
        return self._keypair.peer_id

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts the peer on the running event loop.

        Raises:
            RuntimeError: it runs already.
            ClosedError: it was closed; make another one.
            PolicyError: the policy file cannot be read, or says what it cannot.
            StateError: the state file cannot be used.
        """
        if self._closing is not None:
            raise ClosedError("the peer is closed: make a new one")
        if self._swarm is not None or self._starting:
            raise RuntimeError("the peer is already running")
        self._owner.loop = asyncio.get_running_loop()
        self._starting = True
        try:
            await self._sources.start()
            if self._closing is not None:
                raise ClosedError("the peer was closed while it started")
            self._swarm = self._make_swarm()
        except BaseException:
            await self._sources.close()
            self._owner.loop = None
            raise
        finally:
            self._starting = False

    def _make_swarm(self) -> Swarm:
        swarm = Swarm(
            self._keypair,
            self._config,
            transports=(TcpTransport(self._config), WebSocketTransport(self._config, self._authorities)),
            resolver=SystemResolver(),
            addresses=self.addresses,
            services=self._services,
            admission=self._admission,
            permits=self._permits,
            refused=self._refused,
            emit=self._events.emit,
        )
        for protocol in self._responder.protocols:
            swarm.handle(protocol, self._responder.accept)
        for protocol, handler in self._stream_handlers.items():
            swarm.handle_coroutine(protocol, handler)
        return swarm

    async def close(self) -> None:
        """Ends everything in order: running requests may end within ``Config.close_timeout``, new ones are refused."""
        self._owner.check()
        if self._closing is not None:
            await asyncio.shield(self._closing)
            return
        self._owner.loop = asyncio.get_running_loop()
        self._closing = self._owner.loop.create_future()
        swarm, self._swarm = self._swarm, None
        await end_all(
            self._approvals.close,  # first: what waits for an answer would hold up the connections
            *([swarm.close] if swarm is not None else []),
            self._responder.close,
            self._events.close,
            self._sources.close,
            partial(self._closing.set_result, None),
            partial(setattr, self._owner, "loop", None),
        )

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # -- asking ----------------------------------------------------------------------------------

    async def send_request(self, to: PeerId | Multiaddr | str, body: Req, *, timeout: float | None = None) -> Res:
        """Sends a request and returns its response; dials if need be. ``timeout`` (None: ``Config.request_timeout``)
        covers all of that. Cancelling the call resets the request's stream.

        Nothing is sent twice: a request of which one byte reached a socket is never repeated; before that, it is tried
        once more on a fresh connection.

        Raises:
            InvalidAddress: ``to`` is malformed, names no peer, or is us.
            EncodeError: ``body`` cannot be sent.
            NotPermitted: our own firewall or a ban forbids it; nothing was sent or dialed.
            DialError: there is no connection to the peer.
            ProtocolNotSupported: the peer does not offer requests, or not to us; it may have banned us.
            NoResponse: the peer rejected or declined the request.
            StreamReset: the peer failed to answer, or a limit of it struck.
            RemoteProtocolError: the response is cut off, too large, or not of the declared type.
            ConnectionLost: the connection ended after the request had left; whether it was handled is unknown.
            RequestTimeout: the time is up.
            ClosedError: we are not running.
        """
        swarm = self._running()
        peer, address = self._target(to)
        connection = swarm.connection(peer)
        if connection is None and (refusal := self._admission.refusal_of_peer(peer)):
            raise NotPermitted(peer, refusal)  # before anybody is asked about it
        return await self._requester.request(
            peer,
            body,
            timeout=seconds(timeout, self._config.request_timeout),
            connection=connection,
            connect=lambda deadline: self._connect(peer, address, deadline),
        )

    async def connect(self, to: PeerId | Multiaddr | str, *, timeout: float | None = None) -> PeerId:
        """Connects to a peer, unless it is connected already.

        Raises:
            InvalidAddress, NotPermitted, DialError, ClosedError: as for :meth:`send_request`, but for the firewall,
                which guards requests.
        """
        peer, address = self._target(to)
        await self._connect(peer, address, deadline_in(seconds(timeout, self._config.connection_timeout)))
        return peer

    async def disconnect(self, peer: PeerId | str) -> None:
        """Closes every connection to ``peer``; what runs on them is lost."""
        await self._running().disconnect(PeerId.of(peer))

    def is_connected(self, peer: PeerId | str) -> bool:
        """Whether there is a connection to ``peer``."""
        return self._running().connection(PeerId.of(peer)) is not None

    async def ping(self, to: PeerId | Multiaddr | str, *, timeout: float | None = None) -> float:
        """The round-trip time to a peer in seconds, by libp2p's ping protocol; connects if need be.

        Raises:
            InvalidAddress, NotPermitted, DialError, ClosedError: as for :meth:`connect`.
            ProtocolNotSupported, StreamReset, NoResponse, RemoteProtocolError, ConnectionLost: the peer does not answer as it
                should.
            RequestTimeout: it does not answer in time (None: ``Config.request_timeout``).
        """
        patience = seconds(timeout, self._config.request_timeout)
        peer, address = self._target(to)
        deadline = deadline_in(patience)
        connection = await self._connect(peer, address, deadline)
        return await self._ping.ping(connection, timeout=patience, deadline=deadline)

    # -- answering -------------------------------------------------------------------------------

    def on_request(self, handler: Callable[[Request[Req]], Res | Awaitable[Res]]) -> Callable[[Request[Req]], Any]:
        """Has ``handler``, plain or async, answer requests by what it returns; use it as a decorator.

        If it raises, runs past ``Config.handler_timeout`` or returns what cannot be encoded, the request's stream is
        reset, a :class:`RequestFailed` event says why, and the log has a line, with the traceback of what it raised,
        SystemExit, too; only KeyboardInterrupt ends the program. There is one line a second of each kind. Without a
        handler or an iterator the protocol is not offered.

        Raises:
            RuntimeError: requests are answered already.
        """
        self._owner.check()
        self._responder.set_handler(handler)
        self._offer_changed()
        return handler

    def requests(self, *, buffer: int = 64) -> AsyncIterator[Request[Req]]:
        """Requests, for ``async for``; answer each with :meth:`Request.respond` or :meth:`Request.decline`, within
        ``Config.handler_timeout``. One that is dropped unanswered is declined.

        ``buffer`` requests are read ahead; further ones wait in their streams, which does not hold up the connection.

        Raises:
            RuntimeError: requests are answered already.
        """
        self._owner.check()
        queue = self._responder.open_queue(buffer, self._owner)
        self._offer_changed()
        return queue

    # -- listening -------------------------------------------------------------------------------

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """What we listen on, each with every address that it can be dialed at."""
        self._owner.check()
        return self._swarm.listeners if self._swarm else ()

    async def listen(
        self, address: Multiaddr | str = "/ip4/127.0.0.1/tcp/0", *, certificate: CertificateFiles | None = None
    ) -> Multiaddr:
        """Listens on ``address``: TCP, or WebSocket (``.../ws``, ``.../tls/ws``). Returns it as bound, with ``/p2p/<us>``;
        of a wildcard (0.0.0.0 or ::) the first real interface's, if there is one. :attr:`listeners` has all. TLS takes a
        ``certificate``, two files of PEM: its chain and its private key. New connections see it change with the files.

        Raises:
            InvalidAddress: malformed, or of another peer.
            ListenError: it is in use, not of this machine, not permitted or of another kind; or it is the certificate.
            ClosedError: we are not running.
        """
        listener = await self._running().listen(own_address(address, self.peer_id), certificate)
        return listener.addresses[0] if listener.addresses else listener.address

    async def stop_listening(self, address: Multiaddr | str | None = None) -> None:
        """Stops listening on ``address``, as given to or returned by :meth:`listen`, or on all. Connections stay."""
        self._running().stop_listening(None if address is None else own_address(address, self.peer_id))

    # -- the firewall ----------------------------------------------------------------------------

    def set_firewall_default(self, rule: Rule | None, *, direction: Direction = Direction.BOTH) -> None:
        """Sets the rule for peers without one of their own; None removes it. Takes effect at once, also on connected
        peers and on requests that wait for an answer; a handler that runs already is left alone. Raises TypeError for a
        rule by a type that no request has."""
        self._owner.check()
        self._firewall.set_default(rule, direction)

    def remove_firewall_default(self, *, direction: Direction = Direction.BOTH) -> None:
        """Removes the rule for peers without one of their own: they are asked about."""
        self.set_firewall_default(None, direction=direction)

    def set_peer_rule(self, peer: PeerId | str, rule: Rule, *, direction: Direction = Direction.BOTH) -> None:
        """Sets one peer's own rule. Takes effect at once, as :meth:`set_firewall_default`."""
        self._owner.check()
        peer = PeerId.of(peer)
        self._firewall.set_peer_rule(peer, rule, direction)
        # What code says now, an answer that was kept earlier must not undo at the next start.
        self._sources.keep_rule(peer, direction, None)

    def remove_peer_rule(self, peer: PeerId | str, *, direction: Direction = Direction.BOTH) -> None:
        """Removes one peer's own rule, also one that an answer set and a state file keeps: the default applies to it."""
        self._owner.check()
        peer = PeerId.of(peer)
        self._sources.keep_rule(peer, direction, None)
        self._firewall.set_peer_rule(peer, None, direction)

    def get_firewall_config(self) -> FirewallRules:
        """The rules that calls and answers have set, as a copy. A policy's go before them."""
        self._owner.check()
        return self._firewall.rules

    def on_firewall_request(self, handler: Callable[[FirewallRequest], Any]) -> Callable[[FirewallRequest], Any]:
        """Has ``handler``, plain or async, answer the firewall's questions; use it as a decorator. It may also keep a
        question and have it answered later. What it raises is logged, but for KeyboardInterrupt, which ends the program.

        Any number of handlers and iterators get every question, and at once those that are open; the first answer
        decides. A handler that raises leaves the question to the others. A question that nobody is left to answer is
        rejected.
        """
        self._owner.check()
        self._approvals.add_handler(handler)
        return handler

    def remove_firewall_handler(self, handler: Callable[[FirewallRequest], Any]) -> None:
        """Undoes :meth:`on_firewall_request`: ``handler`` gives up the questions that it has, and is cancelled if it is
        async. Without effect if it answers none."""
        self._owner.check()
        self._approvals.remove_handler(handler)

    def firewall_requests(self, *, buffer: int = 64) -> FirewallRequestQueue:
        """The firewall's questions, for ``async for``, as for :meth:`on_firewall_request`. While ``buffer`` of them wait
        to be taken, further ones do not come here.

        ``close()`` ends the iteration and gives up all questions that came here. Once nobody holds the iterator any more,
        it gives up those that nobody has taken.

        Raises:
            ValueError: ``buffer`` is below 1.
        """
        self._owner.check()
        return self._approvals.open_queue(buffer, self._owner)

    async def reload_policy(self) -> None:
        """Has the policy file read again now, changed or not; a :class:`PolicyLoaded` or :class:`PolicyFailed` event tells
        how that went. Does nothing without a policy file."""
        self._running()
        self._sources.reload_policy()

    async def ban_peer(self, peer: PeerId | str) -> None:
        """Closes every connection to ``peer``; neither side can make one until :meth:`unban_peer`. Its requests that
        nobody has got yet are rejected, handlers at work on one are cancelled.

        Raises:
            StateError: the ban is in force, but could not be kept in the state file.
        """
        await self._set_banned(PeerId.of(peer), True)

    async def unban_peer(self, peer: PeerId | str) -> None:
        """Lifts a ban by :meth:`ban_peer`; a policy's stays. Raises StateError likewise."""
        await self._set_banned(PeerId.of(peer), False)

    # -- seeing ----------------------------------------------------------------------------------

    @property
    def connections(self) -> tuple[ConnectionInfo, ...]:
        """All established connections."""
        self._owner.check()
        return tuple(connection.info for connection in self._swarm.connections) if self._swarm else ()

    def events(
        self,
        *,
        buffer: int = 256,
        when_full: Literal["drop_oldest", "drop_newest"] = "drop_oldest",
        decisions: bool = False,
    ) -> AsyncIterator[Event]:
        """What happens from this call on, for ``async for``. ``buffer`` events wait for a slow reader; what is dropped
        beyond that is counted in a :class:`Dropped` event. ``decisions`` adds a :class:`FirewallDecision` for each request,
        for an audit. There is no blocking mode: a reader must not stop the network."""
        self._owner.check()
        return self._events.subscribe(buffer, when_full, self._owner, decisions=decisions)

    # -- below requests --------------------------------------------------------------------------

    async def open_stream(self, to: PeerId | Multiaddr | str, protocol: str, *, timeout: float | None = None) -> Stream:
        """A stream for a protocol of one's own, which the firewall does not guard; connects if need be.

        Negotiation is lazy: :class:`ProtocolNotSupported` comes from the first read, or from ``stream.negotiated()``.

        Raises:
            InvalidAddress, NotPermitted, DialError, ClosedError: as for :meth:`connect`.
            ConnectionLost: the connection ended before the stream was open.
            RequestTimeout: the peer has as many streams open as it takes, for longer than ``timeout``.
        """
        peer, address = self._target(to)
        patience = seconds(timeout, self._config.request_timeout)
        deadline = deadline_in(patience)
        connection = await self._connect(peer, address, deadline)
        try:
            async with asyncio.timeout_at(deadline):
                return await connection.open_stream(protocol)
        except TimeoutError:
            raise RequestTimeout(patience, "wait for a stream") from None

    def handle_stream(self, protocol: str, handler: Callable[[Stream], Awaitable[None]]) -> None:
        """Serves a protocol of one's own: ``handler`` runs as a task for each stream, which is closed when it returns
        and reset when it raises, whatever that is; only KeyboardInterrupt ends the program. The firewall does not guard it.

        Raises:
            RuntimeError: the protocol already has a handler.
            ValueError: ``protocol`` is no protocol id.
        """
        self._owner.check()
        check_protocol_id(protocol)
        own = {one for service in self._services for one in service.protocols}
        if protocol in {*self._responder.protocols, *self._stream_handlers, *own}:
            raise RuntimeError(f"{protocol} already has a handler")
        if self._swarm is not None:
            self._swarm.handle_coroutine(protocol, handler)
        self._stream_handlers[protocol] = handler
        self._offer_changed()

    # -- details ---------------------------------------------------------------------------------

    def _running(self) -> Swarm:
        if self._swarm is None:
            raise ClosedError
        if _get_running_loop() is not self._owner.loop:
            refuse_loop()
        return self._swarm

    def _permits(self, peer: PeerId, protocol: str) -> bool:
        """The firewall guards the request protocols alone. Nobody is offered what nobody answers."""
        return protocol not in self._responder.protocols or (
            self._responder.serving and not self._gate.rejects_all(peer, Direction.INBOUND)
        )

    def _refused(self, peer: PeerId, protocol: str) -> None:
        """The peer has tried to open a protocol that it is not offered."""
        if protocol in self._responder.protocols and self._responder.serving:
            self._gate.refuse(peer, Direction.INBOUND)

    async def _set_banned(self, peer: PeerId, banned: bool) -> None:
        self._owner.check()
        (self._admission.ban if banned else self._admission.unban)(peer)
        kept = self._sources.keep_ban(peer, banned)
        if banned and self._swarm is not None:
            await self._swarm.disconnect(peer, refused=True)
        if kept is not None:
            await kept

    def _firewall_changed(self, peer: PeerId | None) -> None:
        self._approvals.rules_changed(peer)
        self._offer_changed(peer)

    def _admission_changed(self) -> None:
        if self._swarm is not None:
            self._swarm.admission_changed()

    def _offer_changed(self, peer: PeerId | None = None) -> None:
        if self._swarm is not None:
            self._swarm.offer_changed(peer)

    def _target(self, to: PeerId | Multiaddr | str) -> tuple[PeerId, Multiaddr | None]:
        peer, address = parse_target(to) if isinstance(to, str) else split_target(to)
        if peer == self.peer_id:
            raise InvalidAddress(to, "it is of this peer itself")
        return peer, address

    async def _connect(self, peer: PeerId, address: Multiaddr | None, deadline: float) -> Connection:
        """A connection to ``peer`` before ``deadline`` (the loop's time)."""
        addresses = self.addresses.get(peer) if address is None else (address,)
        return await self._running().connect(peer, addresses, deadline)

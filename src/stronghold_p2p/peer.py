"""StrongholdP2p: a peer, the object that a user holds."""

from __future__ import annotations

import asyncio
import logging
import os
from asyncio import _get_running_loop
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType, UnionType
from typing import Any, Generic, Literal, NoReturn, Self

from .addresses.book import AddressBook
from .addresses.target import own_address, parse_target, split_target
from .arguments import check_types, seconds
from .config import Config
from .errors import ClosedError, InvalidAddress, NotPermitted, PolicyError, RequestTimeout, StateError
from .event_hub import EventHub
from .events import ConnectionInfo, Direction, Event, Listener, PolicyFailed, PolicyLoaded, StateFailed
from .firewall.admission import Admission
from .firewall.approvals import Approvals, FirewallRequest
from .firewall.gate import Gate
from .firewall.policy import Policy, PolicyWatch
from .firewall.rules import Firewall, FirewallRules, Rule
from .generics import Req, Res
from .identity import Keypair, PeerId
from .loops import Owner, deadline_in, refuse_loop
from .multiaddr import Multiaddr
from .protocols.identify import IdentifyService
from .protocols.ping import PingService
from .protocols.service import Service, check_protocol_id
from .requests import Request, Requester, Responder
from .requests.codec import PROTOCOLS, CodecName, make_codec
from .store.state import BanChange, Change, FirewallMemory
from .swarm.swarm import Swarm
from .transport.connection import Connection
from .transport.resolver import SystemResolver
from .transport.stream import Stream
from .transport.tcp import TcpTransport
from .transport.websocket import WebSocketTransport

__all__ = ["StrongholdP2p"]

logger = logging.getLogger("stronghold_p2p")


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
                None shows the request itself to rules and handlers, and its type alone to terminals and logs.
            policy: a policy, whose word goes before all rules set in code or by answers; or a policy file, which is
                read at the start, and again whenever it changes.
            state: a file that remembers over restarts what answers of the firewall and bans have decided.

        Raises:
            TypeError: an argument is of another type; no codec can be made for a request's or response's; a rule of
                ``firewall`` or ``policy`` is by a type that no request has.
            ValueError: there is no such codec.
        """
        check_types(keypair=(keypair, Keypair), firewall=(firewall, FirewallRules), config=(config, Config))
        if codec not in PROTOCOLS:
            raise ValueError(f"there is no codec {codec!r}: there are {', '.join(PROTOCOLS)}")
        self._keypair = keypair or Keypair.generate()
        self._config = config or Config()
        self._firewall = Firewall(firewall or FirewallRules())
        self._approvals = Approvals(self._firewall, self._config)
        self._firewall.changed = self._firewall_changed
        self._events = EventHub()
        self._swarm: Swarm | None = None
        self._policy = policy
        self._policy_watch: PolicyWatch | None = None
        self._policy_task: asyncio.Task[NoReturn] | None = None
        self._memory: FirewallMemory | None = None
        if state is not None:
            self._memory = FirewallMemory(state, apply=self._remember, failed=self._state_failed)
        self._said_before_start: dict[tuple[PeerId, Direction], None] = {}
        self._starting = False
        self._owner = Owner()
        self._closing: asyncio.Future[None] | None = None
        """Done when the first call of :meth:`close` has ended."""
        self._admission = Admission()
        self._ping = PingService()
        self._services: tuple[Service, ...] = (IdentifyService(), self._ping)
        self._stream_handlers: dict[str, Callable[[Stream], Awaitable[None]]] = {}
        self._protocol = PROTOCOLS[codec]
        max_size: int = getattr(self._config, f"max_{codec}_message")
        requests = make_codec(codec, request_type, max_size=max_size)
        responses = make_codec(codec, response_type, max_size=max_size)
        self._firewall.limit_types(requests.type_names)
        if isinstance(policy, Policy):
            self._firewall.check(policy.rules)
        self._gate = Gate(
            self._firewall, self._approvals, requests.type_name, firewall_view, requests.weight, self._events
        )
        self._requester: Requester[Req, Res] = Requester(
            self._protocol, requests, responses, self._gate, text=codec == "json"
        )
        self._responder: Responder[Req, Res] = Responder(
            requests, responses, self._gate, self._config, self._events.emit
        )
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
            raise ClosedError("the peer was closed: make another one")
        if self._swarm is not None or self._starting:
            raise RuntimeError("the peer runs already")
        self._owner.loop = asyncio.get_running_loop()
        self._starting = True
        try:
            await self._load_firewall()
            if self._closing is not None:
                raise ClosedError("the peer was closed while it started")
            self._swarm = self._make_swarm()
        except BaseException:
            await self._unload_firewall()
            self._owner.loop = None
            raise
        finally:
            self._starting = False

    def _make_swarm(self) -> Swarm:
        swarm = Swarm(
            self._keypair,
            self._config,
            transports=(TcpTransport(self._config), WebSocketTransport(self._config)),
            resolver=SystemResolver(),
            addresses=self.addresses,
            services=self._services,
            admission=self._admission,
            permits=self._permits,
            refused=self._refused,
            emit=self._events.emit,
        )
        swarm.handle(self._protocol, self._responder.accept)
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
        async with AsyncExitStack() as ending:  # in reverse; each step follows whatever becomes of those before it
            ending.callback(setattr, self._owner, "loop", None)
            ending.callback(self._closing.set_result, None)
            ending.push_async_callback(self._unload_firewall)
            ending.callback(self._events.close)
            ending.callback(self._responder.close)
            if swarm is not None:
                ending.push_async_callback(swarm.close)
            ending.callback(self._approvals.close)  # first: what waits for an answer would hold up the connections

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
            ProtocolNotSupported: the peer does not offer requests, or not to us.
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
        reset, a :class:`RequestFailed` event says why, and the log has the traceback. Without a handler or an iterator
        the protocol is not offered.

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

    async def listen(self, address: Multiaddr | str = "/ip4/127.0.0.1/tcp/0") -> Multiaddr:
        """Listens on ``address``; returns it as bound, ending in ``/p2p/<us>``. For a wildcard (0.0.0.0 or ::) that is
        the first real interface's, or the wildcard itself on a machine without one; :attr:`listeners` has all.

        Raises:
            InvalidAddress: malformed, or of another peer.
            ListenError: in use, not an address of this machine, not permitted, or neither TCP nor WebSocket.
            ClosedError: we are not running.
        """
        listener = await self._running().listen(own_address(address, self.peer_id))
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
        self._keep_rule(peer, direction, None)

    def remove_peer_rule(self, peer: PeerId | str, *, direction: Direction = Direction.BOTH) -> None:
        """Removes one peer's own rule, also one that an answer set and a state file keeps: the default applies to it."""
        self._owner.check()
        peer = PeerId.of(peer)
        self._keep_rule(peer, direction, None)
        self._firewall.set_peer_rule(peer, None, direction)

    def get_firewall_config(self) -> FirewallRules:
        """The rules that calls and answers have set, as a copy. A policy's go before them."""
        self._owner.check()
        return self._firewall.rules

    def on_firewall_request(self, handler: Callable[[FirewallRequest], Any]) -> Callable[[FirewallRequest], Any]:
        """Has ``handler``, plain or async, answer the firewall's questions; use it as a decorator. It may also keep a
        question and have it answered later. If it raises, the request is rejected. Without a handler or an iterator,
        every question is.

        Raises:
            RuntimeError: questions are answered already.
        """
        self._owner.check()
        self._approvals.set_handler(handler)
        return handler

    def firewall_requests(self, *, buffer: int = 64) -> AsyncIterator[FirewallRequest]:
        """The firewall's questions, for ``async for``. While ``buffer`` of them wait to be taken, further requests that
        would raise one are rejected.

        Raises:
            RuntimeError: questions are answered already.
        """
        self._owner.check()
        return self._approvals.open_queue(buffer, self._owner)

    async def reload_policy(self) -> None:
        """Has the policy file read again now, changed or not; a :class:`PolicyLoaded` or :class:`PolicyFailed` event tells
        how that went. Does nothing without a policy file."""
        self._running()
        if self._policy_watch is not None:
            self._policy_watch.reload()

    async def ban_peer(self, peer: PeerId | str) -> None:
        """Closes every connection to ``peer``; neither side can make one until :meth:`unban_peer`.

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
        for an audit. There is no blocking mode: a reader must not stop the network.
        """
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
        and reset when it raises. The firewall does not guard it.

        Raises:
            RuntimeError: the protocol is served already.
            ValueError: ``protocol`` is no protocol id.
        """
        self._owner.check()
        check_protocol_id(protocol)
        served = {
            self._protocol,
            *self._stream_handlers,
            *(own for service in self._services for own in service.protocols),
        }
        if protocol in served:
            raise RuntimeError(f"{protocol} is served already")
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
        """The firewall guards the request protocol alone. Nobody is offered what nobody answers."""
        return protocol != self._protocol or (
            self._responder.serving and not self._gate.closed(peer, Direction.INBOUND)
        )

    def _refused(self, peer: PeerId, protocol: str) -> None:
        """The peer has tried to open a protocol that it is not offered."""
        if protocol == self._protocol and self._responder.serving:
            self._gate.refuse(peer, Direction.INBOUND)

    async def _load_firewall(self) -> None:
        """What a policy and a state file say holds before the first connection."""
        banned = tuple(self._admission.banned)
        said = [(peer, way, self._firewall.peer_rule(peer, way)) for peer, way in self._said_before_start]
        # The policy first: if it is broken, no state file is made.
        if isinstance(self._policy, Policy):
            self._apply_policy(self._policy)
        elif self._policy is not None:
            self._policy_watch = PolicyWatch(
                self._policy, apply=self._policy_loaded, failed=self._policy_failed, types=self._firewall.types
            )
            await self._policy_watch.load()
        if self._memory is not None:
            await self._memory.start()
            for peer in banned:
                await self._memory.keep_ban(peer, True)
            for peer, way, rule in said:
                self._firewall.set_peer_rule(peer, rule, way)
                await self._memory.keep_rule(peer, way, None)
        self._approvals.keep_rule = self._keep_rule
        if self._policy_watch is not None:
            self._policy_task = asyncio.get_running_loop().create_task(self._policy_watch.run())

    async def _unload_firewall(self) -> None:
        async with AsyncExitStack() as ending:
            if self._memory is not None:
                ending.push_async_callback(self._memory.close)
            if self._policy_task is not None:
                self._policy_task.cancel()
                await asyncio.wait([self._policy_task])

    def _apply_policy(self, policy: Policy) -> None:
        self._admission.set_policy(policy.admission)
        self._responder.limit_traffic(
            policy.requests_in_flight or self._config.max_requests_in_flight_per_peer,
            policy.requests_per_second or self._config.max_requests_per_second_per_peer,
        )
        self._firewall.set_policy(policy.rules)
        if self._swarm is not None:
            self._swarm.admission_changed()

    def _policy_loaded(self, policy: Policy) -> None:
        self._apply_policy(policy)
        self._events.emit(PolicyLoaded(str(self._policy)))

    def _policy_failed(self, error: PolicyError) -> None:
        logger.warning("%s; the policy before stays in force", error)
        self._events.emit(PolicyFailed(error))

    def _remember(self, changes: Sequence[Change]) -> None:
        """Applies what the state file holds at the start, and what others change in it."""
        for change in changes:
            if isinstance(change, BanChange):
                (self._admission.ban if change.banned else self._admission.unban)(change.peer)
            elif change.rule is not None or self._firewall.peer_rule(change.peer, change.direction) == change.before:
                self._firewall.restore_peer_rule(change.peer, change.rule, change.direction)
        if self._swarm is not None:
            self._swarm.admission_changed()

    def _keep_rule(self, peer: PeerId, direction: Direction, rule: Rule | None) -> None:
        if self._memory is not None and self._swarm is not None:
            self._memory.keep_rule(peer, direction, rule)
        elif self._memory is not None:
            self._said_before_start.update(dict.fromkeys((peer, way) for way in direction))

    def _state_failed(self, error: StateError) -> None:
        logger.warning("%s", error)
        self._events.emit(StateFailed(error))

    async def _set_banned(self, peer: PeerId, banned: bool) -> None:
        self._owner.check()
        (self._admission.ban if banned else self._admission.unban)(peer)
        kept = self._memory.keep_ban(peer, banned) if self._memory is not None and self._swarm is not None else None
        if banned and self._swarm is not None:
            await self._swarm.disconnect(peer)
        if kept is not None:
            await kept

    def _firewall_changed(self, peer: PeerId | None) -> None:
        self._approvals.rules_changed(peer)
        self._offer_changed(peer)

    def _offer_changed(self, peer: PeerId | None = None) -> None:
        if self._swarm is not None:
            self._swarm.offer_changed(peer)

    def _target(self, to: PeerId | Multiaddr | str) -> tuple[PeerId, Multiaddr | None]:
        peer, address = parse_target(to) if isinstance(to, str) else split_target(to)
        if peer == self.peer_id:
            raise InvalidAddress(to, "it is our own")
        return peer, address

    async def _connect(self, peer: PeerId, address: Multiaddr | None, deadline: float) -> Connection:
        """A connection to ``peer`` before ``deadline`` (the loop's time)."""
        addresses = self.addresses.get(peer) if address is None else (address,)
        return await self._running().connect(peer, addresses, deadline)

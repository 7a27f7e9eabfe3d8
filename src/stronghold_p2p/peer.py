"""StrongholdP2p: a peer, the public object of this library."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType, UnionType
from typing import Any, Generic, Literal, Self

from .addresses.book import AddressBook
from .arguments import check_types, seconds
from .compiling import mypyc_attr
from .config import Config
from .errors import NotPermitted, StrongholdError
from .event_hub import EventReader
from .events import ConnectionInfo, Direction, Event
from .firewall.answerers import FirewallRequestQueue
from .firewall.policy import Policy
from .firewall.questions import FirewallRequest
from .firewall.rules import FirewallRules, Rule, RuleInForce
from .generics import Req, Res
from .identity import Keypair, PeerId
from .loops import deadline_in
from .multiaddr import Multiaddr
from .protocols.approval import ApprovalRequests
from .protocols.relay.limits import RelayServer
from .protocols.relay.status import RelayStatus
from .reach import Reach
from .requests import Request
from .requests.codec import PROTOCOLS, CodecName
from .transport.stream import Stream
from .wiring import Parts, not_loaded

__all__ = ["StrongholdP2p"]


@mypyc_attr(allow_interpreted_subclasses=True)
class StrongholdP2p(Reach, Generic[Req, Res]):
    """A peer: sends requests to other peers and answers theirs, encrypted end to end, behind a firewall.

    Use it with ``async with``, or call :meth:`start` and :meth:`close`, on a running event loop. Handlers, rules, bans and
    addresses can be set before the start. Network operations need a started peer, and raise :class:`ClosedError`
    otherwise. From start to close, the peer and its objects belong to that loop, and raise RuntimeError on any other.

    Peers are given as a :class:`PeerId` or its text, addresses as a :class:`Multiaddr` or its text. Times are in seconds,
    sizes in bytes.
    """

    _parts: Parts[Req, Res]

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
        addresses: AddressBook | None = None,
        mdns: bool = False,
        port_mapping: bool = False,
        relay: RelayServer | None = None,
        autonat: bool = True,
    ) -> None:
        """
        Args:
            keypair: the identity; None generates a new Ed25519 key pair.
            firewall: the initial rules; None allows outbound requests, and asks about each peer with inbound ones.
            config: size and time limits; None: the defaults.
            request_type: the type of requests: any type that msgspec decodes, such as a Struct or a union of Structs;
                None: any JSON value.
            response_type: the same for responses.
            codec: the encoding of both: ``"json"``, ``"msgpack"`` or ``"raw"`` (bytes); each has its own protocol id.
            firewall_view: reduces a request to the parts that rules and questions may see, to hide its content from
                people and logs. None: rules and handlers see the request itself, terminals and logs only its type. An
                exception rejects the request.
            policy: a policy, or a policy file, which is read at the start and whenever it changes. Takes precedence over
                rules from code and answers.
            state: a file that stores bans, the rules from answers, and the address book over restarts.
            authorities: a PEM file of additional trusted certificates for servers of ``/tls/ws``.
            addresses: the address book, with limits of its own; None: a new one with those of ``config``.
            mdns: whether to find peers on the local network, and to be found there (libp2p/specs discovery/mdns.md). It
                tells everybody on the network our peer id and listen addresses, each on its own interface. Found peers can
                be dialed by their id alone; nothing else is dialed. What mDNS says is not proven, the handshake is.
            port_mapping: whether to have the router forward the port of each listener on a wildcard or private IPv4
                address, by PCP, NAT-PMP or UPnP (the extra ``upnp``). Peers in other networks are told the router's
                address, and anybody can connect, as to a machine without a router. Renewed while this peer runs, and
                removed when it closes. After a crash the router forwards up to two hours longer, or, if it knows no time
                limits, until somebody removes the entry ``stronghold-p2p``. See :class:`PortMapped` and
                :class:`PortMappingFailed`.
            relay: serve as a relay, within these limits (libp2p/specs relay/circuit-v2.md): forward between peers that cannot
                dial each other. None: do not.
            autonat: whether to have peers dial our public addresses, to learn which of them can be reached from outside (see
                :attr:`reachability`), and, with a public address or ``relay``, to do the same for others (AutoNAT v2,
                libp2p/specs autonat/autonat-v2.md): a few a minute, and never a private address.

        Raises:
            TypeError: an argument has the wrong type, a request or response type has no codec, or a rule of
                ``firewall`` or ``policy`` has a type that no request has.
            ValueError: the codec is unknown.
        """
        check_types(
            keypair=(keypair, Keypair),
            firewall=(firewall, FirewallRules),
            config=(config, Config),
            addresses=(addresses, AddressBook),
            relay=(relay, RelayServer),
        )
        if codec not in PROTOCOLS:
            raise ValueError(f"unknown codec {codec!r}: known are {', '.join(PROTOCOLS)}")
        try:
            super().__init__(
                Parts(
                    keypair=keypair or Keypair.generate(),
                    firewall=firewall or FirewallRules(),
                    config=config or Config(),
                    request_type=request_type,
                    response_type=response_type,
                    codec=codec,
                    firewall_view=firewall_view,
                    policy=policy,
                    state=state,
                    authorities=authorities,
                    addresses=addresses,
                    mdns=mdns,
                    port_mapping=port_mapping,
                    relay=relay,
                    autonat=autonat,
                )
            )
        except StrongholdError:
            raise
        except OSError as error:
            raise not_loaded(error) from error

    def __repr__(self) -> str:
        return f"<StrongholdP2p {self.peer_id}>"

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts the peer on the running event loop.

        Raises:
            RuntimeError: the peer is already running.
            ClosedError: the peer is closed; make a new one.
            PolicyError: the policy file cannot be read, or is invalid.
            StateError: the state file cannot be used.
            ListenError: ``mdns`` is on, and another program does not share its port.
        """
        await self._parts.start()

    async def close(self) -> None:
        """Shuts down gracefully: running requests have ``Config.close_timeout`` seconds to end, new ones are refused."""
        self._parts.owner.check()
        await self._parts.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # -- asking ----------------------------------------------------------------------------------

    async def send_request(self, to: PeerId | Multiaddr | str, body: Req, *, timeout: float | None = None) -> Res:
        """Sends a request and returns its response, dialing if needed.

        ``timeout`` is in seconds and includes the dial (None: ``Config.request_timeout``). Cancelling the call resets the
        request's stream. A request is never sent twice: it is retried once, on a new connection, only if none of its
        bytes had reached a socket.

        Raises:
            InvalidAddress: ``to`` is malformed, has no peer id, or is this peer.
            EncodeError: ``body`` cannot be encoded, or is too large.
            NotPermitted: refused by our own firewall or a ban; nothing was sent or dialed.
            DialError: no connection to the peer.
            ProtocolNotSupported: the peer does not offer requests, or not to us; it may have banned us.
            NoResponse: the peer rejected or declined the request.
            StreamReset: the peer's handler failed, or one of its limits is reached.
            RemoteProtocolError: the response is truncated, too large, or not of the declared type.
            ConnectionLost: the connection ended after the request was sent; it is unknown whether it was handled.
            RequestTimeout: the time is up.
            ClosedError: this peer is not running.
        """
        swarm = self._parts.running()
        peer, address = self._target(to)
        connection = swarm.connection(peer)
        if connection is None and (refusal := self._parts.admission.refusal_of_peer(peer)):
            raise NotPermitted(peer, refusal)  # instead of a question about it
        return await self._parts.requester.request(
            peer,
            body,
            timeout=seconds(timeout, self._parts.config.request_timeout),
            connection=connection,
            connect=lambda deadline: self._parts.connect(peer, address, deadline),
        )

    async def connect(self, to: PeerId | Multiaddr | str, *, timeout: float | None = None) -> PeerId:
        """Connects to a peer, if not yet connected, or connected through a relay while ``to`` is a direct address. ``timeout``
        is in seconds (None: ``Config.connection_timeout``).

        Raises:
            InvalidAddress, NotPermitted, DialError, ClosedError: as for :meth:`send_request`; firewall rules do not
                apply, only bans and the policy.
        """
        peer, address = self._target(to)
        await self._parts.connect(peer, address, deadline_in(seconds(timeout, self._parts.config.connection_timeout)))
        return peer

    async def disconnect(self, peer: PeerId | str) -> None:
        """Closes every connection to ``peer``, and loses all requests on them."""
        await self._parts.running().disconnect(PeerId.of(peer))

    def is_connected(self, peer: PeerId | str) -> bool:
        """Whether we are connected to ``peer``."""
        return self._parts.running().connection(PeerId.of(peer)) is not None

    async def ping(self, to: PeerId | Multiaddr | str, *, timeout: float | None = None) -> float:
        """The round-trip time to a peer in seconds, by libp2p's ping protocol (libp2p/specs ping/ping.md).

        Connects if needed. ``timeout`` is in seconds (None: ``Config.request_timeout``).

        Raises:
            InvalidAddress, NotPermitted, DialError, ClosedError: as for :meth:`connect`.
            ProtocolNotSupported, StreamReset, NoResponse, RemoteProtocolError, ConnectionLost: no valid answer.
            RequestTimeout: no answer in time.
        """
        patience = seconds(timeout, self._parts.config.request_timeout)
        peer, address = self._target(to)
        deadline = deadline_in(patience)
        connection = await self._parts.connect(peer, address, deadline)
        return await self._parts.ping.ping(connection, timeout=patience, deadline=deadline)

    # -- answering -------------------------------------------------------------------------------

    def on_request(self, handler: Callable[[Request[Req]], Res | Awaitable[Res]]) -> Callable[[Request[Req]], Any]:
        """Sets the request handler, plain or async, which returns the response. Use it as a decorator.

        If it raises, exceeds ``Config.handler_timeout``, or returns an unencodable value, the request's stream is reset.
        This is reported as a :class:`RequestFailed` event and logged, at most one line of each kind per second, with the
        traceback. Even SystemExit ends only the request; KeyboardInterrupt ends the program. Without a handler or an
        iterator, the protocol is not offered.

        Raises:
            RuntimeError: requests already have a handler or an iterator.
        """
        self._parts.owner.check()
        self._parts.responder.set_handler(handler)
        self._parts.offer_changed()
        return handler

    def requests(self, *, buffer: int = 64) -> AsyncIterator[Request[Req]]:
        """An iterator over inbound requests, for ``async for``.

        Answer each with :meth:`Request.respond` or :meth:`Request.decline` within ``Config.handler_timeout``. A request
        that is garbage-collected without an answer is declined. ``buffer`` requests are read ahead; further ones wait in
        their streams, without blocking the connection, and the newest of each peer goes first: of more requests than can be
        answered, the oldest are the next to be given up.

        Raises:
            RuntimeError: requests already have a handler or an iterator.
            ValueError: ``buffer`` is below 1.
        """
        self._parts.owner.check()
        queue = self._parts.responder.open_queue(buffer, self._parts.owner)
        self._parts.offer_changed()
        return queue

    # -- the firewall ----------------------------------------------------------------------------

    def set_firewall_default(self, rule: Rule | None, *, direction: Direction = Direction.BOTH) -> None:
        """Sets the rule for peers without their own; None removes it.

        Takes effect immediately, also for connected peers and waiting requests. Running handlers are not interrupted, but for
        those that a strict rule has let in, see :meth:`Rule.replace`.

        Raises:
            TypeError: not a rule, or a rule with a type that no request has.
        """
        self._parts.owner.check()
        self._parts.firewall.set_default(rule, direction)

    def remove_firewall_default(self, *, direction: Direction = Direction.BOTH) -> None:
        """Removes the rule for peers without their own; their requests become questions."""
        self.set_firewall_default(None, direction=direction)

    def set_peer_rule(self, peer: PeerId | str, rule: Rule, *, direction: Direction = Direction.BOTH) -> None:
        """Sets one peer's own rule, with immediate effect as for :meth:`set_firewall_default`.

        Raises:
            InvalidAddress: ``peer`` is not a peer id.
            TypeError: not a rule, or a rule with a type that no request has.
        """
        self._parts.owner.check()
        peer = PeerId.of(peer)
        self._parts.firewall.set_peer_rule(peer, rule, direction)
        # At the next start, a stored answer must not override the rule set in code now.
        self._parts.sources.keep_rule(peer, direction, None)

    def remove_peer_rule(self, peer: PeerId | str, *, direction: Direction = Direction.BOTH) -> None:
        """Removes one peer's own rule, including one from an answer in the state file; the default applies."""
        self._parts.owner.check()
        peer = PeerId.of(peer)
        self._parts.sources.keep_rule(peer, direction, None)
        self._parts.firewall.set_peer_rule(peer, None, direction)

    def get_firewall_config(self) -> FirewallRules:
        """A copy of the rules set by calls and answers, without those of a policy, which take precedence."""
        self._parts.owner.check()
        return self._parts.firewall.rules

    def rules_in_force(self, limit: int | None = None) -> tuple[RuleInForce, ...]:
        """What decides requests now, of policy, calls and answers together: in each direction the default, then the rules of
        peers; at most ``limit`` in each direction, None: all. A rule that another one takes precedence over is not there."""
        self._parts.owner.check()
        return self._parts.firewall.in_force(limit)

    def on_firewall_request(
        self, handler: Callable[[FirewallRequest], Any], *, by: str = "handler"
    ) -> Callable[[FirewallRequest], Any]:
        """Adds a handler, plain or async, for the firewall's questions. Use it as a decorator.

        Any number of handlers and iterators get every question, including those already open. The first answer decides.
        A plain handler can keep a question and answer it later. An exception is logged and leaves the question to the
        others; KeyboardInterrupt ends the program. A question without any answerer is rejected. ``by`` says who answers, for
        the audit: such as ``"person"``.

        Raises:
            ValueError: ``by`` stands for decisions of others: ``"rule"``, ``"firewall"`` or an approver.
        """
        self._parts.owner.check()
        self._parts.approvals.add_handler(handler, by)
        return handler

    def remove_firewall_handler(self, handler: Callable[[FirewallRequest], Any]) -> None:
        """Removes a handler added by :meth:`on_firewall_request`. It gives up its questions, and is cancelled if async.

        Ignores an unknown handler.
        """
        self._parts.owner.check()
        self._parts.approvals.remove_handler(handler)

    def firewall_requests(self, *, buffer: int = 64, by: str = "handler") -> FirewallRequestQueue:
        """An iterator over the firewall's questions, for ``async for``; see :meth:`on_firewall_request`.

        Questions come by turns among networks and then peers. Of more than ``buffer`` waiting ones it gives up the newest of
        the network and peer with most. ``close()`` ends the iteration and gives up all its questions; garbage collection
        those still in the buffer.

        Raises:
            ValueError: ``buffer`` is below 1, or as for :meth:`on_firewall_request`.
        """
        self._parts.owner.check()
        return self._parts.approvals.open_queue(buffer, self._parts.owner, by)

    def suspend_requests(self) -> None:
        """Rejects every request, in both directions and whatever the rules, until :meth:`resume_requests`: for example, while
        an audit cannot be written.

        Takes effect immediately, also for waiting requests. Running handlers are not interrupted, but for those that a strict
        rule has let in.
        """
        self._parts.owner.check()
        self._parts.firewall.suspend()

    def resume_requests(self) -> None:
        """Has the rules decide again."""
        self._parts.owner.check()
        self._parts.firewall.resume()

    def approval_requests(self, of: Iterable[PeerId | str]) -> ApprovalRequests:
        """An iterator over questions of the firewalls of other peers, for ``async for``, which this peer may answer as one of
        their approvers. Only the peers in ``of`` may ask; stay connected with them by :meth:`keep`.

        Questions come by turns among the peers that ask. ``close()`` ends the iteration and leaves all its questions to other
        approvers; garbage collection those that were not read.

        Raises:
            InvalidAddress: one in ``of`` is not a peer id.
            RuntimeError: the questions of one of them already have an iterator.
            ValueError: ``of`` is empty.
        """
        self._parts.owner.check()
        return self._parts.approving.open([PeerId.of(peer) for peer in of], self._parts.owner)

    async def reload_policy(self) -> None:
        """Reloads the policy file, changed or not; without one, does nothing.

        The result is a :class:`PolicyLoaded` or :class:`PolicyFailed` event.

        Raises:
            ClosedError: this peer is not running.
        """
        self._parts.running()
        self._parts.sources.reload_policy()

    async def ban_peer(self, peer: PeerId | str) -> None:
        """Closes every connection to ``peer``, and refuses new ones in both directions until :meth:`unban_peer`.

        Its waiting requests are rejected; handlers at work on its requests are cancelled.

        Raises:
            InvalidAddress: ``peer`` is not a peer id.
            StateError: the ban is in force, but was not stored in the state file.
        """
        await self._parts.set_banned(PeerId.of(peer), True)

    async def unban_peer(self, peer: PeerId | str) -> None:
        """Lifts a ban by :meth:`ban_peer`; a ban by the policy stays.

        Raises:
            InvalidAddress, StateError: as for :meth:`ban_peer`.
        """
        await self._parts.set_banned(PeerId.of(peer), False)

    @property
    def banned(self) -> frozenset[PeerId]:
        """The peers banned by :meth:`ban_peer`, by answers, or in the state file; bans of the policy are not among them."""
        self._parts.owner.check()
        return frozenset(self._parts.admission.banned)

    # -- names -----------------------------------------------------------------------------------

    def name_of(self, peer: PeerId | str) -> str | None:
        """What people are shown for ``peer``: its name in the policy, else its petname by :meth:`set_name`; None if it has no
        name. Names decide nothing.

        Raises:
            InvalidAddress: ``peer`` is not a peer id.
        """
        self._parts.owner.check()
        return self._parts.names.name_of(PeerId.of(peer))

    def set_name(self, peer: PeerId | str, name: str | None) -> None:
        """Gives ``peer`` a petname, which replaces the one before; None takes it away. With a state file, it is stored.

        Raises:
            InvalidAddress: ``peer`` is not a peer id.
            InvalidName: empty, not printable, with blanks around it, over 64 characters, a peer id, or begins with a slash, as
                addresses do; or it is the name of another peer, or differs from that in upper and lower case only.
        """
        self._parts.owner.check()
        peer = PeerId.of(peer)
        if name is not None:
            self._parts.names.check(peer, name)
        self._parts.set_name(peer, name)

    # -- seeing ----------------------------------------------------------------------------------

    @property
    def connections(self) -> tuple[ConnectionInfo, ...]:
        """All established connections."""
        self._parts.owner.check()
        return tuple(connection.info for connection in self._parts.swarm.connections) if self._parts.swarm else ()

    @property
    def relay_status(self) -> RelayStatus | None:
        """What this peer does and has done as a relay; None if it is none."""
        self._parts.owner.check()
        server = self._parts.relaying.server
        return server.status if server is not None else None

    def events(
        self,
        *,
        buffer: int = 256,
        when_full: Literal["drop_oldest", "drop_newest"] = "drop_oldest",
        decisions: bool = False,
        views: Callable[[Any], Any] | None = None,
    ) -> AsyncIterator[Event]:
        """An iterator over events from this call on, for ``async for``.

        ``buffer`` events wait for a slow reader, who must not stop the network. Beyond that, ``"drop_oldest"`` drops the oldest
        of the most frequent kind, so that a remote's do not push out rare ones. A :class:`Dropped` event counts them, where
        the first is missing.

        ``decisions`` adds, for an audit, a :class:`FirewallDecision` for each request, and a :class:`RequestHandled` for each
        inbound one that passed. ``views`` makes what the decision has as :attr:`~FirewallDecision.view`, of the request's view
        (see ``firewall_view``), when it is decided. Keep that small: it stays in the buffer.

        Raises:
            ValueError: ``buffer`` is below 1, ``when_full`` is unknown, or there are ``views`` without ``decisions``.
        """
        self._parts.owner.check()
        return self._parts.events.subscribe(
            EventReader(buffer, when_full, self._parts.owner, decisions=decisions, views=views)
        )

    # -- below requests --------------------------------------------------------------------------

    async def open_stream(self, to: PeerId | Multiaddr | str, protocol: str, *, timeout: float | None = None) -> Stream:
        """Opens a stream of a custom protocol, connecting if needed. It passes the firewall as a request does; its type is
        ``protocol``.

        ``timeout`` is in seconds (None: ``Config.request_timeout``), and includes an answer of the firewall. Negotiation is
        lazy: :class:`ProtocolNotSupported` is raised by the first read, or by ``stream.negotiated()``. So is
        :class:`StreamReset` if the remote's firewall rejects the stream.

        Raises:
            InvalidAddress, NotPermitted, DialError, ClosedError: as for :meth:`send_request`.
            ConnectionLost: the connection ended before the stream was open.
            RequestTimeout: the time is up; or the limit of streams on the connection was reached for longer than that.
        """
        swarm = self._parts.running()
        peer, address = self._target(to)
        connection = swarm.connection(peer)
        if connection is None and (refusal := self._parts.admission.refusal_of_peer(peer)):
            raise NotPermitted(peer, refusal)  # instead of a question about it
        return await self._parts.streams.open(
            peer,
            protocol,
            timeout=seconds(timeout, self._parts.config.request_timeout),
            connection=connection,
            connect=lambda deadline: self._parts.connect(peer, address, deadline),
        )

    def handle_stream(self, protocol: str, handler: Callable[[Stream], Awaitable[None]]) -> None:
        """Serves a custom protocol. Each stream passes the firewall as a request does: its type is ``protocol``, it has no
        view, and ``handler`` sees nothing of it before. One that is rejected is reset.

        ``handler`` runs as a task for each stream. The stream is closed when it returns, and reset on any exception; only
        KeyboardInterrupt ends the program.

        Raises:
            RuntimeError: the protocol already has a handler.
            ValueError: ``protocol`` is not a protocol id.
        """
        self._parts.owner.check()
        self._parts.handle_stream(protocol, handler)

"""StrongholdP2p: a peer, the object that a user holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import lru_cache
from types import TracebackType, UnionType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self
from weakref import WeakValueDictionary

from .addresses import AddressBook
from .codec import PROTOCOLS, CodecName, make_codec
from .config import Config
from .errors import ClosedError, InvalidAddress, RequestTimeout
from .events import ConnectionInfo, Direction, Event, EventHub, Listener
from .firewall import Firewall, FirewallRules, Rule
from .identity import Keypair, PeerId
from .multiaddr import Multiaddr
from .protocols import ping
from .requests import Request, Requester, Responder
from .swarm import Swarm, check_protocol_id
from .transport.connection import Connection
from .transport.stream import Stream

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Req = TypeVar("Req", default=Any)
    Res = TypeVar("Res", default=Any)
else:
    from typing import TypeVar

    Req = TypeVar("Req")
    Res = TypeVar("Res")

__all__ = ["StrongholdP2p"]

MAX_TIMEOUT: Final = 366 * 86_400.0
"""Seconds. Event loops overflow somewhere above."""


class StrongholdP2p(Generic[Req, Res]):
    """A peer: it sends requests to other peers and answers theirs, encrypted end to end, behind a firewall.

    Runs on the event loop that is running; use it with ``async with``, or :meth:`start` and :meth:`close`. Handlers,
    rules, bans and addresses may be set before; what needs the network raises :class:`ClosedError` outside of them.

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
    ) -> None:
        """
        Args:
            keypair: who we are; None makes a new Ed25519 identity.
            firewall: the rules to start with; None lets our own requests out and none in.
            config: limits and time limits; None takes the defaults.
            request_type: what requests are: anything that msgspec decodes, such as a Struct or a union of Structs;
                None for any JSON value.
            response_type: the same for responses.
            codec: how both are encoded: ``"json"``, ``"msgpack"`` or ``"raw"`` (bytes); one a peer, each has its own
                protocol id.
        """
        self._keypair = keypair or Keypair.generate()
        self._config = config or Config()
        self._firewall = Firewall(firewall or FirewallRules())
        self._events = EventHub()
        self._swarm: Swarm | None = None
        self._closed = False
        self._banned: set[PeerId] = set()
        self._pinging: WeakValueDictionary[PeerId, asyncio.Lock] = WeakValueDictionary()
        self._stream_handlers: dict[str, Callable[[Stream], Awaitable[None]]] = {}
        self._protocol = PROTOCOLS[codec]
        max_size: int = getattr(self._config, f"max_{codec}_message")
        requests = make_codec(codec, request_type, max_size=max_size)
        responses = make_codec(codec, response_type, max_size=max_size)
        self._requester: Requester[Req, Res] = Requester(
            self._protocol, requests, responses, self._firewall, text=codec == "json"
        )
        self._responder: Responder[Req, Res] = Responder(
            requests, responses, self._firewall, self._config, self._events.emit
        )
        self.addresses = AddressBook()
        """Where other peers can be dialled."""

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
        """
        if self._closed:
            raise ClosedError("the peer was closed: make another one")
        if self._swarm is not None:
            raise RuntimeError("the peer runs already")
        self._swarm = Swarm(
            self._keypair,
            self._config,
            banned=self._banned,
            permits=self._permits,
            emit=self._events.emit,
            learn=self.addresses.learn,
        )
        self._swarm.handle(self._protocol, self._responder.accept)
        for protocol, handler in self._stream_handlers.items():
            self._swarm.handle_coroutine(protocol, handler)

    async def close(self) -> None:
        """Ends everything in order: running requests may end within ``Config.close_timeout``, new ones are refused."""
        swarm, self._swarm, self._closed = self._swarm, None, True
        if swarm is not None:
            await swarm.close()
        self._responder.close()
        self._events.close()

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
            NotPermitted: our own firewall or a ban forbids it; nothing was sent or dialled.
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
        return await self._requester.request(
            peer,
            body,
            timeout=_seconds(timeout, self._config.request_timeout),
            connection=swarm.connection(peer),
            connect=lambda deadline: self._connect(peer, address, deadline),
        )

    async def connect(self, to: PeerId | Multiaddr | str, *, timeout: float | None = None) -> PeerId:
        """Connects to a peer, unless it is connected already.

        Raises:
            InvalidAddress, NotPermitted, DialError, ClosedError: as for :meth:`send_request`, but for the firewall,
                which guards requests.
        """
        peer, address = self._target(to)
        await self._connect(peer, address, _deadline(_seconds(timeout, self._config.connection_timeout)))
        return peer

    async def disconnect(self, peer: PeerId | str) -> None:
        """Closes every connection to ``peer``; what runs on them is lost."""
        await self._running().disconnect(_peer(peer))

    def is_connected(self, peer: PeerId | str) -> bool:
        """Whether there is a connection to ``peer``."""
        return self._running().connection(_peer(peer)) is not None

    async def ping(self, to: PeerId | Multiaddr | str, *, timeout: float | None = None) -> float:
        """The round-trip time to a peer in seconds, by libp2p's ping protocol; connects if need be.

        Raises:
            InvalidAddress, NotPermitted, DialError, ClosedError: as for :meth:`connect`.
            ProtocolNotSupported, StreamReset, RemoteProtocolError, ConnectionLost: the peer does not answer as it should.
            RequestTimeout: it does not answer in time (None: ``Config.request_timeout``).
        """
        seconds = _seconds(timeout, self._config.request_timeout)
        peer, _ = self._target(to)
        turn = self._pinging.setdefault(peer, asyncio.Lock())  # rust-libp2p serves one ping stream at a time
        try:
            async with (
                asyncio.timeout(seconds),
                turn,
                await self.open_stream(to, ping.PROTOCOL, timeout=seconds) as stream,
            ):
                return await ping.ping(stream)
        except TimeoutError:
            raise RequestTimeout(seconds, "ping") from None

    # -- answering -------------------------------------------------------------------------------

    def on_request(self, handler: Callable[[Request[Req]], Res | Awaitable[Res]]) -> Callable[[Request[Req]], Any]:
        """Has ``handler``, plain or async, answer requests by what it returns; use it as a decorator.

        If it raises, runs past ``Config.handler_timeout`` or returns what cannot be encoded, the request's stream is
        reset, a :class:`RequestFailed` event says why, and the log has the traceback. Without a handler or an iterator
        the protocol is not offered.

        Raises:
            RuntimeError: requests are answered already.
        """
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
        queue = self._responder.open_queue(buffer)
        self._offer_changed()
        return queue

    # -- listening -------------------------------------------------------------------------------

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """What we listen on, each with every address that it can be dialled at."""
        return self._swarm.listeners if self._swarm else ()

    async def listen(self, address: Multiaddr | str = "/ip4/127.0.0.1/tcp/0") -> Multiaddr:
        """Listens on ``address``; returns it as bound, ending in ``/p2p/<us>``. For a wildcard (0.0.0.0 or ::) that is
        the first real interface's; :attr:`listeners` has all.

        Raises:
            InvalidAddress: malformed, or of another peer.
            ListenError: in use, not an address of this machine, not permitted, or not TCP.
            ClosedError: we are not running.
        """
        return (await self._running().listen(self._own_address(address))).addresses[0]

    async def stop_listening(self, address: Multiaddr | str | None = None) -> None:
        """Stops listening on ``address``, as given to or returned by :meth:`listen`, or on all. Connections stay."""
        self._running().stop_listening(None if address is None else self._own_address(address))

    # -- the firewall ----------------------------------------------------------------------------

    def set_firewall_default(self, rule: Rule | None, *, direction: Direction = Direction.BOTH) -> None:
        """Sets the rule for peers without one of their own; None removes it. Takes effect at once."""
        self._firewall.set_default(rule, direction)
        self._offer_changed()

    def remove_firewall_default(self, *, direction: Direction = Direction.BOTH) -> None:
        """Removes the rule for peers without one of their own: their requests are rejected."""
        self.set_firewall_default(None, direction=direction)

    def set_peer_rule(self, peer: PeerId | str, rule: Rule, *, direction: Direction = Direction.BOTH) -> None:
        """Sets one peer's own rule. Takes effect at once."""
        peer = _peer(peer)
        self._firewall.set_peer_rule(peer, rule, direction)
        self._offer_changed(peer)

    def remove_peer_rule(self, peer: PeerId | str, *, direction: Direction = Direction.BOTH) -> None:
        """Removes one peer's own rule: the default applies to it."""
        peer = _peer(peer)
        self._firewall.set_peer_rule(peer, None, direction)
        self._offer_changed(peer)

    def get_firewall_config(self) -> FirewallRules:
        """The rules in force, as a copy."""
        return self._firewall.rules

    async def ban_peer(self, peer: PeerId | str) -> None:
        """Closes every connection to ``peer``; neither side can make one until :meth:`unban_peer`."""
        peer = _peer(peer)
        self._banned.add(peer)
        if self._swarm is not None:
            await self._swarm.disconnect(peer)

    async def unban_peer(self, peer: PeerId | str) -> None:
        """Lifts a ban."""
        self._banned.discard(_peer(peer))

    # -- seeing ----------------------------------------------------------------------------------

    @property
    def connections(self) -> tuple[ConnectionInfo, ...]:
        """All established connections."""
        return tuple(connection.info for connection in self._swarm.connections) if self._swarm else ()

    def events(
        self, *, buffer: int = 256, when_full: Literal["drop_oldest", "drop_newest"] = "drop_oldest"
    ) -> AsyncIterator[Event]:
        """What happens from this call on, for ``async for``. ``buffer`` events wait for a slow reader; what is dropped
        beyond that is counted in a :class:`Dropped` event. There is no blocking mode: a reader must not stop the network.
        """
        return self._events.subscribe(buffer, when_full)

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
        seconds = _seconds(timeout, self._config.request_timeout)
        deadline = _deadline(seconds)
        connection = await self._connect(peer, address, deadline)
        try:
            async with asyncio.timeout_at(deadline):
                return await connection.open_stream(protocol)
        except TimeoutError:
            raise RequestTimeout(seconds, "wait for a stream") from None

    def handle_stream(self, protocol: str, handler: Callable[[Stream], Awaitable[None]]) -> None:
        """Serves a protocol of one's own: ``handler`` runs as a task for each stream, which is closed when it returns
        and reset when it raises. The firewall does not guard it.

        Raises:
            RuntimeError: the protocol is served already.
            ValueError: ``protocol`` is no protocol id.
        """
        check_protocol_id(protocol)
        if protocol in self._stream_handlers or protocol == self._protocol:
            raise RuntimeError(f"{protocol} is served already")
        if self._swarm is not None:
            self._swarm.handle_coroutine(protocol, handler)
        self._stream_handlers[protocol] = handler
        self._offer_changed()

    # -- details ---------------------------------------------------------------------------------

    def _running(self) -> Swarm:
        if self._swarm is None:
            raise ClosedError
        return self._swarm

    def _permits(self, peer: PeerId, protocol: str) -> bool:
        """The firewall guards the request protocol alone. Nobody is offered what nobody answers."""
        return protocol != self._protocol or (self._responder.serving and self._firewall.permits_inbound(peer))

    def _offer_changed(self, peer: PeerId | None = None) -> None:
        if self._swarm is not None:
            self._swarm.push_identify(peer)

    def _target(self, to: PeerId | Multiaddr | str) -> tuple[PeerId, Multiaddr | None]:
        peer, address = _parse_target(to) if isinstance(to, str) else _split_target(to)
        if peer == self.peer_id:
            raise InvalidAddress(to, "it is our own")
        return peer, address

    async def _connect(self, peer: PeerId, address: Multiaddr | None, deadline: float) -> Connection:
        """A connection to ``peer`` before ``deadline`` (the loop's time); an address that led there is remembered."""
        swarm = self._running()
        addresses = self.addresses.get(peer) if address is None else (address,)
        connection = await swarm.connect(peer, addresses, deadline)
        if address is not None:
            self.addresses.add(address, peer)
        return connection

    def _own_address(self, address: Multiaddr | str) -> Multiaddr:
        if isinstance(address, str):
            address = Multiaddr.parse(address)
        if address.peer_id not in {None, self.peer_id}:
            raise InvalidAddress(address, "it is an address of another peer")
        return address if address.peer_id is None else address.without_peer()


def _seconds(timeout: float | None, default: float) -> float:
    if timeout is None:
        return default
    if not 0 <= timeout < MAX_TIMEOUT:
        raise ValueError(f"a timeout is a number of seconds from 0 to {MAX_TIMEOUT:,.0f}, not {timeout}")
    return timeout


def _deadline(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


def _peer(peer: PeerId | str) -> PeerId:
    return PeerId.parse(peer) if isinstance(peer, str) else peer


@lru_cache(maxsize=1024)
def _parse_target(text: str) -> tuple[PeerId, Multiaddr | None]:
    """The peer and address that ``text`` names; cached, since every request names its target again."""
    return _split_target(Multiaddr.parse(text) if text.startswith("/") else PeerId.parse(text))


def _split_target(to: PeerId | Multiaddr) -> tuple[PeerId, Multiaddr | None]:
    if isinstance(to, PeerId):
        return to, None
    if to.peer_id is None:
        raise InvalidAddress(to, "it names no peer: end it with /p2p/<peer id>")
    return to.peer_id, to.without_peer() if len(to.components) > 1 else None

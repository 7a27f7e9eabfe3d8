"""Services: protocols on every connection beside requests, such as identify and ping."""

from __future__ import annotations

import logging
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, TypeAlias

from ..config import Config
from ..errors import StrongholdError
from ..events import AddressOrigin
from ..identity import Keypair, PeerId
from ..logs import SparingLog
from ..loops import is_contained
from ..multiaddr import Multiaddr
from ..resources.memory import Memory
from ..resources.turns import Turns
from ..transport.connection import Connection
from ..transport.deadlines import Deadlines
from ..transport.pipe import BytePipe, PipeReceiver
from ..transport.stream import Stream
from ..transport.substream import Substream
from ..transport.transport import DirectDial, Transport
from ..wire import multistream
from ..wire.upgrade import Upgrade

if TYPE_CHECKING:
    from .identify import Identity

__all__ = [
    "OwnAddresses",
    "Service",
    "ServiceHost",
    "StreamHandler",
    "check_protocol_id",
    "in_task",
    "open_question",
    "serve",
]

logger = logging.getLogger("stronghold_p2p")

StreamHandler: TypeAlias = Callable[[Connection, Substream], None]
"""Gets an inbound stream in the same callback that completed its negotiation; must not raise."""

StreamCoroutine: TypeAlias = Callable[[Connection, Stream], Awaitable[None]]
"""Serves an inbound stream, which is closed when it returns and reset when it raises."""


class OwnAddresses(Protocol):
    """Our addresses, as seen by services; all are without our peer id."""

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """All of them, whoever can dial them."""

    @property
    def bound_addresses(self) -> tuple[Multiaddr, ...]:
        """Those that our listeners are bound to, wildcards as they are."""

    @property
    def direct(self) -> Mapping[Multiaddr, AddressOrigin]:
        """Where we may be dialed without a relay, and how we know of each address."""

    def map_listeners(self, external: Mapping[Multiaddr, Multiaddr]) -> None:
        """These addresses of a router lead to listeners of ours, by bound address; others do no more."""

    def set_reachable(self, reachable: frozenset[Multiaddr], unreachable: frozenset[Multiaddr]) -> None:
        """Of these, public remotes are told the ones that can be dialed, and not the others."""

    def leads_to(self, address: Multiaddr, connection: Connection) -> bool:
        """Whether a connection to ``address``, one of these, comes to the listener that ``connection`` has come
        by."""


class ServiceHost(Protocol):
    """The swarm, as seen by services."""

    keypair: Keypair
    config: Config
    deadlines: Deadlines
    closing: bool
    """It takes nothing new any more."""
    turns: Turns
    memory: Memory

    @property
    def own_addresses(self) -> OwnAddresses:
        """Which of our addresses can be dialed by whom."""

    def transport_for(self, peer: PeerId, address: Multiaddr) -> Transport | None:
        """What dials ``peer`` at ``address``; None if that is to be looked up first.

        Raises:
            NotPermitted: a policy refuses it.
            InvalidAddress: no transport supports it, or it is none to dial, such as one of ours.
        """

    @property
    def connected_peers(self) -> tuple[PeerId, ...]:
        """All peers with a connection."""

    def accept(self, pipe: BytePipe) -> PipeReceiver:
        """Takes a pipe by which a remote has come, and returns its receiver: the upgrade to a connection."""

    def connection(self, peer: PeerId) -> Connection | None:
        """The connection that new streams to ``peer`` use."""

    async def connect_directly(
        self, peer: PeerId, addresses: tuple[Multiaddr, ...], deadline: float, how: DirectDial
    ) -> Connection:
        """A direct connection to ``peer`` by ``deadline`` (the loop's time), beside a relayed one. Dials all ``addresses`` at
        once.

        Raises:
            ClosedError: we are closing.
            NotPermitted: the peer is banned, or a policy refuses it.
            DialError: no address led to the peer.
        """

    def found(self, peer: PeerId, addresses: Iterable[Multiaddr]) -> None:
        """``peer`` was heard of at these addresses, and at others before: dials to it by its id alone take them in, and
        connections to it are checked."""

    def told_to(self, connection: Connection) -> tuple[Multiaddr, ...]:
        """Those of our addresses that the remote may be able to dial, the best first."""

    def watch_network(self, who: object) -> None:
        """Watches the interfaces until :meth:`unwatch_network` for ``who``: :meth:`Service.network_changed` tells of changes.

        Raises:
            OSError: the interfaces cannot be listed.
        """

    def unwatch_network(self, who: object) -> None:
        """``who`` needs the watch no more."""

    def offered(self, peer: PeerId) -> tuple[str, ...]:
        """The protocols that ``peer`` may open now."""

    def identified(self, connection: Connection, identity: Identity) -> None:
        """The remote was identified, for the first time or again; the host notifies every service."""


class Service:
    """Protocols served to every peer, and callbacks for connections. A service overrides the methods that it needs. They
    are called on the event loop and must not raise."""

    protocols: Mapping[str, StreamHandler] = MappingProxyType({})
    """The handlers, by protocol id."""

    until_the_end = False
    """Whether they are offered while the host is closing, too, to say that nothing new begins."""

    host: ServiceHost

    def attach(self, host: ServiceHost) -> None:
        """Called once, before the first connection."""
        self.host = host

    def connected(self, connection: Connection) -> None:
        """A connection is established."""

    def identified(self, connection: Connection, identity: Identity) -> None:
        """The protocols and addresses of the remote are known."""

    def closed(self, connection: Connection) -> None:
        """A connection has ended, with all of its streams."""

    def offer_changed(self, peer: PeerId | None) -> None:
        """The protocols for ``peer`` (None: for all peers), or our listen addresses, have changed."""

    def refused(self, pipe: BytePipe, upgrade: Upgrade) -> Connection | None:
        """A peer has connected with whom there may be no connection. The service may make one of its own, which the host does
        not know of; by None, it is refused."""
        return None

    def network_changed(self) -> None:
        """The addresses of this machine's interfaces have changed; called while something watches them (see
        :meth:`ServiceHost.watch_network`). Connections from addresses that are gone are ending."""


def check_protocol_id(protocol: str) -> None:
    """Checks a protocol id.

    Raises:
        ValueError: ``protocol`` is not a protocol id.
    """
    if not protocol.startswith("/") or len(protocol.encode()) >= multistream.MAX_LINE or "\n" in protocol:
        raise ValueError(f"{protocol!r} is not a protocol id: one line of at most 1,023 bytes that begins with a slash")


async def open_question(connection: Connection, protocol: str) -> Stream:
    """A stream that does not count as work: we ask and tell everybody, also who never answers."""
    substream = await connection.open_substream(protocol)
    connection.is_question(substream)
    return Stream(substream)


def in_task(handler: StreamCoroutine) -> StreamHandler:
    """Runs ``handler`` as a task for each stream."""
    log_failure = SparingLog(logging.ERROR, "the handler of %r failed")

    async def run(connection: Connection, stream: Stream) -> None:
        await serve(stream, lambda: handler(connection, stream), connection.loop, log_failure)

    def accept(connection: Connection, substream: Substream) -> None:
        if connection.may_run_handler():
            connection.spawn(run(connection, Stream(substream)))
        else:
            substream.reset()

    return accept


async def serve(
    stream: Stream, handler: Callable[[], Awaitable[None]], loop: AbstractEventLoop, log_failure: SparingLog
) -> bool:
    """Runs ``handler``, after which ``stream`` is closed, or reset if it raises. Returns whether it ended well."""
    try:
        async with stream:
            await handler()
    except (StrongholdError, TimeoutError) as error:
        logger.debug("%r ended: %s", stream, error)
    except BaseException as error:
        if not is_contained(error, loop):
            raise
        log_failure.write(stream, exc_info=error)
    else:
        return True
    return False

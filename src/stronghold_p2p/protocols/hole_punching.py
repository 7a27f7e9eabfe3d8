"""From a relayed connection to a direct one: dialing back, and hole punching (libp2p/specs relay/DCUtR.md)."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from ..encoding import messages
from ..errors import DialError, NotPermitted, RemoteProtocolError, StrongholdError
from ..events import Direction, Event, HolePunchFailed, PathUpgraded
from ..identity import PeerId
from ..multiaddr import Multiaddr, readable
from ..resources.networks import networks_of
from ..resources.rates import Rate
from ..resources.shares import Shares
from ..transport.connection import Connection
from ..transport.stream import Stream
from ..transport.transport import DirectDial
from .framing import read, write
from .identify import Identity
from .service import Service, in_task, open_question

__all__ = ["PROTOCOL", "HolePunching"]

logger = logging.getLogger("stronghold_p2p")

PROTOCOL: Final = "/libp2p/dcutr"

ROUNDS: Final = 3
"""Of both ends dialing, as the specification has it. Of those that succeed, 97.6 % do so in the first (arXiv 2510.27500)."""

PAUSE: Final = 10.0
"""Seconds between two rounds: what a router remembers of a failure, such as a mapping that a reset has closed, has gone by
then, and a wait costs nothing while the relayed path serves."""

DIAL_TIMEOUT: Final = 5.0
"""Seconds of a dial, in which the system sends three times. js-libp2p gives a whole round no more, go-libp2p 10 s."""

EXCHANGE_TIMEOUT: Final = 15.0
"""Seconds of the messages of a round: those of rust-libp2p have 10, of go-libp2p 60."""

RELAY_TIMEOUT: Final = 2.0
"""Seconds until the relay has said where it sees us, which may be after the circuit through it stands: js-libp2p gives a whole
round 5 s."""

RETRY_AFTER: Final = 300.0
"""Seconds after the last attempt until another connection of the same peer begins anew. Its NAT is the same until then."""

MAX_FAILED: Final = 1024
"""Peers of which that is remembered, the latest ones."""

MAX_ADDRESSES: Final = 8
"""Addresses that are told and dialed. All are dialed at once, as many as ``Config.max_dials_per_peer``; a peer has one or two
of each family. Whoever comes by a relay can have us knock at these doors."""

MAX_UPGRADES: Final = 32
"""Peers, reached through relays, that are dialed at once. For one more, the oldest of the relay with the most is given up, and
stays with its relay: strangers who lead us nowhere take a minute each, and would else hold all places. As many of one relay's
network are begun in the time of a dial, so that those who come again and again have us dial no more than these."""

STREAM_FRAMES: Final = 32
"""What a stream of ours costs a remote, in frames without a payload: it has us dial. The same as for a relay."""


class MessageType(enum.IntEnum):
    """The types of a HolePunch message."""

    CONNECT = 100
    SYNC = 300


class HolePunching(Service):
    """Replaces relayed connections by direct ones.

    The end to which the other has come by a relay begins: it dials the addresses that the other has told, and then asks for a
    simultaneous dial, up to :data:`ROUNDS` times. New streams use a direct connection as soon as it stands, whoever made it.
    The relayed one is drained when both ends know of it.

    ``candidates`` gives the addresses at which we may be reached directly, the best first; ``dialable`` says which addresses
    of strangers may be dialed; ``permits`` whether there may be a direct connection with a peer that has come by a relay
    (INBOUND), or to which we have come (OUTBOUND). ``pause`` and ``dial_timeout`` are in seconds.
    """

    def __init__(
        self,
        *,
        candidates: Callable[[], tuple[Multiaddr, ...]],
        dialable: Callable[[Multiaddr], bool],
        permits: Callable[[PeerId, Direction], bool],
        emit: Callable[[Event], None],
        pause: float = PAUSE,
        dial_timeout: float = DIAL_TIMEOUT,
    ) -> None:
        self.protocols = {PROTOCOL: in_task(self._serve)}
        self._candidates = candidates
        self._dialable = dialable
        self._permits = permits
        self._emit = emit
        self._pause = pause
        self._dial_timeout = dial_timeout
        self._relayed: dict[PeerId, list[Connection]] = {}
        """The connections through relays."""
        self._begun: dict[PeerId, _Upgrade] = {}
        """Those that we have begun, the last one of each peer."""
        self._tasks: set[asyncio.Task[None]] = set()
        """What dials for these."""
        self._places: Shares[asyncio.Task[None]] = Shares()
        """Those that were not given up, by the network of the relay."""
        self._rate = Rate(MAX_UPGRADES, dial_timeout)
        """By the network of the relay."""
        self._joined: dict[PeerId, _Upgrade] = {}
        """Those of connections on which the remote has begun."""
        self._unidentified: dict[Connection, asyncio.Future[None]] = {}
        """Direct ones whose remote has not said yet where it sees us: done when it has, or never will."""
        self._again_at: dict[PeerId, float] = {}
        """When to begin again at the earliest, in the loop's time, with whom it has failed; the oldest first."""
        self._hopeless: set[Connection] = set()
        """Relayed ones, of which it was told that nothing can be tried."""
        self._closed = False

    async def close(self) -> None:
        """Begins nothing more, and ends what has begun."""
        self._closed = True
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- as a service ----------------------------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        peer = connection.peer
        if connection.path.relay is not None:
            self._relayed.setdefault(peer, []).append(connection)
            return
        self._unidentified[connection] = connection.loop.create_future()
        if not (self._relayed or self._begun or self._joined) or self.host.connection(peer) is not connection:
            return  # nobody has come by a relay, or there was a direct one already
        before = [relayed.path for relayed in self._relayed.get(peer, ()) if relayed.usable]
        for upgrade in (self._begun.get(peer), self._joined.pop(peer, None)):
            if upgrade is not None and not upgrade.direct.done():
                upgrade.direct.set_result(None)
                before.append(upgrade.relayed.path)  # js-libp2p may have closed it already
        if before:
            self._emit(PathUpgraded(connection.info, before[0]))

    def identified(self, connection: Connection, identity: Identity) -> None:
        peer = connection.peer
        if connection.path.relay is None:
            self._answered(connection)
            # Not before: until the remote has said something on it, it may not know of it, and send requests on the others.
            for relayed in self._relayed.get(peer, ()):
                relayed.drain()
        elif connection.direction is Direction.INBOUND and self._may_begin(connection):
            self._begin(connection, identity.listen_addresses)

    def closed(self, connection: Connection) -> None:
        if connection.path.relay is None:
            self._answered(connection)
            return
        peer = connection.peer
        relayed = self._relayed[peer]
        relayed.remove(connection)
        if not relayed:
            del self._relayed[peer]
        joined = self._joined.get(peer)
        if joined is not None and joined.relayed is connection:
            del self._joined[peer]
        self._hopeless.discard(connection)

    def _answered(self, connection: Connection) -> None:
        waiting = self._unidentified.pop(connection, None)
        if waiting is not None:
            waiting.set_result(None)

    def network_changed(self) -> None:
        self._again_at.clear()

    # -- the end to which the other has come -----------------------------------------------------

    def _may_begin(self, connection: Connection) -> bool:
        peer = connection.peer
        begun = self._begun.get(peer)
        return (
            not self._closed
            and (begun is None or begun.relayed.closing)
            and connection.loop.time() >= self._again_at.get(peer, 0.0)
            and not self._is_direct(peer)
            and self._permits(peer, Direction.INBOUND)
        )

    def _begin(self, connection: Connection, listen_addresses: Iterable[Multiaddr]) -> None:
        peer = connection.peer
        told = self._usable(peer, listen_addresses)
        obstacle = self._obstacle(connection)
        if told or obstacle is None:
            networks, now = networks_of(connection.remote_address), connection.loop.time()
            if not self._rate.has(networks[0], now):
                return  # it stays with its relay
            self._rate.take(networks[0], now)
            before, upgrade = self._begun.get(peer), _Upgrade(connection)
            if before is not None and before.task is not None:
                self._give_up(before.task)  # else who comes again and again would add to one dial without end
            if len(self._places) >= MAX_UPGRADES:
                self._give_up(next(self._places.largest()))
            self._begun[peer] = upgrade
            # Not one of the connection's tasks: it may end when the direct one is about to stand.
            upgrade.task = task = connection.loop.create_task(self._upgrade(upgrade, told, 0 if obstacle else ROUNDS))
            self._tasks.add(task)
            self._places.add(networks, task)
            task.add_done_callback(partial(self._ended, upgrade))
        elif connection not in self._hopeless:
            self._hopeless.add(connection)
            error = DialError(peer, reason=f"it has told no public address, and {obstacle}")
            self._emit(HolePunchFailed(peer, error, attempt=0, last=True))

    def _give_up(self, task: asyncio.Task[None]) -> None:
        self._places.discard(task)
        task.cancel()

    def _ended(self, upgrade: _Upgrade, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._places.discard(task)
        if self._begun.get(upgrade.peer) is upgrade:  # else the peer has come anew
            del self._begun[upgrade.peer]

    def _obstacle(self, connection: Connection) -> str | None:
        """Why no hole can be punched."""
        if not connection.serves(PROTOCOL):
            return f"does not offer {PROTOCOL}"
        return None if self._candidates() else "we know no public address of ours"

    async def _upgrade(self, upgrade: _Upgrade, told: tuple[Multiaddr, ...], rounds: int) -> None:
        for attempt in range(0 if told else 1, rounds + 1):
            if attempt > 1:
                await upgrade.pause(self._pause)
            if upgrade.is_over or not self._is_permitted(upgrade):
                break
            try:
                if attempt == 0:
                    await self._dial(upgrade, told, DirectDial.BACK)
                else:
                    await self._punch(upgrade)
            except (StrongholdError, TimeoutError) as error:
                self._attempt_failed(upgrade, error, attempt, last=attempt == rounds)

    async def _punch(self, upgrade: _Upgrade) -> None:
        """One round."""
        loop = upgrade.relayed.loop
        async with asyncio.timeout(EXCHANGE_TIMEOUT), await open_question(upgrade.relayed, PROTOCOL) as stream:
            await stream.negotiated()  # no part of the round trip
            sent = loop.time()
            await self._tell(stream)
            addresses = await self._read_addresses(stream)
            half = (loop.time() - sent) / 2
            await write(stream, messages.HolePunch(type=MessageType.SYNC))
        await asyncio.sleep(half)
        await self._dial_both(upgrade, addresses, DirectDial.RESPONDER)

    # -- the end that has come -------------------------------------------------------------------

    async def _serve(self, connection: Connection, stream: Stream) -> None:
        connection.charge(STREAM_FRAMES)
        upgrade = self._join(connection)
        upgrade.joined += 1
        attempt = upgrade.joined
        upgrade.is_joining = True
        try:
            async with asyncio.timeout(EXCHANGE_TIMEOUT):
                addresses = await self._read_addresses(stream)
                await self._relay_identified(connection)
                await self._tell(stream)
                message = await read(stream, messages.HolePunch)
                if message.type != MessageType.SYNC:
                    raise RemoteProtocolError(PROTOCOL, f"expected SYNC, got a message of type {message.type}")
            await stream.close()
            await self._dial_both(upgrade, addresses, DirectDial.INITIATOR)
        except (StrongholdError, TimeoutError) as error:
            self._attempt_failed(upgrade, error, attempt, last=attempt == ROUNDS)
            raise
        finally:
            upgrade.is_joining = False

    async def _relay_identified(self, circuit: Connection) -> None:
        """Waits for what the relay says of our address, in case that we know none."""
        waiting = [future for one, future in self._unidentified.items() if one.peer == circuit.path.relay]
        if waiting and not self._candidates():
            await asyncio.wait(waiting, timeout=RELAY_TIMEOUT)

    def _join(self, connection: Connection) -> _Upgrade:
        """Raises RemoteProtocolError if it is not for the remote to begin."""
        peer = connection.peer
        if connection.path.relay is None or connection.direction is not Direction.OUTBOUND:
            raise RemoteProtocolError(PROTOCOL, "it is for who was reached by a relay to begin")
        if self._is_direct(peer) or not self._permits(peer, Direction.OUTBOUND):
            raise RemoteProtocolError(PROTOCOL, "there is, or may be, no direct connection")
        upgrade = self._joined.get(peer)
        if upgrade is None:
            upgrade = self._joined[peer] = _Upgrade(connection)
        if upgrade.relayed is not connection or upgrade.is_joining or upgrade.joined >= ROUNDS:
            raise RemoteProtocolError(PROTOCOL, f"one round at a time, and {ROUNDS} at most")
        return upgrade

    # -- both ------------------------------------------------------------------------------------

    async def _dial(self, upgrade: _Upgrade, addresses: tuple[Multiaddr, ...], how: DirectDial) -> None:
        """Raises StrongholdError."""
        if not self._is_permitted(upgrade):
            raise NotPermitted(upgrade.peer, "the rules have changed")
        if not addresses:
            raise DialError(upgrade.peer, reason="it has told no public address")
        deadline = upgrade.relayed.loop.time() + self._dial_timeout
        await self.host.connect_directly(upgrade.peer, addresses, deadline, how)

    async def _dial_both(self, upgrade: _Upgrade, addresses: tuple[Multiaddr, ...], how: DirectDial) -> None:
        """Dials while the other end does; raises StrongholdError unless either has made a connection in time."""
        deadline = upgrade.relayed.loop.time() + self._dial_timeout
        try:
            await self._dial(upgrade, addresses, how)
        except StrongholdError:
            if not await upgrade.is_direct_by(deadline):
                raise

    def _attempt_failed(self, upgrade: _Upgrade, error: Exception, attempt: int, *, last: bool) -> None:
        peer = upgrade.peer
        if isinstance(error, TimeoutError):
            error = TimeoutError(f"no answer on {PROTOCOL} within {EXCHANGE_TIMEOUT:g} s")
        logger.debug("no direct path to %s at attempt %d: %s", peer, attempt, error)
        if upgrade.is_over:
            return  # there is a direct connection, or none at all
        if last:
            self._again_at.pop(peer, None)
            self._again_at[peer] = upgrade.relayed.loop.time() + RETRY_AFTER
            if len(self._again_at) > MAX_FAILED:
                del self._again_at[next(iter(self._again_at))]
        self._emit(HolePunchFailed(peer, error, attempt, last))

    def _is_permitted(self, upgrade: _Upgrade) -> bool:
        """Still: rules may change at any time."""
        return self._permits(upgrade.peer, upgrade.relayed.direction)

    def _is_direct(self, peer: PeerId) -> bool:
        connection = self.host.connection(peer)
        return connection is not None and connection.path.relay is None

    async def _tell(self, stream: Stream) -> None:
        """Where we may be reached."""
        addresses = self._candidates()[:MAX_ADDRESSES]
        await write(stream, messages.HolePunch(type=MessageType.CONNECT, ObsAddrs=map(bytes, addresses)))

    async def _read_addresses(self, stream: Stream) -> tuple[Multiaddr, ...]:
        """Where the other end may be reached. Some may be unreadable, or none of ours to dial."""
        message = await read(stream, messages.HolePunch)
        if message.type != MessageType.CONNECT:
            raise RemoteProtocolError(PROTOCOL, f"expected CONNECT, got a message of type {message.type}")
        return self._usable(stream.peer, readable(message.ObsAddrs))

    def _usable(self, peer: PeerId, addresses: Iterable[Multiaddr]) -> tuple[Multiaddr, ...]:
        """Those that may be dialed, without the peer's id."""
        whole = [one for one in addresses if one.components[0][0] != "p2p" and one.peer_id in {None, peer}]
        own = dict.fromkeys(one.without_peer() for one in whole)
        return tuple(one for one in own if self._dialable(one))[:MAX_ADDRESSES]


class _Upgrade:
    """Of one relayed connection."""

    __slots__ = ("direct", "is_joining", "joined", "relayed", "task")

    def __init__(self, relayed: Connection) -> None:
        self.relayed = relayed
        self.direct: asyncio.Future[None] = relayed.loop.create_future()
        """Done when there is a direct connection."""
        self.task: asyncio.Task[None] | None = None
        """What dials, if we have begun."""
        self.joined = 0
        """Rounds, if the remote has."""
        self.is_joining = False
        """One is under way."""

    @property
    def peer(self) -> PeerId:
        return self.relayed.peer

    @property
    def is_over(self) -> bool:
        """There is a direct connection, or the relayed one has ended."""
        return self.direct.done() or self.relayed.closing

    async def pause(self, seconds: float) -> None:
        """Until it is over, at most."""
        await asyncio.wait((self.direct, self.relayed.closed), timeout=seconds)

    async def is_direct_by(self, deadline: float) -> bool:
        """Waits for a direct connection, until ``deadline`` in the loop's time."""
        await asyncio.wait((self.direct,), timeout=deadline - self.relayed.loop.time())
        return self.direct.done()

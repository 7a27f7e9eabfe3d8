"""The relay (libp2p/specs relay/circuit-v2.md, "Hop Protocol"): reservations, and circuits to who has one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final, NamedTuple

from ...encoding import messages
from ...errors import DecodeError, RemoteProtocolError, StrongholdError
from ...events import PathLimits
from ...firewall.admission import Admission
from ...identity import PeerId
from ...logs import SparingLog
from ...loops import expire
from ...resources.networks import Networks, networks_of
from ...resources.rates import Rate
from ...resources.shares import Shares
from ...transport.connection import Connection
from ...transport.stream import Stream
from ..framing import read, write
from ..service import Service, in_task
from .circuit import Circuit
from .limits import RelayServer
from .message import HOP, STOP, HopType, Status, StopType, encode_limits
from .places import Place, Places
from .status import RelayStatus
from .voucher import Voucher

__all__ = ["RelayService"]

logger = logging.getLogger("stronghold_p2p")
log_refusal = SparingLog(logging.WARNING, "as a relay, refused a %s of %s: %s")

TIMEOUT: Final = 30.0
"""Seconds of one exchange, without the circuit: go-libp2p's has 60, js-libp2p's 30."""

STOP_TIMEOUT: Final = 20.0
"""Seconds of those for the target of a circuit, so that the dialer hears of its silence."""

STREAMS_BESIDE: Final = 8
"""Streams that we may open to the target of circuits for anything else. A peer of another kind takes 32 at once, and a circuit
that waited for one would push out no other."""

HOP_FRAMES: Final = 32
"""What a stream of ours costs a remote, in frames without a payload: it takes a signature, or a stream to another peer.
Dozens at once, and a few a second, are enough for a peer."""


class RelayService(Service):
    """Serves the hop protocol within the limits of ``server``, to whom that and ``policy`` allow.

    A reservation belongs to the connection on which it was made, and ends with it. ``limit_reached`` takes the limits that
    are, and the networks of who has reached them. ``clock`` gives seconds since the epoch.
    """

    until_the_end = True

    def __init__(
        self,
        server: RelayServer,
        policy: Admission,
        limit_reached: Callable[[str, Networks], None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.protocols = {HOP: in_task(self._serve)}
        self.server = server
        self._policy = policy
        self._limit_reached = limit_reached
        self._clock = clock
        self._reservations: dict[PeerId, tuple[Connection, asyncio.TimerHandle]] = {}
        """Each with what ends it in time."""
        self._networks: Shares[PeerId] = Shares()
        """The peers of those."""
        self._reservation_rates = _Rates(
            "max_reservations_per_minute",
            server.max_reservations_per_minute_per_peer,
            server.max_reservations_per_minute_per_network,
        )
        self._places = Places(server, self._reached)
        """Of circuits."""
        self._open: dict[Place, Circuit] = {}
        """Those that are made."""
        self._circuit_rates = _Rates(
            "max_circuits_per_minute",
            server.max_circuits_per_minute_per_peer,
            server.max_circuits_per_minute_per_network,
        )
        self._reservations_made = 0
        self._circuits_made = 0
        self._forwarded = 0
        """Bytes of the circuits that have ended."""
        self._refusals: Counter[str] = Counter()

    @property
    def reservations(self) -> int:
        """Those in force."""
        return len(self._reservations)

    @property
    def circuits(self) -> int:
        """Those open, and those that are being made."""
        return len(self._places)

    @property
    def status(self) -> RelayStatus:
        """What it does now, and has done so far."""
        open_now = sum(circuit.forwarded for circuit in self._open.values())
        return RelayStatus(
            reservations=self.reservations,
            circuits=self.circuits,
            reservations_made=self._reservations_made,
            circuits_made=self._circuits_made,
            bytes=self._forwarded + open_now,
            refusals=self._refusals,
        )

    def policy_changed(self) -> None:
        """Ends the reservations and circuits of whom they are no longer allowed, and those that are being made."""
        for peer in [peer for peer in self._reservations if not self._may_reserve(peer)]:
            self._take_back(peer)
        for place in list(self._places):
            if not self._allows(place):
                place.lose()

    # -- as a service ----------------------------------------------------------------------------

    def closed(self, connection: Connection) -> None:
        reservation = self._reservations.get(connection.peer)
        if reservation is not None and reservation[0] is connection:
            self._end_reservation(connection.peer)

    # -- hop -------------------------------------------------------------------------------------

    async def _serve(self, connection: Connection, stream: Stream) -> None:
        connection.charge(HOP_FRAMES)
        async with asyncio.timeout(TIMEOUT):
            try:
                message = await read(stream, messages.HopMessage)
            except RemoteProtocolError:
                await self._refuse(connection, stream, "message", _Refusal(Status.MALFORMED_MESSAGE))
                return
            if message.type == HopType.RESERVE:
                await self._reserve(connection, stream)
            elif message.type == HopType.CONNECT:
                await self._connect(connection, stream, message)
            else:
                await self._refuse(connection, stream, "message", _Refusal(Status.UNEXPECTED_MESSAGE))

    async def _refuse(self, connection: Connection, stream: Stream, what: str, refusal: _Refusal) -> None:
        status, limit = refusal
        self._refusals[f"{what}: {limit or status.name}"] += 1
        if limit:
            self._reached(limit, networks_of(connection.remote_address))
        else:
            log_refusal.write(what, connection.peer, status.name)
        await write(stream, messages.HopMessage(type=HopType.STATUS, status=status))

    def _reached(self, limit: str, networks: Networks) -> None:
        self._limit_reached(f"RelayServer.{limit}", networks)

    # -- reservations ----------------------------------------------------------------------------

    async def _reserve(self, connection: Connection, stream: Stream) -> None:
        refusal = self._check_reservation(connection)
        if refusal is not None:
            await self._refuse(connection, stream, "reservation", refusal)
            return
        peer, ttl = connection.peer, self.server.reservation_ttl
        self._reservation_rates.take(connection)
        if peer in self._reservations:
            self._reservations[peer][1].cancel()  # it is renewed
        else:
            connection.hold()
            self._reservations_made += 1
        self._reservations[peer] = connection, connection.loop.call_later(ttl, self._end_reservation, peer)
        expires = int(self._clock() + ttl)
        reservation = messages.CircuitReservation(
            expire=expires,
            addrs=[
                bytes(address.with_peer(self.host.keypair.peer_id))
                for address in self.host.told_to(connection)
                if not address.is_relayed  # a circuit leads over one relay
            ],
            voucher=Voucher(self.host.keypair.peer_id, peer, expires).seal(self.host.keypair),
        )
        await write(
            stream,
            messages.HopMessage(
                type=HopType.STATUS,
                status=Status.OK,
                reservation=reservation,
                limit=encode_limits(self.server.limits(peer)),
            ),
        )

    def _check_reservation(self, connection: Connection) -> _Refusal | None:
        if connection.path.relay is not None or not self._may_reserve(connection.peer):
            return _Refusal(Status.PERMISSION_DENIED)
        if self.host.closing:
            return _Refusal(Status.RESERVATION_REFUSED)
        limit = self._reservation_rates.exceeded(connection) or self._make_room(connection)
        return _Refusal(Status.RESERVATION_REFUSED, limit) if limit else None

    def _make_room(self, connection: Connection) -> str:
        """For a reservation; the limit that leaves none, if one does. When there is none, the largest network's newest gives
        way: an attacker with many networks takes no more than each of them may have beside the others."""
        peer, server = connection.peer, self.server
        before = self._reservations[peer][0] if peer in self._reservations else None
        if before is connection:
            return ""
        network = _network_of(connection)
        of_others = self._networks.used_by(network) - (before is not None and _network_of(before) == network)
        if of_others >= server.max_reservations_per_network:
            return "max_reservations_per_network"  # what it has elsewhere, it keeps
        if before is not None:
            self._end_reservation(peer)
        self._networks.add(network, peer)
        if len(self._networks) > server.max_reservations:
            excess = self._networks.newest_of_largest()
            if excess == peer:
                self._networks.discard(peer)
                return "max_reservations"
            loser = self._take_back(excess)
            self._reached("max_reservations", networks_of(loser.remote_address))
        return ""

    def _may_reserve(self, peer: PeerId) -> bool:
        return _is_in(self.server.reserve, peer) and self._policy.may_reserve(peer)

    def _take_back(self, peer: PeerId) -> Connection:
        """Ends a reservation before its time, and as soon as it is quiet the connection: so the peer learns of it."""
        connection, _ = self._reservations[peer]
        self._end_reservation(peer)
        connection.drain()
        return connection

    def _end_reservation(self, peer: PeerId) -> None:
        connection, timer = self._reservations.pop(peer)
        timer.cancel()
        self._networks.discard(peer)
        connection.hold(False)

    # -- circuits --------------------------------------------------------------------------------

    async def _connect(self, connection: Connection, stream: Stream, message: messages.HopMessage) -> None:
        try:
            target = PeerId.from_bytes(message.peer.id)
        except DecodeError:
            await self._refuse(connection, stream, "circuit", _Refusal(Status.MALFORMED_MESSAGE))
            return
        source = connection.peer
        place = Place(source, target)
        refusal = self._check_circuit(connection, place)
        if refusal is not None:
            await self._refuse(connection, stream, "circuit", refusal)
            return
        limits = self.server.limits(source, target)
        self._circuit_rates.take(connection)
        circuit = None
        try:
            stop = await self._stop(self._reservations[target][0], place, limits)
            if stop is None:
                if not self._allows(place):
                    failure = Status.PERMISSION_DENIED
                else:
                    failure = Status.RESOURCE_LIMIT_EXCEEDED if place.lost else Status.CONNECTION_FAILED
                await self._refuse(connection, stream, "circuit", _Refusal(failure))
                return
            async with stop:
                answer = messages.HopMessage(type=HopType.STATUS, status=Status.OK, limit=encode_limits(limits))
                await write(stream, answer)
                circuit = Circuit(stream, stop, limits, partial(self._ended, place))
                self._circuits_made += 1
                if place in self._places:
                    self._open[place] = circuit
                else:  # it has ended at once
                    self._forwarded += circuit.forwarded
                place.held_by(circuit.end)
        finally:
            if circuit is None:
                self._places.free(place)

    def _check_circuit(self, connection: Connection, place: Place) -> _Refusal | None:
        """In go-libp2p's order, which tells nobody of a reservation who may not know of it. Takes the place if it may be."""
        source, target = place.source, place.target
        if connection.path.relay is not None or source == target or not self._may_connect(source):
            return _Refusal(Status.PERMISSION_DENIED)
        if target not in self._reservations:
            return _Refusal(Status.NO_RESERVATION)
        if self.host.closing:
            return _Refusal(Status.RESOURCE_LIMIT_EXCEEDED)
        networks = networks_of(connection.remote_address)
        most = self._reservations[target][0].max_outbound_streams - STREAMS_BESIDE
        limit = self._circuit_rates.exceeded(connection) or self._places.take(networks, place, most)
        return _Refusal(Status.RESOURCE_LIMIT_EXCEEDED, limit) if limit else None

    async def _stop(self, connection: Connection, place: Place, limits: PathLimits | None) -> Stream | None:
        """A stream on which the target has agreed to the circuit; None if it has not, or not in time, or the place is lost."""
        connect = messages.StopMessage(
            type=StopType.CONNECT, peer=messages.CircuitPeer(id=place.source.to_bytes()), limit=encode_limits(limits)
        )
        stream = None
        agreed = False
        try:
            async with asyncio.timeout(STOP_TIMEOUT) as timeout:
                place.held_by(partial(expire, timeout))
                stream = await connection.open_stream(STOP)
                await write(stream, connect)
                answer = await read(stream, messages.StopMessage)
            agreed = answer.type == StopType.STATUS and answer.status == Status.OK
        except (StrongholdError, TimeoutError) as error:
            logger.debug("the target of a circuit, %s, did not agree: %s", connection.peer, error)
        finally:
            place.held_by(None)
            if stream is not None and not agreed:
                stream.reset()
        return stream if agreed else None

    def _allows(self, place: Place) -> bool:
        return self._may_connect(place.source) and self._may_reserve(place.target)

    def _may_connect(self, peer: PeerId) -> bool:
        return _is_in(self.server.connect, peer) and self._policy.may_connect(peer)

    def _ended(self, place: Place) -> None:
        self._places.free(place)
        circuit = self._open.pop(place, None)
        if circuit is not None:
            self._forwarded += circuit.forwarded


class _Refusal(NamedTuple):
    """Why something is refused."""

    status: Status
    limit: str = ""
    """The field of RelayServer that is reached, if one is."""


class _Rates:
    """How often each peer, and each network, may have something; ``limit`` is what the fields of both begin with."""

    def __init__(self, limit: str, per_peer: int, per_network: int) -> None:
        self._limit = limit
        self._peers = Rate(per_peer)
        self._networks = Rate(per_network)

    def exceeded(self, connection: Connection) -> str:
        """The limit that its remote has reached; empty: none."""
        now = connection.now()
        if not self._peers.has(connection.peer, now):
            return f"{self._limit}_per_peer"
        return "" if self._networks.has(_network_of(connection), now) else f"{self._limit}_per_network"

    def take(self, connection: Connection) -> None:
        """Its remote has one more."""
        now = connection.now()
        self._peers.take(connection.peer, now)
        self._networks.take(_network_of(connection), now)


def _network_of(connection: Connection) -> Networks:
    """An IPv4 address, or an IPv6 /48."""
    return networks_of(connection.remote_address)[:1]


def _is_in(peers: AbstractSet[PeerId] | None, peer: PeerId) -> bool:
    return peers is None or peer in peers

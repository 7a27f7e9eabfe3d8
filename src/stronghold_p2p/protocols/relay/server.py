"""The relay (libp2p/specs relay/circuit-v2.md, "Hop Protocol"): reservations, and circuits to who has one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final, NamedTuple, Protocol

from ...encoding import messages
from ...errors import RemoteProtocolError, StrongholdError
from ...events import PathLimits
from ...identity import PeerId
from ...logs import SparingLog
from ...resources.networks import Networks, networks_of
from ...resources.rates import Rate
from ...resources.shares import Shares
from ...transport.connection import Connection
from ...transport.stream import Stream
from ..framing import read, write
from ..service import Service, in_task
from .circuit import Circuit
from .limits import RelayServer
from .message import HOP, STOP, HopType, Status, StopType, encode_limits, read_peer
from .status import RelayStatus
from .voucher import Voucher

__all__ = ["RelayService"]

logger = logging.getLogger("stronghold_p2p")
log_refusal = SparingLog(logging.WARNING, "as a relay, refused a %s of %s: %s")

TIMEOUT: Final = 30.0
"""Seconds of one exchange, without the circuit: go-libp2p's has 60, js-libp2p's 30."""

STOP_TIMEOUT: Final = 20.0
"""Seconds of those for the target of a circuit, so that the dialer hears of its silence."""

HOP_FRAMES: Final = 32
"""What a stream of ours costs a remote, in frames without a payload: it takes a signature, or a stream to another peer.
Dozens at once, and a few a second, are enough for a peer."""


class Permits(Protocol):
    """What a policy says of a relay."""

    def may_reserve(self, peer: PeerId) -> bool:
        """Whether ``peer`` may reserve, and so be reached."""

    def may_connect(self, peer: PeerId) -> bool:
        """Whether ``peer`` may connect to who has reserved."""


class RelayService(Service):
    """Serves the hop protocol within the limits of ``server``, to whom that and ``policy`` allow.

    A reservation belongs to the connection on which it was made, and ends with it. ``limit_reached`` takes the limits that
    are, and the networks of who has reached them. ``clock`` gives seconds since the epoch.
    """

    until_the_end = True

    def __init__(
        self,
        server: RelayServer,
        policy: Permits,
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
        self._circuits: set[_Entry] = set()
        """Those that are being made, too."""
        self._circuits_of: Counter[PeerId] = Counter()
        """Their number by peer, at either end."""
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
        return len(self._circuits)

    @property
    def status(self) -> RelayStatus:
        """What it does now, and has done so far."""
        open_now = sum(entry.circuit.forwarded for entry in self._circuits if entry.circuit is not None)
        return RelayStatus(
            reservations=self.reservations,
            circuits=self.circuits,
            reservations_made=self._reservations_made,
            circuits_made=self._circuits_made,
            bytes=self._forwarded + open_now,
            refusals=self._refusals,
        )

    def policy_changed(self) -> None:
        """Ends the reservations and circuits of whom they are no longer allowed."""
        for peer in [peer for peer in self._reservations if not self._may_reserve(peer)]:
            self._end_reservation(peer)
        for entry in list(self._circuits):
            if entry.circuit is not None and not (self._may_connect(entry.source) and self._may_reserve(entry.target)):
                entry.circuit.end()

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
            self._limit_reached(f"RelayServer.{limit}", networks_of(connection.remote_address))
        else:
            log_refusal.write(what, connection.peer, status.name)
        await write(stream, messages.HopMessage(type=HopType.STATUS, status=status))

    # -- reservations ----------------------------------------------------------------------------

    async def _reserve(self, connection: Connection, stream: Stream) -> None:
        refusal = self._check_reservation(connection)
        if refusal is not None:
            await self._refuse(connection, stream, "reservation", refusal)
            return
        peer, ttl = connection.peer, self.server.reservation_ttl
        self._reservation_rates.take(connection)
        if peer in self._reservations:
            self._end_reservation(peer)
        else:
            self._reservations_made += 1
        self._reservations[peer] = connection, connection.loop.call_later(ttl, self._end_reservation, peer)
        connection.hold()
        self._networks.add(_network_of(connection), peer)
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
        server = self.server
        if connection.path.relay is not None or not self._may_reserve(connection.peer):
            return _Refusal(Status.PERMISSION_DENIED)
        limit = self._reservation_rates.exceeded(connection)
        if connection.peer not in self._reservations:  # else it is renewed
            if self.reservations >= server.max_reservations:
                limit = "max_reservations"
            elif self._networks.used_by(_network_of(connection)) >= server.max_reservations_per_network:
                limit = "max_reservations_per_network"
        return _Refusal(Status.RESERVATION_REFUSED, limit) if limit or self.host.closing else None

    def _may_reserve(self, peer: PeerId) -> bool:
        return _is_in(self.server.reserve, peer) and self._policy.may_reserve(peer)

    def _end_reservation(self, peer: PeerId) -> None:
        connection, timer = self._reservations.pop(peer)
        timer.cancel()
        self._networks.discard(peer)
        connection.hold(False)

    # -- circuits --------------------------------------------------------------------------------

    async def _connect(self, connection: Connection, stream: Stream, message: messages.HopMessage) -> None:
        try:
            target = read_peer(message, HOP)
        except RemoteProtocolError:
            await self._refuse(connection, stream, "circuit", _Refusal(Status.MALFORMED_MESSAGE))
            return
        refusal = self._check_circuit(connection, target)
        if refusal is not None:
            await self._refuse(connection, stream, "circuit", refusal)
            return
        source = connection.peer
        limits = self.server.limits(source, target)
        self._circuit_rates.take(connection)
        entry = self._begin(source, target)
        try:
            stop = await self._stop(self._reservations[target][0], source, limits)
            if stop is None:
                await self._refuse(connection, stream, "circuit", _Refusal(Status.CONNECTION_FAILED))
                return
            async with stop:
                answer = messages.HopMessage(type=HopType.STATUS, status=Status.OK, limit=encode_limits(limits))
                await write(stream, answer)
                entry.circuit = circuit = Circuit(stream, stop, limits, partial(self._forget, entry))
                self._circuits_made += 1
                if entry not in self._circuits:  # it has ended at once, before its bytes were known
                    self._forwarded += circuit.forwarded
        finally:
            if entry.circuit is None:
                self._forget(entry)

    def _check_circuit(self, connection: Connection, target: PeerId) -> _Refusal | None:
        """In go-libp2p's order, which tells nobody of a reservation who may not know of it."""
        server, source = self.server, connection.peer
        if connection.path.relay is not None or source == target or not self._may_connect(source):
            return _Refusal(Status.PERMISSION_DENIED)
        if target not in self._reservations:
            return _Refusal(Status.NO_RESERVATION)
        limit = self._circuit_rates.exceeded(connection)
        if self.circuits >= server.max_circuits:
            limit = "max_circuits"
        elif max(self._circuits_of[source], self._circuits_of[target]) >= server.max_circuits_per_peer:
            limit = "max_circuits_per_peer"
        return _Refusal(Status.RESOURCE_LIMIT_EXCEEDED, limit) if limit or self.host.closing else None

    async def _stop(self, connection: Connection, source: PeerId, limits: PathLimits | None) -> Stream | None:
        """A stream on which the target has agreed to the circuit; None if it has not."""
        connect = messages.StopMessage(
            type=StopType.CONNECT, peer=messages.CircuitPeer(id=source.to_bytes()), limit=encode_limits(limits)
        )
        stream = None
        agreed = False
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                stream = await connection.open_stream(STOP)
                await write(stream, connect)
                answer = await read(stream, messages.StopMessage)
            agreed = answer.type == StopType.STATUS and answer.status == Status.OK
        except (StrongholdError, TimeoutError) as error:
            logger.debug("the target of a circuit, %s, did not agree: %s", connection.peer, error)
        finally:
            if stream is not None and not agreed:
                stream.reset()
        return stream if agreed else None

    def _may_connect(self, peer: PeerId) -> bool:
        return _is_in(self.server.connect, peer) and self._policy.may_connect(peer)

    def _begin(self, source: PeerId, target: PeerId) -> _Entry:
        entry = _Entry(source, target)
        self._circuits.add(entry)
        self._circuits_of.update((source, target))
        return entry

    def _forget(self, entry: _Entry) -> None:
        self._circuits.discard(entry)
        if entry.circuit is not None:
            self._forwarded += entry.circuit.forwarded
        for peer in entry.source, entry.target:
            self._circuits_of[peer] -= 1
            if not self._circuits_of[peer]:
                del self._circuits_of[peer]


class _Refusal(NamedTuple):
    """Why something is refused."""

    status: Status
    limit: str = ""
    """The field of RelayServer that is reached, if one is."""


class _Entry:
    """A circuit, or one that is being made."""

    def __init__(self, source: PeerId, target: PeerId) -> None:
        self.source = source
        self.target = target
        self.circuit: Circuit | None = None


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

"""The relay (libp2p/specs relay/circuit-v2.md, "Hop Protocol"): reservations, and circuits to who has one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from ...encoding import messages
from ...errors import RemoteProtocolError, StrongholdError
from ...events import PathLimits
from ...identity import PeerId
from ...logs import SparingLog
from ...resources.networks import networks_of
from ...resources.shares import Shares
from ...transport.connection import Connection
from ...transport.stream import Stream
from ..framing import read, write
from ..service import Service, in_task
from .circuit import Circuit
from .limits import RelayServer
from .message import HOP, STOP, HopType, Status, StopType, encode_limits, read_peer
from .places import Place, Places
from .voucher import Voucher

__all__ = ["RelayService"]

logger = logging.getLogger("stronghold_p2p")
log_refusal = SparingLog(logging.WARNING, "as a relay, refused %s of %s: %s")

TIMEOUT: Final = 30.0
"""Seconds of one exchange, without the circuit: go-libp2p's has 60, js-libp2p's 30."""

STOP_TIMEOUT: Final = 20.0
"""Seconds of those for the target of a circuit, so that the dialer hears of its silence."""

HOP_FRAMES: Final = 32
"""What a stream of ours costs a remote, in frames without a payload: it takes a signature, or a stream to another peer.
Dozens at once, and a few a second, are enough for a peer."""


class RelayService(Service):
    """Serves the hop protocol within the limits of ``server``.

    A reservation belongs to the connection on which it was made, and ends with it. ``clock`` gives seconds since the
    epoch.
    """

    def __init__(self, server: RelayServer, *, clock: Callable[[], float] = time.time) -> None:
        self.protocols = {HOP: in_task(self._serve)}
        self.server = server
        self.refusals: Counter[str] = Counter()
        """By request and status."""
        self._clock = clock
        self._reservations: dict[PeerId, tuple[Connection, asyncio.TimerHandle]] = {}
        """Each with what ends it in time."""
        self._networks: Shares[PeerId] = Shares()
        """The peers of those."""
        self._places = Places(server)
        """Of circuits."""

    @property
    def reservations(self) -> int:
        """Those in force."""
        return len(self._reservations)

    @property
    def circuits(self) -> int:
        """Those open, and those that are being made."""
        return len(self._places)

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
                await self._refuse(stream, "a message", Status.MALFORMED_MESSAGE)
                return
            if message.type == HopType.RESERVE:
                await self._reserve(connection, stream)
            elif message.type == HopType.CONNECT:
                await self._connect(connection, stream, message)
            else:
                await self._refuse(stream, "a message", Status.UNEXPECTED_MESSAGE)

    async def _refuse(self, stream: Stream, what: str, status: Status) -> None:
        self.refusals[f"{what}: {status.name}"] += 1
        log_refusal.write(what, stream.peer, status.name)
        await write(stream, messages.HopMessage(type=HopType.STATUS, status=status))

    # -- reservations ----------------------------------------------------------------------------

    async def _reserve(self, connection: Connection, stream: Stream) -> None:
        status = self._check_reservation(connection)
        if status is Status.OK and not self._make_room(connection):
            status = Status.RESERVATION_REFUSED
        if status is not Status.OK:
            await self._refuse(stream, "a reservation", status)
            return
        peer, ttl = connection.peer, self.server.reservation_ttl
        if peer in self._reservations:
            self._reservations[peer][1].cancel()  # it is renewed
        else:
            connection.hold()
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

    def _check_reservation(self, connection: Connection) -> Status:
        allow = self.server.allow
        if connection.path.relay is not None or (allow is not None and connection.peer not in allow):
            return Status.PERMISSION_DENIED
        return Status.OK

    def _make_room(self, connection: Connection) -> bool:
        """Whether there is room for a reservation. When there is none, the largest network's newest gives way: an attacker
        with many networks takes no more than each of them may have beside the others."""
        peer, server = connection.peer, self.server
        if peer in self._reservations:
            if self._reservations[peer][0] is connection:
                return True
            self._end_reservation(peer)
        network = networks_of(connection.remote_address)[:1]
        if self._networks.used_by(network) >= server.max_reservations_per_network:
            return False
        self._networks.add(network, peer)
        if len(self._networks) > server.max_reservations:
            excess = self._networks.newest_of_largest()
            if excess == peer:
                self._networks.discard(peer)
                return False
            loser, _ = self._reservations[excess]
            self._end_reservation(excess)
            loser.drain()  # it learns that it cannot be reached here
        return True

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
            await self._refuse(stream, "a circuit", Status.MALFORMED_MESSAGE)
            return
        source = connection.peer
        place = Place(source, target)
        status = self._check_circuit(connection, target)
        if status is Status.OK and not self._places.take(networks_of(connection.remote_address), place):
            status = Status.RESOURCE_LIMIT_EXCEEDED
        if status is not Status.OK:
            await self._refuse(stream, "a circuit", status)
            return
        limits = self.server.limits(source, target)
        circuit = None
        try:
            stop = await self._stop(self._reservations[target][0], place, limits)
            if stop is None:
                failure = Status.RESOURCE_LIMIT_EXCEEDED if place.lost else Status.CONNECTION_FAILED
                await self._refuse(stream, "a circuit", failure)
                return
            async with stop:
                answer = messages.HopMessage(type=HopType.STATUS, status=Status.OK, limit=encode_limits(limits))
                await write(stream, answer)
                circuit = Circuit(stream, stop, limits, partial(self._places.free, place))
                place.held_by(circuit.end)
        finally:
            if circuit is None:
                self._places.free(place)

    def _check_circuit(self, connection: Connection, target: PeerId) -> Status:
        """In go-libp2p's order, which tells nobody of a reservation who may not know of it."""
        if connection.path.relay is not None or connection.peer == target:
            return Status.PERMISSION_DENIED
        return Status.OK if target in self._reservations else Status.NO_RESERVATION

    async def _stop(self, connection: Connection, place: Place, limits: PathLimits | None) -> Stream | None:
        """A stream on which the target has agreed to the circuit; None if it has not, or not in time, or the place is lost."""
        connect = messages.StopMessage(
            type=StopType.CONNECT, peer=messages.CircuitPeer(id=place.source.to_bytes()), limit=encode_limits(limits)
        )
        stream = None
        agreed = False
        try:
            async with asyncio.timeout(STOP_TIMEOUT) as timeout:
                place.held_by(partial(_expire, timeout))
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


def _expire(timeout: asyncio.Timeout) -> None:
    if not timeout.expired():
        timeout.reschedule(0.0)

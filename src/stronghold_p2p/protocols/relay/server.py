"""The relay (libp2p/specs relay/circuit-v2.md, "Hop Protocol"): reservations, and circuits to who has one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final, Protocol

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


class Permits(Protocol):
    """What a policy says of a relay."""

    def may_reserve(self, peer: PeerId) -> bool:
        """Whether ``peer`` may reserve, and so be reached."""

    def may_connect(self, peer: PeerId) -> bool:
        """Whether ``peer`` may connect to who has reserved."""


class RelayService(Service):
    """Serves the hop protocol within the limits of ``server``, to whom that and ``policy`` allow.

    A reservation belongs to the connection on which it was made, and ends with it. ``clock`` gives seconds since the
    epoch.
    """

    def __init__(self, server: RelayServer, policy: Permits, *, clock: Callable[[], float] = time.time) -> None:
        self.protocols = {HOP: in_task(self._serve)}
        self.server = server
        self._policy = policy
        self.refusals: Counter[str] = Counter()
        """By request and status."""
        self._clock = clock
        self._reservations: dict[PeerId, tuple[Connection, asyncio.TimerHandle]] = {}
        """Each with what ends it in time."""
        self._networks: Shares[PeerId] = Shares()
        """The peers of those."""
        self._circuits: set[_Entry] = set()
        """Those that are being made, too."""
        self._circuits_of: Counter[PeerId] = Counter()
        """Their number by peer, at either end."""

    @property
    def reservations(self) -> int:
        """Those in force."""
        return len(self._reservations)

    @property
    def circuits(self) -> int:
        """Those open, and those that are being made."""
        return len(self._circuits)

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
        if status is not Status.OK:
            await self._refuse(stream, "a reservation", status)
            return
        peer, ttl = connection.peer, self.server.reservation_ttl
        if peer in self._reservations:
            self._end_reservation(peer)
        self._reservations[peer] = connection, connection.loop.call_later(ttl, self._end_reservation, peer)
        connection.hold()
        self._networks.add(networks_of(connection.remote_address)[:1], peer)
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
        server = self.server
        if connection.path.relay is not None or not self._may_reserve(connection.peer):
            return Status.PERMISSION_DENIED
        if connection.peer in self._reservations:
            return Status.OK  # it is renewed
        within = self._networks.used_by(networks_of(connection.remote_address)[:1])
        if len(self._reservations) >= server.max_reservations or within >= server.max_reservations_per_network:
            return Status.RESERVATION_REFUSED
        return Status.OK

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
            await self._refuse(stream, "a circuit", Status.MALFORMED_MESSAGE)
            return
        source = connection.peer
        status = self._check_circuit(connection, target)
        if status is not Status.OK:
            await self._refuse(stream, "a circuit", status)
            return
        limits = self.server.limits(source, target)
        entry = self._begin(source, target)
        try:
            stop = await self._stop(self._reservations[target][0], source, limits)
            if stop is None:
                await self._refuse(stream, "a circuit", Status.CONNECTION_FAILED)
                return
            async with stop:
                answer = messages.HopMessage(type=HopType.STATUS, status=Status.OK, limit=encode_limits(limits))
                await write(stream, answer)
                entry.circuit = Circuit(stream, stop, limits, partial(self._forget, entry))
        finally:
            if entry.circuit is None:
                self._forget(entry)

    def _check_circuit(self, connection: Connection, target: PeerId) -> Status:
        """In go-libp2p's order, which tells nobody of a reservation who may not know of it."""
        server, source = self.server, connection.peer
        if connection.path.relay is not None or source == target or not self._may_connect(source):
            return Status.PERMISSION_DENIED
        if target not in self._reservations:
            return Status.NO_RESERVATION
        busy = max(self._circuits_of[source], self._circuits_of[target])
        if self.circuits >= server.max_circuits or busy >= server.max_circuits_per_peer:
            return Status.RESOURCE_LIMIT_EXCEEDED
        return Status.OK

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
        for peer in entry.source, entry.target:
            self._circuits_of[peer] -= 1
            if not self._circuits_of[peer]:
                del self._circuits_of[peer]


class _Entry:
    """A circuit, or one that is being made."""

    def __init__(self, source: PeerId, target: PeerId) -> None:
        self.source = source
        self.target = target
        self.circuit: Circuit | None = None


def _is_in(peers: AbstractSet[PeerId] | None, peer: PeerId) -> bool:
    return peers is None or peer in peers

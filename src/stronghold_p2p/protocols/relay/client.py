"""Both ends of a circuit, and reservations: what a peer asks of a relay (libp2p/specs relay/circuit-v2.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from ...encoding import messages
from ...errors import DecodeError, InvalidAddress, ListenError, RemoteProtocolError
from ...events import Path, PathLimits
from ...identity import PeerId
from ...multiaddr import CIRCUIT, Multiaddr, readable
from ...transport.connection import Connection
from ...transport.stream import Stream
from ...transport.stream_pipe import StreamPipe
from ...transport.transport import (
    DIAL_PLAINLY,
    LISTEN_PLAINLY,
    Connected,
    DialOptions,
    ListenOptions,
    TransportListener,
)
from ..framing import read, write
from ..service import Service, in_task
from .message import HOP, STOP, HopType, Status, StopType, read_limits, refusal
from .voucher import Voucher

__all__ = ["CircuitTarget", "CircuitTransport", "Reservation", "reserve", "split_circuit"]

MAX_ADDRESSES: Final = 16
"""Addresses of a relay that we pass on as ours."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a relay has promised."""

    relay: PeerId
    expires: float
    """Seconds since the epoch."""
    addresses: tuple[Multiaddr, ...]
    """Where the relay says that it can be dialed, with its peer id; perhaps none."""
    limits: PathLimits | None
    """Those of circuits to us; None: no limits."""


async def reserve(connection: Connection, own: PeerId) -> Reservation:
    """Makes or renews a reservation at the remote of ``connection``.

    The voucher is optional (rust-libp2p sends none), addresses that cannot be read are left out.

    Raises:
        RelayRefused: the relay refuses.
        ProtocolNotSupported: it is no relay, or not for us.
        RemoteProtocolError: it breaks the protocol, or its voucher is false.
        ConnectionLost, StreamReset: no answer.
        InvalidAddress: the relay is itself connected by a relay.
    """
    _check_direct(connection)
    async with await connection.open_stream(HOP) as stream:
        await stream.negotiated()  # the Rust crate breaks on bytes that it takes for a line
        await write(stream, messages.HopMessage(type=HopType.RESERVE))
        answer = await _read_status(stream, connection.peer)
    if not answer.HasField("reservation"):
        raise RemoteProtocolError(HOP, "expected a reservation, got none with the status")
    if answer.reservation.HasField("voucher"):
        voucher = Voucher.open(answer.reservation.voucher)
        if (voucher.relay, voucher.peer) != (connection.peer, own):
            raise DecodeError(HOP, f"the voucher is of {voucher.relay} for {voucher.peer}")
    addresses = [
        address.with_peer(connection.peer)
        for address in readable(answer.reservation.addrs[:MAX_ADDRESSES])
        if address.peer_id in {None, connection.peer} and len(address.components) > 1 and not address.is_relayed
    ]
    return Reservation(
        connection.peer, float(answer.reservation.expire), tuple(dict.fromkeys(addresses)), read_limits(answer)
    )


def _check_direct(relay: Connection) -> None:
    """Raises InvalidAddress."""
    if relay.path.relay is not None:
        where = relay.remote_address.with_peer(relay.peer)
        raise InvalidAddress(where, "the relay is itself connected by a relay, which relays refuse")


async def _read_status(stream: Stream, relay: PeerId) -> messages.HopMessage:
    """Raises RelayRefused for a status other than OK."""
    answer = await read(stream, messages.HopMessage)
    if answer.type != HopType.STATUS:
        raise RemoteProtocolError(HOP, f"expected a status, got a message of type {answer.type}")
    if answer.status != Status.OK:
        raise refusal(relay, answer.status)
    return answer


class CircuitTransport:
    """Dials ``<address>/p2p/<relay>/p2p-circuit``.

    ``connect`` gives a connection to a relay at an address; ``max_send_buffer`` bytes wait on a circuit before writers do.
    """

    name: Final = "p2p-circuit"

    def __init__(
        self, connect: Callable[[PeerId, Multiaddr | None], Awaitable[Connection]], max_send_buffer: int
    ) -> None:
        self._connect = connect
        self._max_send_buffer = max_send_buffer

    def supports(self, address: Multiaddr) -> bool:
        return split_circuit(address) is not None

    async def dial(self, address: Multiaddr, connected: Connected, options: DialOptions = DIAL_PLAINLY) -> None:
        """As :meth:`Transport.dial`; raises RelayRefused, and what a stream to the relay does, too."""
        split = split_circuit(address)
        assert split is not None
        assert options.peer is not None
        relay, where = split
        if relay == options.peer:
            raise InvalidAddress(address, "the relay is the peer itself")
        connection = await self._connect(relay, where)
        _check_direct(connection)
        async with await connection.open_stream(HOP) as stream:
            await stream.negotiated()
            target = messages.CircuitPeer(id=options.peer.to_bytes())
            await write(stream, messages.HopMessage(type=HopType.CONNECT, peer=target))
            answer = await _read_status(stream, relay)
            path = Path(connection.path.transport, address, relay, read_limits(answer))
            StreamPipe(
                stream,
                remote_address=_circuit_address(connection),
                path=path,
                max_send_buffer=self._max_send_buffer,
                connected=connected,
            )

    async def listen(
        self, address: Multiaddr, connected: Connected, options: ListenOptions = LISTEN_PLAINLY
    ) -> TransportListener:
        raise ListenError(address, "to be reached through a relay, reserve there: listen_via_relay")

    async def close(self) -> None:
        """The connections to relays are the swarm's."""


class CircuitTarget(Service):
    """Serves the stop protocol: accepts circuits from relays at which we have a reservation.

    ``is_relay`` says which those are; ``max_send_buffer`` as for :class:`CircuitTransport`.
    """

    def __init__(self, is_relay: Callable[[PeerId], bool], max_send_buffer: int) -> None:
        self.protocols = {STOP: in_task(self._serve)}
        self._is_relay = is_relay
        self._max_send_buffer = max_send_buffer

    async def _serve(self, connection: Connection, stream: Stream) -> None:
        async with asyncio.timeout(self.host.config.request_timeout):
            message = await read(stream, messages.StopMessage)
            status = self._check(connection, message)
            await write(stream, messages.StopMessage(type=StopType.STATUS, status=status))
        if status is not Status.OK:
            return
        StreamPipe(
            stream,
            remote_address=_circuit_address(connection),
            path=Path(connection.path.transport, None, connection.peer, read_limits(message)),
            max_send_buffer=self._max_send_buffer,
            connected=self.host.accept,
        )

    def _check(self, connection: Connection, message: messages.StopMessage) -> Status:
        if message.type != StopType.CONNECT:
            return Status.UNEXPECTED_MESSAGE
        if connection.path.relay is not None or not self._is_relay(connection.peer):
            return Status.PERMISSION_DENIED  # nobody else may bring strangers
        try:
            PeerId.from_bytes(message.peer.id)
        except DecodeError:
            return Status.MALFORMED_MESSAGE
        return Status.OK  # who it is, the handshake proves


def split_circuit(address: Multiaddr) -> tuple[PeerId, Multiaddr | None] | None:
    """The relay of ``<address>/p2p/<relay>/p2p-circuit``, and its address, if there is one. None for anything else, such as a
    circuit over a circuit."""
    names = [name for name, _ in address]
    if names.count("p2p-circuit") != 1 or names[-1] != "p2p-circuit" or len(names) < 2:
        return None
    relay = address.decapsulate(CIRCUIT)
    if relay.peer_id is None:
        return None
    return relay.peer_id, relay.without_peer() if len(names) > 2 else None


def _circuit_address(connection: Connection) -> Multiaddr:
    """Where the other end of a circuit is: behind the relay at the other end of ``connection``."""
    return connection.remote_address.with_peer(connection.peer).encapsulate(CIRCUIT)
